"""The file of an encoder, addressed by the sha256 of all its bytes: config, vocabulary, tensors.

`parse` verifies everything before anything is used: size, hash, layout, config, vocabulary, shapes,
types and finite numbers. docs/encoders.md lists the tensors.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentgym.errors import EncoderError
from agentgym.policy.encoder import container
from agentgym.policy.encoder.wordpiece import CLS, SEP, UNKNOWN

FORMAT = "agentgym-encoder-1"
_SCALE = ".scale"
_MAX_NAME = 64
_MAX_ORIGIN = 4096
_MAX_LISTED = 8
# Least and greatest value of each number; far above what an agent could wait for, they only keep
# products of them small.
_BOUNDS = {
    "layers": (0, 64),
    "width": (1, 8192),
    "heads": (1, 256),
    "embedding": (1, 8192),
    "intermediate": (1, 32768),
    "output": (1, 8192),
    "max_tokens": (2, 8192),
}


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """The form of an encoder; the names are those of the file."""

    name: str
    layers: int
    width: int
    heads: int
    embedding: int
    intermediate: int
    output: int
    max_tokens: int
    layer_norm_eps: float
    made_from: str
    lowercase: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Artefact:
    """A verified encoder file; int8 tensors come with their `.scale`."""

    config: EncoderConfig
    vocab: tuple[str, ...]
    tensors: Mapping[str, NDArray[Any]]
    sha256: str

    def dense(self, name: str) -> NDArray[np.float32]:
        """A tensor with its scale applied."""
        tensor = self.tensors[name].astype(np.float32)
        if name + _SCALE in self.tensors:
            tensor *= self.tensors[name + _SCALE].astype(np.float32)
        return tensor


def shapes(config: EncoderConfig, tokens: int) -> dict[str, tuple[int, ...]]:
    """The tensors of an encoder without their scales; some may be absent, see `optional`."""
    width, inner = config.width, config.intermediate
    expected: dict[str, tuple[int, ...]] = {
        "embed.token": (tokens, config.embedding),
        "embed.position": (config.max_tokens, width),
        **_linear("embed.up", width, config.embedding),
        **_norm("embed.norm", width),
        **_linear("head", config.output, width),
    }
    for i in range(config.layers):
        expected |= _linear(f"layer.{i}.qkv", 3 * width, width)
        expected |= _linear(f"layer.{i}.out", width, width)
        expected |= _norm(f"layer.{i}.norm1", width)
        expected |= _linear(f"layer.{i}.up", inner, width)
        expected |= _linear(f"layer.{i}.down", width, inner)
        expected |= _norm(f"layer.{i}.norm2", width)
    return expected


def optional(config: EncoderConfig) -> set[str]:
    """The maps that a file may leave out because nothing has to change its size there."""
    names: set[str] = set()
    if config.embedding == config.width:
        names |= {"embed.up.weight", "embed.up.bias"}
    if config.output == config.width:
        names |= {"head.weight", "head.bias"}
    return names


def quantise_rows(tensor: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Each row of a matrix as int8 and its scale, shape (rows, 1): value = int8 · scale."""
    top = np.abs(tensor).max(axis=1, keepdims=True)
    scale = (top / 127.0).astype(np.float16)
    step = np.where(scale > 0, scale.astype(np.float64), 1.0)
    return np.clip(np.rint(tensor / step), -127, 127).astype(np.int8), scale


