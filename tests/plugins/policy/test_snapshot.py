"""A policy file is loaded whole and unchanged, or not at all."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from agentgym.errors import SnapshotError
from agentgym.policy import snapshot
from agentgym.policy.parameters import Parameters, initial
from agentgym.policy.snapshot import canonical, digest, dump, parse
from tests.manifests import make_manifest

MANIFEST = make_manifest(
    scope={"agent": "agent", "agent_name": "agent"}, lineage={"trajectories": 10}
)


@pytest.fixture(params=[0, 12], ids=["n-grams", "embedding"])
def parameters(
    request: pytest.FixtureRequest, make_parameters: Callable[..., Parameters], tools: Any
) -> Parameters:
    return make_parameters(tools, 0, request.param)


@pytest.fixture
def data(parameters: Parameters) -> bytes:
    return dump(parameters, MANIFEST)


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def join(header: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def refused(data: bytes, match: str) -> None:
    """Even with a hash that fits: what the file says must hold by itself."""
    with pytest.raises(SnapshotError, match=match):
        parse(data, digest(data))


def test_what_was_dumped_is_loaded_bit_by_bit(data: bytes, parameters: Parameters) -> None:
    loaded = parse(data, digest(data))

    assert loaded.version == "p-000001"
    assert loaded.parameters.tools == parameters.tools
    assert loaded.parameters.names == parameters.names
    for name, tensor in parameters.tensors.items():
        assert np.array_equal(loaded.parameters[name], tensor)


def test_the_safetensors_library_reads_it(data: bytes, parameters: Parameters) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")

    tensors = safetensors.load(data)

    assert set(tensors) == set(parameters.tensors)
    for name, tensor in tensors.items():
        assert np.array_equal(tensor, parameters[name])


@pytest.mark.parametrize("dim", [0, 12])
def test_a_policy_without_tools_is_a_policy(dim: int) -> None:
    data = dump(initial((), (), dim), MANIFEST)

    loaded = parse(data, digest(data))

    assert loaded.parameters.tools == ()
    assert loaded.parameters.embedding_dim == loaded.manifest["embedding_dim"] == dim


@pytest.mark.parametrize(
    "name", ["meaning.gain", "meaning.map", "tool.embedding", "defer.embedding"]
)
def test_the_self_test_touches_every_number_about_meaning(
    name: str, make_parameters: Callable[..., Parameters], tools: Any
) -> None:
    good = make_parameters(tools, 0, 6)
    for tensor in good.tensors.values():
        tensor[...] = 0.0  # no estimate near 0 or 1, where little moves
    good["meaning.gain"][:] = 1.0
    np.fill_diagonal(good["meaning.map"], 0.1)
    for position in np.ndindex(good[name].shape):
        changed = Parameters(good.tools, good.names, dict(good.tensors))
        tensor = good[name].copy()
        tensor[position] += 0.5
        changed.tensors[name] = tensor  # type: ignore[index]  # a dict, just made

        before, after = snapshot.self_test(good), snapshot.self_test(changed)

        moved = np.abs(
            np.array([*before["right"], before["alone"]]) - [*after["right"], after["alone"]]
        )
        assert moved.max() > 1e-9 or (name, position[-1]) == ("defer.embedding", 0)


def test_no_changed_byte_of_header_or_manifest_is_loaded(data: bytes) -> None:
    sha256 = digest(data)
    end = 8 + int.from_bytes(data[:8], "little")
    for i in range(end):
        changed = bytearray(data)
        changed[i] ^= 1 << (i % 8)
        with pytest.raises(SnapshotError, match="it was changed"):
            parse(bytes(changed), sha256)


def test_no_changed_byte_of_the_tensors_is_loaded(data: bytes) -> None:
    sha256, rng = digest(data), random.Random(5)
    start = 8 + int.from_bytes(data[:8], "little")
    for i in rng.sample(range(start, len(data)), 300):
        changed = bytearray(data)
        changed[i] ^= 1 << rng.randrange(8)
        with pytest.raises(SnapshotError, match="it was changed"):
            parse(bytes(changed), sha256)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.001, 0.01, 0.5, 0.999999])
def test_a_truncated_file_is_refused(data: bytes, share: float) -> None:
    refused(data[: math.floor(len(data) * share)], "policy file")


def test_bytes_behind_the_end_are_refused(data: bytes) -> None:
    refused(data + b"\0\0\0\0", "4 bytes too many")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(data: bytes, number: float) -> None:
    header, body = split(data)
    start = header["tool.bias"]["data_offsets"][0]
    poisoned = np.float32(number).tobytes()

    refused(join(header, body[:start] + poisoned + body[start + 4 :]), "not finite")


def test_a_header_that_is_no_object_is_refused() -> None:
    refused((2).to_bytes(8, "little") + b"[]", "not an object")
    refused((2).to_bytes(8, "little") + b"{{", "unreadable header")


def test_wrong_shapes_names_and_types_are_refused(data: bytes) -> None:
    for change, match in (
        (lambda h: h["tool.bias"].update(shape=[1, 5]), "tool.bias"),
        (lambda h: h["tool.bias"].update(dtype="F16"), "tool.bias"),
        (lambda h: h["tool.bias"].update(data_offsets=[0, 20]), "tool.bias"),
        (lambda h: h.pop("tool.bias"), "has tensors"),
        (lambda h: h.update(extra=h["tool.bias"]), "has tensors"),
        (lambda h: h.update(__metadata__={}), "unreadable manifest"),
        (lambda h: h.pop("__metadata__"), "unreadable manifest"),
    ):
        header, body = split(data)
        change(header)
        refused(join(header, body), match)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"version": None}, "lacks"),
        ({"embedding_dim": None}, "lacks"),
        ({"dim": 8}, "over 8 n-gram buckets"),
        ({"embedding_dim": 13}, "has tensors|got .*, expected"),
        ({"embedding_dim": 4097}, "4097 embedding dimensions"),
        ({"embedding_dim": -1}, "-1 embedding dimensions"),
        ({"embedding_dim": True}, "True embedding dimensions"),
        ({"embedding_dim": "12"}, "'12' embedding dimensions"),
        ({"tools": 3}, "unreadable manifest"),
        ({"tools": [{"fingerprint": "xy", "name": "t"}]}, "unreadable manifest"),
        ({"tools": [{"fingerprint": "00", "name": "t"}] * 2}, "twice"),
        ({"self_test": {}}, "self-test is unreadable"),
        ({"self_test": {"right": [0.2] * 5, "alone": 0.5}}, "other estimates"),
        ({"self_test": {"right": [0.2], "alone": 0.5}}, "self-test"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    data: bytes, change: dict[str, Any], match: str
) -> None:
    header, body = split(data)
    manifest = json.loads(header["__metadata__"]["manifest"]) | change
    manifest = {key: value for key, value in manifest.items() if value is not None}
    header["__metadata__"]["manifest"] = canonical(manifest)

    refused(join(header, body), match)


def test_a_file_above_the_cap_is_not_even_hashed(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "MAX_BYTES", 10)

    with pytest.raises(SnapshotError, match="at most 10"):
        parse(data, "")


def test_the_manifest_has_one_spelling(make_snapshot: Callable[..., bytes]) -> None:
    assert make_snapshot() == make_snapshot()
    assert canonical({"b": 1, "a": "ä"}) == '{"a":"ä","b":1}'
