"""Policies whose value is asked for: which arms they would draw from at a logged step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from agentgym.policy.arms import Exploration, distribution, force_arms, show_arms
from agentgym.policy.evaluate import Scorer
from agentgym.policy.parameters import Parameters
from agentgym.trajectory import ArmKind
from agentgym_daemon.learning.dataset import Act, Dataset, GradientArm, Step


class Weighed(NamedTuple):
    """An arm of a target policy; entry 0 of every list of them is defer."""

    act: Act
    score: float  # its own estimate that the step goes right
    probability: float


Target = Callable[[Step, GradientArm], list[Weighed]]
"""What a policy would draw from at a decided step; the probabilities add up to 1."""


def policy(parameters: Parameters, dataset: Dataset) -> Target:
    """A policy as the plugin would run it, with the exploration of the logged step.

    It remembers what it said of a step, which is asked for by every comparison.
    """
    scorers: dict[tuple[int, ...], Scorer] = {}
    said: dict[int, tuple[Step, list[Weighed]]] = {}

    def target(step: Step, drawn: GradientArm) -> list[Weighed]:
        known = said.get(id(step))
        if known is None:
            known = said[id(step)] = step, weigh(step, drawn)
        return known[1]

    def weigh(step: Step, drawn: GradientArm) -> list[Weighed]:
        scorer = scorers.get(step.offered)
        if scorer is None:
            scorer = Scorer(parameters, dataset.universe.part(step.offered))
            scorers[step.offered] = scorer
        down = tuple(step.offered.index(tool) for tool in step.down)
        free = [ok and i not in down for i, ok in enumerate(step.allowed)]
        make = show_arms if drawn.support[-1].kind is ArmKind.SHOW else force_arms
        arms = make(scorer(step.x, step.history, down), free, drawn.top_k)
        chances = distribution(np.array([arm.score for arm in arms]), _exploration(drawn))
        return [
            Weighed(Act(arm.kind, tuple(step.offered[i] for i in arm.tools)), arm.score, chance)
            for arm, chance in zip(arms, chances.tolist(), strict=True)
        ]

    return target


def alone(scores: Target) -> Target:
    """The agent without a policy; the estimates of its outcome are another target's."""

    def target(step: Step, drawn: GradientArm) -> list[Weighed]:
        return [scores(step, drawn)[0]._replace(probability=1.0)]

    return target


def _exploration(drawn: GradientArm) -> Exploration:
    return Exploration(
        temperature=drawn.temperature,
        floor=drawn.floor,
        defer_floor=drawn.defer_floor,
        top_k=drawn.top_k,
    )
