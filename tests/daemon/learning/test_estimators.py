"""What the runs cannot tell, as the interval of a difference shows it."""

from __future__ import annotations

from collections.abc import Mapping

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
    )


def width(one: Mapping[Act, float], other: Mapping[Act, float]) -> float:
    terms = estimators.difference(estimators.doubly_robust, log(one), log(other))
    return float((terms.high - terms.low).mean())


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
    )

    model = estimators.outcome_model(one)

    assert model.taken.max() > 1.0
    slope = np.polyfit(taken, model.taken, 1)
    assert model.meant == pytest.approx(np.polyval(slope, meant[:, 2]), abs=0.05)
