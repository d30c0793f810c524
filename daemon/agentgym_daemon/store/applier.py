"""The thread that carries durable records from the log into the database.

`submit` hands it what has just become durable; what does not fit into a bounded memory, it reads
from the log. A failing database (full disk, invalidated file) is opened again until it works; the
log goes on acknowledging meanwhile.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import duckdb

from agentgym_daemon.errors import DaemonError, StorageError
from agentgym_daemon.store.batch import AppliedBatch, BatchWriter
from agentgym_daemon.store.database import Store, is_damage, is_outer
from agentgym_daemon.store.rows import Entry, Log, TraceDecoder, batches

BATCH_BYTES = 8 * 2**20
"""About four thousand spans."""
RECENT_BYTES = 2 * BATCH_BYTES
"""Records that wait in memory; the log is read again for those that are more."""
SHARE = 0.05
"""Of a core that small transactions may take: each costs as much as some hundred spans. Full
batches, and those that somebody waits for, are not held back."""
LONGEST_REST_S = 1.0
IDLE_S = 5.0
"""So long after the last record the file is checkpointed, which ends its write-ahead log."""
IDLE_WAL_BYTES = 8 * 2**20
"""Less is left for later: a checkpoint rewrites the row group that is being filled."""
_HOPELESS = 5
"""After so many failures in a row the file is taken to be damaged."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 5.0

_logger = logging.getLogger(__name__)


class Applier:
    """Applies the log to the store in a thread of its own; everything public is thread-safe."""

    def __init__(
        self,
        store: Store,
        log: Log,
        *,
        decode: TraceDecoder,
        batch_bytes: int = BATCH_BYTES,
        longest_pause_s: float = _LONGEST_PAUSE_S,
        idle_s: float = IDLE_S,
    ) -> None:
        self.failed: str = ""
        """Why the last attempt failed; empty while all is well."""
        self._failures = 0
        self._store = store
        self._log = log
        self._decode = decode
        self._batch_bytes = batch_bytes
        self._longest_pause_s = longest_pause_s
        self._idle_s = idle_s
        self._recent = Recent(RECENT_BYTES)
        self._waiting = 0
        self._hurry = threading.Event()
        self._applied = store.applied_offset()
        self._settled = True  # False while the database may be another one than was applied to
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._work = threading.Event()
        self._subscribers: list[Callable[[AppliedBatch], None]] = []
        self._thread = threading.Thread(target=self._run, name="agentgym-apply", daemon=True)

    @property
    def applied(self) -> int:
        """Log offset up to which the database holds everything."""
        return self._applied

    def start(self) -> None:
        """Replays what the database lacks, then follows the log; returns at once."""
        if self._applied > self._log.end:
            # The end of the log is lost and its rows are not: what comes next must not be taken
            # for what the database has seen.
            self._log.skip_to(self._applied).result()
        self._store.on_damage = self._work.set
        self._recent.begin(self._log.end)
        self._work.set()
        self._thread.start()

    def submit(self, entries: Sequence[Entry] = ()) -> None:
        """Says that the log has grown, and by what; made to be `SegmentLog.on_durable`."""
        if entries:
            self._recent.add(entries)
        else:
            self._recent.begin(self._log.end)  # what is new has to be read
        self._work.set()
        if self._recent.size >= self._batch_bytes:
            self._hurry.set()

    def wait(self, offset: int, timeout_s: float) -> bool:
        """Waits until the database holds the log up to `offset`; False if that took too long."""
        with self._changed:
            if self._holds(offset):
                return True
            self._waiting += 1
            self._hurry.set()
            try:
                return self._changed.wait_for(lambda: self._holds(offset), timeout_s)
            finally:
                self._waiting -= 1

    def _holds(self, offset: int) -> bool:
        return self._settled and self._applied >= offset

    def subscribe(self, callback: Callable[[AppliedBatch], None]) -> Callable[[], None]:
        """Calls back in the applier's thread after every batch; returns what ends it."""
        self._subscribers = [*self._subscribers, callback]

        def unsubscribe() -> None:
            self._subscribers = [other for other in self._subscribers if other is not callback]

        return unsubscribe

    def close(self) -> None:
        """Stops after the batch in hand; the rest is replayed at the next start."""
        self._stop.set()
        self._work.set()
        self._hurry.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        writer: BatchWriter | None = None
        while not self._stop.is_set():
            try:
                writer = writer or BatchWriter(self._store, self._decode)
                self._follow(writer)
                return
            except Exception as error:  # the supervisor of this thread: nothing may end it
                _logger.exception("applying the log failed; trying again in %.2f s", pause_s)
                self.failed = f"{type(error).__name__}: {error}"
                self._failures += 1
                fault = error
                writer = None
            self._stop.wait(pause_s)
            pause_s = min(2 * pause_s, self._longest_pause_s)
            self._recover(fault)
            self._work.set()

    def _recover(self, fault: Exception) -> None:
        reason = self._store.damage or (str(fault) if is_damage(fault) else "")
        if self._failures == _HOPELESS and isinstance(fault, duckdb.Error) and not is_outer(fault):
            reason = reason or f"{fault} ({_HOPELESS} times)"
        self._settled = False
        try:
            if reason:
                self._store.set_aside(reason)
            else:
                self._store.reopen()
            # A commit may have succeeded although it was reported as failed.
            self._advance(self._store.applied_offset())
        except (duckdb.Error, DaemonError, OSError):
            _logger.exception("database %s could not be opened again", self._store.path)

    def _follow(self, writer: BatchWriter) -> None:
        while True:
            if not self._work.wait(self._idle_s):
                self._store.checkpoint(at_least_bytes=IDLE_WAL_BYTES)
                self._work.wait()
            self._work.clear()
            if self._store.damage:
                raise StorageError(f"database {self._store.path}: {self._store.damage}")
            began_s = time.thread_time()
            for entries in self._entries():
                batch = writer.apply(entries)
                self.failed, self._failures = "", 0
                self._advance(batch.end)
                self._publish(batch)
                if self._stop.is_set():
                    break
            if self._stop.is_set():
                return
            self._rest((time.thread_time() - began_s) / SHARE)

    def _entries(self) -> Iterator[list[Entry]]:
        """What is durable and not applied, in batches: from memory, else from the log."""
        batch = self._recent.take(self._applied, self._batch_bytes)
        while batch:
            yield batch
            full = self._recent.size >= self._batch_bytes
            batch = self._recent.take(self._applied, self._batch_bytes) if full else []
        if batch is None:
            yield from batches(self._log.replay(self._applied), self._batch_bytes)
            self._work.set()  # for what became durable meanwhile

    def _rest(self, seconds: float) -> None:
        """Lets records gather, unless somebody waits for them."""
        self._hurry.clear()
        if not self._waiting and self._recent.size < self._batch_bytes:
            self._hurry.wait(min(seconds, LONGEST_REST_S))

    def _advance(self, applied: int) -> None:
        with self._changed:
            self._applied, self._settled = applied, True
            self._changed.notify_all()

    def _publish(self, batch: AppliedBatch) -> None:
        for callback in self._subscribers:
            try:
                callback(batch)
            except Exception:  # a listener's fault must not stop the others
                _logger.exception("listener of the applier failed")


