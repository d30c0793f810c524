"""Which stored requests two policies would treat differently, by their first choices (numpy)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from agentgym.policy.arms import Exploration
from agentgym.policy.parameters import Parameters
from agentgym_daemon.learning.arrays import Floats
from agentgym_daemon.learning.churn import allowed_matrix, churn, estimates
from agentgym_daemon.learning.dataset import Dataset, Step

ALONE = ""
"""In the place of a tool: the agent is left alone."""


@dataclass(frozen=True, slots=True)
class Example:
    """A step whose first choice is another tool."""

    trajectory_id: bytes
    step: int
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Difference:
    """Two policies on the same steps; counts are steps by their first choice."""

    trajectories: int
    steps: int
    changed: int
    kl: float
    examples: tuple[Example, ...]
    before: Mapping[str, int]
    after: Mapping[str, int]


def difference(
    before: Parameters,
    after: Parameters,
    dataset: Dataset,
    exploration: Exploration,
    *,
    examples: int,
) -> Difference:
    """Compares over {left alone} and every allowed tool; the newest examples come first."""
    placed = [(t.trajectory_id, i, s) for t in dataset.trajectories for i, s in enumerate(t.steps)]
    steps = [step for _, _, step in placed]
    old, new = estimates(before, dataset, steps), estimates(after, dataset, steps)
    compared = churn(old, new, allowed_matrix(steps, len(dataset.tools)), exploration)
    first = [_first_choices(steps, estimated, dataset) for estimated in (old, new)]
    changed = [
        Example(trajectory_id, number, was, becomes)
        for (trajectory_id, number, _), was, becomes in zip(placed, *first, strict=True)
        if was != becomes
    ]
    return Difference(
        trajectories=len(dataset.trajectories),
        steps=len(steps),
        changed=len(changed),
        kl=compared.kl,
        examples=tuple(reversed(changed[-examples:])) if examples else (),
        before=Counter(first[0]),
        after=Counter(first[1]),
    )


def _first_choices(
    steps: list[Step], estimated: tuple[Floats, Floats], dataset: Dataset
) -> list[str]:
    right, alone = estimated
    choices = []
    for i, step in enumerate(steps):
        allowed = [c for c, free in zip(step.offered, step.allowed, strict=True) if free]
        best = int(np.argmax([alone[i], *right[i, allowed]]))
        choices.append(dataset.names[allowed[best - 1]] if best else ALONE)
    return choices
