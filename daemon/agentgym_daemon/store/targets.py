"""What a training is to learn from each trajectory: its reward, and how much it weighs.

Outcomes are stored; what is here follows from them and from settings that may change from one
training to the next: the hold period, the cost and the caps of sources.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from agentgym_daemon.store.aggregate import Rules, Verdict, judge
from agentgym_daemon.store.caps import Caps, factors
from agentgym_daemon.store.costs import Spent, penalty
from agentgym_daemon.store.database import Cursor, fetch
from agentgym_daemon.store.rows import MAX_BIGINT
from agentgym_daemon.store.state import OPEN

_AT_ONCE = 2_000


@dataclass(frozen=True, slots=True)
class Treatment:
    """How outcomes become what is learned."""

    rules: Rules = field(default_factory=Rules)
    received_before_ns: int = MAX_BIGINT
    """Younger rewards are held back."""
    caps: Caps = field(default_factory=Caps)
    costs: Mapping[str, float] = field(default_factory=dict)


class JudgedReward(NamedTuple):
    """What aggregation looks at in a stored reward."""

    no: int
    value: float
    name: str
    source: str
    time_ns: int
    received_ns: int
    revoked: bool


class Target(NamedTuple):
    """What is learned from one trajectory."""

    outcome: float
    reward: float
    weight: float


class Shares(NamedTuple):
    """What one source is of a training."""

    trajectories: float
    """That it decided, in parts where several did."""
    given: float
    """Its share of all outcomes."""
    trained: float
    """Its share of the training weight."""
    factor: float


class Targets(NamedTuple):
    """What is learned from the trajectories of a window."""

    by_no: Mapping[int, Target]
    """Those from which anything is learned."""
    sources: Mapping[str, Shares]


def targets(cursor: Cursor, numbers: Sequence[int], treatment: Treatment) -> Targets:
    """What is learned from the trajectories with these numbers, which are a training's window."""
    verdicts: dict[int, tuple[float, Mapping[str, float]]] = {}
    for first in range(0, len(numbers), _AT_ONCE):
        some = numbers[first : first + _AT_ONCE]
        for no, given in rewards_by_trajectory(cursor, some).items():
            verdict = judged(given, treatment)
            if verdict.value is not None:
                verdicts[no] = (verdict.value, _by_source(given, verdict))
    masses: defaultdict[str, float] = defaultdict(float)
    for _, parts in verdicts.values():
        for source, share in parts.items():
            masses[source] += share
    factor = factors(masses, treatment.caps)
    taken = _penalties(cursor, list(verdicts), treatment.costs)
    by_no = {
        no: Target(
            outcome=outcome,
            reward=outcome * (1.0 - taken.get(no, 0.0)),
            weight=min(1.0, sum(share * factor[source] for source, share in parts.items())),
        )
        for no, (outcome, parts) in verdicts.items()
    }
    return Targets(by_no, _shares(masses, factor))


def window(cursor: Cursor, agent: str, limit: int) -> list[int]:
    """Numbers of an agent's newest ended trajectories, oldest first."""
    rows = fetch(
        cursor,
        "SELECT no FROM trajectories WHERE state <> ? AND agent = ? ORDER BY no DESC LIMIT ?",
        [OPEN, agent, limit],
    )
    return [no for (no,) in reversed(rows)]


def judged(given: Iterable[JudgedReward], treatment: Treatment) -> Verdict:
    """What the rewards come to that are not held back."""
    ripe = [r for r in given if r.received_ns < treatment.received_before_ns]
    return judge(ripe, treatment.rules)


def rewards_by_trajectory(cursor: Cursor, numbers: Sequence[int]) -> dict[int, list[JudgedReward]]:
    """All rewards of some trajectories, revoked ones too."""
    rows = _of(
        cursor,
        "SELECT trajectory_no, no, value, name, source, time_ns, received_ns, revoked FROM rewards",
        "trajectory_no",
        numbers,
    )
    found: dict[int, list[JudgedReward]] = {}
    for row in rows:
        found.setdefault(row[0], []).append(JudgedReward(*row[1:]))
    return found


def _by_source(given: Sequence[JudgedReward], verdict: Verdict) -> dict[str, float]:
    parts: dict[str, float] = {}
    for reward in given:
        if reward.no in verdict.shares:
            parts[reward.source] = parts.get(reward.source, 0.0) + verdict.shares[reward.no]
    return parts


def _shares(masses: Mapping[str, float], factor: Mapping[str, float]) -> dict[str, Shares]:
    given = sum(masses.values())
    trained = sum(mass * factor[source] for source, mass in masses.items())
    return {
        source: Shares(mass, mass / given, mass * factor[source] / trained, factor[source])
        for source, mass in masses.items()
    }


def _penalties(
    cursor: Cursor, numbers: Sequence[int], costs: Mapping[str, float]
) -> dict[int, float]:
    if not any(costs.values()):
        return {}
    rows = _of(
        cursor,
        "SELECT no, input_tokens + output_tokens, (end_ns - start_ns) / 1e9, tool_calls "
        "FROM trajectories",
        "no",
        numbers,
    )
    return {no: penalty(Spent(*spent), costs) for no, *spent in rows}


def _of(cursor: Cursor, select: str, column: str, numbers: Sequence[int]) -> list[tuple[Any, ...]]:
    if not numbers:
        return []
    return fetch(
        cursor,
        f"{select} WHERE {column} BETWEEN ? AND ? AND {column} IN (SELECT unnest(?::BIGINT[]))",
        [min(numbers), max(numbers), list(numbers)],
    )
