from __future__ import annotations

import numpy as np
import pytest

from agentgym_daemon.store.record import Run
from agentgym_daemon.watch.verdict import Act, Situation, judge

OLD, NEW = "p-000001", "p-000002"


class History:
    """Runs in order, of the policy and of its control group."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.runs: list[Run] = []

    def go(
        self, count: int, version: str, rate: float, *, control: float = 0.6, flipped: bool = False
    ) -> History:
        """So many runs of the policy at this rate, and a ninth as many without it.

        Most failures show an error; rewards may be flipped.
        """
        for i in range(count):
            self._add(version, rate, control=False, flipped=flipped)
            if i % 9 == 0:
                self._add(version, control, control=True, flipped=flipped)
        return self

    @property
    def now(self) -> int:
        return len(self.runs)

    def _add(self, version: str, rate: float, *, control: bool, flipped: bool) -> None:
        no, success = len(self.runs) + 1, bool(self.rng.random() < rate)
        error = not success and bool(self.rng.random() < 0.7)
        self.runs.append(Run(no, no, control, success is not flipped, version, error))


def test_a_good_policy_is_left_alone() -> None:
    verdict = judge(History().go(900, OLD, 0.9).go(600, NEW, 0.92).runs, Situation(NEW))

    assert verdict.act is Act.NOTHING
    assert verdict.policy_runs == 1_500
    assert verdict.recent > 0.8
    assert verdict.lift.effect > 0.2


def test_a_bad_version_is_rolled_back_and_named() -> None:
    verdict = judge(History().go(900, OLD, 0.9).go(150, NEW, 0.5).runs, Situation(NEW))

    assert verdict.act is Act.ROLL_BACK
    assert verdict.cause == "fall"
    assert verdict.blamed == (NEW,)
    assert verdict.reason.startswith("success fell from ")
    assert verdict.figures["runs"] < 120
    assert verdict.figures["control_before"][1] > 20


def test_descendants_of_the_bad_version_are_blamed_with_it() -> None:
    history = History().go(900, OLD, 0.9).go(40, NEW, 0.6).go(60, "p-000003", 0.5)

    assert judge(history.runs, Situation("p-000003")).blamed == ("p-000003", NEW)


def test_a_fall_of_the_control_group_too_is_not_the_policys() -> None:
    history = History().go(900, OLD, 0.9).go(300, OLD, 0.4, control=0.1)

    verdict = judge(history.runs, Situation(OLD))

    assert (verdict.act, verdict.cause) == (Act.TELL, "world")
    assert "without the policy as well" in verdict.reason


def test_a_fall_that_goes_on_after_the_rollback_holds_what_is_live() -> None:
    history = History().go(900, OLD, 0.9).go(100, NEW, 0.3)
    acted = history.now
    history.go(60, OLD, 0.3)
    situation = Situation(OLD, quarantined={NEW}, acted_ns=acted)

    verdict = judge(history.runs, situation)

    assert (verdict.act, verdict.cause) == (Act.HOLD, "not the version")
    held = judge(history.runs, Situation(OLD, {NEW}, held=True, acted_ns=acted))
    assert held.act is Act.TELL


def test_what_is_held_is_released_once_the_control_group_is_seen_to_have_fallen_too() -> None:
    history = History().go(900, OLD, 0.9).go(60, NEW, 0.4, control=0.2)
    situation = Situation(OLD, quarantined={NEW}, held=True, acted_ns=history.now)

    verdict = judge(history.go(400, OLD, 0.4, control=0.2).runs, situation)

    assert (verdict.act, verdict.cause) == (Act.RELEASE, "world")


def test_rewards_that_call_failed_tools_a_success_are_not_believed() -> None:
    history = History().go(1_500, OLD, 0.85)
    began = history.now
    history.go(80, OLD, 0.85, flipped=True)

    verdict = judge(history.runs, Situation(OLD))

    assert (verdict.act, verdict.cause) == (Act.HOLD, "rewards")
    assert verdict.reason.startswith("of the runs in which a tool failed visibly, 100% were judged")
    assert began < verdict.figures["since_ns"] <= began + 40
    assert judge(history.runs, Situation(OLD, held=True)).act is Act.TELL


def test_where_nothing_succeeds_any_more_nothing_is_learned() -> None:
    history = History().go(900, OLD, 0.9)
    began = history.now
    history.go(160, OLD, 0.0, control=0.0)

    verdict = judge(history.runs, Situation(OLD))

    assert (verdict.act, verdict.cause) == (Act.HOLD, "rewards")
    assert verdict.figures["since_ns"] <= began + 1
    assert verdict.figures["runs"] >= history.now - began
    assert "without the policy (" in verdict.reason
    held = Situation(OLD, held=True, acted_ns=began + 40)
    assert judge(history.runs, held).act is Act.TELL
    assert judge(history.go(400, OLD, 0.0, control=0.0).runs, held).act is Act.TELL


def test_a_policy_of_which_nothing_succeeds_is_not_excused_by_a_control_group_that_works() -> None:
    history = History().go(900, OLD, 0.9).go(160, NEW, 0.0)

    assert judge(history.runs, Situation(NEW)).act is Act.ROLL_BACK


def test_after_a_rollback_that_helped_all_is_well_and_later_falls_count_again() -> None:
    history = History().go(900, OLD, 0.9).go(100, NEW, 0.3)
    situation = Situation(OLD, quarantined={NEW}, acted_ns=history.now)

    assert judge(history.go(400, OLD, 0.9).runs, situation).act is Act.NOTHING
    assert judge(history.go(150, OLD, 0.4).runs, situation).act is Act.ROLL_BACK


def test_a_new_version_that_is_bad_from_its_first_run_after_a_rollback_goes_too() -> None:
    history = History().go(900, OLD, 0.9).go(100, NEW, 0.3)
    situation = Situation("p-000003", quarantined={NEW}, acted_ns=history.now)

    verdict = judge(history.go(120, "p-000003", 0.4).runs, situation)

    assert verdict.act is Act.ROLL_BACK
    assert "p-000003" in verdict.blamed


def test_a_pinned_version_stays_and_people_are_told() -> None:
    history = History().go(900, OLD, 0.9).go(150, NEW, 0.5)

    verdict = judge(history.runs, Situation(NEW, pinned=True))

    assert verdict.act is Act.TELL
    assert verdict.reason.endswith(f"{NEW} is pinned, so it stays")


def test_a_policy_that_was_never_good_is_rolled_back_by_its_control_group() -> None:
    history = History().go(2_500, OLD, 0.45, control=0.75)

    verdict = judge(history.runs, Situation(OLD))

    assert (verdict.act, verdict.cause) == (Act.ROLL_BACK, "below control")
    assert verdict.figures["high"] < 0.0
    assert "without it" in verdict.reason


def test_what_somebody_let_through_again_is_the_new_normal() -> None:
    history = History().go(900, OLD, 0.9)
    unpinned = history.now
    history.go(500, OLD, 0.7)

    assert judge(history.runs, Situation(OLD)).act is Act.ROLL_BACK
    assert judge(history.runs, Situation(OLD, forgotten_ns=unpinned)).act is Act.NOTHING


@pytest.mark.parametrize("runs", [0, 5])
def test_next_to_nothing_decides_nothing(runs: int) -> None:
    verdict = judge(History().go(runs, OLD, 0.5).runs, Situation(OLD))

    assert verdict.act is Act.NOTHING
