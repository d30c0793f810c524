"""What the record of a scope says of its live policy, and what is to be done about it.

fall of the policy's runs ─┬─ control fell as well ──────────────> tell: it is not the policy
                           │                                         (and release what is held)
                           ├─ goes on after a rollback ──────────> hold: nothing is promoted
                           └─ else, or in doubt ─────────────────> roll back, and quarantine
policy below the control group, whatever it was before ──────────> roll back, and quarantine
runs with failed tools that suddenly count as successes ─────────> hold: the rewards are not right
no success any more, not even of the control group ──────────────> hold: nothing can be learned
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, NamedTuple

from agentgym_daemon.experiments.lift import Lift, Moments, Stratum, lift
from agentgym_daemon.experiments.sequential import Boundary
from agentgym_daemon.store.record import Run
from agentgym_daemon.watch.fall import Fall, Record, watched

BELOW_CONTROL = Boundary.narrow_at(0.1, alpha=0.001)
"""Looked at for ever, so rarely wrong: one scope in 2,000 without a difference."""
_SAME = 20
"""A fall that begins so soon after a rollback is the one that led to it."""
_BLAMED = 50
"""Versions that came so many runs before the fall seems to begin may have caused it."""
_HALF, _Z, _LEAST_CONTROL = 0.5, 2.326, 20
_RECENT = 100
_CHANCE = 1e-6
_FEW = {"least": 30, "gap": 60}  # errors are rare, and what they mean changes seldom


class Act(StrEnum):
    """What the watch does."""

    NOTHING = "nothing"
    TELL = "tell"
    HOLD = "hold"
    RELEASE = "release"
    ROLL_BACK = "roll back"


@dataclass(frozen=True, slots=True)
class Situation:
    """What was live when, as far as the watch must know."""

    live: str
    quarantined: Collection[str] = ()
    pinned: bool = False
    """By somebody who wants it to stay."""
    held: bool = False
    """Pinned by the watch itself."""
    acted_ns: int = 0
    """When the watch last did something here: runs until then only say what is usual."""
    forgotten_ns: int = 0
    """When somebody let promotions through again: what was usual before counts no more."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done, why, and by which figures."""

    act: Act
    record: Record
    lift: Lift
    policy_runs: int
    recent: float  # success rate of the last 100 of them; NaN without any
    cause: str = ""
    reason: str = ""
    blamed: tuple[str, ...] = ()  # versions to quarantine, newest first
    figures: dict[str, Any] = field(default_factory=dict)


def judge(runs: Sequence[Run], situation: Situation) -> Verdict:
    """Looks at the newest runs of a scope, oldest first."""
    runs = [r for r in runs if r.closed_ns > situation.forgotten_ns]
    treated = [
        r for r in runs if not r.control and r.version and r.version not in situation.quarantined
    ]
    known = sum(r.closed_ns <= situation.acted_ns for r in treated)
    record = watched([r.success for r in treated], known=known)
    control = [r for r in runs if r.control]
    beside = _beside_control(treated[known:], control, situation.acted_ns)
    if (doubt := _doubt(runs, situation) or _nothing_succeeds(runs, situation)) is not None:
        verdict = doubt
    elif record.fall is not None:
        verdict = _of_fall(record, treated, control, situation, known)
    elif beside.high < 0.0:
        verdict = _below_control(beside, situation)
    else:
        verdict = _Part(Act.NOTHING, "", "")
    act, cause, reason, blamed, figures = verdict
    if act is Act.ROLL_BACK and situation.pinned:
        act, reason = Act.TELL, f"{reason}; {situation.live} is pinned, so it stays"
    recent = Moments.of(float(r.success) for r in treated[-_RECENT:]).mean
    return Verdict(act, record, beside, len(treated), recent, cause, reason, blamed, figures)


class _Part(NamedTuple):
    act: Act
    cause: str
    reason: str
    blamed: tuple[str, ...] = ()
    figures: dict[str, Any] = {}  # noqa: RUF012 - never changed


def _doubt(runs: Sequence[Run], situation: Situation) -> _Part | None:
    """What speaks against the rewards; None if nothing does.

    A failed tool does not mean a failed run. But how often it does has no reason to fall at once,
    whatever the policy does: it is measured over all runs, and only over those with an error.
    """
    failed = [r for r in runs if r.error]
    known = sum(r.closed_ns <= situation.acted_ns for r in failed)
    look = partial(watched, [not r.success for r in failed], **_FEW)
    fall = look(known=known).fall
    if fall is None:
        return None
    # What the watch did in the meantime may have hidden when it began.
    whole = look().fall or fall
    figures = {
        "reference": round(fall.reference, 4),
        "rate": round(fall.rate, 4),
        "runs": fall.at + 1 - fall.since,
        "first_no": failed[fall.since].no,
        "last_no": failed[fall.at].no,
        "since_ns": failed[min(whole.since, fall.since)].closed_ns,
    }
    reason = (
        f"of the runs in which a tool failed visibly, {fall.reference:.0%} were judged failures, "
        f"and only {fall.rate:.0%} of the last {figures['runs']}: look at the rewards, revoke "
        "wrong ones, and then let learning go on"
    )
    return _Part(_held(situation), "rewards", reason, (), figures)


