"""The log, the database that follows from it, and the thread between, opened and closed as one.

close: the log takes nothing more -> what it holds is applied, as far as time allows -> the database
closes after its last reader -> the log's files close
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

from agentgym.proto.v1 import log_pb2
from agentgym_daemon.clock import SteadyClock
from agentgym_daemon.config import DaemonConfig, shares
from agentgym_daemon.errors import StorageError
from agentgym_daemon.ingest.log import SegmentLog
from agentgym_daemon.ingest.otlp import decode_traces
from agentgym_daemon.store.applier import Applier
from agentgym_daemon.store.database import DATABASE_NAME, Store

_CATCH_UP_S = 10.0
_HOPELESS_S = 30.0
_TICK_S = 1.0

_logger = logging.getLogger(__name__)


class Storage:
    """What a daemon keeps, from `open` to `close`; used on the event loop."""

    def __init__(
        self,
        config: DaemonConfig,
        clock: SteadyClock,
        threads: ThreadPoolExecutor,
        *,
        drain_s: float,
    ) -> None:
        self._config = config
        self._clock = clock
        self._threads = threads  # in which the loop's readers run
        self._drain_s = drain_s
        self._closing = AsyncExitStack()
        self.log: SegmentLog
        self.store: Store
        self.applier: Applier

    async def open(self) -> None:
        """Opens everything and brings the database up to date; raises DaemonError."""
        config = self._config
        self.log = log = SegmentLog(
            config.home / "log", segment_bytes=config.segment_bytes, clock=self._clock
        )
        self._closing.push_async_callback(asyncio.to_thread, log.close)
        if last := log.last():
            written = log_pb2.LogRecord.FromString(last[1])
            self._clock.not_before(written.received_unix_nano)
        self.store = store = Store.open(
            config.home / DATABASE_NAME,
            aggregation=config.reward_aggregation,
            weights=shares(config.reward_weights),
        )
        self._closing.push_async_callback(self._close_store)
        if store.quarantined:
            log.note_damage(store.quarantined, "the database could not be read")
        store.on_set_aside = log.note_damage
        self.applier = applier = Applier(store, log, decode=decode_traces)
        log.on_durable = applier.submit
        applier.start()
        self._closing.push_async_callback(asyncio.to_thread, self._drain)
        waited_s = 0.0
        while not await asyncio.to_thread(applier.wait, log.end, _TICK_S):
            waited_s += _TICK_S
            if applier.failed and waited_s >= _HOPELESS_S:
                raise StorageError(f"the log cannot be applied: {applier.failed}")

    async def caught_up(self) -> bool:
        """Waits until the database holds what the log held; False if that took too long."""
        return await asyncio.to_thread(self.applier.wait, self.log.end, _CATCH_UP_S)

    async def close(self) -> None:
        """Writes what was accepted, and closes what was opened."""
        await self._closing.aclose()

    async def _close_store(self) -> None:
        """Closes the database after the last thread that reads it has ended."""
        fresh = ThreadPoolExecutor(thread_name_prefix="agentgym")
        asyncio.get_running_loop().set_default_executor(fresh)
        await asyncio.to_thread(self._threads.shutdown)
        self.store.close()

    def _drain(self) -> None:
        """Ends the log with everything accepted in it, and applies as much as time allows."""
        self.log.close()
        if not self.applier.wait(self.log.end, self._drain_s):
            _logger.warning("the rest of the log is applied at the next start")
        self.applier.close()
