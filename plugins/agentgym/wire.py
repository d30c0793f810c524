"""Protobuf's wire format by hand: the few primitives that hot messages are built from.

A message object costs about a microsecond a field in Python; bytes put together cost a tenth.
"""

from __future__ import annotations

from collections.abc import Iterator

_TABLE = 4096


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


_VARINTS = tuple(_varint(n) for n in range(_TABLE))
VARINT, FIXED64, BYTES = 0, 1, 2
"""Wire types."""


def varint(value: int) -> bytes:
    """A number from 0 to 2**64 - 1."""
    if 0 <= value < _TABLE:
        return _VARINTS[value]
    if not 0 <= value < 2**64:
        raise ValueError(f"expected a number from 0 to 2**64 - 1, got {value!r}")
    return _varint(value)


def tag(field: int, kind: int) -> bytes:
    """What stands before a field's value."""
    return varint(field << 3 | kind)


def entry(prefix: bytes, payload: bytes) -> bytes:
    """A length-delimited field: its tag, the length, the payload."""
    return prefix + varint(len(payload)) + payload


def text(value: str) -> bytes:
    """UTF-8; lone surrogates, which would make the whole message unreadable, become '?'."""
    try:
        return value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "replace")


def clean(value: str) -> str:
    """The string that `text` encodes."""
    return value if value.isascii() else text(value).decode()


def fields(message: bytes) -> Iterator[tuple[int, bytes | int, bytes]]:
    """(number, value, raw bytes) of each varint and length-delimited field of our own messages."""
    at, end = 0, len(message)
    while at < end:
        start = at
        key, at = _read_varint(message, at)
        number, at = _read_varint(message, at)
        value: bytes | int = number
        if key & 7 == BYTES:
            value, at = message[at : at + number], at + number
        yield key >> 3, value, message[start:at]


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
