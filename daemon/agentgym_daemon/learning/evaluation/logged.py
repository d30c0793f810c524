"""What a log says of a target policy, as arrays: ratios, outcome features, rewards.

Only runs take part whose every decided step was sampled by a policy, with its propensity. Steps
that fell back are the same under every policy: they enter no ratio. What a target would do that
could not have been drawn (a tool outside the logged arms) is kept apart: no estimator can know it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agentgym.policy.parameters import MAX_OK
from agentgym.trajectory import ArmKind
from agentgym_daemon.learning.arrays import Flags, Floats, Ints
from agentgym_daemon.learning.dataset import Act, GradientArm, Step, Trajectory
from agentgym_daemon.learning.evaluation.targets import Target, Weighed

FEATURES = 6


@dataclass(frozen=True, slots=True)
class Log:
    """N runs of S decided steps; run i owns the steps start[i] .. start[i + 1], at least one."""

    start: Ints  # (N + 1,)
    propensity: Floats  # (S,) with which the arm was drawn
    target: Floats  # (S,) with which the target would draw it
    outside: Floats  # (S,) probability under the target of what could not have been drawn
    matched: Flags  # (S,) the target's best arm was drawn, and is not the logger's best
    taken: Floats  # (S, FEATURES) of the arm that was drawn
    meant: Floats  # (S, FEATURES) summed over the target's arms that could be drawn
    beyond: Floats  # (S, FEATURES) summed over those that could not
    astray: Sequence[Mapping[Act, float]]  # (S,) those, with their probabilities
    reward: Floats  # (N,)
    logger: Ints  # (N,) number of the version that decided the run

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def run(self) -> Ints:
        """(S,) the run of every step."""
        return np.repeat(np.arange(len(self)), np.diff(self.start))

    def part(self, runs: Sequence[int]) -> Log:
        """The log of some of the runs, in their order."""
        count = np.diff(self.start)[runs]
        start = np.concatenate(([0], np.cumsum(count)))
        steps = np.arange(start[-1]) + np.repeat(self.start[runs] - start[:-1], count)
        return Log(
            start=start,
            propensity=self.propensity[steps],
            target=self.target[steps],
            outside=self.outside[steps],
            matched=self.matched[steps],
            taken=self.taken[steps],
            meant=self.meant[steps],
            beyond=self.beyond[steps],
            astray=[self.astray[step] for step in steps],
            reward=self.reward[runs],
            logger=self.logger[runs],
        )


def fresh(
    trajectories: Iterable[Trajectory], *, held_out_in: int, trained_until_ns: int | None = None
) -> list[Trajectory]:
    """Runs on which a version was not trained: those held out for good, and those that came later.

    Without `trained_until_ns` nothing came later.
    """
    return [
        t
        for t in trajectories
        if t.held_out(held_out_in)
        or (trained_until_ns is not None and t.closed_unix_nano > trained_until_ns)
    ]


def decided(trajectories: Iterable[Trajectory]) -> list[Trajectory]:
    """The rewarded runs that can be reasoned about: sampled by a policy, every step scored."""
    return [
        t
        for t in trajectories
        if t.judged is not None and not t.unscored and any(s.gradient for s in t.steps)
    ]


def log_of(runs: Sequence[Trajectory], target: Target) -> Log:
    """The log of runs that `decided` let through, seen from a target policy."""
    steps = [(s, s.gradient) for t in runs for s in t.steps if s.gradient is not None]
    rows = [_row(step, drawn, target(step, drawn)) for step, drawn in steps]
    count = [sum(s.gradient is not None for s in t.steps) for t in runs]
    return Log(
        start=np.concatenate(([0], np.cumsum(count, dtype=np.int64))),
        propensity=np.array([drawn.propensity for _, drawn in steps]),
        target=np.array([row.target for row in rows]),
        outside=np.array([row.outside for row in rows]),
        matched=np.array([row.matched for row in rows], np.bool_),
        taken=np.array([row.taken for row in rows]).reshape(-1, FEATURES),
        meant=np.array([row.meant for row in rows]).reshape(-1, FEATURES),
        beyond=np.array([row.beyond for row in rows]).reshape(-1, FEATURES),
        astray=[row.astray for row in rows],
        reward=np.array([t.judged for t in runs], np.float64),
        logger=np.unique([_version(t) for t in runs], return_inverse=True)[1],
    )


def _version(run: Trajectory) -> str:
    return next(s.gradient.version for s in run.steps if s.gradient is not None)


_Features = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    target: float
    outside: float
    matched: bool
    taken: _Features
    meant: _Features
    beyond: _Features
    astray: Mapping[Act, float]


def _row(step: Step, drawn: GradientArm, arms: Sequence[Weighed]) -> _Row:
    inside = [arm for arm in arms if arm.act in drawn.support]
    others = [arm for arm in arms if arm.act not in drawn.support]
    act = drawn.support[drawn.arm]
    best = max(arms, key=lambda arm: arm.probability).act
    seen = next((arm for arm in inside if arm.act == act), None)
    return _Row(
        target=seen.probability if seen else 0.0,
        outside=sum(arm.probability for arm in others),
        matched=act == best and best != drawn.support[drawn.best],
        taken=_features(step, [Weighed(act, seen.score if seen else 0.0, 1.0)]),
        meant=_features(step, inside),
        beyond=_features(step, others),
        astray={arm.act: arm.probability for arm in others},
    )


def _features(step: Step, arms: Iterable[Weighed]) -> _Features:
    """What the outcome is predicted from, summed over arms with their probabilities.

    The estimates of the arms, those of acting and of deferring apart, and how the run has gone.
    """
    total = acts = acting = deferring = 0.0
    for arm in arms:
        total += arm.probability
        if arm.act.kind is ArmKind.DEFER:
            deferring += arm.probability * arm.score
        else:
            acts += arm.probability
            acting += arm.probability * arm.score
    ok = sum(not call.error for call in step.history)
    spoilt = float(ok < len(step.history))
    return total, acts, acting, deferring, total * min(ok, MAX_OK) / MAX_OK, total * spoilt
