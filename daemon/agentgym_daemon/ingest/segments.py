"""Files of the segment log: frames, names, sealing. `log` decides when; this module only how.

A segment `log-<first offset, 20 digits>.seg` is a run of frames `length u32 | crc32 u32 | payload`,
little-endian, the checksum over length and payload. Sealed, it is one zstd frame in `.seg.zst`.
Offsets count the bytes of all uncompressed frames ever appended.
"""

from __future__ import annotations

import io
import itertools
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import zstandard

from agentgym_daemon.errors import StorageError

MAX_PAYLOAD_BYTES = 64 * 2**20
"""A longer record cannot be told from a damaged length, so none is written."""

_HEADER = struct.Struct("<II")
_NAME = re.compile(r"log-(\d{20})\.seg(\.zst)?")
_CHUNK_BYTES = 1 << 20
_ZSTD_LEVEL = 3

sync_data = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of the log and the offsets [start, end) that it holds."""

    path: Path
    start: int
    end: int

    @property
    def sealed(self) -> bool:
        """Whether it is compressed and complete."""
        return self.path.suffix == ".zst"


def segment_path(directory: Path, start: int) -> Path:
    """Name of the unsealed segment that begins at `start`."""
    return directory / f"log-{start:020d}.seg"


def encode_frame(payload: bytes) -> bytes:
    """One record as it lies in a segment."""
    length = len(payload)
    # The length is part of the sum, so that a run of zeros is not a run of empty records.
    crc = zlib.crc32(payload, zlib.crc32(length.to_bytes(4, "little")))
    return _HEADER.pack(length, crc) + payload


class BadFrameError(Exception):
    """A frame cannot be read; `length` is what its header claims, None if there is no header."""

    def __init__(self, offset: int, length: int | None) -> None:
        super().__init__(offset, length)
        self.offset, self.length = offset, length


def read_frames(stream: BinaryIO, offset: int, limit: int) -> Iterator[tuple[int, bytes]]:
    """Yields (end offset, payload) from a stream that stands at `offset`, up to `limit`."""
    while offset < limit:
        header = stream.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise BadFrameError(offset, None)
        length, crc = _HEADER.unpack(header)
        if length > MAX_PAYLOAD_BYTES:
            raise BadFrameError(offset, length)
        payload = stream.read(length)
        if len(payload) < length or crc != zlib.crc32(payload, zlib.crc32(header[:4])):
            raise BadFrameError(offset, length)
        offset += _HEADER.size + length
        yield offset, payload


def open_at(segment: Segment, offset: int) -> BinaryIO:
    """A stream of the segment's uncompressed bytes that stands at `offset`."""
    if not segment.sealed:
        stream = segment.path.open("rb", buffering=_CHUNK_BYTES)
        stream.seek(offset - segment.start)
        return stream
    compressed = segment.path.open("rb")
    reader = zstandard.ZstdDecompressor().stream_reader(compressed, closefd=True)
    stream = io.BufferedReader(reader, _CHUNK_BYTES)
    left = offset - segment.start
    while left:
        left -= len(stream.read(min(left, _CHUNK_BYTES)) or bytes(left))
    return stream


def recover_tail(segment: Segment) -> int:
    """Bytes of a torn tail that were cut off; a bad frame with good ones behind it is an error."""
    good = segment.start
    try:
        with segment.path.open("rb", buffering=_CHUNK_BYTES) as stream:
            for good, _ in read_frames(stream, segment.start, segment.end):  # noqa: B007
                pass
    except BadFrameError as bad:
        if _good_frame_follows(segment, bad):
            raise corrupted(segment.path, bad.offset) from bad
    if good == segment.end:
        return 0
    with segment.path.open("r+b") as stream:
        stream.truncate(good - segment.start)
        os.fsync(stream.fileno())
    return segment.end - good


def _good_frame_follows(segment: Segment, bad: BadFrameError) -> bool:
    # Acknowledged records may lie behind it; cutting them off would lose them in silence.
    if bad.length is None:
        return False
    following = bad.offset + _HEADER.size + bad.length
    if following >= segment.end:
        return False
    with segment.path.open("rb") as stream:
        stream.seek(following - segment.start)
        try:
            next(read_frames(stream, following, segment.end))
        except BadFrameError:
            return False
    return True


def corrupted(path: Path, offset: int) -> StorageError:
    """The error for a record that was durable and cannot be read any more."""
    return StorageError(
        f"log segment {path} is damaged at offset {offset}: expected a record with a valid "
        "checksum; restore the file from a backup, or move the log aside to start afresh"
    )


def seal(segment: Segment) -> Segment:
    """Compresses a full segment: write new, fsync, rename, fsync the directory, unlink the old."""
    target = segment.path.with_suffix(".seg.zst")
    temporary = target.with_suffix(".tmp")
    size = segment.end - segment.start
    with segment.path.open("rb") as source, create(temporary) as sink:
        zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_content_size=True).copy_stream(
            source, sink, size=size
        )
        sink.flush()
        os.fsync(sink.fileno())
    temporary.rename(target)
    sync_directory(target.parent)
    segment.path.unlink()
    return Segment(path=target, start=segment.start, end=segment.end)


def create(path: Path) -> BinaryIO:
    """A new private file."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def sync_directory(directory: Path) -> None:
    """Makes the directory's entries durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def scan(directory: Path) -> list[Segment]:
    """The segments in order, without what a crash in the middle of sealing left behind."""
    for temporary in directory.glob("*.tmp"):
        temporary.unlink()
    found: dict[int, Segment] = {}
    for path in sorted(directory.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        start = int(match[1])
        if match[2] and start in found:
            found[start].path.unlink()  # the crash came between the rename and the unlink
        found[start] = Segment(path=path, start=start, end=start + _size(path))
    return _checked(list(found.values()))


def _size(path: Path) -> int:
    if path.suffix != ".zst":
        return path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(64)
    try:
        return int(zstandard.get_frame_parameters(head).content_size)
    except zstandard.ZstdError as error:
        raise corrupted(path, int(path.name[4:24])) from error


def _checked(segments: list[Segment]) -> list[Segment]:
    for before, after in itertools.pairwise(segments):
        if before.end != after.start:
            raise StorageError(
                f"log segment {after.path} begins at offset {after.start}, expected {before.end} "
                f"after {before.path}; restore the missing part from a backup"
            )
    return segments
