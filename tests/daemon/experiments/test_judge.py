"""Figures and verdicts of an experiment, from sums over runs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from agentgym.proto.v1.experiment_pb2 import Experiment, ExperimentArm, ExperimentGuard, Verdict
from agentgym_daemon.experiments.judge import judge, next_step
from agentgym_daemon.experiments.receipts import kept, receipt
from agentgym_daemon.store.arms import ExperimentSums, Units

LIVE, NONE, LABEL = (
    ExperimentArm.KIND_LIVE,
    ExperimentArm.KIND_NONE,
    ExperimentArm.KIND_LABEL,
)


def experiment(*arms: tuple[str, Any, float], **changes: Any) -> Experiment:
    fields: dict[str, Any] = {"metric": "success", "effect": 0.05, "scale": 1.0, "alpha": 0.05}
    made = [ExperimentArm(name=n, kind=kind, share=share) for n, kind, share in arms]
    return Experiment(name="t", agent="desk", arms=made, **{**fields, **changes})


AB = (("a", LIVE, 0.5), ("b", LABEL, 0.5))


def shares(arm: str, n: int, rate: float, *, share: float = 0.45) -> list[ExperimentSums]:
    """Sums of runs of which a share succeeded, one tool call each."""
    good = round(n * rate)
    return [
        ExperimentSums(arm, share, "success", n, good, good),
        ExperimentSums(arm, share, "tool_calls", n, n, n),
    ]


def amounts(
    arm: str, n: int, mean: float, spread: float, metric: str = "tokens"
) -> list[ExperimentSums]:
    """Sums of runs of an amount of this mean and standard deviation."""
    return [ExperimentSums(arm, 0.45, metric, n, n * mean, n * (mean**2 + spread**2))]


@pytest.mark.parametrize(
    ("n", "rate", "verdict", "winner"),
    [
        (40, 0.7, Verdict.VERDICT_RUNNING, ""),
        (4000, 0.75, Verdict.VERDICT_WON, "b"),
        (4000, 0.55, Verdict.VERDICT_LOST, "a"),
        (20_000, 0.65, Verdict.VERDICT_NO_DIFFERENCE, ""),
    ],
)
def test_two_arms_end_in_one_of_these_ways(n: int, rate: float, verdict: int, winner: str) -> None:
    found = judge(experiment(*AB), [*shares("a", n, 0.65), *shares("b", n, rate)])

    assert (found.verdict, found.winner, found.runs) == (verdict, winner, 2 * n)
    [one] = found.comparisons
    assert one.low < rate - 0.65 < one.high
    assert one.effect == pytest.approx(rate - 0.65)
    assert (one.p_value < 0.05) == (verdict in (Verdict.VERDICT_WON, Verdict.VERDICT_LOST))


def test_less_is_better_of_amounts() -> None:
    wanted = experiment(*AB, metric="tokens", scale=100.0)
    cheap = judge(wanted, [*amounts("a", 5000, 100, 30), *amounts("b", 5000, 90, 30)])
    dear = judge(wanted, [*amounts("a", 5000, 100, 30), *amounts("b", 5000, 110, 30)])

    assert (cheap.verdict, cheap.winner) == (Verdict.VERDICT_WON, "b")
    assert (dear.verdict, dear.winner) == (Verdict.VERDICT_LOST, "a")


@pytest.mark.parametrize(
    ("guard", "runs", "broken"),
    [
        (ExperimentGuard(metric="tokens", bound=0.1, relative=True, scale=100.0), 130, True),
        (ExperimentGuard(metric="tokens", bound=0.1, relative=True, scale=100.0), 105, False),
        (ExperimentGuard(metric="tokens", bound=20.0), 130, True),
        (ExperimentGuard(metric="tokens", bound=50.0), 130, False),
    ],
)
def test_a_guard_breaks_once_the_arm_is_proven_beyond_its_bound(
    guard: ExperimentGuard, runs: float, broken: bool
) -> None:
    wanted = experiment(*AB, guards=[guard])
    sums = [
        *(*shares("a", 3000, 0.65), *shares("b", 3000, 0.66)),
        *(*amounts("a", 3000, 100, 30), *amounts("b", 3000, runs, 30)),
    ]

    found = judge(wanted, sums)

    [of_guard] = found.comparisons[0].guards
    assert of_guard.broken is broken
    assert (found.verdict == Verdict.VERDICT_GUARDRAIL) is broken
    assert of_guard.effect == pytest.approx((runs - 100) / (100 if guard.relative else 1))
    if broken:
        assert found.winner == ""
        assert "b is proven worse than the bound of tokens" in found.why


def test_a_guard_of_success_is_in_points() -> None:
    guard = ExperimentGuard(metric="success", bound=-0.02, scale=1.0)
    wanted = experiment(*AB, metric="tokens", scale=100.0, guards=[guard])
    sums = [*amounts("a", 5000, 100, 30), *amounts("b", 5000, 90, 30)]

    bad = judge(wanted, [*sums, *shares("a", 5000, 0.65), *shares("b", 5000, 0.55)])
    good = judge(wanted, [*sums, *shares("a", 5000, 0.65), *shares("b", 5000, 0.64)])

    assert bad.verdict == Verdict.VERDICT_GUARDRAIL  # however many tokens it saves
    assert (good.verdict, good.winner) == (Verdict.VERDICT_WON, "b")


def test_several_arms_share_alpha_and_the_best_wins() -> None:
    arms = (("a", LIVE, 0.25), ("b", LABEL, 0.25), ("c", LABEL, 0.25), ("d", LABEL, 0.25))
    sums = [*shares("a", 3000, 0.6), *shares("b", 3000, 0.7), *shares("c", 3000, 0.75)]

    found = judge(experiment(*arms), [*sums, *shares("d", 3000, 0.5)])
    pair = judge(experiment(*arms[:2]), sums)

    assert (found.verdict, found.winner) == (Verdict.VERDICT_WON, "c")
    many, few = found.comparisons[0], pair.comparisons[0]
    assert many.high - many.low > few.high - few.low
    assert found.comparisons[2].verdict == Verdict.VERDICT_LOST
    assert many.p_value == pytest.approx(3 * few.p_value, rel=0.5)


def test_one_lost_arm_of_two_leaves_the_other_running() -> None:
    arms = (("a", LIVE, 0.3), ("b", LABEL, 0.3), ("c", LABEL, 0.3))
    sums = [*shares("a", 3000, 0.6), *shares("b", 3000, 0.5)]

    found = judge(experiment(*arms), [*sums, *shares("c", 300, 0.62)])

    assert found.verdict == Verdict.VERDICT_RUNNING
    assert [one.verdict for one in found.comparisons] == [
        Verdict.VERDICT_LOST,
        Verdict.VERDICT_RUNNING,
    ]


def test_it_ends_at_its_most_runs_even_if_nothing_can_be_said() -> None:
    sums = [*shares("a", 500, 1.0), *shares("b", 500, 1.0)]

    assert judge(experiment(*AB, max_runs=1000), sums).verdict == Verdict.VERDICT_OUT_OF_RUNS
    assert judge(experiment(*AB, max_runs=1001), sums).verdict == Verdict.VERDICT_RUNNING


def test_a_changed_control_share_does_not_pass_for_an_effect() -> None:
    """The arm of none grows with the control group: each stretch is compared within itself."""
    wanted = experiment(("off", NONE, 0.2), ("on", LIVE, 0.8))
    poor = [*shares("off", 1000, 0.3, share=0.2), *shares("on", 4000, 0.3, share=0.8)]
    rich = [*shares("off", 4500, 0.8, share=0.9), *shares("on", 500, 0.8, share=0.1)]

    found = judge(wanted, [*poor, *rich])

    means = [arm.mean for arm in found.arms]
    assert means[0] - means[1] > 0.3
    assert abs(found.comparisons[0].effect) < 1e-9


def test_the_sample_size_is_known_at_once_for_shares_and_shrinks_with_even_arms() -> None:
    even = judge(experiment(*AB), [])
    uneven = judge(experiment(("a", LIVE, 0.9), ("b", LABEL, 0.1)), [])
    tokens = judge(experiment(*AB, metric="tokens"), [])

    assert 4000 < even.runs_needed < uneven.runs_needed
    assert tokens.runs_needed == 0  # nothing is known of its spread
    assert math.isnan(even.comparisons[0].effect)


def test_the_receipt_brings_back_all_figures() -> None:
    wanted = experiment(*AB, guards=[ExperimentGuard(metric="tokens", bound=0.1, relative=True)])
    found = judge(wanted, [*shares("a", 4000, 0.65), *shares("b", 4000, 0.75)])
    ended = Experiment()
    ended.CopyFrom(wanted)
    ended.receipt_json = receipt(found)
    ended.verdict, ended.why, ended.winner = found.verdict, found.why, found.winner

    again = kept(ended)

    assert json.loads(ended.receipt_json)["runs"] == 8000
    assert again.comparisons == found.comparisons or str(again.comparisons) == str(
        found.comparisons
    )
    assert (again.verdict, again.winner, again.next) == (found.verdict, "b", found.next)
    assert kept(wanted).runs == 0  # without a receipt the verdict alone is left


def by_units(arm: str, rates: list[float], n: int) -> list[ExperimentSums]:
    """Sums of as many units as rates, each of n runs."""
    totals = [n * rate for rate in rates]
    units = Units(
        len(rates), sum(t * t for t in totals), n * sum(totals), float(n * n * len(rates))
    )
    whole = sum(totals)
    runs = n * len(rates)
    return [ExperimentSums(arm, 0.45, "success", runs, whole, whole, units)]


def test_runs_of_units_that_are_all_alike_are_worth_no_more_than_their_units() -> None:
    """60 customers, each always glad or never: 50 runs of one say what one run says."""
    glad, sad = [1.0] * 40 + [0.0] * 20, [1.0] * 20 + [0.0] * 40
    sums = [*by_units("a", sad, 50), *by_units("b", glad, 50)]
    single = [*by_units("a", sad, 1), *by_units("b", glad, 1)]

    found, once = judge(experiment(*AB), sums), judge(experiment(*AB), single)

    assert found.arms[1].runs == 3000
    assert (found.verdict, once.verdict) == (Verdict.VERDICT_RUNNING, Verdict.VERDICT_RUNNING)
    wide = found.comparisons[0].high - found.comparisons[0].low
    assert wide == pytest.approx(once.comparisons[0].high - once.comparisons[0].low, rel=0.05)
    assert found.runs_needed == pytest.approx(50 * once.runs_needed, rel=0.1)
    blind = judge(experiment(*AB), [replace(one, units=None) for one in sums])
    assert blind.verdict == Verdict.VERDICT_WON  # which would be wrong


def test_units_whose_runs_differ_like_any_others_cost_nothing_and_few_units_say_nothing() -> None:
    even = [*by_units("a", [0.5] * 60, 50), *by_units("b", [0.5] * 60, 50)]

    [one] = judge(experiment(*AB), even).comparisons
    [blind] = judge(experiment(*AB), [replace(s, units=None) for s in even]).comparisons
    few = judge(experiment(*AB), [*by_units("a", [0.5] * 19, 500), *by_units("b", [0.9] * 60, 50)])

    assert (one.low, one.high) == (blind.low, blind.high)
    assert math.isnan(few.comparisons[0].low)
    assert few.arms[0].runs == 9500


@pytest.mark.parametrize(
    ("arm", "command"),
    [
        ({"kind": "KIND_VERSION", "version": "p-000007"}, "agentgym policy promote p-000007"),
        ({"kind": "KIND_NONE"}, "agentgym stage desk shadow"),
        ({"kind": "KIND_MODE", "mode": "MODE_OBSERVE"}, "agentgym stage desk observe"),
        ({"kind": "KIND_MODE", "mode": "MODE_SHADOW"}, "agentgym stage desk shadow"),
        ({"kind": "KIND_MODE", "mode": "MODE_ADVISE"}, "AgentGym('desk', mode='advise')"),
        ({"kind": "KIND_MODE", "mode": "MODE_STEER"}, "AgentGym('desk', mode='steer')"),
        ({"kind": "KIND_LABEL"}, "make x what your code does without an experiment"),
        ({"kind": "KIND_LIVE"}, "nothing: what is live stays"),
    ],
)
def test_what_a_person_would_do_about_a_winner(arm: dict[str, Any], command: str) -> None:
    wanted = Experiment(agent="desk", arms=[ExperimentArm(name="x", **arm)])

    assert next_step(wanted, "x") == command
    assert next_step(wanted, "") == ""
