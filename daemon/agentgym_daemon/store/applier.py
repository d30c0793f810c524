"""The thread that carries durable records from the log into the database.

It reads the log itself and is only woken by `submit`: however far it falls behind, nothing waits
in memory. A failing database (full disk, invalidated file) is opened again until it works; the
log goes on acknowledging meanwhile.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

import duckdb

from agentgym_daemon.errors import DaemonError, StorageError
from agentgym_daemon.store.batch import AppliedBatch, BatchWriter, Entry
from agentgym_daemon.store.database import Store
from agentgym_daemon.store.rows import Log, TraceDecoder

BATCH_BYTES = 8 * 2**20
"""About four thousand spans."""
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
    ) -> None:
        self.failed: str = ""
        """Why the last attempt failed; empty while all is well."""
        self._store = store
        self._log = log
        self._decode = decode
        self._batch_bytes = batch_bytes
        self._longest_pause_s = longest_pause_s
        self._applied = store.applied_offset()
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
            raise StorageError(
                f"database holds the log up to offset {self._applied}, the log ends at "
                f"{self._log.end}; restore its missing segments, or remove {self._store.path} "
                "to rebuild it from what is left"
            )
        self._work.set()
        self._thread.start()

    def submit(self, entries: Sequence[Entry] = ()) -> None:
        """Says that the log has grown; made to be `SegmentLog.on_durable`."""
        self._work.set()

    def wait(self, offset: int, timeout_s: float) -> bool:
        """Waits until the database holds the log up to `offset`; False if that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: self._applied >= offset, timeout_s)

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
                writer = None
            self._stop.wait(pause_s)
            pause_s = min(2 * pause_s, self._longest_pause_s)
            self._recover()
            self._work.set()

    def _recover(self) -> None:
        try:
            self._store.reopen()
            # A commit may have succeeded although it was reported as failed.
            self._advance(self._store.applied_offset())
        except (duckdb.Error, DaemonError):
            _logger.exception("database %s could not be opened again", self._store.path)

    def _follow(self, writer: BatchWriter) -> None:
        while True:
            self._work.wait()
            self._work.clear()
            for entries in batches(self._log.replay(self._applied), self._batch_bytes):
                batch = writer.apply(entries)
                self.failed = ""
                self._advance(batch.end)
                self._publish(batch)
                if self._stop.is_set():
                    break
            if self._stop.is_set():
                return

    def _advance(self, applied: int) -> None:
        with self._changed:
            self._applied = applied
            self._changed.notify_all()

    def _publish(self, batch: AppliedBatch) -> None:
        for callback in self._subscribers:
            try:
                callback(batch)
            except Exception:  # a listener's fault must not stop the others
                _logger.exception("listener of the applier failed")


def batches(entries: Iterable[Entry], size_bytes: int) -> Iterator[list[Entry]]:
    """Cuts entries into lists of about this many bytes."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        batch.append(entry)
        size += len(entry[1])
        if size >= size_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
