"""Off-policy estimators: what an interval of a difference leaves open, and how runs are joined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from agentgym.trajectory import ArmKind
from agentgym_daemon.learning.dataset import Act
from agentgym_daemon.learning.evaluation import estimators
from agentgym_daemon.learning.evaluation.logged import FEATURES, Log

RUNS = 400
ONE, OTHER = Act(ArmKind.FORCE, (7,)), Act(ArmKind.FORCE, (8,))


def log(astray: Mapping[Act, float]) -> Log:
    """Runs of one step, drawn half and half from two arms; the target leaves for `astray`."""
    rng = np.random.default_rng(0)
    outside = sum(astray.values())
    features = np.zeros((RUNS, FEATURES))
    features[:, 0] = 1.0
    return Log(
        start=np.arange(RUNS + 1),
        propensity=np.full(RUNS, 0.5),
        target=np.full(RUNS, 0.5 * (1.0 - outside)),
        outside=np.full(RUNS, outside),
        matched=np.zeros(RUNS, np.bool_),
        taken=features,
        meant=(1.0 - outside) * features,
        beyond=outside * features,
        astray=[astray] * RUNS,
        reward=(rng.random(RUNS) < 0.7).astype(np.float64),
        logger=np.zeros(RUNS, np.int64),
    )


def width(one: Mapping[Act, float], other: Mapping[Act, float]) -> float:
    terms = estimators.difference(estimators.doubly_robust, log(one), log(other))
    return float((terms.high - terms.low).mean())


def test_a_part_of_a_log_is_the_log_of_that_part() -> None:
    whole = replace(log({ONE: 0.1}), start=np.arange(0, RUNS + 1, 2), reward=np.arange(RUNS // 2))
    whole = replace(whole, logger=np.arange(RUNS // 2), propensity=np.arange(RUNS) / RUNS)

    part = whole.part([3, 7])

    assert part.start.tolist() == [0, 2, 4]
    assert part.propensity * RUNS == pytest.approx([6, 7, 14, 15])
    assert part.reward.tolist() == part.logger.tolist() == [3, 7]
    assert len(part.astray) == 4


def test_what_both_would_do_alike_leaves_nothing_open() -> None:
    assert width({ONE: 0.2}, {ONE: 0.2}) == pytest.approx(0.0)


def test_only_what_one_would_do_more_often_is_open() -> None:
    assert width({ONE: 0.2}, {ONE: 0.05}) == pytest.approx(0.15)
    assert width({ONE: 0.05}, {ONE: 0.2}) == pytest.approx(0.15)


def test_what_is_done_by_one_alone_may_fail_or_succeed() -> None:
    terms = estimators.difference(estimators.doubly_robust, log({ONE: 0.1}), log({OTHER: 0.1}))

    assert float((terms.high - terms.low).mean()) == pytest.approx(0.2)
    assert float(terms.low.mean()) == pytest.approx(-0.1, abs=0.02)
    assert float(terms.value.mean()) == pytest.approx(0.0, abs=0.02)


def test_runs_of_a_version_that_is_far_away_count_less() -> None:
    """One run in two was decided by a version that nearly never draws what the target prefers."""
    rng = np.random.default_rng(2)
    far = np.arange(RUNS) % 2 == 1
    chance = np.where(far, 0.05, 0.5)
    drawn = rng.random(RUNS) < chance  # the better arm: it succeeds always, the other never
    base = replace(log({}), reward=drawn.astype(np.float64), logger=far.astype(np.int64))
    propensity = np.where(drawn, chance, 1.0 - chance)
    one = replace(base, propensity=propensity, target=np.where(drawn, 0.9, 0.1))
    other = replace(base, propensity=propensity, target=np.where(drawn, 0.5, 0.5))

    found = estimators.estimate(estimators.difference(estimators.ips, one, other))
    alike = estimators.difference(
        estimators.ips, *(replace(side, logger=base.logger * 0) for side in (one, other))
    )

    assert found.low <= 0.4 <= found.high
    assert found.error < 0.7 * estimators.estimate(alike).error


def test_the_model_predicts_an_arm_and_a_mean_of_arms_by_one_function() -> None:
    """Or the doubly robust estimate would be biased: its correction would not cancel the model."""
    rng = np.random.default_rng(1)
    score = rng.random((RUNS, 2))  # of two arms; rewards rise so steeply that fits leave [0, 1]
    arm = rng.integers(0, 2, RUNS)
    taken = score[np.arange(RUNS), arm]
    features = np.zeros((RUNS, FEATURES))
    features[:, 0], features[:, 1], features[:, 2] = 1.0, 1.0, taken
    meant = features.copy()
    meant[:, 2] = score.mean(axis=1)
    one = Log(
        start=np.arange(RUNS + 1),
        propensity=np.full(RUNS, 0.5),
        target=np.full(RUNS, 0.5),
        outside=np.zeros(RUNS),
        matched=np.zeros(RUNS, np.bool_),
        taken=features,
        meant=meant,
        beyond=np.zeros((RUNS, FEATURES)),
        astray=[{}] * RUNS,
        reward=(taken > 0.5).astype(np.float64),
        logger=np.zeros(RUNS, np.int64),
    )

    model = estimators.outcome_model(one)

    assert model.taken.max() > 1.0
    slope = np.polyfit(taken, model.taken, 1)
    assert model.meant == pytest.approx(np.polyval(slope, meant[:, 2]), abs=0.05)
