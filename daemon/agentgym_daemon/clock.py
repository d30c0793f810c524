"""Time, passed in: `now_ns` is written down, `monotonic` is waited for."""

from __future__ import annotations

import threading
import time
from typing import Protocol

_SECOND_NS = 1_000_000_000
_ANCHORS = 1000


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


class SteadyClock:
    """A clock's time that never goes back: after a step back it runs at half its pace until met.

    So what is received keeps its order, and no two moments of a day become one.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last_ns = 0
        self._at = clock.monotonic()

    def now_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        with self._lock:
            at = self._clock.monotonic()
            least = self._last_ns + int((at - self._at) * _SECOND_NS / 2)
            self._last_ns, self._at = max(self._clock.now_ns(), least), at
            return self._last_ns

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        return self._clock.monotonic()

    def not_before(self, at_ns: int) -> None:
        """Gives no earlier time than this from now on; an earlier run may have written it down."""
        with self._lock:
            self._last_ns = max(self._last_ns, at_ns)


class Timeline:
    """Which time was shown some seconds ago, however the clock was set meanwhile.

    Between two looks the clock is taken to run evenly; before the first one it always did.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._anchors = [(clock.monotonic(), clock.now_ns())]

    def look(self) -> None:
        """Notes the time if it is not what it should be; to be called every second or so."""
        at, now_ns = self._clock.monotonic(), self._clock.now_ns()
        anchor_at, anchor_ns = self._anchors[-1]
        if abs(now_ns - anchor_ns - (at - anchor_at) * _SECOND_NS) > _SECOND_NS:
            self._anchors = [*self._anchors, (at, now_ns)][-_ANCHORS:]

    def ago(self, seconds: float) -> int:
        """What the clock showed that many seconds ago."""
        self.look()
        then = self._clock.monotonic() - seconds
        anchors = [anchor for anchor in self._anchors if anchor[0] <= then] or self._anchors[:1]
        at, shown_ns = anchors[-1]
        return shown_ns + int((then - at) * _SECOND_NS)


class ManualClock:
    """A time that stands still until it is moved, for tests."""

    def __init__(self, now_ns: int = 1_700_000_000_000_000_000) -> None:
        self._now_ns = now_ns
        self._ran_ns = now_ns

    def now_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        return self._now_ns

    def monotonic(self) -> float:
        """Seconds since the first moment, whatever steps were made."""
        return self._ran_ns / 1e9

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self._now_ns += int(seconds * 1e9)
        self._ran_ns += int(seconds * 1e9)

    def step(self, seconds: float) -> None:
        """Sets the clock forward or back, as an administrator does; no time passes."""
        self._now_ns += int(seconds * 1e9)
