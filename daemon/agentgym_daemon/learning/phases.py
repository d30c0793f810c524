"""Where the time of a training goes, phase by phase."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Phases:
    """Seconds of named phases; a phase that comes again adds to what it took before."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Counts the time of the block, without that of phases within it."""
        began, inside = self._clock(), sum(self.seconds.values())
        try:
            yield
        finally:
            inner = sum(self.seconds.values()) - inside
            took = self._clock() - began - inner
            self.seconds[name] = self.seconds.get(name, 0.0) + took
