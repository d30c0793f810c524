"""How much less a success costs in one group than in another, with an interval.

    saved = 1 - (T / S) / (T' / S')          T tokens, S successes of all runs of a group

The interval is that of the logarithm of the ratio, by the delta method. Runs of one request are
much alike, above all where every framework serves it, so they count as one observation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

Sums = tuple[int, int]
"""Tokens and successes of all runs of one request."""
LEAST_REQUESTS = 20
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Saving:
    """A share of the cost of a success, with its interval."""

    value: float
    low: float
    high: float


def saving(
    now: Sequence[Sums], before: Sequence[Sums], confidence: float = CONFIDENCE
) -> Saving | None:
    """What a success costs less now; None without successes, or with too few requests."""
    after, base = _log_ratio(now), _log_ratio(before)
    if after is None or base is None:
        return None
    change = after[0] - base[0]
    spread = NormalDist().inv_cdf(0.5 + confidence / 2.0) * math.hypot(after[1], base[1])
    return Saving(
        value=-math.expm1(change),
        low=-math.expm1(change + spread),
        high=-math.expm1(change - spread),
    )


def _log_ratio(requests: Sequence[Sums]) -> tuple[float, float] | None:
    """Logarithm of tokens per success, and its standard error."""
    n = len(requests)
    tokens = sum(t for t, _ in requests)
    successes = sum(s for _, s in requests)
    if n < LEAST_REQUESTS or not (tokens and successes):
        return None
    ratio = tokens / successes
    # d log(T / S) = dT / T - dS / S, and its sum over the requests is 0
    squares = sum((t - ratio * s) ** 2 for t, s in requests) / tokens**2
    return math.log(ratio), math.sqrt(squares * n / (n - 1))
