"""How much two policies differ on the same steps: first choices and arm distributions (numpy)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agentgym.policy.arms import Exploration, distribution
from agentgym.policy.evaluate import Scorer
from agentgym.policy.parameters import Parameters
from agentgym_daemon.learning.arrays import Flags, Floats
from agentgym_daemon.learning.dataset import Dataset, Step


@dataclass(frozen=True, slots=True)
class Churn:
    """Difference of a candidate from the incumbent over `steps` steps."""

    steps: int
    changed: float  # share of steps whose best arm is another one
    kl: float  # mean KL(incumbent || candidate) of the arm distributions

    def within(self, *, max_changed: float, max_kl: float) -> bool:
        """Whether both limits hold."""
        return self.changed <= max_changed and self.kl <= max_kl


def estimates(policy: Parameters, dataset: Dataset, steps: Sequence[Step]) -> tuple[Floats, Floats]:
    """p over universe and RESPOND (N, U + 1), and q (N,), by the agent's own evaluation."""
    right, alone = np.zeros((len(steps), len(dataset.tools) + 1)), np.zeros(len(steps))
    known: dict[tuple[int, ...], Scorer] = {}
    for i, step in enumerate(steps):
        if step.offered not in known:
            known[step.offered] = Scorer(policy, dataset.universe.part(step.offered))
        result = known[step.offered](step.x, step.history)
        right[i, [*step.offered, -1]] = result.right
        alone[i] = result.alone
    return right, alone


def allowed_matrix(steps: Sequence[Step], columns: int) -> Flags:
    """Which universe columns are offered and allowed, per step."""
    allowed = np.zeros((len(steps), columns), np.bool_)
    for i, step in enumerate(steps):
        allowed[i, list(step.offered)] = step.allowed
    return allowed


def churn(
    incumbent: tuple[Floats, Floats],
    candidate: tuple[Floats, Floats],
    allowed: Flags,
    exploration: Exploration,
) -> Churn:
    """Compares estimates over {defer} and force of every allowed tool.

    All allowed tools take part, not the top k: two policies of different top tools would have
    no common support.
    """
    n = len(allowed)
    if not n:
        return Churn(0, 0.0, 0.0)
    changed = divergence = 0.0
    for i in range(n):
        before, after = (
            np.concatenate((alone[i : i + 1], right[i, :-1][allowed[i]]))
            for right, alone in (incumbent, candidate)
        )
        changed += int(np.argmax(before)) != int(np.argmax(after))
        p, q = distribution(before, exploration), distribution(after, exploration)
        divergence += float((p * np.log(p / q)).sum())
    return Churn(n, changed / n, divergence / n)
