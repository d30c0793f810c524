"""Which files make up the log, and the work on those that are full: seal, thin, salvage.

Everything that replaces a file writes and syncs the new one, renames it into place, and removes
the old one last, so that a crash between any two steps leaves one of them to be read.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from agentgym_daemon.clock import Clock
from agentgym_daemon.ingest import damage, segments
from agentgym_daemon.ingest.damage import Damage, Damages
from agentgym_daemon.ingest.disk import Disk, remove, sync_directory, write_file
from agentgym_daemon.ingest.legacy import unpack_all
from agentgym_daemon.ingest.sealed import CHUNK_BYTES, encode_chunks
from agentgym_daemon.ingest.segments import (
    PLAIN,
    RARE,
    SALVAGED,
    THIN,
    Segment,
    UnreadableError,
)
from agentgym_daemon.store.rows import Entry, batches

Keep = Callable[[Sequence[Entry]], tuple[list[Entry], bool]]
"""What is left of these records, and whether any of it may expire later."""

GAP = "records are missing from the log"
_SMALL_BYTES = 1 << 20

_logger = logging.getLogger(__name__)


class Layout:
    """The segments that are no longer written to; thread-safe."""

    def __init__(self, directory: Path, *, disk: Disk, clock: Clock) -> None:
        self.directory = directory
        self.closed: tuple[Segment, ...] = ()
        """In order; replaced as a whole, so that readers need no lock."""
        self._disk = disk
        self._clock = clock
        self._lock = threading.RLock()
        """Held while a file is replaced, which takes a second; the committer never waits for it."""
        self._swap = threading.Lock()
        disk.make_directory(directory)
        sync_directory(disk, directory.parent)
        for temporary in directory.glob("*.tmp"):
            disk.unlink(temporary)
        unpack_all(disk, directory)
        self._damages = Damages(directory, disk)
        self.closed = tuple(self._found())
        self._note_gaps()

    @property
    def damages(self) -> tuple[Damage, ...]:
        """What was ever found damaged, newest last."""
        return self._damages.known

    def holding(self, offset: int) -> Segment | None:
        """The first segment with records behind this offset."""
        return next((s for s in self.closed if s.end > offset), None)

    def add(self, segment: Segment) -> None:
        """Takes over a segment that is full."""
        with self._swap:
            self.closed = (*self.closed, segment)

    def take_last_unsealed(self) -> Segment | None:
        """Gives away the segment that may be written to again, if there is one."""
        with self._swap:
            if not self.closed or self.closed[-1].sealed:
                return None
            *rest, last = self.closed
            self.closed = tuple(rest)
            return last

    def note(self, path: Path, reason: str, *, lost_bytes: int = 0) -> None:
        """Keeps a damage durably."""
        with self._lock:
            self._damages.add(Damage(str(path), reason, lost_bytes, self._clock.now_ns()))

    def note_gap(self, start: int, end: int) -> None:
        """Keeps durably that there is nothing between two offsets."""
        path = segments.unsealed_path(self.directory, start)
        self.note(path, GAP, lost_bytes=end - start)

    def seal(self, segment: Segment) -> None:
        """Compresses a full segment; one that turns out to be damaged is salvaged."""
        with self._lock:
            if segment not in self.closed or segment.sealed:
                return
            try:
                self._replace([segment], self._entries([segment]), kind=PLAIN)
            except UnreadableError as error:
                self.salvage(segment, str(error))

    def salvage(self, segment: Segment, reason: str) -> None:
        """Sets a damaged segment aside and puts what can be read of it in its place."""
        with self._lock:
            if segment not in self.closed:
                return  # somebody else did, or it was replaced meanwhile
            entries, lost_bytes = damage.salvage(segment)
            if segment.path.exists():
                lies = damage.aside_path(segment.path)
            else:
                lies, reason = segment.path, "the file is gone"
            self.note(lies, reason, lost_bytes=lost_bytes)
            self._replace([segment], iter(entries), kind=SALVAGED)

    def thin(self, boundary: int, keep: Keep, *, thorough: bool) -> int:
        """Takes away from the segments up to `boundary` what `keep` does not keep.

        Returns how many bytes that gave back. Thinned ones are looked at again if `thorough`.
        """
        freed = 0
        with self._lock:
            for group in _groups(self._thinnable(boundary), thorough=thorough):
                freed += self._thin(group, keep)
        return freed

    def remove_old_damage(self, before_ns: int) -> int:
        """Removes what was set aside longest ago; returns how many bytes that gave back."""
        return damage.remove_old(self._disk, self.directory, before_ns)

    def _thin(self, group: Sequence[Segment], keep: Keep) -> int:
        before = sum(_size(segment) for segment in group)
        kept: list[Entry] = []
        may_expire = False
        try:
            for batch in batches(self._entries(group), CHUNK_BYTES):
                left, living = keep(batch)
                kept += left
                may_expire = may_expire or living
        except UnreadableError:
            for segment in group:
                self._check(segment)
            return 0  # what was salvaged is thinned the next time
        new = self._replace(group, iter(kept), kind=THIN if may_expire else RARE)
        return before - _size(new)

    def _check(self, segment: Segment) -> None:
        try:
            for _ in segments.read_segment(self._disk, segment, segment.start, segment.end):
                pass
        except UnreadableError as error:
            self.salvage(segment, str(error))

    def _thinnable(self, boundary: int) -> Iterator[Segment]:
        for segment in self.closed:
            if segment.end > boundary or not segment.sealed:
                return
            yield segment

    def _entries(self, group: Iterable[Segment]) -> Iterator[Entry]:
        for segment in group:
            yield from segments.read_segment(self._disk, segment, segment.start, segment.end)

    def _replace(self, old: Sequence[Segment], entries: Iterator[Entry], *, kind: str) -> Segment:
        start, end = old[0].start, old[-1].end
        path = segments.sealed_path(self.directory, start, end, kind)
        write_file(self._disk, path, encode_chunks(entries, start, end))
        sync_directory(self._disk, self.directory)
        new = Segment(path, start, end, kind)
        with self._swap:
            at = self.closed.index(old[0])
            self.closed = (*self.closed[:at], new, *self.closed[at + len(old) :])
        for segment in old:
            if segment.path != path:
                self._dispose(segment, replaced_by=kind)
        return new

    def _dispose(self, segment: Segment, *, replaced_by: str) -> None:
        try:
            if replaced_by == SALVAGED and segment.path.exists():
                damage.set_aside(self._disk, segment.path)
            else:
                remove(self._disk, segment.path)
        except OSError:
            _logger.exception("%s is out of use and goes at the next start", segment.path)

    def _found(self) -> list[Segment]:
        kept, replaced = segments.found_in(self.directory)
        kinds = {segment.start: segment.kind for segment in kept}
        for segment in replaced:
            self._dispose(segment, replaced_by=kinds.get(segment.start) or PLAIN)
        return kept

    def _note_gaps(self) -> None:
        reached = 0
        for segment in self.closed:
            if segment.start > reached:
                self.note_gap(reached, segment.start)
            reached = segment.end


def _groups(found: Iterable[Segment], *, thorough: bool) -> Iterator[list[Segment]]:
    """Neighbours that are rewritten together; small ones that need no work join such that do."""
    group: list[Segment] = []
    for segment in found:
        if not _needs_work(segment, thorough=thorough) and _size(segment) > _SMALL_BYTES:
            if any(_needs_work(s, thorough=thorough) for s in group):
                yield group
            group = []
            continue
        group.append(segment)
    if any(_needs_work(s, thorough=thorough) for s in group):
        yield group


def _needs_work(segment: Segment, *, thorough: bool) -> bool:
    return segment.kind in (PLAIN, SALVAGED) or (thorough and segment.kind == THIN)


def _size(segment: Segment) -> int:
    try:
        return os.stat(segment.path).st_size
    except FileNotFoundError:
        return 0