def _nothing_succeeds(runs: Sequence[Run], situation: Situation) -> _Part | None:
    """Whether all runs fail, too long for chance without the policy: a grader that is stuck."""
    last = max((i for i, r in enumerate(runs) if r.success), default=-1)
    before = Moments.of(float(r.success) for r in runs[: last + 1] if r.control)
    since = sum(r.control for r in runs[last + 1 :])
    if before.n < _LEAST_CONTROL or (1.0 - before.mean) ** since > _CHANCE:
        return None
    figures = {
        "reference": round(before.mean, 4),
        "rate": 0.0,
        "runs": len(runs) - last - 1,
        "control_runs": since,
        "first_no": runs[last + 1].no,
        "last_no": runs[-1].no,
        "since_ns": runs[last + 1].closed_ns,
    }
    reason = (
        f"none of the last {figures['runs']} runs succeeded, nor did {since} without the policy "
        f"({before.mean:.0%} of them did before): look at the rewards, revoke wrong ones, and then "
        "let learning go on"
    )
    return _Part(_held(situation), "rewards", reason, (), figures)


def _held(situation: Situation) -> Act:
    return Act.TELL if situation.pinned or situation.held else Act.HOLD


def _of_fall(
    record: Record,
    treated: Sequence[Run],
    control: Sequence[Run],
    situation: Situation,
    known: int,
) -> _Part:
    fall = record.fall
    assert fall is not None
    first, last = treated[fall.since], treated[fall.at]
    before = treated[fall.before[0]], treated[fall.before[1] - 1]
    others = (
        [r.success for r in control if before[0].no <= r.no <= before[1].no],
        [r.success for r in control if r.no >= first.no],
    )
    figures = {
        "reference": round(fall.reference, 4),
        "rate": round(fall.rate, 4),
        "runs": fall.at + 1 - fall.since,
        "first_no": first.no,
        "last_no": last.no,
        "evidence": round(record.evidence, 1),
        "control_before": [sum(others[0]), len(others[0])],
        "control_since": [sum(others[1]), len(others[1])],
    }
    what = (
        f"success fell from {fall.reference:.1%} to {fall.rate:.1%} "
        f"over {figures['runs']} runs of the policy"
    )
    if _fell_too(others, fall):
        # Where nothing succeeds there is nothing to learn, and maybe nobody who judges.
        act = Act.RELEASE if situation.held and any(others[1]) else Act.TELL
        return _Part(act, "world", f"{what}, and without the policy as well", (), figures)
    was_there = any(run.version == situation.live for run in treated[:known])
    if was_there and fall.since - known <= _SAME:
        reason = f"{what}, and a rollback did not end it: neither version is the cause"
        return _Part(_held(situation), "not the version", reason, (), figures)
    blamed = _blamed(treated, fall, situation.live)
    return _Part(Act.ROLL_BACK, "fall", what, blamed, figures)


def _fell_too(control: tuple[Sequence[bool], Sequence[bool]], fall: Fall) -> bool:
    """Whether the control group fell beyond chance, and by half as much at least."""
    before, since = (Moments.of(map(float, part)) for part in control)
    if min(before.n, since.n) < _LEAST_CONTROL:
        return False
    both = (before.total + since.total) / (before.n + since.n)
    error = math.sqrt(both * (1.0 - both) * (1.0 / before.n + 1.0 / since.n))
    fell = before.mean - since.mean
    return fell >= _HALF * fall.points and fell > _Z * error


def _blamed(treated: Sequence[Run], fall: Fall, live: str) -> tuple[str, ...]:
    """The live version, and others that came when the fall began or later; newest first."""
    first: dict[str, int] = {}
    for i, run in enumerate(treated):
        first.setdefault(run.version, i)
    came = [v for v, i in first.items() if i >= max(1, fall.since - _BLAMED)]
    return tuple(sorted({*came, live}, reverse=True))


def _beside_control(treated: Sequence[Run], control: Sequence[Run], since_ns: int) -> Lift:
    """Policy minus control, over the runs since the watch last did something."""
    beside = [r for r in control if r.closed_ns > since_ns]
    arms = (Moments.of(float(r.success) for r in part) for part in (treated, beside))
    return lift([Stratum(*arms)], BELOW_CONTROL)


def _below_control(beside: Lift, situation: Situation) -> _Part:
    figures = {
        "policy": [beside.treated.total, beside.treated.n],
        "control": [beside.control.total, beside.control.n],
        "difference": round(beside.effect, 4),
        "high": round(beside.high, 4),
    }
    reason = (
        f"success is {beside.treated.mean:.1%} with the policy and {beside.control.mean:.1%} "
        f"without it, at most {beside.high:+.1%} at any look"
    )
    return _Part(Act.ROLL_BACK, "below control", reason, (situation.live,), figures)
