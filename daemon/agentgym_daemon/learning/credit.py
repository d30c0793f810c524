"""What a trajectory's outcome says about its steps: advantages, tolerance, posteriors (numpy).

Notation: p_i is the policy's probability of what was done at step i, f_s and f_f the assumed
shares of false successes and false failures, c = 1 - f_s - f_f, v the probability that a wrong call
fails visibly, e the number of calls that did, tau how often that does not spoil the run. Steps
without a visible error, i, went right with r_i = p_i / (1 - v (1 - p_i)) (Bayes; a RESPOND cannot
fail visibly, so there r_i = p_i). A rewarded run with errors E then has

    P(E, R = 1) = prod_i (1 - v (1 - p_i)) prod_E v (1 - p_j) (f_s + c tau^e prod_i r_i)

It is a noisy-and (Pearl 1988, ch. 4): every step has to go right, and the reward may lie. A visible
error is an observation by itself, so its step leaves the product; with tau = 0 it explains a
failure away, and a failed reward says nothing more about the other steps. The absence of an error
is weak evidence only (v < 1), and none in a run without a reward.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agentgym_daemon.learning.arrays import Floats
from agentgym_daemon.learning.dataset import Trajectory
from agentgym_daemon.learning.settings import LearningSettings

_LEAST_SPREAD = 1e-6
_PRIOR_RUNS = 5.0  # how many runs the assumption "an error spoils the run" is worth


def advantages(rewards: Floats, weights: Floats | None = None) -> Floats:
    """A = (R - mean R) / std R over the batch (Flow-GRPO, arXiv 2510.05592, Eq. 7).

    Their mean and std are over a group of rollouts of one task. Live traffic runs a task once, so
    the batch stands in for the group, each run with its weight.
    """
    weights = np.ones(len(rewards)) if weights is None else weights
    total = float(weights.sum())
    if total <= 0.0:
        return np.zeros(len(rewards))
    mean = float((weights * rewards).sum()) / total
    spread = float((weights * (rewards - mean) ** 2).sum() / total) ** 0.5
    if spread < _LEAST_SPREAD:
        return np.zeros(len(rewards))
    out: Floats = (rewards - mean) / spread
    return out


def tolerance(trajectories: Sequence[Trajectory], settings: LearningSettings) -> float:
    """tau: how often a run succeeds in spite of a visible error, beyond false successes."""
    rewards = [
        (t.reward, t.weight) for t in trajectories if t.reward is not None and t.failed_visibly
    ]
    runs = sum(weight for _, weight in rewards)
    honest = 1.0 - settings.false_success - settings.false_failure
    excess = sum(weight * reward for reward, weight in rewards) - settings.false_success * runs
    # Two standard deviations of chance: false successes alone must not read as tolerance.
    noise = 2.0 * (runs * settings.false_success * (1 - settings.false_success)) ** 0.5
    share = (excess - noise) / (honest * (runs + _PRIOR_RUNS))
    return float(np.clip(share, 0.0, 1.0))


def visible_share(trajectories: Sequence[Trajectory]) -> float:
    """v: the share of runs with a visible error among those that failed or had one."""
    runs = [t for t in trajectories if t.reward is not None]
    visible = sum(t.weight * t.failed_visibly for t in runs)
    spoilt = sum(t.weight * (t.failed_visibly or not t.went_well) for t in runs)
    return visible / (spoilt + _PRIOR_RUNS)


def success_probability(product: Floats, settings: LearningSettings) -> Floats:
    """P(R = 1) for prod = tau^e prod_i r_i."""
    honest = 1.0 - settings.false_success - settings.false_failure
    out: Floats = settings.false_success + honest * product
    return out


def surprise(product: Floats, rewards: Floats, settings: LearningSettings) -> Floats:
    """-R log P(R = 1) - (1 - R) log P(R = 0); a reward between 0 and 1 counts in shares."""
    success = success_probability(product, settings)
    out: Floats = -(rewards * np.log(success) + (1 - rewards) * np.log1p(-success))
    return out


def posterior_right(
    right: Floats, product: Floats, rewards: Floats, settings: LearningSettings
) -> Floats:
    """P(step went right | outcome) for steps without a visible error (E-step; Dempster 1977).

    `right` is r_i. With m = prod / r_i, the product as if step i were known to be right:
    R = 1: r_i P(R=1 | m) / P(R=1 | prod);   R = 0: r_i P(R=0 | m) / P(R=0 | prod).
    """
    known = success_probability(product / np.maximum(right, 1e-12), settings)
    whole = success_probability(product, settings)
    out: Floats = right * (rewards * known / whole + (1 - rewards) * (1 - known) / (1 - whole))
    return np.clip(out, 0.0, 1.0)
