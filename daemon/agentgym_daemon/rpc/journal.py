"""Writes facts to the segment log and waits until they are durable; chains the changes."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import Future

from agentgym.proto.v1 import log_pb2
from agentgym_daemon.clock import Clock
from agentgym_daemon.ingest.log import SegmentLog
from agentgym_daemon.policies.audit import Chain

_OTLP_TRACES = bytes((log_pb2.LogRecord.OTLP_TRACES_FIELD_NUMBER << 3 | 2,))
"""Tag of the field, as it stands in an encoded record."""


class Journal:
    """The log as the event loop sees it; used by the loop alone.

    The committer resolves a whole group of futures at once. The loop is woken once for all of them,
    because waking it per record costs more than the record's share of the write.
    """

    def __init__(self, log: SegmentLog, clock: Clock, *, chain: Chain | None = None) -> None:
        self._log = log
        self._clock = clock
        self.chain = chain or Chain()
        """Where the changes stand; here, so that nothing can be changed without it."""
        self._changing = asyncio.Lock()
        self._changes: set[asyncio.Task[int]] = set()
        self._lock = threading.Lock()
        self._done: deque[tuple[asyncio.Future[int], Future[int]]] = deque()
        self._woken = False

    @property
    def end(self) -> int:
        """Offset behind the last durable fact."""
        return self._log.end

    async def append(self, record: log_pb2.LogRecord, *, otlp_traces: bytes = b"") -> int:
        """Stamps and writes a fact; returns the offset behind it when it is durable.

        The fact is the record's own, or a trace request. Raises StorageError when the log failed;
        the fact may or may not be there then.
        """
        if record.WhichOneof("fact") != "change":
            record.received_unix_nano = self._clock.now_ns()
            return await self._write(record, otlp_traces)
        # A task of its own: a caller that goes away leaves the chain whole.
        task = asyncio.create_task(self._append_change(record))
        self._changes.add(task)
        task.add_done_callback(self._changed)
        return await asyncio.shield(task)

    async def _append_change(self, record: log_pb2.LogRecord) -> int:
        async with self._changing:
            record.received_unix_nano = self._clock.now_ns()
            link = self.chain.link(record)
            record.audit.CopyFrom(link)
            end = await self._write(record, b"")
            self.chain.head = link  # only now: what the disk did not take has no place
            return end

    def _changed(self, task: asyncio.Task[int]) -> None:
        self._changes.discard(task)
        if not task.cancelled():
            task.exception()  # the caller heard of it, if there still is one

    async def _write(self, record: log_pb2.LogRecord, otlp_traces: bytes) -> int:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[int] = loop.create_future()

        def done(future: Future[int]) -> None:
            with self._lock:
                self._done.append((waiter, future))
                if self._woken:
                    return
                self._woken = True
            try:
                loop.call_soon_threadsafe(self._resolve)
            except RuntimeError:  # the loop has ended, and nobody waits
                self._woken = False

        # A caller that goes away cancels only its waiter, not what the committer is writing.
        self._log.append(_encoded(record, otlp_traces)).add_done_callback(done)
        return await waiter

    def _resolve(self) -> None:
        with self._lock:
            done, self._done, self._woken = self._done, deque(), False
        for waiter, future in done:
            if waiter.done():
                continue
            error = future.exception()
            if error is None:
                waiter.set_result(future.result())
            else:
                waiter.set_exception(error)


def _encoded(record: log_pb2.LogRecord, otlp_traces: bytes) -> bytes:
    if not otlp_traces:
        return record.SerializeToString()
    # By hand, because a request of many spans would be copied into the message and out of it again.
    return b"".join(
        (record.SerializeToString(), _OTLP_TRACES, _varint(len(otlp_traces)), otlp_traces)
    )


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
