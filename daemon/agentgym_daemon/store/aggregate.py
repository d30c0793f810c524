"""The one reward of a trajectory, of all that were given to it, and which of them decided it.

A later reward replaces an earlier one of the same source and name. Rewards of a source with weight
0 do not count, and the default reward only where nobody judged. Over what is left, with w the
weight of a source, shared out evenly among its names:

    last    the latest reward
    min     the lowest
    mean    sum(w value) / sum(w)
    median  the value at which half of the weight is reached (between two: their mean)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, TypeVar

Aggregation = Literal["last", "mean", "median", "min"]
DEFAULT_SOURCE = "default"
"""Source of rewards that the daemon gave because none came within the wait window."""
SUCCESS = 0.5
"""A trajectory with at least this reward is a success."""
_SAME = 1e-9


class Given(Protocol):
    """What aggregation looks at in a reward."""

    @property
    def no(self) -> int:
        """Position among all rewards of the log."""

    @property
    def value(self) -> float:
        """In [0, 1]."""

    @property
    def name(self) -> str:
        """What was judged."""

    @property
    def source(self) -> str:
        """Who judged."""

    @property
    def time_ns(self) -> int:
        """When it was judged."""

    @property
    def revoked(self) -> bool:
        """Whether it was taken back."""


_Given = TypeVar("_Given", bound=Given)


@dataclass(frozen=True, slots=True)
class Rules:
    """By what several rewards become one."""

    aggregation: Aggregation = "last"
    weights: Mapping[str, float] = field(default_factory=dict)

    def weight(self, source: str) -> float:
        """How much a source counts; 1 unless it was set."""
        return self.weights.get(source, 1.0)

    def __str__(self) -> str:
        weights = [f"{source}={weight!r}" for source, weight in sorted(self.weights.items())]
        return " ".join([self.aggregation, *weights])


class Verdict(NamedTuple):
    """What a trajectory's rewards come to."""

    value: float | None
    """None if there is none that counts."""
    shares: Mapping[int, float]
    """By the `no` of a reward, how much of the verdict is its doing; adds up to 1."""


_NONE = Verdict(None, {})


def counting(rewards: Iterable[_Given], rules: Rules) -> list[_Given]:
    """The rewards over which is aggregated, in order of time."""
    standing = sorted(
        (r for r in rewards if not r.revoked and rules.weight(r.source) > 0),
        key=lambda r: (r.time_ns, r.no),
    )
    latest = {(r.source, r.name): r for r in standing}
    kept = [r for r in standing if latest[r.source, r.name] is r]
    return [r for r in kept if r.source != DEFAULT_SOURCE] or kept


def judge(rewards: Iterable[Given], rules: Rules) -> Verdict:
    """The reward that counts, and whose doing it is."""
    kept = counting(rewards, rules)
    return _BY_NAME[rules.aggregation](kept, rules) if kept else _NONE


def effective_reward(rewards: Iterable[Given], rules: Rules) -> float | None:
    """The reward that counts; None if there is none."""
    return judge(rewards, rules).value


def _last(kept: Sequence[Given], rules: Rules) -> Verdict:
    return Verdict(kept[-1].value, {kept[-1].no: 1.0})


def _min(kept: Sequence[Given], rules: Rules) -> Verdict:
    lowest = min(kept, key=lambda r: (r.value, -r.time_ns, -r.no))
    return Verdict(lowest.value, {lowest.no: 1.0})


def _mean(kept: Sequence[Given], rules: Rules) -> Verdict:
    weights = _weights(kept, rules)
    total = math.fsum(weights)
    value = math.fsum(w * r.value for w, r in zip(weights, kept, strict=True)) / total
    shares = {r.no: w / total for w, r in zip(weights, kept, strict=True)}
    return Verdict(min(max(value, 0.0), 1.0), shares)


def _median(kept: Sequence[Given], rules: Rules) -> Verdict:
    by_value = sorted(kept, key=lambda r: (r.value, r.no))
    weights = _weights(by_value, rules)
    half = math.fsum(weights) / 2
    reached, middle = 0.0, []
    for weight, reward in zip(weights, by_value, strict=True):
        if reached <= half * (1 + _SAME) and reached + weight >= half * (1 - _SAME):
            middle.append(reward.value)
        reached += weight
    low, high = middle[0], middle[-1]
    deciding = [(w, r) for w, r in zip(weights, by_value, strict=True) if low <= r.value <= high]
    total = math.fsum(w for w, _ in deciding)
    return Verdict(low + (high - low) / 2, {r.no: w / total for w, r in deciding})


def _weights(rewards: Sequence[Given], rules: Rules) -> list[float]:
    names = Counter(r.source for r in rewards)
    return [rules.weight(r.source) / names[r.source] for r in rewards]


_BY_NAME: Mapping[str, Callable[[Sequence[Given], Rules], Verdict]] = {
    "last": _last,
    "mean": _mean,
    "median": _median,
    "min": _min,
}
