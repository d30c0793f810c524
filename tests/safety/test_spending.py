"""The gate's look at cost, in worlds where two tools are equally right and one of them is dear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agentgym.policy.parameters import Parameters
from agentgym_daemon.learning import spending
from agentgym_daemon.learning.checks import Check
from agentgym_daemon.learning.crossfit import Fitted
from agentgym_daemon.learning.dataset import Trajectory
from agentgym_daemon.learning.evaluation.estimators import Terms, estimate
from agentgym_daemon.learning.proof import Anchors, prove
from agentgym_daemon.learning.settings import LearningSettings
from tests.reports import Report
from tests.safety.world import World

RUNS = 1_500
CHEAP, DEAR = 200, 500
TOLERANCE = LearningSettings().cost_tolerance
pytestmark = [pytest.mark.timeout(900), pytest.mark.no_cover]


class Desk:
    """A world whose requests two tools serve equally well; the first half of the tools is cheap."""

    def __init__(self, seed: int, path: Path) -> None:
        self.seed, self.path = seed, path
        self.world = world = World(seed=seed, requests=40)
        half = len(world.tools) // 2
        world.tokens = (CHEAP,) * half + (DEAR,) * (len(world.tools) - half)
        rng = np.random.default_rng(seed)
        self._pairs = [
            (int(rng.integers(half)), int(rng.integers(half, len(world.tools))))
            for _ in world.requests
        ]
        world.requests = tuple(
            (replace(request[0], right=self._right(*pair)),)
            for request, pair in zip(world.requests, self._pairs, strict=True)
        )
        world.slots = tuple(slot for request in world.requests for slot in request)

    def _right(self, cheap: int, dear: int) -> tuple[float, ...]:
        return tuple(0.95 if i in (cheap, dear) else 0.05 for i in range(len(self.world.tools)))

    def policy(self, lean: float) -> Parameters:
        """Knows both tools of every request, and leans to the dear one."""
        right = np.full((len(self.world.slots), len(self.world.tools) + 1), 0.01)
        for row, (cheap, dear) in zip(right, self._pairs, strict=True):
            row[cheap], row[dear] = 0.45 - lean, 0.45 + lean
        return self.world.policy(right, np.full(len(self.world.slots), 0.2))

    def dearer(self, candidate: Parameters, than: Parameters) -> float:
        """By how much a candidate's runs cost more, truly."""
        return self.world.cost(candidate) / self.world.cost(than) - 1.0

    def check(self, candidate: Parameters, incumbent: Parameters) -> Check:
        """The gate's check of cost on runs of the incumbent."""
        messages = list(self.world.log(incumbent, RUNS, seed=self.seed))
        dataset = self.world.dataset(messages, self.path)
        anchors = Anchors(Fitted(incumbent), Fitted(incumbent), "p-000001")
        proof = prove(Fitted(candidate), dataset, dataset.trajectories, anchors, LearningSettings())
        (found,) = (check for check in proof.checks if check.name == "cost")
        return found


def test_dearer_candidates_are_held_back_and_others_are_not(
    load: Callable[..., int], report: Report, tmp_path: Path
) -> None:
    """Of >= 40 % dearer ones >= 90 % fail, of <= 25 % dearer ones at most 5 %; intervals hold."""
    seeds = load(40)
    dear, tolerated, held, errors = [], [], [], []
    for seed in range(seeds):
        desk = Desk(seed, tmp_path / "snapshot")
        incumbent = desk.policy(-0.10)
        for lean, found in ((0.15, dear), (-0.04, tolerated)):
            candidate = desk.policy(lean)
            truth = desk.dearer(candidate, incumbent)
            check = desk.check(candidate, incumbent)
            assert truth >= 0.4 if found is dear else 0.02 < truth <= TOLERANCE, truth
            found.append(check.passed is False)
            figures = check.figures
            held.append(figures["dearer_low"] <= truth <= figures["dearer_high"])
            errors.append(figures["dearer"] - truth)
    report.load = {"candidates": 2 * seeds, "runs": RUNS}
    report.figures = {
        "dear_held_back": float(np.mean(dear)),
        "tolerated_held_back": float(np.mean(tolerated)),
        "intervals_that_hold": float(np.mean(held)),
        "mean_error": round(float(np.mean(errors)), 4),
    }
    assert np.mean(dear) >= 0.9
    assert np.mean(tolerated) <= 0.05
    assert np.mean(held) >= 0.8  # of 90 %: 80 intervals come in pairs of one log
    assert abs(np.mean(errors)) < 0.05


def test_a_receipt_says_what_a_run_would_cost(tmp_path: Path) -> None:
    desk = Desk(1, tmp_path / "snapshot")
    incumbent, candidate = desk.policy(-0.10), desk.policy(0.15)

    check = desk.check(candidate, incumbent)

    assert check.passed is False
    assert "tokens per run [" in check.reason
    assert check.reason.endswith("beside p-000001: clearly dearer by more than 25%")
    figures = check.figures
    assert figures["tokens_per_run"] == pytest.approx(desk.world.cost(candidate), rel=0.1)
    assert figures["tokens_per_run_of_best"] == pytest.approx(desk.world.cost(incumbent), rel=0.1)


def test_where_tokens_are_not_known_calls_count(tmp_path: Path) -> None:
    desk = Desk(1, tmp_path / "snapshot")
    desk.world.tokens = ()

    check = desk.check(desk.policy(0.15), desk.policy(-0.10))

    assert check.passed is True
    assert "calls per run" in check.reason
    assert check.figures["calls_per_run"] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("amounts", "unit"),
    [
        ([(10, 1), (20, 2)], "tokens"),
        ([(10, 1), (0, 2)], "calls"),
        ([(0, 1), (0, 2)], "calls"),
        ([(0, 0), (9, 0)], ""),
        ([], ""),
    ],
)
def test_the_unit_is_one_that_is_known_of_every_run(
    amounts: list[tuple[int, int]], unit: str
) -> None:
    runs = [Trajectory(b"", 1.0, (), 0, tokens=tokens, calls=calls) for tokens, calls in amounts]

    assert spending.cost_of(runs)[0] == unit


def test_the_interval_of_a_relative_difference_holds_in_nine_of_ten() -> None:
    """Amounts that vary together, as those of two policies on the same runs do."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        shared = rng.gamma(4.0, 0.25, 300)
        mine, theirs = 1.3 * shared + rng.gamma(1.0, 0.3, 300), shared + rng.gamma(1.0, 0.2, 300)
        terms = spending.relative(Terms(mine, mine, mine), Terms(theirs, theirs, theirs))
        found = estimate(terms, 0.90)
        held += found.low <= 1.6 / 1.2 - 1.0 <= found.high
    assert 0.86 <= held / 400 <= 0.94
