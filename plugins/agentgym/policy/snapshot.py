"""Policy snapshots: one safetensors file whose metadata carries a canonical JSON manifest.

The file is addressed by the sha256 of all its bytes. `parse` verifies everything before anything
is used: size, hash, layout, manifest, shapes, finite numbers, and a self-test vector that must
evaluate to what the publisher computed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from agentgym.errors import SnapshotError
from agentgym.policy.evaluate import Catalogue, evaluate
from agentgym.policy.features import DIM, TextHasher, TextVector, embedding
from agentgym.policy.parameters import Parameters, shapes
from agentgym.trajectory import PastCall, Tool

MAX_BYTES = 256 * 2**20
_MAX_EMBEDDING = 4096
_HEADER_BYTES = 8
_TOLERANCE = 1e-9
_REQUIRED = frozenset(
    (
        "version",
        "parent",
        "created_unix_nano",
        "scope",
        "dim",
        "embedding_dim",
        "tools",
        "lineage",
        "self_test",
    )
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A verified policy version."""

    version: str
    sha256: str
    parameters: Parameters
    manifest: Mapping[str, Any]


def canonical(value: Any) -> str:
    """JSON with one spelling: sorted keys, no spaces, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    )


def dump(parameters: Parameters, manifest: Mapping[str, Any]) -> bytes:
    """The snapshot file of a policy; dimensions, tools and self-test are filled in."""
    full = {
        **manifest,
        "dim": DIM,
        "embedding_dim": parameters.embedding_dim,
        "tools": [
            {"fingerprint": f, "name": n}
            for f, n in zip(parameters.tools, parameters.names, strict=True)
        ],
        "self_test": self_test(parameters),
    }
    header: dict[str, Any] = {"__metadata__": {"manifest": canonical(full)}}
    offset = 0
    for name in sorted(parameters.tensors):
        tensor = parameters[name]
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(
        np.ascontiguousarray(parameters[name], dtype="<f4").tobytes()
        for name in sorted(parameters.tensors)
    )
    return len(text).to_bytes(_HEADER_BYTES, "little") + text + body


def digest(data: bytes) -> str:
    """The address of a snapshot file."""
    return hashlib.sha256(data).hexdigest()


def self_test(parameters: Parameters) -> dict[str, Any]:
    """Estimates at a fixed input that touches every learned tensor."""
    x, catalogue, history = _probe(parameters.tools, parameters.names, parameters.embedding_dim)
    result = evaluate(parameters, x, catalogue, history)
    return {"right": [float(v) for v in result.right], "alone": result.alone}


@lru_cache(maxsize=4)
def _probe(
    fingerprints: tuple[str, ...], names: tuple[str, ...], dim: int
) -> tuple[TextVector, Catalogue, list[PastCall]]:
    # The versions of a policy mostly have the same tools, and their texts take most of the time.
    index = np.arange(0, DIM, 37, dtype=np.uint32)
    meaning = embedding(np.cos(np.arange(dim, dtype=np.float64))) if dim else None
    x = TextVector(index, (index % 255 + 1).astype(np.uint8), 0.25, meaning)
    # Tools are known here by fingerprint and name only, so the probe embeds their numbers.
    tools = tuple(Tool(name) for name in names)
    catalogue = Catalogue(tools, TextHasher(b"self-test"))
    catalogue.texts = tuple(
        replace(text, embedding=embedding(np.sin(np.arange(dim) + float(i))) if dim else None)
        for i, text in enumerate(catalogue.texts)
    )
    catalogue.fingerprints = tuple(bytes.fromhex(tool) for tool in fingerprints)
    catalogue.index = {fingerprint: i for i, fingerprint in enumerate(catalogue.fingerprints)}
    history = [PastCall(catalogue.fingerprints[0], error=False)] if tools else []
    return x, catalogue, history


def parse(data: bytes, sha256: str) -> Snapshot:
    """The verified snapshot in `data`; raises SnapshotError naming the first fault."""
    if len(data) > MAX_BYTES:
        raise SnapshotError(f"policy file has {len(data)} bytes; at most {MAX_BYTES} are taken")
    actual = digest(data)
    if actual != sha256:
        raise SnapshotError(f"policy file has sha256 {actual}, expected {sha256}; it was changed")
    header, body = _split(data)
    manifest = _manifest(header)
    tools = tuple(str(tool["fingerprint"]) for tool in manifest["tools"])
    names = tuple(str(tool["name"]) for tool in manifest["tools"])
    tensors = _tensors(header, body, len(tools), manifest["embedding_dim"])
    parameters = Parameters(tools, names, tensors)
    _check_self_test(parameters, manifest["self_test"])
    return Snapshot(str(manifest["version"]), sha256, parameters, manifest)


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(data[:_HEADER_BYTES], "little")
    if len(data) < _HEADER_BYTES or size > len(data) - _HEADER_BYTES:
        raise SnapshotError("policy file is cut off within its header")
    try:
        header = json.loads(data[_HEADER_BYTES : _HEADER_BYTES + size])
    except (ValueError, RecursionError) as error:
        raise SnapshotError(f"policy file has an unreadable header: {error}") from error
    if not isinstance(header, dict):
        raise SnapshotError("policy file header is not an object")
    return header, data[_HEADER_BYTES + size :]


def _manifest(header: dict[str, Any]) -> dict[str, Any]:
    try:
        manifest = json.loads(header.pop("__metadata__")["manifest"])
        missing = _REQUIRED - manifest.keys()
        fingerprints = [
            bytes.fromhex(fingerprint)
            for fingerprint, _ in (
                (tool["fingerprint"], tool["name"]) for tool in manifest["tools"]
            )
        ]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise SnapshotError(f"policy file has an unreadable manifest: {error!r}") from error
    if missing:
        raise SnapshotError(f"policy manifest lacks {sorted(missing)}")
    dim = manifest["embedding_dim"]
    if manifest["dim"] != DIM or type(dim) is not int or not 0 <= dim <= _MAX_EMBEDDING:
        raise SnapshotError(
            f"policy is over {manifest['dim']!r} n-gram buckets and {dim!r} embedding dimensions; "
            f"this plugin computes {DIM} and at most {_MAX_EMBEDDING}"
        )
    if len(set(fingerprints)) != len(fingerprints):
        raise SnapshotError("policy manifest names a tool twice")
    return dict(manifest)


def _tensors(header: dict[str, Any], body: bytes, tools: int, embedding_dim: int) -> dict[str, Any]:
    expected = shapes(tools, embedding_dim)
    if header.keys() != expected.keys():
        raise SnapshotError(f"policy has tensors {sorted(header)}, expected {sorted(expected)}")
    tensors, end = {}, 0
    for name in sorted(expected):
        shape, entry = expected[name], header[name]
        size = 4 * math.prod(shape)
        wanted = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        if entry != wanted:
            raise SnapshotError(f"policy tensor {name}: got {entry!r}, expected {wanted!r}")
        if end + size > len(body):
            raise SnapshotError(f"policy file is cut off within tensor {name}")
        tensor = np.frombuffer(body, "<f4", math.prod(shape), end).reshape(shape)
        if not np.isfinite(tensor).all():
            raise SnapshotError(f"policy tensor {name} has numbers that are not finite")
        tensors[name], end = tensor, end + size
    if end != len(body):
        raise SnapshotError(f"policy file has {len(body) - end} bytes too many")
    return tensors


def _check_self_test(parameters: Parameters, expected: Any) -> None:
    got = self_test(parameters)
    try:
        same = np.allclose(got["right"], expected["right"], rtol=0, atol=_TOLERANCE)
        same = same and abs(got["alone"] - expected["alone"]) <= _TOLERANCE
    except (KeyError, TypeError, ValueError) as error:
        raise SnapshotError(f"policy self-test is unreadable: {error!r}") from error
    if not same:
        raise SnapshotError("policy self-test gives other estimates here than at its publisher")
