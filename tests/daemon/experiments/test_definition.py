"""What may be compared, and what is refused with words that help."""

from __future__ import annotations

from typing import Any

import pytest

from agentgym.proto.v1.experiment_pb2 import Experiment, ExperimentArm, ExperimentGuard
from agentgym_daemon.errors import InvalidRequestError
from agentgym_daemon.experiments.definition import completed

A = ExperimentArm(name="a", kind=ExperimentArm.KIND_LIVE)
B = ExperimentArm(name="b", kind=ExperimentArm.KIND_LABEL)
NONE = ExperimentArm(name="none", kind=ExperimentArm.KIND_NONE)


def wanted(**changes: Any) -> Experiment:
    fields: dict[str, Any] = {"name": "t", "agent": "desk", "arms": [A, B], "metric": "success"}
    return Experiment(**{**fields, **changes})


def arm(name: str, share: float) -> ExperimentArm:
    return ExperimentArm(name=name, kind=ExperimentArm.KIND_LIVE, share=share)


def test_what_is_not_said_is_filled_in() -> None:
    found = completed(wanted(), {})

    assert [a.share for a in found.arms] == [0.5, 0.5]
    assert (found.effect, found.alpha, found.scale, found.max_runs) == (0.05, 0.05, 1.0, 0)


def test_arms_without_a_share_get_equal_parts_of_what_is_left() -> None:
    found = completed(wanted(arms=[arm("a", 0.5), arm("b", 0), arm("c", 0)]), {})
    part = completed(wanted(arms=[arm("a", 0.1), arm("b", 0.2)]), {})

    assert [a.share for a in found.arms] == [0.5, 0.25, 0.25]
    assert [a.share for a in part.arms] == [0.1, 0.2]


def test_the_size_of_an_amount_is_that_of_the_runs_before() -> None:
    guard = ExperimentGuard(metric="seconds", bound=0.1, relative=True)
    known = {"tokens": (500, 800.0), "seconds": (3, 2.0)}

    found = completed(wanted(metric="tokens", guards=[guard]), known)

    assert found.scale == 800.0
    assert found.guards[0].scale == 0.0  # three runs say too little


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "no spaces"}, "name: expected a letter or digit"),
        ({"agent": ""}, "agent: expected the name"),
        ({"metric": "joy"}, "metric: expected one of success, .* got 'joy'"),
        ({"effect": 1.5}, "effect: expected a number between 0 and 1, got 1.5"),
        ({"arms": [A]}, "arms: expected 2 to 8"),
        ({"arms": [A, A]}, "different names"),
        ({"arms": [NONE, ExperimentArm(name="n2", kind="KIND_NONE")]}, "at most one without"),
        ({"arms": [A, ExperimentArm(name="b")]}, "expected a kind"),
        ({"arms": [A, ExperimentArm(name="b", kind="KIND_VERSION")]}, "a version belongs"),
        ({"arms": [A, ExperimentArm(name="b", kind="KIND_MODE")]}, "a mode belongs"),
        ({"arms": [arm("a", 0.7), arm("b", 0.4)]}, "at most 1 in all"),
        ({"arms": [arm("a", 0.999999999999), arm("b", 0)]}, "something left for every arm"),
        ({"arms": [arm("a", 1.0), arm("b", 0)]}, "share of a: expected a number between"),
        ({"guards": [ExperimentGuard(metric="joy", bound=1)]}, "guard: expected one of"),
        ({"guards": [ExperimentGuard(metric="tokens", bound=-0.1)]}, "a bound above 0"),
        ({"guards": [ExperimentGuard(metric="success", bound=0.1)]}, "a bound below 0"),
        (
            {"guards": [ExperimentGuard(metric="success", bound=-0.1, relative=True)]},
            "points / 100",
        ),
        ({"guards": [ExperimentGuard(metric="tokens", bound=0.1)] * 2}, "each metric once"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        completed(wanted(**changes), {})
