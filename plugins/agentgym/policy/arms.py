"""Arms of a step, their distribution, and the draw.

    pi(arm) = (1 - floor - defer_floor) softmax(score / temperature)
              + floor / m on each of the m tool arms + defer_floor on defer

Scores are estimated success probabilities, so the temperature is in units of reliability.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, islice

import numpy as np

from agentgym.policy.evaluate import Evaluation, Vector
from agentgym.trajectory import Arm, ArmKind, Decision

LEAST_DEFER = 0.02
"""The defer arm of a sampled step never has less (a law of the design)."""
MAX_SHOW_ARMS = 8


@dataclass(frozen=True, slots=True)
class Exploration:
    """How a distribution is made from scores."""

    temperature: float = 0.1
    floor: float = 0.02
    defer_floor: float = LEAST_DEFER
    top_k: int = 5

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and self.top_k >= 1 and self.floor >= 0):
            raise ValueError(f"expected temperature > 0, top_k >= 1, floor >= 0; got {self}")
        if not LEAST_DEFER <= self.defer_floor <= 1 - self.floor:
            raise ValueError(f"expected defer_floor in [{LEAST_DEFER}, 1 - floor]; got {self}")


def distribution(scores: Vector, exploration: Exploration) -> Vector:
    """Probabilities of the arms; entry 0 of `scores` is defer. Sums to 1."""
    return np.array(_probabilities(scores.tolist(), exploration))


def _probabilities(scores: list[float], exploration: Exploration) -> list[float]:
    # Arms are few: plain numbers take a third of the time that calls into numpy would.
    if len(scores) == 1:
        return [1.0]
    top = max(scores)
    e = [math.exp((score - top) / exploration.temperature) for score in scores]
    scale = (1.0 - exploration.floor - exploration.defer_floor) / sum(e)
    floor = exploration.floor / (len(scores) - 1)
    return [scale * e[0] + exploration.defer_floor, *(scale * each + floor for each in e[1:])]


def force_arms(evaluation: Evaluation, allowed: Sequence[bool], top_k: int) -> list[Arm]:
    """Defer, then force for each of the `top_k` best allowed tools; probabilities still 0."""
    right = evaluation.right[:-1].tolist()
    order = (-evaluation.right[:-1]).argsort(kind="stable").tolist()
    best = islice((i for i in order if allowed[i]), top_k)
    return [_defer(evaluation), *[Arm(ArmKind.FORCE, (i,), right[i], 0.0) for i in best]]


def show_arms(evaluation: Evaluation, allowed: Sequence[bool], top_k: int) -> list[Arm]:
    """Defer, then sets to show: the greedy top k, and that set with its last slot swapped.

    Tools that are not allowed are neither promoted nor hidden: they end every set.
    """
    right = evaluation.right[:-1]
    order = [i for i in np.argsort(-right, kind="stable").tolist() if allowed[i]]
    kept = [i for i in range(len(right)) if not allowed[i]]
    if len(order) <= top_k:
        sets = [tuple(order)] if order else []
    else:
        head, tail = order[: top_k - 1], order[top_k - 1 :]
        sets = [(*head, last) for last in tail[:MAX_SHOW_ARMS]]
    respond = float(evaluation.right[-1])
    return [
        _defer(evaluation),
        *(
            Arm(ArmKind.SHOW, (*shown, *kept), float(right[[*shown, *kept]].sum()) + respond, 0.0)
            for shown in sets
        ),
    ]


def _defer(evaluation: Evaluation) -> Arm:
    return Arm(ArmKind.DEFER, (), evaluation.alone, 0.0)


def decide(
    arms: Sequence[Arm],
    exploration: Exploration,
    rng: random.Random | None,
    *,
    down: tuple[int, ...] = (),
) -> Decision:
    """Draws an arm; without `rng` takes the best one, and then nothing was randomised."""
    scores = [arm.score for arm in arms]
    if rng is None:
        taken = scores.index(max(scores))
        probabilities = [0.0] * len(arms)
        probabilities[taken] = 1.0
    else:
        probabilities = _probabilities(scores, exploration)
        taken = _draw(probabilities, rng.random())
    support = tuple(
        [
            Arm(kind, tools, score, probability)
            for (kind, tools, score, _), probability in zip(arms, probabilities, strict=True)
        ]
    )
    return Decision(
        support=support,
        arm=taken,
        temperature=exploration.temperature,
        floor=exploration.floor,
        defer_floor=exploration.defer_floor,
        top_k=exploration.top_k,
        greedy=rng is None,
        down=down,
    )


def _draw(probabilities: Sequence[float], uniform: float) -> int:
    index = bisect_right(list(accumulate(probabilities)), uniform)
    return min(index, len(probabilities) - 1)
