"""The difference that an arm makes against another one, looked at any time.

Runs are counted per stratum: a stretch of time in which the shares of the arms did not change.
Within one the two arms see the same traffic; across them the traffic may differ, so differences are
taken within and joined by their information (as in a stratified trial).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agentgym_daemon.experiments.sequential import ALPHA, POWER, Boundary

LEAST_PER_ARM = 20
"""Runs of each arm in a stratum before it says anything: the variance is estimated from them."""
MIN_EFFECT = 0.05
"""What the interval is narrowest for, unless an experiment declares another one."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Runs of one arm: how many, and the sums of a metric and of its square."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: Iterable[float]) -> Moments:
        """The moments of some values."""
        known = list(values)
        return cls(len(known), math.fsum(known), math.fsum(v * v for v in known))

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.n + other.n, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> float:
        """NaN without runs."""
        return self.total / self.n if self.n else math.nan

    def variance(self, pooled: float) -> float:
        """Of one run, and at least `pooled`: few runs of an arm may all be alike by chance."""
        return max(pooled, self.squares / self.n - self.mean**2)


@dataclass(frozen=True, slots=True)
class Stratum:
    """The runs of two arms while their shares were the same."""

    treated: Moments
    control: Moments


@dataclass(frozen=True, slots=True)
class Lift:
    """Difference of the means, treated minus control, with an always-valid interval."""

    effect: float  # NaN where nothing can be said
    low: float
    high: float
    treated: Moments
    control: Moments
    information: float
    p_value: float  # always valid too

    @property
    def decided(self) -> bool:
        """Whether the interval excludes no difference."""
        return self.low > 0.0 or self.high < 0.0


def lift(strata: Sequence[Stratum], boundary: Boundary | None = None) -> Lift:
    """The lift over all strata that have enough runs of both arms."""
    edge = boundary or Boundary.narrow_at(MIN_EFFECT)
    treated = sum((s.treated for s in strata), Moments())
    control = sum((s.control for s in strata), Moments())
    parts = [_difference(s) for s in strata if _enough(s)]
    information = math.fsum(i for _, i in parts)
    if not information:
        return Lift(math.nan, -math.inf, math.inf, treated, control, 0.0, 1.0)
    effect = math.fsum(d * i for d, i in parts) / information
    radius = edge.radius(information)
    p_value = _p_value(effect, information, edge)
    return Lift(effect, effect - radius, effect + radius, treated, control, information, p_value)


def runs_needed(
    effect: float,
    *,
    share: float,
    variances: tuple[float, float],
    boundary: Boundary | None = None,
    power: float = POWER,
    alpha: float = ALPHA,
) -> int:
    """Runs of both arms together after which a true effect is found with probability `power`.

    `share` is the control's; `variances` are those of one treated and of one control run.
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"expected a share of the control between 0 and 1, got {share!r}")
    edge = boundary or Boundary.narrow_at(effect, alpha)
    treated, control = variances
    per_run = treated / (1.0 - share) + control / share
    return math.ceil(edge.information_for(effect, power) * per_run)


def _enough(stratum: Stratum) -> bool:
    return min(stratum.treated.n, stratum.control.n) >= LEAST_PER_ARM


def _difference(stratum: Stratum) -> tuple[float, float]:
    """Difference of the means and the information about it."""
    treated, control = stratum.treated, stratum.control
    both = treated + control
    pooled = max(0.0, both.squares / both.n - both.mean**2)
    variance = treated.variance(pooled) / treated.n + control.variance(pooled) / control.n
    if variance <= 0.0:  # all runs alike: no chance is at work, as far as can be seen
        return 0.0, 0.0
    return treated.mean - control.mean, 1.0 / variance


def _p_value(effect: float, information: float, edge: Boundary) -> float:
    """The least alpha at which no difference is excluded."""
    total = information + edge.prior
    evidence = (effect * information) ** 2 / total - math.log(total / edge.prior)
    return min(1.0, math.exp(-evidence / 2.0))