class Recent:
    """The newest records of the log without a gap, as many as fit; thread-safe."""

    def __init__(self, limit_bytes: int) -> None:
        self.size = 0
        """Bytes of the records in hand."""
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._entries: deque[Entry] = deque()
        self._from = self._to = sys.maxsize  # before `begin`, nothing is known to be without a gap

    def begin(self, end: int) -> None:
        """Keeps what becomes durable behind this offset."""
        with self._lock:
            self._entries.clear()
            self.size, self._from, self._to = 0, end, end

    def add(self, entries: Sequence[Entry]) -> None:
        """Keeps records that became durable, in order; all that are known, or none."""
        with self._lock:
            for entry in entries:
                if entry[0] <= self._to:
                    continue
                self._to = entry[0]
                self._entries.append(entry)
                self.size += len(entry[1])
            if self.size > self._limit:
                self._entries.clear()
                self.size, self._from = 0, self._to

    def take(self, offset: int, size_bytes: int) -> list[Entry] | None:
        """The next records behind an offset, about so many bytes; None if the first are missing."""
        taken: list[Entry] = []
        size = 0
        with self._lock:
            if self._from > offset:
                return None
            while self._entries and size < size_bytes:
                entry = self._entries.popleft()
                self.size -= len(entry[1])
                self._from = entry[0]
                if entry[0] > offset:  # the others were read from the log meanwhile
                    offset = entry[0]
                    taken.append(entry)
                    size += len(entry[1])
        return taken
