"""Intervals for a difference of two means that hold at all times at once, and their sample sizes.

With I = 1 / Var(d) the information about a difference, S = I d behaves like a Brownian motion with
drift at time I. Robbins' normal mixture (Ann. Math. Stat. 41:1397, 1970; as an always-valid test:
Johari, Pekelis & Walsh, Operations Research 70:1806, 2022, section 5; for estimated variances:
Waudby-Smith et al., Annals of Statistics 52:2613, 2024) gives, with probability 1 - alpha for all
I at once,

    |d - true d| <= sqrt((I + r) (log((I + r) / r) + 2 log(1 / alpha))) / I

whatever the rule by which somebody looks or stops. r is the information at which the interval is
meant to be narrow; it must be chosen before the data are seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

ALPHA = 0.05
POWER = 0.8
_LARGEST = 1e12
_HALVINGS = 200


@dataclass(frozen=True, slots=True)
class Boundary:
    """How far an estimate may be from the truth, by the information that it rests on."""

    prior: float  # r
    alpha: float = ALPHA

    @classmethod
    def narrow_at(cls, effect: float, alpha: float = ALPHA) -> Boundary:
        """The boundary under which a true effect is found with the least information."""
        if not 0.0 < effect < math.inf:
            raise ValueError(f"expected an effect above 0, got {effect!r}")
        # The best r is a fixed share of the information at which it decides; found by looking.
        scale = 1.0 / effect**2
        boundaries = [cls(scale * 2.0 ** (k / 4), alpha) for k in range(-16, 17)]
        return min(boundaries, key=lambda b: b.information_for(effect))

    def radius(self, information: float) -> float:
        """Half the width of the interval; infinite without information."""
        if information <= 0.0:
            return math.inf
        total = information + self.prior
        growth = math.log(total / self.prior) + 2.0 * math.log(1.0 / self.alpha)
        return math.sqrt(total * growth) / information

    def information_for(self, effect: float, power: float = POWER) -> float:
        """Information at which an effect of this size is outside with probability `power`."""
        z = NormalDist().inv_cdf(power)
        return _first(lambda i: effect - z / math.sqrt(i) >= self.radius(i))


def _first(holds: Callable[[float], bool]) -> float:
    """The least number for which `holds`, which is false before it and true after; in (0, inf)."""
    high = 1.0
    while not holds(high) and high < _LARGEST:
        high *= 2.0
    low = 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        if middle in (low, high):
            break
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
