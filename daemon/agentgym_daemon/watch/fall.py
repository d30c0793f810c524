"""Finds a fall of the success rate as soon as the evidence allows, and seldom without one.

A success rate of p0 is bet against one of p0 - d, for several sizes d of a fall. With the ratio L
of a run's likelihoods, M = L max(M, 1) is a CUSUM, and the mean of M over the sizes an e-detector
(Shin, Ramdas & Rinaldo, New England J. of Statistics in Data Science 2:229, 2024): without a fall
it reaches a bound b after b runs on average at the earliest. That holds for a known p0 and is far
from tight; docs/safety.md has what was measured with p0 estimated from the record, as here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

ENOUGH = 500.0
"""Evidence by which a fall counts as seen."""
SIZES = (0.08, 0.18)
"""Falls that are looked for; others are found too, a little later."""
LEAST_REFERENCE = 100
"""Runs without which nothing is known to fall from."""
GAP = 300
_REFERENCE = 1_000
_LOWEST = 0.02


@dataclass(frozen=True, slots=True)
class Fall:
    """A fall of the success rate; positions count the runs that were looked at."""

    at: int  # the run that made it sure
    since: int  # the first run that seems to belong to it
    before: tuple[int, int]  # the runs that say what was usual, from and to
    reference: float  # the rate in them
    rate: float  # the rate since then

    @property
    def points(self) -> float:
        """By how much the rate fell, as a part of 1."""
        return self.reference - self.rate


@dataclass(frozen=True, slots=True)
class Record:
    """Where a record stands: its fall, or how much speaks for one."""

    fall: Fall | None
    reference: float  # NaN while too little is known
    evidence: float  # 1 says nothing, ENOUGH is enough


@dataclass(slots=True)
class _Bet:
    """That the rate fell by `size` since the run `since`."""

    size: float
    strength: float = 1.0
    since: int = 0
    before: tuple[int, int] = (0, 0)
    usual: float = math.nan  # held while the bet goes well: what follows may belong to the fall

    def take(self, success: bool) -> None:
        fallen = max(_LOWEST, self.usual - self.size)
        ratio = fallen / self.usual if success else (1.0 - fallen) / (1.0 - self.usual)
        self.strength = max(1.0, self.strength * ratio)


def watched(
    successes: Sequence[bool], *, known: int = 0, least: int = LEAST_REFERENCE, gap: int = GAP
) -> Record:
    """Looks for the first fall in a record; its first `known` runs only say what is usual.

    `gap` runs before the one that is looked at say nothing of what is usual, for they may belong to
    a fall already; at least `least` runs must.
    """
    sums = [0, *accumulate(successes)]
    bets = [_Bet(size) for size in SIZES]
    reference, evidence = math.nan, 1.0
    for i in range(known, len(successes) + 1):
        start, end = before = _before(i, gap)
        n = end - start
        if n < least:
            continue
        reference = (sums[end] - sums[start] + 1) / (n + 2)  # after 10 of 10, not all are sure
        if i == len(successes):
            break
        for bet in bets:
            if bet.strength <= 1.0:
                bet.since, bet.before = i, before
                error = math.sqrt(reference * (1.0 - reference) / n)
                bet.usual = max(2.0 * _LOWEST, reference - error)  # in doubt it was no better
            bet.take(successes[i])
        evidence = sum(bet.strength for bet in bets) / len(bets)
        if evidence >= ENOUGH:
            surest = max(bets, key=lambda bet: bet.strength)
            return Record(_fall(sums, i, surest), reference, evidence)
    return Record(None, reference, evidence)


def _before(i: int, gap: int) -> tuple[int, int]:
    """The runs that say what is usual at run `i`."""
    end = i - min(gap, i // 2)
    return max(0, end - _REFERENCE), end


def _fall(sums: Sequence[int], at: int, bet: _Bet) -> Fall:
    start, end = bet.before
    return Fall(
        at,
        bet.since,
        bet.before,
        reference=(sums[end] - sums[start]) / (end - start),
        rate=(sums[at + 1] - sums[bet.since]) / (at + 1 - bet.since),
    )
