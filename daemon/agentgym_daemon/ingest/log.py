"""The segment log, the daemon's only durable truth: append, acknowledge, replay.

One committer thread owns the active segment: it takes every waiting append, writes them at once,
calls fdatasync once, tells `on_durable`, and only then resolves the futures. A failed write or
fdatasync stops the log for good: what the disk holds is unknown until the next open.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import zstandard

from agentgym_daemon.clock import Clock
from agentgym_daemon.errors import StorageError
from agentgym_daemon.ingest import segments
from agentgym_daemon.ingest.segments import BadFrameError, Segment

Entry = tuple[int, bytes]
"""A durable record: the offset behind it, and its payload."""

DEFAULT_SEGMENT_BYTES = 64 * 2**20
_GROUP_BYTES = 8 * 2**20

_logger = logging.getLogger(__name__)


class SegmentLog:
    """An append-only log of records in one directory; `append` and `replay` are thread-safe."""

    def __init__(
        self,
        directory: Path,
        *,
        segment_bytes: int = DEFAULT_SEGMENT_BYTES,
        clock: Clock,
        on_durable: Callable[[Sequence[Entry]], None] | None = None,
    ) -> None:
        self.on_durable = on_durable
        """Called by the committer with what became durable, in order, before it is acknowledged."""
        self.failed: StorageError | None = None
        self.commit_s = 0.0
        """How long the last group took to become durable."""
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._clock = clock
        self._wake = threading.Condition()
        self._waiting: list[tuple[bytes, Future[int]]] = []
        self._closing = False
        self._segments = self._open_segments()
        self._end = self._segments[-1].end
        self._fd = os.open(self._segments[-1].path, os.O_WRONLY | os.O_APPEND)
        self._sealer = ThreadPoolExecutor(1, thread_name_prefix="agentgym-seal")
        for segment in self._segments[:-1]:
            self._seal_later(segment)
        self._committer = threading.Thread(
            target=self._commit_forever, name="agentgym-commit", daemon=True
        )
        self._committer.start()

    @property
    def end(self) -> int:
        """Offset behind the last durable record."""
        return self._end

    @property
    def start(self) -> int:
        """Offset of the oldest record that is kept."""
        return self._segments[0].start

    def append(self, payload: bytes) -> Future[int]:
        """Queues a record; the future gives the offset behind it once it is durable."""
        future: Future[int] = Future()
        if not 0 < len(payload) <= segments.MAX_PAYLOAD_BYTES:
            future.set_exception(
                StorageError(
                    f"record has {len(payload)} bytes, expected 1 to {segments.MAX_PAYLOAD_BYTES}"
                )
            )
            return future
        with self._wake:
            refusal = self.failed or (StorageError("log is closed") if self._closing else None)
            if refusal is None:
                self._waiting.append((payload, future))
                self._wake.notify()
        if refusal is not None:
            future.set_exception(refusal)
        return future

    def replay(self, from_offset: int = 0) -> Iterator[Entry]:
        """Yields the records behind `from_offset` that are durable now."""
        limit = self._end
        if from_offset > limit:
            raise StorageError(
                f"log in {self._directory} ends at offset {limit}, expected at least "
                f"{from_offset}; restore its missing segments, or remove the database to rebuild "
                "it from what is left"
            )
        offset = max(from_offset, self.start)
        while offset < limit:
            for offset, payload in self._replay_segment(offset, limit):  # noqa: B020
                yield offset, payload

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

    def _open_segments(self) -> list[Segment]:
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            segments.sync_directory(self._directory.parent)
            found = segments.scan(self._directory)
            if found and not found[-1].sealed:
                found[-1] = self._recovered(found[-1])
            if not found or found[-1].sealed:
                found.append(self._create(found[-1].end if found else 0))
        except OSError as error:
            raise StorageError(f"log in {self._directory} cannot be opened: {error}") from error
        return found

    def _recovered(self, last: Segment) -> Segment:
        cut = segments.recover_tail(last)
        if cut:
            _logger.warning("log %s: cut off a torn tail of %d bytes", last.path, cut)
        return Segment(path=last.path, start=last.start, end=last.end - cut)

    def _create(self, start: int) -> Segment:
        path = segments.segment_path(self._directory, start)
        segments.create(path).close()
        segments.sync_directory(self._directory)
        return Segment(path=path, start=start, end=start)

    def _commit_forever(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting or self._closing)
                group = self._take_group()
                if not group:
                    return
            try:
                entries = self._commit([payload for payload, _ in group])
            except OSError as error:
                self._fail(group, error)
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

    def _commit(self, payloads: Sequence[bytes]) -> list[Entry]:
        began = self._clock.monotonic()
        if self._segments[-1].end - self._segments[-1].start >= self._segment_bytes:
            self._rotate()
        frames = [segments.encode_frame(payload) for payload in payloads]
        _write_all(self._fd, b"".join(frames))
        segments.sync_data(self._fd)
        entries: list[Entry] = []
        end = self._end
        for frame, payload in zip(frames, payloads, strict=True):
            end += len(frame)
            entries.append((end, payload))
        last = self._segments[-1]
        self._segments = [*self._segments[:-1], Segment(path=last.path, start=last.start, end=end)]
        self._end = end
        self.commit_s = self._clock.monotonic() - began
        return entries

    def _rotate(self) -> None:
        full = self._segments[-1]
        fresh = self._create(full.end)
        fd = os.open(fresh.path, os.O_WRONLY | os.O_APPEND)
        os.close(self._fd)
        self._fd = fd
        self._segments = [*self._segments, fresh]
        self._seal_later(full)

    def _seal_later(self, segment: Segment) -> None:
        if not segment.sealed:
            self._sealer.submit(self._seal, segment)

    def _seal(self, segment: Segment) -> None:
        try:
            segments.seal(segment)
        except (OSError, zstandard.ZstdError):
            _logger.exception(
                "log segment %s stays uncompressed until the next start", segment.path
            )

    def _tell(self, entries: Sequence[Entry]) -> None:
        if self.on_durable is None:
            return
        try:
            self.on_durable(entries)
        except Exception:  # the records are durable whatever the listener does
            _logger.exception("listener of the log failed")

    def _fail(self, group: Sequence[tuple[bytes, Future[int]]], error: OSError) -> None:
        _logger.critical("log %s failed, nothing more is accepted: %s", self._directory, error)
        with self._wake:
            self.failed = StorageError(
                f"log in {self._directory} could not be written ({error}); "
                "free or repair the disk and start the daemon again"
            )
            lost, self._waiting = [*group, *self._waiting], []
        for _, future in lost:
            with contextlib.suppress(InvalidStateError):  # the caller may have cancelled it
                future.set_exception(self.failed)

    def _replay_segment(self, offset: int, limit: int) -> Iterator[Entry]:
        segment = next(s for s in reversed(self._segments) if s.start <= offset)
        try:
            with _open_either(segment, offset) as stream:
                yield from segments.read_frames(stream, offset, min(limit, segment.end))
        except BadFrameError as bad:
            raise segments.corrupted(segment.path, bad.offset) from bad
        except zstandard.ZstdError as error:
            raise segments.corrupted(segment.path, offset) from error


def _open_either(segment: Segment, offset: int) -> BinaryIO:
    # The sealer replaces the file while readers read: the compressed one is there before the
    # other goes.
    try:
        return segments.open_at(segment, offset)
    except FileNotFoundError:
        path = segment.path.with_suffix(".seg.zst")
        try:
            return segments.open_at(
                Segment(path=path, start=segment.start, end=segment.end), offset
            )
        except FileNotFoundError as error:
            raise StorageError(
                f"log segment {segment.path} is gone; restore it from a backup"
            ) from error


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
