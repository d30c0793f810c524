"""When a scope is due for training: a pure rule over what the store and the clock say."""

from __future__ import annotations

import math
from dataclasses import dataclass

GROWTH = 0.08
"""A smaller share of new data would change little, and a training costs more with all of it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Closed rewarded trajectories of a scope: now, and when it was last trained."""

    rewarded: int
    rewarded_at_last: int = 0

    @property
    def new(self) -> int:
        """How many came since; a revocation may have made it negative."""
        return self.rewarded - self.rewarded_at_last


def needed(progress: Progress, trajectories: int) -> int:
    """How many new trajectories are missing until the next training."""
    wanted = max(trajectories, math.ceil(GROWTH * progress.rewarded_at_last))
    return max(0, wanted - progress.new)


def due(
    progress: Progress, last_ns: int | None, now_ns: int, *, trajectories: int, minutes: float
) -> bool:
    """Whether `trajectories` new ones are there (more of a large history), or some and it is time.

    A scope that was never trained (`last_ns` None) waits for the full number.
    """
    if needed(progress, trajectories) == 0:
        return True
    if last_ns is None or progress.new <= 0:
        return False
    return now_ns - last_ns >= minutes * 60e9
