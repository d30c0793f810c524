"""When a scope is due for training: a pure rule over what the store and the clock say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """Closed rewarded trajectories of a scope: now, and when it was last trained."""

    rewarded: int
    rewarded_at_last: int = 0

    @property
    def new(self) -> int:
        """How many came since; a revocation may have made it negative."""
        return self.rewarded - self.rewarded_at_last


def due(
    progress: Progress, last_ns: int | None, now_ns: int, *, trajectories: int, minutes: float
) -> bool:
    """Whether `trajectories` new ones are there, or some are and `minutes` have passed.

    A scope that was never trained (`last_ns` None) waits for the full number.
    """
    if progress.new >= trajectories:
        return True
    if last_ns is None or progress.new <= 0:
        return False
    return now_ns - last_ns >= minutes * 60e9
