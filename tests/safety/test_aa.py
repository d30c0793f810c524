"""Looking at any time: no false winners where nothing differs, and differences found in time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from agentgym_daemon.experiments.lift import (
    LEAST_PER_ARM,
    Lift,
    Moments,
    Stratum,
    lift,
    runs_needed,
)
from agentgym_daemon.experiments.sequential import Boundary
from tests.reports import Report

BASE = 0.65
LOOK = 50
PERIOD = 5_000
"""Runs of one simulation: a control group of 10 % finds a lift of 9 points in so many."""
EDGE = Boundary.narrow_at(0.05)


def looks(
    rng: np.random.Generator, treated: float, control: float, *, share: float, runs: int
) -> int:
    """Runs after which a difference was declared, looking every LOOK runs; 0: never."""
    drawn = rng.random(runs) < share
    success = rng.random(runs) < np.where(drawn, control, treated)
    n, s = np.cumsum(drawn), np.cumsum(success & drawn)
    all_s = np.cumsum(success)
    for last in range(LOOK - 1, runs, LOOK):
        found = _lift(last + 1, int(all_s[last]), int(n[last]), int(s[last]))
        if found.decided:
            return last + 1
    return 0


def _lift(runs: int, successes: int, control_runs: int, control_successes: int) -> Lift:
    control = Moments(control_runs, control_successes, control_successes)
    rest = successes - control_successes
    return lift([Stratum(Moments(runs - control_runs, rest, rest), control)], EDGE)


@pytest.mark.parametrize("rate", [BASE, 0.95])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_without_a_difference_at_most_one_in_twenty_has_a_winner(
    load: Callable[..., int], report: Report, share: float, rate: float
) -> None:
    """A/A with a look every 50 runs: false winners <= 5 % of 1,000 simulations."""
    count = load(1000)
    rng = np.random.default_rng(1)

    winners = sum(bool(looks(rng, rate, rate, share=share, runs=PERIOD)) for _ in range(count))

    report.load = {"simulations": count, "runs": PERIOD}
    report.figures = {"share": share, "rate": rate, "false_winners": winners / count}
    # In 50 simulations, 6 winners are as rare as one in 30 if the true share is 5 %.
    assert winners / count <= (0.05 if count >= 1000 else 0.12)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_difference_of_five_points_is_found_within_the_sample_size_that_was_printed(
    load: Callable[..., int], report: Report, share: float
) -> None:
    """+5 points at .65: found within 1.3 times the sample size printed, in 80 % (its power)."""
    count = load(400)
    variances = (0.70 * 0.30, 0.65 * 0.35)
    printed = runs_needed(0.05, share=share, variances=variances, boundary=EDGE)
    rng = np.random.default_rng(2)

    found = [
        looks(rng, BASE + 0.05, BASE, share=share, runs=int(1.3 * printed)) for _ in range(count)
    ]

    times = [runs / printed for runs in found if runs]
    report.load = {"simulations": count, "printed": printed}
    report.figures = {
        "share": share,
        "found": len(times) / count,
        "median_share_of_printed": float(np.median(times)),
    }
    assert len(times) / count >= 0.8


def test_a_lower_share_of_the_control_group_costs_what_is_printed() -> None:
    needed = [
        runs_needed(0.05, share=share, variances=(0.21, 0.2275)) for share in (0.5, 0.1, 0.02)
    ]

    assert needed == sorted(needed)
    assert 2.5 < needed[1] / needed[0] < 3.5
    with pytest.raises(ValueError, match="between 0 and 1"):
        runs_needed(0.05, share=0.0, variances=(0.2, 0.2))


def test_the_interval_holds_at_all_looks_at_once(load: Callable[..., int], report: Report) -> None:
    """The truth lies in every one of the intervals of a run of looks, in 95 % of them."""
    count, runs, truth = load(1000), 3_000, 0.1
    rng, missed = np.random.default_rng(3), 0
    for _ in range(count):
        drawn = rng.random(runs) < 0.2
        success = rng.random(runs) < np.where(drawn, 0.6, 0.6 + truth)
        n, s, all_s = np.cumsum(drawn), np.cumsum(success & drawn), np.cumsum(success)
        missed += any(
            not (found.low <= truth <= found.high)
            for last in range(LOOK - 1, runs, LOOK)
            for found in [_lift(last + 1, int(all_s[last]), int(n[last]), int(s[last]))]
        )
    report.load, report.figures = {"simulations": count}, {"missed": missed / count}
    assert missed / count <= (0.05 if count >= 1000 else 0.12)


def test_a_change_of_the_shares_does_not_pass_for_a_lift() -> None:
    """Better traffic while the control group is small: each stretch is compared within itself."""
    poor = Stratum(Moments(1000, 300, 300), Moments(1000, 300, 300))
    rich = Stratum(Moments(1900, 1520, 1520), Moments(100, 80, 80))

    joined, naive = (
        lift([poor, rich]),
        lift([Stratum(poor.treated + rich.treated, poor.control + rich.control)]),
    )

    assert naive.effect > 0.25
    assert abs(joined.effect) < 1e-9
    assert not joined.decided


def test_nothing_is_said_of_few_runs_and_of_runs_that_are_all_alike() -> None:
    few = lift([Stratum(Moments(10_000, 9_000, 9_000), Moments(LEAST_PER_ARM - 1, 0, 0))])
    alike = lift([Stratum(Moments(500, 500, 500), Moments(500, 500, 500))])

    for found in (few, alike):
        assert not found.decided
        assert found.p_value == 1.0
