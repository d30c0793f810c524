"""Files of the segment log: their names, which of them count, and how one is read whole.

    log-START.seg                    frames as they were appended; the last one is being written
    log-START-END.zst                the same records, compressed
    log-START-END.thin.zst           what retention left of them
    log-START-END.rare.zst           the same, and nothing in it will ever expire
    log-START-END.salvaged.zst       what could be read of a damaged one

Offsets count the bytes of all frames ever appended. Of files that overlap, the later kind counts.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agentgym_daemon.ingest.disk import Disk, open_for_reading
from agentgym_daemon.ingest.frames import (
    HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    BadFrameError,
    encode_frame,
    read_frames,
)
from agentgym_daemon.ingest.sealed import BadChunkError, last_entry, read_entries
from agentgym_daemon.store.rows import Entry

__all__ = [
    "HEADER_BYTES",
    "MAX_PAYLOAD_BYTES",
    "BadFrameError",
    "Entry",
    "Segment",
    "UnreadableError",
    "encode_frame",
    "found_in",
    "newest_of",
    "read_frames",
    "read_segment",
    "sealed_path",
    "unsealed_path",
]

PLAIN, SALVAGED, THIN, RARE = "", "salvaged", "thin", "rare"
_UNSEALED = re.compile(r"log-(\d{20})\.seg")
_SEALED = re.compile(r"log-(\d{20})-(\d{20})(?:\.(salvaged|thin|rare))?\.zst")
_RANK = {None: 0, PLAIN: 1, SALVAGED: 2, THIN: 3, RARE: 4}


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of the log and the offsets [start, end) that it stands for."""

    path: Path
    start: int
    end: int
    kind: str | None = None
    """None: not sealed."""

    @property
    def sealed(self) -> bool:
        """Whether it is compressed and complete."""
        return self.kind is not None


class UnreadableError(Exception):
    """A segment's file is damaged; the records that were read before are good."""


def unsealed_path(directory: Path, start: int) -> Path:
    """Name of the unsealed segment that begins at `start`."""
    return directory / f"log-{start:020d}.seg"


def sealed_path(directory: Path, start: int, end: int, kind: str) -> Path:
    """Name of a sealed segment."""
    suffix = f".{kind}" if kind else ""
    return directory / f"log-{start:020d}-{end:020d}{suffix}.zst"


def read_segment(disk: Disk, segment: Segment, offset: int, limit: int) -> Iterator[Entry]:
    """Yields the records in (offset, limit]; raises UnreadableError at the first damaged one."""
    try:
        with open_for_reading(disk, segment.path) as stream:
            if segment.sealed:
                for entry in read_entries(stream, offset, segment.end):
                    if entry[0] > limit:
                        return
                    yield entry
            else:
                stream.seek(offset - segment.start)
                yield from read_frames(stream, offset, min(limit, segment.end))
    except BadFrameError as bad:
        raise UnreadableError(f"the record at offset {bad.offset} is damaged") from bad
    except BadChunkError as bad:
        raise UnreadableError(str(bad)) from bad
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise UnreadableError(f"the disk cannot read it ({error.strerror})") from error


def newest_of(disk: Disk, segment: Segment) -> Entry | None:
    """The segment's last record; None if it has none. Raises UnreadableError."""
    newest: Entry | None = None
    if not segment.sealed:
        for newest in read_segment(disk, segment, segment.start, segment.end):  # noqa: B007
            pass
        return newest
    try:
        with open_for_reading(disk, segment.path) as stream:
            return last_entry(stream, segment.end)
    except BadChunkError as bad:
        raise UnreadableError(str(bad)) from bad


def found_in(directory: Path) -> tuple[list[Segment], list[Segment]]:
    """The segments that count, in order, and those that another one has replaced.

    A crash between writing the new file and removing the old ones leaves both.
    """
    found = [segment for path in directory.iterdir() if (segment := _parsed(path)) is not None]
    found.sort(key=lambda s: (s.start, -s.end, -_RANK[s.kind]))
    kept: list[Segment] = []
    replaced: list[Segment] = []
    for segment in found:
        before = kept[-1] if kept else None
        if before is None or segment.start >= before.end:
            kept.append(segment)
        elif segment.start == before.start and _RANK[segment.kind] > _RANK[before.kind]:
            # An unsealed file may have grown past its end by garbage.
            kept[-1] = segment
            replaced.append(before)
        elif before.sealed or segment.end == segment.start:
            replaced.append(segment)
        else:
            kept[-1] = Segment(before.path, before.start, segment.start)
            kept.append(segment)
    return kept, replaced


def _parsed(path: Path) -> Segment | None:
    if match := _UNSEALED.fullmatch(path.name):
        start = int(match[1])
        return Segment(path, start, start + os.stat(path).st_size)
    if match := _SEALED.fullmatch(path.name):
        return Segment(path, int(match[1]), int(match[2]), match[3] or PLAIN)
    return None
