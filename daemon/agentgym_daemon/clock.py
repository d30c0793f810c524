"""Time, passed in: `now_ns` is written down, `monotonic` is waited for."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the daemon knows of time."""

    def now_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""


class SystemClock:
    """The machine's time."""

    def now_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        return time.monotonic()


class ManualClock:
    """A time that stands still until it is moved, for tests."""

    def __init__(self, now_ns: int = 1_700_000_000_000_000_000) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        return self._now_ns

    def monotonic(self) -> float:
        """Seconds since the epoch."""
        return self._now_ns / 1e9

    def advance(self, seconds: float) -> None:
        """Moves the time on."""
        self._now_ns += int(seconds * 1e9)
