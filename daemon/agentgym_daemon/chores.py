"""What the daemon does by itself, beside its calls: loops that no fault of a turn can end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")
Chore = Callable[[], Awaitable[object]]
_SOON_S = 0.1

_logger = logging.getLogger(__name__)


class Chores:
    """The tasks of the event loop, from `spawn` to `close`."""

    def __init__(self, *, failed: Callable[[], None]) -> None:
        self._failed = failed
        self._tasks: list[asyncio.Task[None]] = []

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs a task until it ends or the daemon does."""
        self._tasks.append(asyncio.create_task(work))

    async def run(self, chore: Chore) -> None:
        """Runs a chore once; its fault is counted, and the next turn tries again."""
        try:
            await chore()
        except Exception:
            self._failed()
            _logger.exception("a chore of the daemon failed")

    def repeat(
        self, chore: Chore, *, every_s: Callable[[], float], woken: asyncio.Event | None = None
    ) -> None:
        """Runs a chore again and again, at once when woken and at the latest after a while."""
        wake = woken or asyncio.Event()

        async def turn() -> None:
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(wake.wait(), every_s())
                wake.clear()
                await self.run(chore)

        self.spawn(turn())

    def follow(self, inbox: asyncio.Queue[T], chore: Callable[[T], Awaitable[object]]) -> None:
        """Runs a chore on each thing that is put into a queue."""

        async def turn() -> None:
            while True:
                await self.run(partial(chore, await inbox.get()))

        self.spawn(turn())

    async def close(self) -> None:
        """Ends all tasks, the newest first."""
        for task in reversed(self._tasks):
            # Again, if need be: wait_for of Python 3.11 may swallow a cancellation.
            while not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=_SOON_S)
