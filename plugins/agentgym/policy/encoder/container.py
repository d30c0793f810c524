"""The safetensors layout: an 8-byte length, a JSON header, and the tensors' bytes back to back.

`read` believes nothing that the header says before it has compared it with the bytes at hand.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentgym.errors import EncoderError

MAX_BYTES = 256 * 2**20
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 16 * 2**20
_MAX_DIMENSIONS = 8
_MAX_NAME = 256
_TYPES = {"F32": "<f4", "F16": "<f2", "I8": "|i1", "I64": "<i8"}
_NAMES = {np.dtype(spelling): name for name, spelling in _TYPES.items()}

Tensors = dict[str, NDArray[Any]]


def write(metadata: Mapping[str, str], tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """The file of these tensors, the widest types first so that each one is aligned."""
    ordered = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    blobs, offset = [], 0
    for name in ordered:
        dtype = tensors[name].dtype.newbyteorder("<")
        if dtype not in _NAMES:
            raise EncoderError(f"tensor {name} has type {dtype}; known are {sorted(_TYPES)}")
        blobs.append(np.ascontiguousarray(tensors[name], dtype=dtype).tobytes())
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, offset + len(blobs[-1])],
        }
        offset += len(blobs[-1])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text + b"".join(blobs)


def read(data: bytes) -> tuple[dict[str, str], Tensors]:
    """Metadata and tensors, which are read-only views of `data`; EncoderError names a fault."""
    if len(data) > MAX_BYTES:
        raise EncoderError(f"encoder file has {len(data)} bytes; at most {MAX_BYTES} are taken")
    header, start = _header(data)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise EncoderError("encoder file has metadata that are not strings by name")
    entries = {name: _entry(name, entry) for name, entry in header.items()}
    tensors, end = {}, start
    for name in sorted(entries, key=lambda name: entries[name][2]):
        dtype, shape, first, last = entries[name]
        size = dtype.itemsize * math.prod(shape)
        if start + first != end or last - first != size:
            raise EncoderError(
                f"encoder tensor {name} claims the bytes {first} to {last}; "
                f"expected {size} bytes from {end - start}"
            )
        if size > len(data) - end:
            raise EncoderError(f"encoder file is cut off within tensor {name}")
        tensors[name] = np.frombuffer(data, dtype, math.prod(shape), end).reshape(shape)
        end += size
    if end != len(data):
        raise EncoderError(f"encoder file has {len(data) - end} bytes too many")
    return metadata, tensors


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    size = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if len(data) < _LENGTH_BYTES or size > len(data) - _LENGTH_BYTES:
        raise EncoderError("encoder file is cut off within its header")
    if size > _MAX_HEADER_BYTES:
        raise EncoderError(f"encoder file has a header of {size} bytes")
    start = _LENGTH_BYTES + size
    try:
        text = data[_LENGTH_BYTES:start].decode()
        header = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise EncoderError(f"encoder file has an unreadable header: {error}") from error
    if not isinstance(header, dict):
        raise EncoderError("encoder file header is not an object")
    return header, start


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands there twice")
    return result


def _entry(name: str, entry: Any) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    if len(name) > _MAX_NAME:
        raise EncoderError(f"encoder file has a tensor whose name starts with {name[:64]!r}")
    try:
        dtype, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
        known = np.dtype(_TYPES[dtype])
        numbers = (*shape, first + 1, last)
    except (KeyError, TypeError, ValueError) as error:
        raise EncoderError(f"encoder tensor {name} has an unreadable entry: {error!r}") from error
    if len(numbers) > _MAX_DIMENSIONS + 2 or not all(_is_size(number) for number in numbers):
        raise EncoderError(f"encoder tensor {name} has sizes that cannot be: {str(entry)[:200]}")
    return known, tuple(shape), first, last


def _is_size(number: Any) -> bool:
    return type(number) is int and 0 < number <= MAX_BYTES
