"""What a run cost, as a share of its outcome: cheap failures gain nothing.

    training reward = outcome (1 - min(1/2, sum_i w_i cost_i))

The outcome itself stays as it is: success and reliability never depend on the cost. Half of it is
the most that cost takes, so that in training, too, a dear success is none of the failures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

MOST = 0.5
KINDS = ("tokens_per_1k", "second", "call")
"""What can have a weight: a thousand tokens in and out, a second, a tool call."""


class Spent(NamedTuple):
    """What a run used."""

    tokens: int
    seconds: float
    calls: int


def penalty(spent: Spent, weights: Mapping[str, float]) -> float:
    """The share of the outcome that the cost takes."""
    amounts = (spent.tokens / 1000.0, max(0.0, spent.seconds), float(spent.calls))
    costs = zip(KINDS, amounts, strict=True)
    return min(MOST, sum(weights.get(kind, 0.0) * amount for kind, amount in costs))
