"""Frames of an unsealed segment: `length u32 | crc32 u32 | payload`, little-endian.

The checksum covers length and payload. The spool of the plugins has the same frames.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

MAX_PAYLOAD_BYTES = 64 * 2**20
"""A longer record cannot be told from a damaged length, so none is written."""
HEADER_BYTES = 8

_HEADER = struct.Struct("<II")
_WINDOW_BYTES = 1 << 20
_CHEAP_BYTES = 1 << 20
_CHAIN = 3


def encode_frame(payload: bytes) -> bytes:
    """One record as it lies in a segment."""
    return frame_header(payload) + payload


def frame_header(payload: bytes) -> bytes:
    """What stands before a record in a segment."""
    length = len(payload)
    # The length is part of the sum, so that a run of zeros is not a run of empty records.
    crc = zlib.crc32(payload, zlib.crc32(length.to_bytes(4, "little")))
    return _HEADER.pack(length, crc)


class BadFrameError(Exception):
    """A frame cannot be read; `length` is what its header claims, None if there is no header."""

    def __init__(self, offset: int, length: int | None) -> None:
        super().__init__(offset, length)
        self.offset, self.length = offset, length


def read_frames(stream: BinaryIO, offset: int, limit: int) -> Iterator[tuple[int, bytes]]:
    """Yields (end offset, payload) from a stream that stands at `offset`, up to `limit`."""
    while offset < limit:
        header = stream.read(HEADER_BYTES)
        if len(header) < HEADER_BYTES:
            raise BadFrameError(offset, None)
        length, crc = _HEADER.unpack(header)
        if length > MAX_PAYLOAD_BYTES:
            raise BadFrameError(offset, length)
        payload = stream.read(length)
        if len(payload) < length or crc != zlib.crc32(payload, zlib.crc32(header[:4])):
            raise BadFrameError(offset, length)
        offset += HEADER_BYTES + length
        yield offset, payload


def is_torn(rest: bytes) -> bool:
    """Whether a file's end is the beginning of a frame, as a writer that was killed leaves it."""
    if len(rest) < HEADER_BYTES:
        return True
    length, _ = _HEADER.unpack_from(rest)
    return bool(len(rest) - HEADER_BYTES < length <= MAX_PAYLOAD_BYTES)


def find_frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields (end position, payload) of every frame that can be read, also behind damaged ones."""
    position = 0
    while position + HEADER_BYTES < len(data):
        payload = _frame_at(data, position)
        if payload is None:
            found = _next_frame(data, position)
            if found is None:
                return
            position = found
            continue
        position += HEADER_BYTES + len(payload)
        yield position, payload


def _frame_at(data: bytes, position: int) -> bytes | None:
    length, crc = _HEADER.unpack_from(data, position)
    start = position + HEADER_BYTES
    if not 0 < length <= min(MAX_PAYLOAD_BYTES, len(data) - start):
        return None
    payload = data[start : start + length]
    good = crc == zlib.crc32(payload, zlib.crc32(data[position : position + 4]))
    return payload if good else None


def _next_frame(data: bytes, bad: int) -> int | None:
    """Where the first good frame behind a bad one begins."""
    (length,) = struct.unpack_from("<I", data, bad)
    behind = bad + HEADER_BYTES + length
    # Where only the payload is damaged, the header still says where the next frame is.
    if behind + HEADER_BYTES < len(data) and _frame_at(data, behind) is not None:
        return int(behind)
    for candidate in _candidates(data, bad + 1):
        if _frame_at(data, candidate) is not None:
            return candidate
    return None


def _candidates(data: bytes, begin: int) -> Iterator[int]:
    """Positions that may be headers: a plausible length, and a cheap sum or a chain of headers."""
    # A checksum over a long false frame is dear, so such a one must lead to further headers.
    size = len(data)
    raw = np.frombuffer(data, dtype=np.uint8)
    for low in range(begin, size - HEADER_BYTES, _WINDOW_BYTES):
        high = min(low + _WINDOW_BYTES, size - HEADER_BYTES)
        window = raw[low : high + 3].astype(np.uint32)
        count = high - low
        lengths = (
            window[:count]
            | window[1 : count + 1] << 8
            | window[2 : count + 2] << 16
            | window[3 : count + 3] << 24
        )
        rest = np.uint32(size - HEADER_BYTES) - np.arange(low, high, dtype=np.uint32)
        for index in np.flatnonzero((lengths > 0) & (lengths <= rest)):
            length = int(lengths[index])
            if length > MAX_PAYLOAD_BYTES:
                continue
            if length <= _CHEAP_BYTES or _leads_on(data, low + int(index), _CHAIN):
                yield low + int(index)


def _leads_on(data: bytes, position: int, steps: int) -> bool:
    for _ in range(steps):
        (length,) = struct.unpack_from("<I", data, position)
        position += HEADER_BYTES + int(length)
        if position == len(data):
            return True
        if not 0 < length <= MAX_PAYLOAD_BYTES or position + HEADER_BYTES >= len(data):
            return False
    return True
