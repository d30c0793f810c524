"""What a policy is worth beside another one, or beside the agent alone, and whether that is known.

The agent alone is known from the control group, and only where there is none from the defer arms
of the sampled runs. Joining both looks better than it is: where a policy is sure, its defer arm is
drawn once in fifty, and intervals that rest on such weights held the truth in three of four logs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from agentgym_daemon.learning.arrays import Floats
from agentgym_daemon.learning.dataset import Trajectory
from agentgym_daemon.learning.evaluation import estimators, targets
from agentgym_daemon.learning.evaluation.estimators import Estimate, Terms
from agentgym_daemon.learning.evaluation.logged import Log, decided, log_of

LEAST_RUNS = 30
LEAST_EFFECTIVE = 50.0
MOST_OUTSIDE = 0.25
MOST_CLIPPED = 0.01
_ESTIMATORS = {
    "ips": estimators.ips,
    "snips": estimators.snips,
    "dr": estimators.doubly_robust,
}


@dataclass(frozen=True, slots=True)
class Support:
    """How much the runs say of a policy that did not decide them."""

    runs: int
    decisions: int
    effective: float  # Kish's effective number of runs
    outside: float  # probability that a run of the policy leaves what could be drawn
    clipped: float  # share of the steps with a clipped weight
    matched: int  # steps where its best arm was drawn, and is not the logger's best

    @property
    def reason(self) -> str:
        """Why nothing can be estimated; empty if it can."""
        if self.runs < LEAST_RUNS:
            return f"{self.runs} runs were sampled by a policy; {LEAST_RUNS} are needed"
        if self.effective < LEAST_EFFECTIVE:
            return (
                f"the runs are worth {self.effective:.0f} of this policy's own; "
                f"{LEAST_EFFECTIVE:.0f} are needed"
            )
        if self.outside > MOST_OUTSIDE:
            return f"{self.outside:.0%} of its runs would do what was never tried"
        if self.clipped > MOST_CLIPPED:
            return f"{self.clipped:.1%} of the weights are above {estimators.CLIP:g}"
        return ""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Estimates of a policy's value, or of a difference of two, by each estimator."""

    support: Support
    estimates: dict[str, Estimate]  # empty where nothing can be estimated

    @property
    def identifiable(self) -> bool:
        """Whether there are estimates."""
        return bool(self.estimates)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "identifiable": self.identifiable,
            "reason": self.support.reason,
            "support": asdict(self.support),
            "estimates": {name: asdict(found) for name, found in self.estimates.items()},
        }


class Evidence:
    """Rewarded runs, from which policies are compared."""

    def __init__(self, trajectories: Sequence[Trajectory]) -> None:
        self.runs = decided(trajectories)
        self._logs: dict[targets.Target, Log] = {}
        # Before a policy decided anything, the traffic may have been another one.
        since = min((t.closed_unix_nano for t in self.runs), default=0)
        self.control: Floats = np.array(
            [
                t.judged
                for t in trajectories
                if t.control and t.judged is not None and t.closed_unix_nano >= since
            ],
            np.float64,
        )

    def log(self, target: targets.Target) -> Log:
        """The runs seen from a target; made once."""
        if target not in self._logs:
            self._logs[target] = log_of(self.runs, target)
        return self._logs[target]

    def value(self, target: targets.Target, *, confidence: float = 0.95) -> Evaluation:
        """What a policy is worth."""
        log = self.log(target)
        support = support_of(log)
        if support.reason:
            return Evaluation(support, {})
        return Evaluation(
            support,
            {n: estimators.estimate(f(log), confidence) for n, f in _ESTIMATORS.items()},
        )

    def difference(
        self, target: targets.Target, other: targets.Target, *, confidence: float = 0.95
    ) -> Evaluation:
        """What a policy is worth more than another one, on the same runs."""
        logs = self.log(target), self.log(other)
        support = _least(*map(support_of, logs))
        if support.reason:
            return Evaluation(support, {})
        return Evaluation(
            support,
            {
                name: estimators.estimate(estimators.difference(f, *logs), confidence)
                for name, f in _ESTIMATORS.items()
            },
        )

    def lift(self, target: targets.Target, *, confidence: float = 0.95) -> Evaluation:
        """What a policy is worth more than the agent alone."""
        log = self.log(target)
        support = support_of(log)
        if len(self.control) < LEAST_RUNS:
            return self.difference(target, targets.alone(target), confidence=confidence)
        if support.reason:
            return Evaluation(support, {})
        terms = estimators.doubly_robust(log)
        return Evaluation(support, {"dr": beside_control(terms, self.control, confidence)})


def support_of(log: Log) -> Support:
    """How much a log says of the policy that it is seen from."""
    if not len(log):
        return Support(0, 0, 0.0, 0.0, 0.0, 0)
    return Support(
        runs=len(log),
        decisions=len(log.target),
        effective=estimators.effective_size(log),
        outside=estimators.outside(log),
        clipped=estimators.clipped(log),
        matched=int(log.matched.sum()),
    )


def beside_control(policy: Terms, control: Floats, confidence: float = 0.95) -> Estimate:
    """Value of a policy minus the mean of the control group, which are independent."""
    n, mean = len(policy.value), float(control.mean())
    error = estimators.standard_error(control)
    t = estimators.quantile(confidence, min(n, len(control)) - 1)

    def end(terms: Floats, sign: float) -> float:
        spread = math.hypot(estimators.standard_error(terms), error)
        return float(terms.mean()) - mean + sign * t * spread

    return Estimate(
        value=end(policy.value, 0.0),
        low=end(policy.low, -1.0),
        high=end(policy.high, 1.0),
        error=math.hypot(estimators.standard_error(policy.value), error),
        n=n + len(control),
    )


def _least(one: Support, other: Support) -> Support:
    """The one of two supports that says less."""
    return one if one.reason or one.effective <= other.effective else other
