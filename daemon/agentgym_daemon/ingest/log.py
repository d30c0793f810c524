"""The segment log, the daemon's only durable truth: append, acknowledge, replay.

One committer thread owns the active segment: it takes every waiting append, writes them at once,
calls fdatasync once, tells `on_durable`, and only then resolves the futures. A write that fails
(full disk) is undone and refused, and the log goes on. A failed fdatasync stops the log for good:
what the disk holds is unknown until the next open, and a second call could lie.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from pathlib import Path

from agentgym_daemon.clock import Clock
from agentgym_daemon.errors import StorageError, StorageFullError
from agentgym_daemon.ingest import damage, frames, segments
from agentgym_daemon.ingest.damage import Damage
from agentgym_daemon.ingest.disk import (
    DISK,
    Disk,
    FailedSyncError,
    open_for_reading,
    remove,
    sync_directory,
    write_all,
)
from agentgym_daemon.ingest.layout import Keep, Layout
from agentgym_daemon.ingest.segments import Segment, UnreadableError
from agentgym_daemon.store.rows import Entry

DEFAULT_SEGMENT_BYTES = 64 * 2**20
_GROUP_BYTES = 8 * 2**20
_NICE = 10

_logger = logging.getLogger(__name__)


class SegmentLog:
    """An append-only log of records in one directory; thread-safe."""

    def __init__(
        self,
        directory: Path,
        *,
        segment_bytes: int = DEFAULT_SEGMENT_BYTES,
        clock: Clock,
        on_durable: Callable[[Sequence[Entry]], None] | None = None,
        disk: Disk = DISK,
    ) -> None:
        self.on_durable = on_durable
        """Called by the committer with what became durable, in order, before it is acknowledged."""
        self.failed: StorageError | None = None
        self.full_at = float("-inf")
        """When the disk last took no more, by the clock's `monotonic`; long ago if it does."""
        self.commit_s = 0.0
        """How long the last group took to become durable."""
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._clock = clock
        self._disk = disk
        self._wake = threading.Condition()
        self._waiting: list[tuple[bytes, Future[int]]] = []
        self._moves: list[tuple[int, Future[None]]] = []
        self._closing = False
        self._fd = -1
        try:
            self._layout = Layout(directory, disk=disk, clock=clock)
            self._active = self._open_active()
        except OSError as error:
            if self._fd >= 0:
                os.close(self._fd)
            raise StorageError(f"log in {directory} cannot be opened: {error}") from error
        self._sealer = ThreadPoolExecutor(
            1, thread_name_prefix="agentgym-seal", initializer=_yield_to_others
        )
        for segment in self._layout.closed:
            self._seal_later(segment)
        self._committer = threading.Thread(
            target=self._commit_forever, name="agentgym-commit", daemon=True
        )
        self._committer.start()

    @property
    def end(self) -> int:
        """Offset behind the last durable record."""
        return self._active.end

    @property
    def start(self) -> int:
        """Offset of the oldest segment that is kept."""
        closed = self._layout.closed
        return closed[0].start if closed else self._active.start

    @property
    def damages(self) -> tuple[Damage, ...]:
        """What was ever found damaged, newest last."""
        return self._layout.damages

    def note_damage(self, path: Path, reason: str, *, lost_bytes: int = 0) -> None:
        """Adds a damaged file to the durable list."""
        self._layout.note(path, reason, lost_bytes=lost_bytes)

    def append(self, payload: bytes) -> Future[int]:
        """Queues a record; the future gives the offset behind it once it is durable."""
        future: Future[int] = Future()
        if not 0 < len(payload) <= frames.MAX_PAYLOAD_BYTES:
            future.set_exception(
                StorageError(
                    f"record has {len(payload)} bytes, expected 1 to {frames.MAX_PAYLOAD_BYTES}"
                )
            )
            return future
        with self._wake:
            refusal = self._refusal()
            if refusal is None:
                self._waiting.append((payload, future))
                self._wake.notify()
        if refusal is not None:
            future.set_exception(refusal)
        return future

    def replay(self, from_offset: int = 0) -> Iterator[Entry]:
        """Yields the records behind `from_offset` that are durable now.

        What turns out to be damaged is set aside, salvaged and passed over (see `damages`).
        """
        limit = self.end
        if from_offset > limit:
            raise StorageError(
                f"log in {self._directory} ends at offset {limit}, expected at least "
                f"{from_offset}; restore its missing segments, or remove the database to rebuild "
                "it from what is left"
            )
        offset = from_offset
        while offset < limit:
            # In this order: what stops being active is among the full ones before that.
            active = self._active
            segment = self._layout.holding(offset) or active
            offset = max(offset, segment.start)
            try:
                entries = segments.read_segment(self._disk, segment, offset, limit)
                for offset, payload in entries:
                    yield offset, payload
            except FileNotFoundError:
                if self._is_current(segment):
                    self._repair(segment, "the file is gone")
            except UnreadableError as error:
                self._repair(segment, str(error))
            except OSError as error:
                raise StorageError(f"{segment.path} cannot be read: {error}") from error
            else:
                offset = max(offset, min(segment.end, limit))

    def first_behind(self, offset: int) -> Entry | None:
        """The first record behind an offset; None if there is none."""
        return next(self.replay(offset), None) if offset < self.end else None

    def newest(self, segment: Segment) -> Entry | None:
        """The last record of a full segment; None if it has none or cannot be read now."""
        try:
            return segments.newest_of(self._disk, segment)
        except (UnreadableError, FileNotFoundError):
            return None

    def last(self) -> Entry | None:
        """The last record of the log."""
        found = [self._active, *reversed(self._layout.closed)]
        return next((entry for s in found if (entry := self.newest(s)) is not None), None)

    @property
    def closed(self) -> tuple[Segment, ...]:
        """The segments that are no longer written to, in order."""
        return self._layout.closed

    @property
    def active(self) -> Segment:
        """The segment that is written to."""
        return self._active

    def rotate(self) -> Future[None]:
        """Begins a new segment, if the active one holds anything."""
        return self._move(0)

    def skip_to(self, offset: int) -> Future[None]:
        """Goes on at an offset behind the end, because the database has seen what the log lost."""
        return self._move(offset)

    def thin(self, boundary: int, keep: Keep, *, thorough: bool) -> int:
        """Rewrites the segments up to `boundary`; returns how many bytes that gave back."""
        work = self._sealer.submit(self._layout.thin, boundary, keep, thorough=thorough)
        return work.result()

    def remove_old_damage(self, before_ns: int) -> int:
        """Removes what was set aside longest ago; returns how many bytes that gave back."""
        return self._layout.remove_old_damage(before_ns)

    def bytes_on_disk(self) -> int:
        """What all files of the log take."""
        files = (path for path in self._directory.rglob("*") if path.is_file())
        return sum(path.stat().st_size for path in files)

    def close(self) -> None:
        """Writes what waits, stops the threads and closes the files."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._committer.join()
        self._sealer.shutdown()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def wait_sealed(self) -> None:
        """Returns when every full segment so far has been compressed."""
        self._sealer.submit(lambda: None).result()

    def _refusal(self) -> StorageError | None:
        return self.failed or (StorageError("log is closed") if self._closing else None)

    def _open_active(self) -> Segment:
        last = self._layout.take_last_unsealed()
        if last is None:
            closed = self._layout.closed
            return self._create(closed[-1].end if closed else 0)
        good = last.start
        try:
            for good, _ in segments.read_segment(self._disk, last, last.start, last.end):  # noqa: B007
                pass
        except UnreadableError as error:
            entries, _ = damage.salvage(last)
            if entries and entries[-1][0] > good:
                # Acknowledged records may lie behind the damage: cutting would lose them.
                self._layout.add(last)
                self._layout.salvage(last, str(error))
                return self._create(last.end)
            self._cut_tail(last, good)
        active = Segment(last.path, last.start, good)
        self._fd = self._disk.open(active.path, os.O_WRONLY | os.O_APPEND)
        return active

    def _cut_tail(self, last: Segment, good: int) -> None:
        lost = last.end - good
        _logger.warning("log %s: cut off a torn tail of %d bytes", last.path, lost)
        with open_for_reading(self._disk, last.path) as stream:
            stream.seek(good - last.start)
            tail = stream.read()
        if not frames.is_torn(tail):
            kept = damage.keep_tail(self._disk, last.path, tail)
            self._layout.note(kept, "the end of a segment is no record", lost_bytes=lost)
        fd = self._disk.open(last.path, os.O_WRONLY)
        try:
            self._disk.truncate(fd, good - last.start)
            self._disk.sync(fd)
        finally:
            os.close(fd)

    def _create(self, start: int) -> Segment:
        """Begins a segment and makes it the one that is written to."""
        path = segments.unsealed_path(self._directory, start)
        fd = self._disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        try:
            sync_directory(self._disk, self._directory)
        except OSError:
            os.close(fd)
            remove(self._disk, path)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        return Segment(path, start, start)

    def _is_current(self, segment: Segment) -> bool:
        return segment in self._layout.closed or segment.start == self._active.start

    def _repair(self, segment: Segment, reason: str) -> None:
        """Salvages a segment; the active one is closed first."""
        if segment.start == self._active.start:
            self.rotate().result()
        if segment not in self._layout.closed:
            found = (s for s in self._layout.closed if s.start == segment.start)
            segment = next(found, segment)
        try:
            self._layout.salvage(segment, reason)
        except OSError as error:
            raise StorageError(
                f"{segment.path} is damaged ({reason}) and cannot be set aside: {error}"
            ) from error

    def _move(self, offset: int) -> Future[None]:
        future: Future[None] = Future()
        with self._wake:
            refusal = self._refusal()
            if refusal is None:
                self._moves.append((offset, future))
                self._wake.notify()
        if refusal is not None:
            future.set_exception(refusal)
        return future

    def _commit_forever(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting or self._moves or self._closing)
                moves, self._moves = self._moves, []
                group = self._take_group()
            if not group and not moves:
                return
            try:
                self._make_moves(moves)
                entries = self._commit([payload for payload, _ in group])
            except StorageFullError as error:
                _logger.error("%s", error)
                _refuse(group, error)
                continue
            except OSError as error:
                self._fail(group, moves, error)
                return
            self._tell(entries)
            for (end, _), (_, future) in zip(entries, group, strict=True):
                with contextlib.suppress(InvalidStateError):  # the caller may have cancelled it
                    future.set_result(end)

    def _take_group(self) -> list[tuple[bytes, Future[int]]]:
        size = count = 0
        while count < len(self._waiting) and size < _GROUP_BYTES:
            size += len(self._waiting[count][0])
            count += 1
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        return group

    def _make_moves(self, moves: Sequence[tuple[int, Future[None]]]) -> None:
        for offset, future in moves:
            try:
                self._begin_segment(max(offset, self.end))
            except StorageFullError as error:
                future.set_exception(error)
            else:
                future.set_result(None)

    def _commit(self, payloads: Sequence[bytes]) -> list[Entry]:
        if not payloads:
            return []
        began = self._clock.monotonic()
        if self.end - self._active.start >= self._segment_bytes:
            self._begin_segment(self.end)
        entries: list[Entry] = []
        parts: list[bytes] = []
        end = self.end
        for payload in payloads:
            end += frames.HEADER_BYTES + len(payload)
            parts += (frames.frame_header(payload), payload)
            entries.append((end, payload))
        try:
            write_all(self._disk, self._fd, b"".join(parts))
        except OSError as error:
            # If this fails too, nobody knows what the file holds: the log stops.
            self._disk.truncate(self._fd, self.end - self._active.start)
            raise self._full(error) from error
        self._disk.sync_data(self._fd)
        self._active = Segment(self._active.path, self._active.start, end)
        self.commit_s = self._clock.monotonic() - began
        self.full_at = float("-inf")
        return entries

    def _begin_segment(self, start: int) -> None:
        full = self._active
        if start == full.start:
            return
        try:
            fresh = self._create(start)
        except FailedSyncError:
            raise
        except OSError as error:
            raise self._full(error) from error
        if full.end > full.start:
            self._layout.add(full)
        else:
            remove(self._disk, full.path)
        self._active = fresh
        if full.end > full.start:
            self._seal_later(full)
        if start > full.end:
            try:
                self._layout.note_gap(full.end, start)
            except OSError:
                _logger.exception("the gap before offset %d is noted at the next start", start)

    def _full(self, error: OSError) -> StorageFullError:
        self.full_at = self._clock.monotonic()
        return StorageFullError(
            f"log in {self._directory} takes nothing for now ({error.strerror or error}); "
            "free some space on its disk",
            retry_after_s=5.0,
        )

    def _seal_later(self, segment: Segment) -> None:
        if not segment.sealed:
            self._sealer.submit(self._seal, segment)

    def _seal(self, segment: Segment) -> None:
        try:
            self._layout.seal(segment)
        except OSError:
            _logger.exception(
                "log segment %s stays uncompressed until the next start", segment.path
            )

    def _tell(self, entries: Sequence[Entry]) -> None:
        if self.on_durable is None or not entries:
            return
        try:
            self.on_durable(entries)
        except Exception:  # the records are durable whatever the listener does
            _logger.exception("listener of the log failed")

    def _fail(
        self,
        group: Sequence[tuple[bytes, Future[int]]],
        moves: Sequence[tuple[int, Future[None]]],
        error: OSError,
    ) -> None:
        _logger.critical("log %s failed, nothing more is accepted: %s", self._directory, error)
        with self._wake:
            self.failed = StorageError(
                f"log in {self._directory} could not be written ({error}); "
                "free or repair the disk and start the daemon again"
            )
            lost, self._waiting = [*group, *self._waiting], []
            stopped, self._moves = [*moves, *self._moves], []
        _refuse(lost, self.failed)
        for _, future in stopped:
            with contextlib.suppress(InvalidStateError):  # it was answered before the fault
                future.set_exception(self.failed)


def _refuse(group: Sequence[tuple[bytes, Future[int]]], error: StorageError) -> None:
    for _, future in group:
        with contextlib.suppress(InvalidStateError):  # the caller may have cancelled it
            future.set_exception(error)


def _yield_to_others() -> None:
    """Sealing may wait; on Linux a thread has a nice value of its own."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
