"""The one reward of a trajectory, of all that were given to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, Protocol

Aggregation = Literal["last", "mean", "min"]
DEFAULT_SOURCE = "default"
"""Source of rewards that the daemon gave because none came within the wait window."""
SUCCESS = 0.5
"""A trajectory with at least this reward is a success."""


class Given(Protocol):
    """What aggregation looks at in a reward."""

    @property
    def no(self) -> int:
        """Position among all rewards of the log."""

    @property
    def value(self) -> float:
        """In [0, 1]."""

    @property
    def source(self) -> str:
        """Who judged."""

    @property
    def time_ns(self) -> int:
        """When it was judged."""

    @property
    def revoked(self) -> bool:
        """Whether it was taken back."""


_BY_NAME: Mapping[str, Callable[[list[float]], float]] = {
    "last": lambda values: values[-1],
    "mean": lambda values: math.fsum(values) / len(values),
    "min": min,
}


def effective_reward(rewards: Iterable[Given], aggregation: Aggregation) -> float | None:
    """The reward that counts; a default one only where nobody judged; None if there is none."""
    standing = sorted((r for r in rewards if not r.revoked), key=lambda r: (r.time_ns, r.no))
    judged = [r.value for r in standing if r.source != DEFAULT_SOURCE]
    values = judged or [r.value for r in standing]
    return _BY_NAME[aggregation](values) if values else None
