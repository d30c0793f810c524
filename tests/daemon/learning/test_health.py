"""The sequential test: what speaks for a broken tool, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from agentgym.policy.features import TextVector
from agentgym_daemon.learning.dataset import Step, Trajectory
from agentgym_daemon.learning.health import (
    THRESHOLD,
    Call,
    Health,
    Record,
    calls,
    outcomes,
    replay,
    stale,
)

NO_TEXT = TextVector(np.zeros(0, np.uint32), np.zeros(0, np.uint8), 0.0)


def step(
    called: Sequence[int] = (0,),
    failed: Sequence[int] = (),
    *,
    confidence: float = 0.9,
    down: Sequence[int] = (),
) -> Step:
    """A step over three tools."""
    return Step(
        x=NO_TEXT,
        offered=(0, 1, 2),
        allowed=(True,) * 3,
        history=(),
        called=tuple(called),
        failed=tuple(failed),
        responded=False,
        alone=False,
        gradient=None,
        down=tuple(down),
        scores=dict.fromkeys(called, confidence),
    )


def run(*steps: Step, reward: float | None = 1.0, unscored: int = 0, at: int = 0) -> Trajectory:
    """A trajectory of these steps."""
    return Trajectory(b"", reward, steps, unscored, at)


def experienced(right: int) -> Record:
    """The record of a tool that went right so often."""
    record = Record()
    for _ in range(right):
        record.observe(1.0, right=True)
    return record


def test_a_failure_of_a_tool_without_a_record_weighs_little() -> None:
    record = Record()

    record.observe(0.9, right=False)

    assert record.evidence == pytest.approx(math.log(0.95 / 0.5))  # p is at most 1/2 here
    assert (record.right, record.wrong, record.suspect) == (0.0, 0.0, 0.9)


def test_a_success_takes_evidence_away_and_then_the_failures_count_against_the_tool() -> None:
    record = Record()
    record.observe(0.9, right=False)

    record.observe(0.9, right=True)

    assert record.evidence == 0.0  # log(.95 / .5) + log(.05 / .5) < 0
    assert (record.right, record.wrong, record.suspect) == (0.9, 0.9, 0.0)


def test_sums_are_kept_above_zero_only() -> None:
    record = experienced(98)
    for _ in range(2):
        record.observe(0.6, right=False)
    assert record.evidence == pytest.approx(2 * math.log(0.95 / 0.4))

    record.observe(0.15, right=True)  # not all of it: log(.05 / .15) = -1.1

    assert record.evidence == pytest.approx(2 * math.log(0.95 / 0.4) + math.log(0.05 / 0.15))
    assert record.suspect == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("successes", "confidence", "failures"),
    [
        (1000, 1.0, 2),  # at most .97 is believed: log(.95 / .03) = 3.46
        (1000, 0.9, 3),  # log(.95 / .1) = 2.25
        (8, 1.0, 3),  # the record says 9/10
        (1000, 0.5, 9),  # log(.95 / .5) = .64
    ],
)
def test_how_many_failures_in_a_row_put_a_tool_down(
    successes: int, confidence: float, failures: int
) -> None:
    record = experienced(successes)

    for number in range(1, failures + 1):
        record.observe(confidence, right=False)
        assert (record.evidence >= THRESHOLD) == (number == failures)


def test_failures_that_the_policy_did_not_stand_behind_say_nothing() -> None:
    record = experienced(100)

    for _ in range(500):
        record.observe(0.05, right=False)

    assert record.evidence == 0.0


def test_a_tool_that_never_worked_does_not_go_down() -> None:
    health = Health()
    for now in range(6):
        health.observe([Call("t", 1.0, right=False)], now)
        assert not health.since


def test_a_tool_goes_down_at_the_run_that_showed_it_and_a_success_brings_it_back() -> None:
    health = Health({"t": experienced(100)})
    failed, right = Call("t", 0.95, right=False), Call("t", 0.95, right=True)

    assert [health.observe([failed], now) for now in (1, 2, 3)] == [False, True, False]
    assert health.since == {"t": 2}
    assert health.observe([Call("t", 0.0, right=True)], 4)  # whoever made the call
    assert health.since == {}
    assert [health.observe([c], 5) for c in (right, failed, failed)] == [False, False, True]


def test_a_tool_that_fails_and_works_in_one_run_changes_nothing() -> None:
    health = Health({"t": experienced(100)})
    mixed = [Call("t", 0.95, right=ok) for ok in (False, False, True)]

    assert not health.observe(mixed, 1)
    assert not health.since


@pytest.mark.parametrize(
    ("made", "reward", "more", "expected"),
    [
        ([("a", False)], 1.0, False, [("a", True)]),
        ([("a", False)], 0.0, False, [("a", False)]),
        ([("a", False)], 0.0, True, []),
        ([("a", False), ("b", False)], 0.0, False, []),
        ([("a", False), ("b", False)], 0.5, False, [("a", True), ("b", True)]),
        ([("a", True), ("b", False)], 1.0, False, [("a", False), ("b", True)]),
        ([("a", True), ("b", False)], 0.0, False, [("a", False)]),
        ([("a", True)], None, False, [("a", False)]),
        ([("a", False)], None, False, []),
        ([], 0.0, False, []),
    ],
)
def test_what_a_run_says_of_its_calls(
    made: list[tuple[str, bool]],
    reward: float | None,
    more: bool,
    expected: list[tuple[str, bool]],
) -> None:
    found = outcomes([(tool, 0.7, failed) for tool, failed in made], reward, more=more)

    assert list(found) == [Call(tool, 0.7, right) for tool, right in expected]


def test_calls_of_a_trajectory_carry_the_policys_estimate() -> None:
    alone = Step(**{**_fields(step((1,), (1,))), "scores": {}})

    found = list(calls(run(step((0,)), alone)))

    assert found == [Call(0, 0.9, right=True), Call(1, 0.0, right=False)]
    assert list(calls(run(step(), reward=0.0, unscored=1))) == []


def _fields(made: Step) -> dict[str, object]:
    return {name: getattr(made, name) for name in Step.__slots__}


@pytest.mark.parametrize(
    ("trajectory", "expected"),
    [
        (run(step((0,)), at=9), True),  # when it still worked
        (run(step((0,)), at=10), False),  # the one that showed it
        (run(step((1,)), at=9), False),
        (run(step((1,)), step((0,)), at=9), True),
        (run(step((1,), down=(1,)), at=99), True),  # the agent took it all the same
        (run(step((1,), down=(2,)), at=99), False),
        (run(at=9), False),
    ],
)
def test_what_is_no_longer_true_of_a_tool_is_stale(trajectory: Trajectory, expected: bool) -> None:
    assert stale(trajectory, {0: 10}) is expected


def test_a_history_is_replayed_oldest_first() -> None:
    history = [run(step(confidence=1.0), at=at) for at in range(50)]
    history += [run(step(failed=(0,), confidence=1.0), reward=None, at=50 + at) for at in range(3)]

    assert replay(history).since == {0: 51}
    assert replay(reversed(history)).since == {}
