"""Tells subscribers that something changed; what is live they read themselves, so none lags."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator


class Subscriber:
    """One stream's doorbell: many rings before it is answered count as one."""

    def __init__(self, agent: str) -> None:
        self.agent = agent
        self._bell = asyncio.Event()

    def ring(self) -> None:
        """Something changed."""
        self._bell.set()

    async def wait(self, timeout_s: float) -> bool:
        """Returns at the next ring, or when the time is over; says whether it rang."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._bell.wait(), timeout_s)
        rang = self._bell.is_set()
        self._bell.clear()
        return rang


class Hub:
    """The open subscriptions; used on the event loop only."""

    def __init__(self) -> None:
        self._subscribers: set[Subscriber] = set()
        self._watchers: list[Callable[[], None]] = []

    def __len__(self) -> int:
        return len(self._subscribers)

    def agents(self) -> set[str]:
        """Names of the agents that are connected now."""
        return {subscriber.agent for subscriber in self._subscribers}

    @contextlib.contextmanager
    def subscribe(self, agent: str) -> Iterator[Subscriber]:
        """A subscriber for as long as the context lasts."""
        subscriber = Subscriber(agent)
        self._subscribers.add(subscriber)
        try:
            yield subscriber
        finally:
            self._subscribers.discard(subscriber)

    @contextlib.contextmanager
    def watch(self, callback: Callable[[], None]) -> Iterator[None]:
        """Calls back at every ring, for whichever agent, as long as the context lasts."""
        self._watchers.append(callback)
        try:
            yield
        finally:
            self._watchers.remove(callback)

    def ring(self, agent: str) -> None:
        """The live versions of an agent changed, or which of its tools are down."""
        self._tell()
        for subscriber in self._subscribers:
            if subscriber.agent == agent:
                subscriber.ring()

    def ring_all(self) -> None:
        """Something changed for everybody, such as the end of the daemon."""
        self._tell()
        for subscriber in self._subscribers:
            subscriber.ring()

    def _tell(self) -> None:
        for callback in self._watchers:
            callback()
