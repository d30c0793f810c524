"""The host comes first: nothing of ours raises into the agent.

Every entry from a framework into AgentGym passes through a `Guard`. It swallows our own errors,
counts them, logs the first of each kind, and opens (switches AgentGym off in this process) when
they come too often.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import ParamSpec, TypeVar

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

BREAKER_ERRORS = 5
BREAKER_WINDOW_S = 60.0


class Guard:
    """Swallows and counts our own errors; opens after `BREAKER_ERRORS` within the window.

    Only `Exception` is swallowed: KeyboardInterrupt, SystemExit, GeneratorExit and every kind of
    cancellation are the host's own ways of stopping.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, strict: bool = False
    ) -> None:
        self.strict = strict
        self.open = False
        self.errors: Counter[str] = Counter()
        self._clock = clock
        self._recent: deque[float] = deque(maxlen=BREAKER_ERRORS)
        self._lock = threading.Lock()

    def record(self, place: str, error: Exception) -> None:
        """Counts one swallowed error; under `strict` (our own tests) raises it instead."""
        if self.strict:
            raise error
        with self._lock:
            self.errors[place] += 1
            first = self.errors[place] == 1
            now = self._clock()
            self._recent.append(now)
            if len(self._recent) == BREAKER_ERRORS and now - self._recent[0] <= BREAKER_WINDOW_S:
                self.open = True
        if first:
            logger.warning(
                "AgentGym failed in %s and stepped aside; the agent goes on", place, exc_info=error
            )

    def refuse(self, place: str, error: Exception) -> None:
        """Counts and says a mistake of the user's, which is no fault of ours: the guard stays."""
        if self.strict:
            raise error
        kind = f"{place}.{type(error).__name__}"
        with self._lock:
            self.errors[kind] += 1
            first = self.errors[kind] == 1
        if first:
            logger.warning("AgentGym refused a %s: %s", place, error)

    def after_fork_in_child(self) -> None:
        """Another thread of the parent may have held the lock."""
        self._lock = threading.Lock()

    def __call__(self, place: str) -> _Guarded:
        """Guards a block: `with guard("place"): ...`."""
        return _Guarded(self, place)

    def call(
        self, place: str, default: R, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Calls `function`, or returns `default` if it fails or the guard is open."""
        if self.open:
            return default
        try:
            return function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the one place that may
            self.record(place, error)
            return default

    def wrap(self, place: str, function: Callable[P, None]) -> Callable[P, None]:
        """A function like `function` that never raises our errors."""

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
            self.call(place, None, function, *args, **kwargs)

        return guarded


class _Guarded:
    """One guarded block; a generator would do the same at four times the cost."""

    __slots__ = ("_guard", "_place")

    def __init__(self, guard: Guard, place: str) -> None:
        self._guard = guard
        self._place = place

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> bool:
        if not isinstance(error, Exception) or self._guard.strict:
            return False
        self._guard.record(self._place, error)
        return True
