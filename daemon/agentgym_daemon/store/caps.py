"""How much of a training one source of rewards may be: factors that bring it down to its cap.

With m the trajectories that a source decided, and c its cap, factors f in [0, 1] are found so that
f m <= c sum(f m). They take from who has too much and give to nobody. With k sources nobody's cap
is below 1 / k, unless it was set for the source itself: somebody has to be learned from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LEAST_OTHERS = 50.0
"""A cap holds once the other sources have decided this many trajectories: before that, there is
nothing to fall back on, and a handful of rewards would outweigh a whole history."""
MAIN_SOURCE = "user"
"""What `gym.reward` says unless it is told otherwise."""
_NEARLY = 1e-9


@dataclass(frozen=True, slots=True)
class Caps:
    """Largest shares of the training weight."""

    each: float = 0.1
    own: Mapping[str, float] = field(default_factory=lambda: {MAIN_SOURCE: 1.0})


def factors(masses: Mapping[str, float], caps: Caps) -> dict[str, float]:
    """By source, what its trajectories' weights are multiplied by."""
    present = {source: mass for source, mass in masses.items() if mass > 0}
    total = sum(present.values())
    limits = {
        source: caps.own.get(source, max(caps.each, 1.0 / len(present)))
        if total - mass >= LEAST_OTHERS
        else 1.0
        for source, mass in present.items()
    }
    # Caps that leave room for less than everything are meant in proportion.
    room = sum(limits.values())
    if room < 1.0:
        limits = {source: limit / room for source, limit in limits.items()}
    allowed = _fill(present, limits)
    return {source: allowed[source] / mass for source, mass in present.items()}


def _fill(masses: Mapping[str, float], limits: Mapping[str, float]) -> dict[str, float]:
    """The largest masses that keep to the limits, each at most what it is."""
    capped: set[str] = set()
    while True:
        free = sum(mass for source, mass in masses.items() if source not in capped)
        room = 1.0 - sum(limits[source] for source in capped)
        total = free / room  # room stays positive: who is over holds more than its part of it
        over = {
            source
            for source, mass in masses.items()
            if source not in capped and mass > limits[source] * total * (1 + _NEARLY)
        }
        if not over:
            return {
                source: limits[source] * total if source in capped else mass
                for source, mass in masses.items()
            }
        capped |= over
