"""Runs a daemon until a signal ends it.

SIGTERM, SIGINT   ends it gracefully; a second one at once
SIGHUP            reads the settings again
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import Callable
from typing import Any

from agentgym_daemon.app import Daemon, version
from agentgym_daemon.config import DaemonConfig
from agentgym_daemon.errors import ConfigError

_ENDING = (signal.SIGTERM, signal.SIGINT)

_GC_THRESHOLDS = (50_000, 20, 50)
# Decoded spans are many small objects without cycles: Python's defaults spend a sixth of the time
# of decoding on looking through them.

_logger = logging.getLogger(__name__)


def serve(
    config: DaemonConfig, ready: Callable[[str], None], read: Callable[[], DaemonConfig]
) -> int:
    """Runs a daemon until it is told to end; returns the exit code. `read` resolves settings."""
    gc.freeze()  # modules stay
    gc.set_threshold(*_GC_THRESHOLDS)
    try:
        return asyncio.run(_serve(config, ready, read))
    finally:
        gc.unfreeze()  # else DuckDB's bindings report every frozen object of theirs as leaked


async def _serve(
    config: DaemonConfig, ready: Callable[[str], None], read: Callable[[], DaemonConfig]
) -> int:
    ended, hung_up = _on_signals()
    daemon = Daemon(config)
    starting = asyncio.create_task(daemon.start())
    await _first(asyncio.shield(starting), ended.wait())
    if not starting.done():
        _logger.info("stopping before the start has ended")
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        return 0
    await starting
    reloading = asyncio.create_task(_keep_reloading(daemon, hung_up, read))
    try:
        ready(f"agentgym-daemon {version()} is ready on {', '.join(daemon.listeners)}")
        await _first(ended.wait(), daemon.failed.wait())
    finally:
        _logger.info("stopping")
        reloading.cancel()
        await daemon.stop()
    return 1 if daemon.failed.is_set() else 0


def _on_signals() -> tuple[asyncio.Event, asyncio.Event]:
    loop = asyncio.get_running_loop()
    ended, hung_up = asyncio.Event(), asyncio.Event()

    def end() -> None:
        ended.set()
        for number in _ENDING:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)  # the next one ends the process, whatever it does

    for number in _ENDING:
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, hung_up.set)
    return ended, hung_up


async def _keep_reloading(
    daemon: Daemon, hung_up: asyncio.Event, read: Callable[[], DaemonConfig]
) -> None:
    while True:
        await hung_up.wait()
        hung_up.clear()
        try:
            daemon.reload(await asyncio.to_thread(read))
        except ConfigError as error:
            _logger.error("the settings stay as they are: %s", error)


async def _first(*awaited: Any) -> None:
    tasks = [asyncio.ensure_future(one) for one in awaited]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
