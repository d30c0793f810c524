"""Compressed segments: a run of chunks that are found and read each for itself.

A chunk is a zstd skippable frame, which tells what follows (so `zstd -d` still reads the file), and
one zstd frame of records `end offset u64 | length u32 | payload`. Every record carries its offset,
so a segment may lack records: retention and damage take some away and the others keep theirs.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import zstandard

from agentgym_daemon.store.rows import Entry

CHUNK_BYTES = 4 * 2**20
"""Much larger ones are hardly smaller on disk, and one flipped bit costs a whole chunk."""
ZSTD_LEVEL = 3

_MAGIC = struct.pack("<I", 0x184D2A5A)
_OUTER = struct.Struct("<4sI")
_INNER = struct.Struct("<4sQQIII")
_TAG = b"AGC1"
_HEADER_BYTES = _OUTER.size + _INNER.size
_RECORD = struct.Struct("<QI")
_MAX_RAW_BYTES = 2**27
"""The longest record and a chunk's worth of others."""


class BadChunkError(Exception):
    """A chunk cannot be read."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a chunk's header says: its records lie behind offset `after`, up to `to`."""

    after: int
    to: int
    raw: int
    packed: int


def encode_chunks(entries: Iterable[Entry], start: int, end: int) -> Iterator[bytes]:
    """The file's content; the last chunk reaches to `end`, so that a cut-off file is noticed."""
    after, to, size = start, start, 0
    parts: list[bytes] = []
    for to, payload in entries:
        parts += (_RECORD.pack(to, len(payload)), payload)
        size += _RECORD.size + len(payload)
        if size >= CHUNK_BYTES:
            yield _encode(parts, after, to)
            after, size, parts = to, 0, []
    if parts or after < end:
        yield _encode(parts, after, end)


def _encode(parts: list[bytes], after: int, to: int) -> bytes:
    raw = b"".join(parts)
    packed = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).compress(raw)
    inner = _INNER.pack(_TAG, after, to, len(raw), len(packed), 0)
    inner = inner[:-4] + struct.pack("<I", zlib.crc32(inner[:-4]))
    return _OUTER.pack(_MAGIC, len(inner)) + inner + packed


def read_entries(stream: BinaryIO, offset: int, end: int) -> Iterator[Entry]:
    """Yields the records behind `offset` of a segment that reaches to `end`; raises BadChunkError.

    Chunks that lie before are passed over without being read.
    """
    reached = -1
    while reached < end:
        header = stream.read(_HEADER_BYTES)
        if not header:
            raise BadChunkError(f"it ends at offset {reached}, expected {end}")
        chunk = _parse_header(header)
        if chunk is None or chunk.to <= reached:
            raise BadChunkError("a chunk's header is damaged")
        reached = chunk.to
        if chunk.to <= offset:
            stream.seek(chunk.packed, 1)
            continue
        for entry in _unpack(stream.read(chunk.packed), chunk):
            if entry[0] > offset:
                yield entry


def last_entry(stream: BinaryIO, end: int) -> Entry | None:
    """The newest record; raises BadChunkError."""
    newest: Entry | None = None
    place = (0, Chunk(0, 0, 0, 0))
    reached = -1
    while reached < end:
        chunk = _parse_header(stream.read(_HEADER_BYTES))
        if chunk is None or chunk.to <= reached:
            raise BadChunkError("a chunk's header is damaged")
        reached = chunk.to
        if chunk.raw:
            place = (stream.tell(), chunk)
        stream.seek(chunk.packed, 1)
    stream.seek(place[0])
    if place[1].raw:
        for newest in _unpack(stream.read(place[1].packed), place[1]):  # noqa: B007
            pass
    return newest


def find_chunks(data: bytes) -> Iterator[tuple[Chunk, list[Entry]]]:
    """Every chunk of a damaged file that can still be read."""
    position = 0
    while (position := data.find(_MAGIC, position)) >= 0:
        chunk = _parse_header(data[position : position + _HEADER_BYTES])
        begin = position + _HEADER_BYTES
        position += 1
        if chunk is None:
            continue
        try:
            entries = list(_unpack(data[begin : begin + chunk.packed], chunk))
        except BadChunkError:
            continue
        yield chunk, entries
        position = begin + chunk.packed


def _parse_header(header: bytes) -> Chunk | None:
    if len(header) < _HEADER_BYTES or header[:4] != _MAGIC:
        return None
    inner = header[_OUTER.size :]
    tag, after, to, raw, packed, crc = _INNER.unpack(inner)
    if tag != _TAG or crc != zlib.crc32(inner[:-4]) or raw > _MAX_RAW_BYTES:
        return None
    return Chunk(after, to, raw, packed)


def _unpack(packed: bytes, chunk: Chunk) -> Iterator[Entry]:
    if len(packed) < chunk.packed:
        raise BadChunkError("it is cut off inside a chunk")
    try:
        raw = zstandard.ZstdDecompressor().decompress(packed, max_output_size=_MAX_RAW_BYTES)
    except zstandard.ZstdError as error:
        raise BadChunkError(f"a chunk is damaged: {error}") from error
    if len(raw) != chunk.raw:
        raise BadChunkError(f"a chunk has {len(raw)} bytes, expected {chunk.raw}")
    position = 0
    while position < len(raw):
        end, length = _RECORD.unpack_from(raw, position)
        position += _RECORD.size
        yield end, raw[position : position + length]
        position += length
