"""Cross-fitting: every run can judge a version, because a twin of it was not trained on the run.

A version is trained on nine runs in ten, so only the tenth could say what it is worth: too little
to tell two points for many thousand runs. Its twins are trained like it, each without one half of
those runs (Chernozhukov et al., Econometrics Journal 21:C1, 2018), and each goes on from the twin
of its own half, so that what a twin judges never reached it, but for three shares of all runs
together: of visible errors, of those that did no harm, of successes. What is estimated is what this
way of learning has come to, with half the data; on the runs that are held out from all, the version
itself judges.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from agentgym.policy.parameters import Parameters
from agentgym_daemon.learning.arrays import Ints
from agentgym_daemon.learning.dataset import Dataset, GradientArm, Step, Trajectory
from agentgym_daemon.learning.evaluation import targets

HALVES = 2


@dataclass(frozen=True, slots=True)
class Fitted:
    """A policy and its twins: twin k was never trained on the runs of half k; without twins: ()."""

    policy: Parameters
    twins: tuple[Parameters, ...] = ()

    def twin(self, half: int) -> Parameters | None:
        """The twin that knows nothing of a half; None where there is none."""
        return self.twins[half] if self.twins else None

    @classmethod
    def of(cls, policy: Parameters | None) -> Self | None:
        """A policy without twins; None for none."""
        return None if policy is None else cls(policy)


def without(trajectories: Sequence[Trajectory], half: int) -> Ints:
    """Positions of the runs that the twin of a half is trained on."""
    return np.array([i for i, t in enumerate(trajectories) if t.half() != half], np.int64)


def target(
    fitted: Fitted, dataset: Dataset, runs: Iterable[Trajectory], *, held_out_in: int
) -> targets.Target:
    """What a version draws from at the steps of `runs`: for each by the one not trained on it."""
    whole = targets.policy(fitted.policy, dataset)
    if not fitted.twins:
        return whole
    twins = [targets.policy(twin, dataset) for twin in fitted.twins]
    judge = {
        id(step): twins[run.half()]
        for run in runs
        if not run.held_out(held_out_in)
        for step in run.steps
    }

    def by_run(step: Step, drawn: GradientArm) -> list[targets.Weighed]:
        return judge.get(id(step), whole)(step, drawn)

    return by_run