def dump(config: EncoderConfig, vocab: Sequence[str], tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """The file of an encoder, verified as a reader would verify it."""
    metadata = {
        "format": FORMAT,
        "config": _canonical(dataclasses.asdict(config)),
        "vocab": "\n".join(vocab),
    }
    data = container.write(metadata, tensors)
    parse(data, digest(data))
    return data


def digest(data: bytes) -> str:
    """The address of an encoder file."""
    return hashlib.sha256(data).hexdigest()


def parse(data: bytes, sha256: str) -> Artefact:
    """The verified encoder in `data`; raises EncoderError naming the first fault."""
    if len(data) > container.MAX_BYTES:
        raise EncoderError(
            f"encoder file has {len(data)} bytes; at most {container.MAX_BYTES} are taken"
        )
    actual = digest(data)
    if actual != sha256:
        raise EncoderError(f"encoder file has sha256 {actual}, expected {sha256}; it was changed")
    metadata, tensors = container.read(data)
    if metadata.keys() != {"format", "config", "vocab"} or metadata["format"] != FORMAT:
        raise EncoderError(
            f"encoder file has format {metadata.get('format')!r} and metadata {sorted(metadata)}; "
            f"this plugin reads {FORMAT!r} with its config and vocab"
        )
    config = _config(metadata["config"])
    return verified(Artefact(config, tuple(metadata["vocab"].split("\n")), tensors, sha256))


def verified(artefact: Artefact) -> Artefact:
    """The artefact itself, once vocabulary, names, types, shapes and numbers have been checked."""
    _check_vocab(artefact.vocab)
    expected = shapes(artefact.config, len(artefact.vocab))
    tensors = artefact.tensors
    for name, tensor in tensors.items():
        if tensor.dtype == np.int8:
            expected[name + _SCALE] = (len(tensor), 1) if tensor.ndim == 2 else ()
    missing = expected.keys() - optional(artefact.config) - tensors.keys()
    extra = tensors.keys() - expected.keys()
    if missing or extra:
        raise EncoderError(
            f"encoder lacks the tensors {sorted(missing)[:_MAX_LISTED]} "
            f"and has {sorted(extra)[:_MAX_LISTED]} too many"
        )
    for absent in ("embed.up", "head"):
        if (f"{absent}.weight" in tensors) != (f"{absent}.bias" in tensors):
            raise EncoderError(f"encoder has one of {absent}.weight and {absent}.bias, not both")
    for name, tensor in tensors.items():
        _check_tensor(name, tensor, expected[name])
    return artefact


def _check_tensor(name: str, tensor: NDArray[Any], shape: tuple[int, ...]) -> None:
    types = (np.float16,) if name.endswith(_SCALE) else (np.float32, np.float16, np.int8)
    if tensor.dtype not in types:
        raise EncoderError(f"encoder tensor {name} has type {tensor.dtype}, which it may not have")
    if tensor.shape != shape:
        raise EncoderError(f"encoder tensor {name} has shape {tensor.shape}, expected {shape}")
    if tensor.dtype != np.int8 and not np.isfinite(tensor).all():
        raise EncoderError(f"encoder tensor {name} has numbers that are not finite")


def _check_vocab(vocab: Sequence[str]) -> None:
    known = set(vocab)
    if len(known) != len(vocab) or "" in known:
        raise EncoderError("the encoder's vocabulary has an empty token, or one token twice")
    missing = sorted({CLS, SEP, UNKNOWN} - known)
    if missing:
        raise EncoderError(f"the encoder's vocabulary lacks {missing}")


def _config(text: str) -> EncoderConfig:
    try:
        values = json.loads(text)
        spelling = _canonical(values)
    except (ValueError, RecursionError) as error:
        raise EncoderError(f"encoder file has an unreadable config: {error}") from error
    fields = {field.name for field in dataclasses.fields(EncoderConfig)}
    if not isinstance(values, dict) or values.keys() != fields:
        raise EncoderError(f"encoder config has to give {sorted(fields)} and nothing else")
    if spelling != text:
        raise EncoderError("encoder config is not spelled canonically")
    for name, (least, greatest) in _BOUNDS.items():
        if type(values[name]) is not int or not least <= values[name] <= greatest:
            raise EncoderError(
                f"encoder config has {name} {values[name]!r}, expected {least} to {greatest}"
            )
    _check_kinds(values)
    return EncoderConfig(**values)


def _check_kinds(values: dict[str, Any]) -> None:
    for name, longest in (("name", _MAX_NAME), ("made_from", _MAX_ORIGIN)):
        value = values[name]
        if not isinstance(value, str) or not 0 < len(value) <= longest or not value.isprintable():
            raise EncoderError(f"encoder config has {name} {str(value)[:_MAX_NAME]!r}, not a name")
    eps = values["layer_norm_eps"]
    if type(eps) is not float or not math.isfinite(eps) or not 0 < eps < 1:
        raise EncoderError(f"encoder config has layer_norm_eps {eps!r}, expected between 0 and 1")
    if values["lowercase"] is not True:
        raise EncoderError("encoder config has lowercase off; only uncased vocabularies are read")
    if values["width"] % values["heads"]:
        raise EncoderError(
            f"encoder config has width {values['width']}, no multiple of {values['heads']} heads"
        )


def _linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _canonical(value: Any) -> str:
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    )
