"""Frames of a spool file, `length u32 | crc32 u32 | payload`: how they are made and read back."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator

_HEADER = struct.Struct("<II")
_LENGTH = struct.Struct("<I")
MAX_PAYLOAD_BYTES = 64 * 2**20
"""A longer payload cannot be told from a damaged length."""


def encode(payload: bytes) -> bytes:
    """A frame; the checksum covers the length too, so that zeros are not empty frames."""
    length = len(payload)
    return _HEADER.pack(length, zlib.crc32(payload, zlib.crc32(_LENGTH.pack(length)))) + payload


def read(descriptor: int, offset: int, end: int) -> Iterator[tuple[int, bytes]]:
    """(end offset, payload) of each frame in [offset, end), up to the first damaged one."""
    while offset + _HEADER.size <= end:
        head = os.pread(descriptor, _HEADER.size, offset)
        if len(head) < _HEADER.size:
            return
        length, crc = _HEADER.unpack(head)
        if length > MAX_PAYLOAD_BYTES or offset + _HEADER.size + length > end:
            return
        payload = os.pread(descriptor, length, offset + _HEADER.size)
        if len(payload) < length or crc != zlib.crc32(payload, zlib.crc32(head[:4])):
            return
        offset += _HEADER.size + length
        yield offset, payload
