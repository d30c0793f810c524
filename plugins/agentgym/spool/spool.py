"""A queue on disk of one process: appended at its end, read from its front, capped as a whole.

Above the cap whole oldest trajectories are dropped: the oldest file goes, and what later files hold
of its trajectories is void. Not thread-safe; the sender owns it.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agentgym.spool import record as records
from agentgym.spool.files import File, claim
from agentgym.spool.record import Record

FILE_BYTES = 4 * 2**20
FULL = "spool_full"
"""Why a trajectory was dropped above the cap."""
LOST = "spool_lost"
"""Why items were dropped whose file was damaged or deleted by somebody else."""
_ROOM = 1024  # for a header


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place between two frames."""

    number: int
    offset: int


class Spool:
    """The files of one producer; nothing is created before the first record."""

    def __init__(
        self,
        root: Path,
        producer_id: bytes,
        header: Callable[[], bytes],
        *,
        limit_bytes: int,
        on_dropped: Callable[[Counter[str], set[bytes], str], None],
        before_drop: Callable[[], None] = lambda: None,
        shared: bool = False,
    ) -> None:
        self.root = root
        self.producer_id = producer_id
        self.limit_bytes = limit_bytes
        self.files: deque[File] = deque()
        self._header = header
        self._on_dropped = on_dropped
        self._before_drop = before_drop
        self._shared = shared
        self._adopted: Counter[str] = Counter()
        self._file_bytes = max(4096, min(FILE_BYTES, limit_bytes // 8))
        self._directory: Path | None = None
        self._lock = -1
        self._next_number = 1
        self._front = Position(0, 0)

    # ---- writing

    def append(self, record: Record, sequence: int, *, taken: bool = False) -> None:
        """Adds a record at the end; raises OSError when it could not be written.

        `taken`: it counts as read, because memory holds it too; `acked` must be told of it.
        """
        payload = records.record_frame(record, sequence)
        self._make_room(len(payload))
        file = self._current(len(payload))
        file.append(payload, record.trajectory_id)
        if not taken:
            file.unread.update(record.counts)

    def rotate(self) -> None:
        """Completes the file that is being written, so that the daemon may adopt it."""
        if self.unfinished:
            self.files[-1].finish()

    def _current(self, size: int) -> File:
        if self.unfinished:
            if self.files[-1].size + size <= self._file_bytes:
                return self.files[-1]
            self.rotate()
        if self._directory is None:
            self._directory, self._lock = claim(self.root, self.producer_id.hex())
        file = File.create(self._directory, self._next_number, self._header())
        self._next_number += 1
        self.files.append(file)
        return file

    # ---- reading

    @property
    def empty(self) -> bool:
        """Whether everything was acked or dropped."""
        return not self.files

    @property
    def unfinished(self) -> bool:
        """Whether a file is being written."""
        return bool(self.files) and not self.files[-1].complete

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.size for file in self.files)

    @property
    def directory(self) -> Path | None:
        """Where the files are; None before the first one."""
        return self._directory

    @property
    def end(self) -> Position:
        """The place behind the last record."""
        return Position(self.files[-1].number, self.files[-1].size) if self.files else self._front

    def read(self, limit_bytes: int) -> tuple[list[Record], Position]:
        """Records from the front, of about `limit_bytes`, and the place behind them.

        They are not given out again: the caller has them until `acked`.
        """
        taken: list[Record] = []
        size, position = 0, self._front
        for file in list(self.files):
            for offset, record in self._frames(file):
                if record is not None and size and size + record.size > limit_bytes:
                    return taken, position
                position = Position(file.number, offset)
                if record is not None:
                    taken.append(record)
                    file.unread.subtract(record.counts)
                    size += record.size
            position = Position(file.number, file.size)
            self._lost(file)
        return taken, position

    def _lost(self, file: File) -> None:
        """Counts what a file should have held and did not: damaged, or deleted by somebody."""
        lost, file.unread = +file.unread, Counter()
        if not lost:
            return
        if self._shared:
            self._adopted.update(lost)
        else:
            self._on_dropped(lost, set(), LOST)

    def _frames(self, file: File) -> Iterator[tuple[int, Record | None]]:
        """(end offset, record) of the frames behind the front; None for what says nothing."""
        if not file.path.exists():
            return
        start = self._front.offset if file.number == self._front.number else 0
        for offset, payload in file.read(start):
            record = records.parse(payload)
            if record is not None and record.trajectory_id in file.void:
                record = None
            yield offset, record

    def acked(self, position: Position) -> None:
        """Forgets what lies before `position`; whole files are deleted."""
        self._front = max(self._front, position)
        while self.files and (Position(self.files[0].number, self.files[0].size) <= self._front):
            self._remove(self.files.popleft())

    def collect(self) -> Counter[str]:
        """What lay in complete files that the daemon has adopted meanwhile."""
        while self.files and self.files[0].complete and not self.files[0].path.exists():
            self._adopted.update(+self.files.popleft().unread)
        gone, self._adopted = self._adopted, Counter()
        return gone

    # ---- the cap

    def _make_room(self, size: int) -> None:
        # The file that is to be begun counts too: its header may be the larger part of it.
        while self.files and self.size + size + _ROOM > self.limit_bytes:
            self._before_drop()
            if self.files:
                self._drop_oldest()

    def _drop_oldest(self) -> None:
        oldest = self.files[0]
        if not oldest.complete:
            oldest.finish()
        if not oldest.path.exists():
            self._lost(self.files.popleft())
            return
        lost, total = self._counts(oldest, lambda _: True), +oldest.unread
        doomed = set(lost) - {b""}
        for later in list(self.files)[1:]:
            here = later.having(doomed) - later.void
            for trajectory_id, counts in self._counts(later, here.__contains__).items():
                total.update(counts)
                later.unread.subtract(counts)
                self._void(trajectory_id, lost[trajectory_id] + counts)
            later.void |= here
        self.files.popleft()
        self._remove(oldest)
        self._on_dropped(total, doomed, FULL)

    def _counts(self, file: File, wanted: Callable[[bytes], bool]) -> dict[bytes, Counter[str]]:
        found: dict[bytes, Counter[str]] = {}
        for _, record in self._frames(file):
            if record is not None and wanted(record.trajectory_id):
                found.setdefault(record.trajectory_id, Counter()).update(record.counts)
        return found

    def _void(self, trajectory_id: bytes, counts: Counter[str]) -> None:
        """Tells an adopter; in a file behind all records that it voids."""
        payload = records.dropped_frame(trajectory_id, FULL, counts)
        with contextlib.suppress(OSError):
            self._current(len(payload)).append(payload)

    # ---- life

    def _remove(self, file: File) -> None:
        if not file.complete:
            os.close(file.descriptor)
        file.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Lets go; the daemon adopts what is left. An empty directory goes with us."""
        if self.unfinished:
            with contextlib.suppress(OSError):
                self.files[-1].finish()
        if self._directory is not None and not self.files:
            with contextlib.suppress(OSError):
                (self._directory / "lock").unlink()
                self._directory.rmdir()
        self._let_go()

    def after_fork_in_child(self) -> None:
        """The files and the lock are the parent's: closing the copies leaves both as they are."""
        for file in self.files:
            if not file.complete:
                os.close(file.descriptor)
        self.files.clear()
        self._let_go()

    def _let_go(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
        self._lock, self._directory = -1, None
