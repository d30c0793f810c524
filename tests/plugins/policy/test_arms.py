"""Arms and their distribution: sums, floors, protected tools, greedy steps."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgym.policy.arms import (
    LEAST_DEFER,
    MAX_SHOW_ARMS,
    Exploration,
    decide,
    distribution,
    force_arms,
    show_arms,
)
from agentgym.policy.evaluate import Evaluation
from agentgym.trajectory import ArmKind

explorations = st.builds(
    Exploration,
    temperature=st.floats(1e-3, 10.0),
    floor=st.floats(0.0, 0.5),
    defer_floor=st.floats(LEAST_DEFER, 0.5),
    top_k=st.integers(1, 8),
)
scores = st.lists(st.floats(0.0, 1.0), min_size=2, max_size=12).map(np.array)


@st.composite
def steps(draw: st.DrawFn) -> tuple[Evaluation, list[bool]]:
    n = draw(st.integers(1, 30))
    raw = np.array(draw(st.lists(st.floats(0.01, 1.0), min_size=n + 1, max_size=n + 1)))
    allowed = draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(any))
    return Evaluation(raw / raw.sum(), draw(st.floats(0.0, 1.0))), allowed


@given(scores, explorations)
def test_a_distribution_sums_to_one_and_keeps_every_floor(
    values: np.ndarray, exploration: Exploration
) -> None:
    probability = distribution(values, exploration)

    assert math.isclose(probability.sum(), 1.0, abs_tol=1e-12)
    assert probability[0] >= exploration.defer_floor >= 0.02
    assert (probability[1:] >= exploration.floor / (len(values) - 1)).all()


def test_defer_alone_is_certain() -> None:
    assert distribution(np.array([0.3]), Exploration()).tolist() == [1.0]


@given(steps(), explorations, st.integers(), st.sampled_from([force_arms, show_arms]))
def test_a_sampled_step_keeps_defer_and_logs_what_it_drew(
    step: tuple[Evaluation, list[bool]], exploration: Exploration, seed: int, arms: object
) -> None:
    evaluation, allowed = step

    made = decide(arms(evaluation, allowed, exploration.top_k), exploration, random.Random(seed))

    assert made.support[0].kind is ArmKind.DEFER
    assert made.support[0].probability >= 0.02
    assert math.isclose(sum(arm.probability for arm in made.support), 1.0, abs_tol=1e-12)
    assert made.propensity == made.support[made.arm].probability > 0
    assert not made.greedy


@given(steps(), explorations)
def test_force_arms_are_the_best_allowed_tools(
    step: tuple[Evaluation, list[bool]], exploration: Exploration
) -> None:
    evaluation, allowed = step

    arms = force_arms(evaluation, allowed, exploration.top_k)[1:]

    assert len(arms) == min(exploration.top_k, sum(allowed))
    assert all(allowed[arm.tools[0]] for arm in arms)
    assert [arm.score for arm in arms] == sorted((a.score for a in arms), reverse=True)


@given(steps(), st.integers(1, 8))
def test_show_arms_differ_in_their_last_slot_and_hide_no_protected_tool(
    step: tuple[Evaluation, list[bool]], top_k: int
) -> None:
    evaluation, allowed = step
    protected = [i for i, ok in enumerate(allowed) if not ok]

    arms = show_arms(evaluation, allowed, top_k)[1:]

    assert 1 <= len(arms) <= MAX_SHOW_ARMS
    assert len({arm.tools for arm in arms}) == len(arms)
    for arm in arms:
        assert list(arm.tools[len(arm.tools) - len(protected) :]) == protected
        promoted = arm.tools[: len(arm.tools) - len(protected)]
        assert len(promoted) == min(top_k, sum(allowed))
        assert promoted[:-1] == arms[0].tools[: len(promoted) - 1]


def test_protected_tools_are_never_forced_or_promoted_in_ten_thousand_decisions() -> None:
    rng = random.Random(7)
    numbers = np.random.default_rng(7)
    for _ in range(5_000):
        raw = numbers.random(9)
        evaluation = Evaluation(raw / raw.sum(), rng.random())
        allowed = [rng.random() < 0.6 for _ in range(8)]
        allowed[rng.randrange(8)] = True
        forced = decide(force_arms(evaluation, allowed, 5), Exploration(), rng).taken
        shown = decide(show_arms(evaluation, allowed, 3), Exploration(), rng).taken

        assert all(allowed[i] for i in forced.tools)
        kept = allowed.count(False)
        if shown.kind is ArmKind.SHOW:
            assert all(allowed[i] for i in shown.tools[: len(shown.tools) - kept])


@given(steps(), explorations)
def test_greedy_takes_the_best_arm_with_certainty(
    step: tuple[Evaluation, list[bool]], exploration: Exploration
) -> None:
    evaluation, allowed = step

    made = decide(force_arms(evaluation, allowed, exploration.top_k), exploration, None)

    assert made.greedy
    assert made.propensity == 1.0
    assert made.taken.score == max(arm.score for arm in made.support)


def test_draws_follow_the_logged_probabilities() -> None:
    evaluation = Evaluation(np.array([0.3, 0.25, 0.2, 0.25]), 0.3)
    arms = force_arms(evaluation, [True] * 3, 3)
    rng = random.Random(0)

    drawn = [decide(arms, Exploration(), rng) for _ in range(8_000)]

    counts = Counter(d.arm for d in drawn)
    for i, arm in enumerate(drawn[0].support):
        assert abs(counts[i] / 8_000 - arm.probability) < 0.02


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"top_k": 0},
        {"floor": -0.1},
        {"defer_floor": 0.01},
        {"defer_floor": 0.9, "floor": 0.2},
    ],
)
def test_an_impossible_exploration_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Exploration(**wrong)
