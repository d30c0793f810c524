"""Writes facts to the segment log and waits until they are durable."""

from __future__ import annotations

import asyncio

from agentgym.proto.v1 import log_pb2
from agentgym_daemon.clock import Clock
from agentgym_daemon.ingest.log import SegmentLog


class Journal:
    """The log as the event loop sees it."""

    def __init__(self, log: SegmentLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock

    @property
    def end(self) -> int:
        """Offset behind the last durable fact."""
        return self._log.end

    async def append(self, record: log_pb2.LogRecord) -> int:
        """Stamps and writes a fact; returns the offset behind it when it is durable.

        Raises StorageError when the log failed; the fact may or may not be there then.
        """
        record.received_unix_nano = self._clock.now_ns()
        future = self._log.append(record.SerializeToString())
        # A caller that goes away must not cancel what the committer is writing.
        return await asyncio.shield(asyncio.wrap_future(future))
