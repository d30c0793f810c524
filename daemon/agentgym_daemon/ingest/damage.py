"""Damaged files of the log: what of them can still be read, and a durable list of what was lost.

The list lies in `damages.json` beside the segments, the damaged files in `damaged/`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentgym_daemon.ingest.disk import (
    Disk,
    remove,
    sync_directory,
    write_file,
)
from agentgym_daemon.ingest.frames import HEADER_BYTES, find_frames
from agentgym_daemon.ingest.sealed import find_chunks
from agentgym_daemon.ingest.segments import PLAIN, Segment
from agentgym_daemon.store.rows import Entry

LIST_NAME = "damages.json"
ASIDE_NAME = "damaged"
MOST_KEPT = 200
_BLOCK_BYTES = 1 << 16

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that could not be read, and what that cost."""

    path: str
    """Where it lies now; where it should lie, if it is missing."""
    reason: str
    lost_bytes: int
    """Of the log; 0 where everything could be derived again."""
    time_unix_nano: int


class Damages:
    """The durable list, newest last; used by one thread at a time."""

    def __init__(self, directory: Path, disk: Disk) -> None:
        self._path = directory / LIST_NAME
        self._disk = disk
        self.known: tuple[Damage, ...] = tuple(_read(self._path))

    def add(self, damage: Damage) -> None:
        """Keeps a damage durably; one that is already known is not kept twice."""
        same = (damage.path, damage.reason, damage.lost_bytes)
        if any((d.path, d.reason, d.lost_bytes) == same for d in self.known):
            return
        _logger.error("%s: %s; %d bytes lost", damage.path, damage.reason, damage.lost_bytes)
        self.known = (*self.known, damage)[-MOST_KEPT:]
        text = json.dumps([asdict(d) for d in self.known], indent=1)
        write_file(self._disk, self._path, [text.encode()])
        sync_directory(self._disk, self._path.parent)


def _read(path: Path) -> Iterator[Damage]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        yield from (_parsed(entry) for entry in found)
    except FileNotFoundError:
        return
    except (ValueError, TypeError, KeyError):
        _logger.warning("%s cannot be read; the list of damages begins anew", path)


def _parsed(entry: Any) -> Damage:
    return Damage(
        str(entry["path"]),
        str(entry["reason"]),
        int(entry["lost_bytes"]),
        int(entry["time_unix_nano"]),
    )


def salvage(segment: Segment) -> tuple[list[Entry], int]:
    """The records of a damaged segment that can be read, and how many bytes of it cannot."""
    data = _whole(segment.path)
    if not segment.sealed:
        frames = find_frames(data[: segment.end - segment.start])
        entries = [(segment.start + end, payload) for end, payload in frames]
    else:
        chunks = find_chunks(data)
        good = [entry for _, found in chunks for entry in found]
        entries = [e for e in good if segment.start < e[0] <= segment.end]
    if segment.kind in (None, PLAIN):
        held = sum(HEADER_BYTES + len(payload) for _, payload in entries)
        return entries, max(0, segment.end - segment.start - held)
    return entries, _lost_of_thinned(data)


def _lost_of_thinned(data: bytes) -> int:
    # How much a thinned segment held is not known; its file's unreadable part is what is.
    return max(0, len(data) - sum(chunk.packed for chunk, _ in find_chunks(data)))


def _whole(path: Path) -> bytes:
    """The file's content, with zeros where the disk cannot read it; empty if it is gone."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        _logger.warning("%s: %s; reading it block by block", path, error)
    parts: list[bytes] = []
    with path.open("rb", buffering=0) as file:
        for position in range(0, path.stat().st_size, _BLOCK_BYTES):
            try:
                parts.append(os.pread(file.fileno(), _BLOCK_BYTES, position))
            except OSError:
                parts.append(bytes(_BLOCK_BYTES))
    return b"".join(parts)


def set_aside(disk: Disk, path: Path) -> Path:
    """Moves a file of the log out of its way; returns where it lies now."""
    target = aside_path(path)
    disk.make_directory(target.parent)
    disk.rename(path, target)
    sync_directory(disk, target.parent)
    sync_directory(disk, path.parent)
    return target


def aside_path(path: Path) -> Path:
    """Where a damaged file of the log would be moved to."""
    number, directory = 0, path.parent / ASIDE_NAME
    target = directory / path.name
    while target.exists():
        number += 1
        target = directory / f"{path.name}.{number}"
    return target


def keep_tail(disk: Disk, path: Path, tail: bytes) -> Path:
    """Puts a copy of what will be cut off a file aside; returns where it lies."""
    target = aside_path(path.with_name(f"{path.name}.tail"))
    disk.make_directory(target.parent)
    write_file(disk, target, [tail])
    sync_directory(disk, target.parent)
    return target


def remove_old(disk: Disk, directory: Path, before_ns: int) -> int:
    """Removes what was set aside longest ago; returns how many bytes that gave back."""
    freed = 0
    aside = directory / ASIDE_NAME
    for path in sorted(aside.iterdir()) if aside.is_dir() else ():
        found = path.stat()
        if found.st_mtime_ns < before_ns and remove(disk, path):
            freed += found.st_size
    return freed
