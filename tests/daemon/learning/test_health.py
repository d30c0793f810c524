"""The sequential test: what speaks for a broken tool, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from agentgym.policy.features import TextVector
from agentgym_daemon.learning.dataset import Step, Trajectory
from agentgym_daemon.learning.health import (
    CONFIRMED_BY,
    MOST_PROOFS,
    RELAPSE,
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


def broken_after(health: Health) -> int:
    """How many runs with a failure in a row put tool `t` down, the first at time 1."""
    now = 1
    while not health.observe([Call("t", 0.95, right=False)], now):
        now += 1
    return now


def test_a_handful_of_failures_puts_a_good_tool_down() -> None:
    good, poor = experienced(100), experienced(100)
    poor.wrong = 20.0

    numbers = [broken_after(Health({"t": record})) for record in (good, poor)]

    assert 2 <= numbers[0] < numbers[1] <= 6


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
    ("successes", "confidence", "expected"),
    [(1000, 0.9, 0.9), (8, 1.0, 0.9), (1000, 0.5, 0.5), (0, 0.9, 0.5)],
    ids=["as sure as the policy", "as good as its record", "a likely tool", "a new tool"],
)
def test_a_failure_weighs_what_was_expected_of_the_call(
    successes: int, confidence: float, expected: float
) -> None:
    record = experienced(successes)

    for number in (1, 2, 3):  # the record stays what it was before the first
        record.observe(confidence, right=False)
        assert record.evidence == pytest.approx(number * math.log(0.95 / (1 - expected)))


def test_no_policy_is_believed_to_be_certain() -> None:
    records = [experienced(100_000) for _ in range(3)]

    for record, confidence in zip(records, (0.999, 1.0, 0.9), strict=True):
        record.observe(confidence, right=False)

    sure, certain, likely = (record.evidence for record in records)
    assert likely < sure == certain < THRESHOLD  # one failure is never enough


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
    failed = Call("t", 0.95, right=False)

    first = broken_after(health)
    assert health.since == {"t": first}
    assert not health.observe([failed], 90)
    assert health.since == {"t": first}
    assert health.observe([Call("t", 0.0, right=True)], 91)  # whoever made the call
    assert health.since == {}
    assert broken_after(health) >= 2  # what was held against it is gone


def test_only_further_failures_confirm_that_a_tool_is_down() -> None:
    health = Health({"t": experienced(100)})
    failed, right = Call("t", 0.95, right=False), Call("t", 0.95, right=True)
    for _ in range(2):  # each time anew
        first = broken_after(health)
        for now in range(CONFIRMED_BY):
            assert health.confirmed == {}
            assert not health.observe([failed, Call("other", 0.9, right=False)], 50 + now)
        assert health.confirmed == {"t": first}  # from when it went down
        health.observe([right, right], 99)
        assert health.confirmed == {}


def test_a_call_that_nobody_judged_takes_back_what_errors_said_and_no_more() -> None:
    shown, judged = experienced(100), experienced(100)
    for _ in range(2):
        shown.observe(0.9, right=False, visible=True)
        judged.observe(0.9, right=False)
    evidence = judged.evidence
    assert shown.evidence == evidence > 4.0

    for _ in range(2):
        shown.observe(0.9, right=None)
        judged.observe(0.9, right=None)

    assert (shown.evidence, judged.evidence) == (0.0, evidence)
    assert shown.right == judged.right  # nobody said that it went right


@pytest.mark.parametrize(("visible", "back"), [(True, True), (False, False)])
def test_no_error_brings_a_tool_back_that_errors_put_down(visible: bool, back: bool) -> None:
    health = Health({"t": experienced(100)})
    while not health.observe([Call("t", 0.95, right=False, visible=visible)], 1):
        pass

    assert health.observe([Call("t", 0.0, right=None)], 2) is back


def test_now_and_then_an_error_in_runs_that_nobody_judges_puts_nothing_down() -> None:
    health = Health()
    for now in range(2_000):
        failed = now % 20 == 0
        health.observe([Call("t", 0.9, right=False if failed else None, visible=failed)], now)
        assert not health.since


def test_a_tool_that_relapses_must_go_right_more_often_in_a_row() -> None:
    health = Health({"t": experienced(100)})
    failed, right = Call("t", 0.95, right=False, visible=True), Call("t", 0.95, right=True)
    for needed in (1, 2, MOST_PROOFS, MOST_PROOFS):
        while not health.observe([failed], 1):
            pass
        for _ in range(needed - 1):
            assert not health.observe([right], 2)
        health.observe([failed], 2)  # the row begins anew
        for _ in range(needed - 1):
            assert not health.observe([right], 2)
        assert health.observe([right], 2)
        assert not health.observe([failed], 3)  # once is not enough, not even now

    for _ in range(RELAPSE):
        health.observe([right], 4)
    broken_after(health)
    assert health.observe([right], 5)  # that was long enough ago


def test_a_tool_that_fails_and_works_in_one_run_changes_nothing() -> None:
    health = Health({"t": experienced(100)})
    failures = broken_after(Health({"t": experienced(100)}))
    mixed = [Call("t", 0.95, right=False)] * failures + [Call("t", 0.95, right=True)]

    assert not health.observe(mixed, 1)
    assert not health.since


@pytest.mark.parametrize(
    ("made", "reward", "more", "expected"),
    [
        ([("a", False)], 1.0, False, [("a", True)]),
        ([("a", False)], 0.0, False, [("a", False)]),
        ([("a", False)], 0.0, True, [("a", None)]),
        ([("a", False), ("b", False)], 0.0, False, [("a", None), ("b", None)]),
        ([("a", False), ("b", False)], 0.5, False, [("a", True), ("b", True)]),
        ([("a", True), ("b", False)], 1.0, False, [("a", False), ("b", True)]),
        ([("a", True), ("b", False)], 0.0, False, [("a", False), ("b", None)]),
        ([("a", True)], None, False, [("a", False)]),
        ([("a", False)], None, False, [("a", None)]),
        ([], 0.0, False, []),
    ],
)
def test_what_a_run_says_of_its_calls(
    made: list[tuple[str, bool]],
    reward: float | None,
    more: bool,
    expected: list[tuple[str, bool | None]],
) -> None:
    found = outcomes([(tool, 0.7, failed) for tool, failed in made], reward, more=more)

    shown = dict(made)
    assert list(found) == [Call(tool, 0.7, right, shown[tool]) for tool, right in expected]


def test_calls_of_a_trajectory_carry_the_policys_estimate() -> None:
    alone = Step(**{**_fields(step((1,), (1,))), "scores": {}})

    found = list(calls(run(step((0,)), alone)))

    assert found == [Call(0, 0.9, right=True), Call(1, 0.0, right=False, visible=True)]
    assert list(calls(run(step(), reward=0.0, unscored=1))) == [Call(0, 0.9, right=None)]


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
    history += [run(step(failed=(0,), confidence=1.0), reward=None, at=50 + at) for at in range(8)]

    assert list(replay(history).since) == [0]
    assert 50 < replay(history).since[0] < 57
    assert replay(reversed(history)).since == {}


@pytest.mark.parametrize(("silent", "left_out"), [(2, 2), (3, 0)])
def test_many_tools_do_not_break_at_once_without_an_error(silent: int, left_out: int) -> None:
    """Of eight tools two may be down for rewards alone; errors count whatever the others do."""
    health = Health()
    for number in range(8):
        health.records[number] = experienced(20)
    for number in range(silent):
        for _ in range(10):
            health.observe([Call(number, 0.95, right=False)], 1)
    for _ in range(10):
        health.observe([Call(7, 0.95, right=False, visible=True)], 1)

    assert set(health.since) == {*range(silent), 7}
    assert set(health.down(8)) == {*range(left_out), 7}
