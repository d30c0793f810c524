"""The gate on candidates whose true worth is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from agentgym.policy.arms import Exploration
from agentgym.policy.parameters import Parameters
from agentgym_daemon.learning.crossfit import Fitted
from agentgym_daemon.learning.proof import Anchors, Proof, prove
from agentgym_daemon.learning.settings import LearningSettings
from agentgym_daemon.learning.train import train
from tests.reports import Report
from tests.safety.candidates import WORSE, better, mixed, worse
from tests.safety.spread import spread
from tests.safety.world import World

RUNS = 1_500
SETTINGS = LearningSettings()
pytestmark = [pytest.mark.timeout(900), pytest.mark.no_cover]


class Bench:
    """An incumbent half-way to knowing its world, and the runs that it decided."""

    def __init__(self, seed: int, path: Path, *, runs: int = RUNS) -> None:
        self.seed, self.path, self.runs = seed, path, runs
        self.world = World(seed=seed, requests=60)
        knows = self.world.knowing(0.3, seed=seed), self.world.knowing(1.0, seed=seed)
        self.incumbent = mixed(*knows, 0.5)

    def judge(
        self,
        candidate: Parameters,
        *,
        incumbent: Parameters | None = None,
        best: Parameters | None = None,
        seed: int | None = None,
    ) -> Proof:
        """The gate's tier 1 on runs that the incumbent decided; none of them trained anything."""
        acting = incumbent or self.incumbent
        seed = self.seed if seed is None else seed
        messages = list(self.world.log(acting, self.runs, seed=seed))
        dataset = self.world.dataset(messages, self.path)
        anchors = Anchors(Fitted(acting), Fitted(best or acting), "p-000001")
        return prove(Fitted(candidate), dataset, dataset.trajectories, anchors, SETTINGS)


def passed(proof: Proof) -> bool:
    """Whether nothing stands against a promotion."""
    return all(check.passed is not False for check in proof.checks)


def one_worse(seed: int, directory: Path) -> tuple[str, float, bool]:
    """In which way a candidate is worse, by how much, and whether the gate lets it through."""
    bench, way = Bench(seed, directory / f"snapshot-{seed}"), WORSE[seed % len(WORSE)]
    by = np.random.default_rng(seed).uniform(0.02, 0.20)
    candidate = worse(bench.world, bench.incumbent, by, way=way, seed=seed)
    loss = bench.world.value(bench.incumbent) - bench.world.value(candidate)
    return way, loss, passed(bench.judge(candidate))


def test_worse_candidates_are_not_promoted(
    load: Callable[..., int], report: Report, tmp_path: Path
) -> None:
    """Of 200 candidates that are 2 to 20 points worse, at most 2 % are promoted."""
    count = load(200)
    promoted, losses = Counter[str](), []
    for way, loss, is_promoted in spread(partial(one_worse, directory=tmp_path), range(count)):
        losses.append(loss)
        promoted[way] += is_promoted
    report.load = {"candidates": count, "runs": RUNS}
    report.figures = {
        "promoted": promoted.total() / count,
        "least_loss": round(min(losses), 4),
        "greatest_loss": round(max(losses), 4),
        **{way: promoted[way] for way in WORSE},
    }
    assert min(losses) > 0.015
    assert promoted.total() <= (0.02 * count if count >= 200 else 1)


def one_better(seed: int, directory: Path) -> tuple[float, bool]:
    """By how much a candidate is better, and whether the gate lets it through."""
    bench = Bench(seed, directory / f"snapshot-{seed}")
    candidate = better(bench.world, bench.incumbent, 0.05, seed=seed)
    gain = bench.world.value(candidate) - bench.world.value(bench.incumbent)
    return gain, passed(bench.judge(candidate))


def test_better_candidates_are_promoted(
    load: Callable[..., int], report: Report, tmp_path: Path
) -> None:
    """Of 100 candidates that are 5 points better, >= 90 % are promoted by n = 1,500."""
    count = load(100)
    found = spread(partial(one_better, directory=tmp_path), range(count))
    gains, promoted = [gain for gain, _ in found], sum(is_promoted for _, is_promoted in found)
    report.load = {"candidates": count, "runs": RUNS}
    report.figures = {"promoted": promoted / count, "mean_gain": round(float(np.mean(gains)), 4)}
    assert min(gains) > 0.04
    assert max(gains) < 0.06
    assert promoted >= (0.9 if count >= 100 else 0.6) * count


def one_learner(seed: int, directory: Path) -> tuple[float, float]:
    """What exploring costs per run, over all runs and over the last 700."""
    sharp = Exploration(temperature=1e-3, floor=0.0)
    world, policy, runs = World(seed=seed, requests=60), None, []
    versions: list[str] = []
    cost = 0.0
    for size in (300, 500, 700):
        now = world.value(policy, sharp) - world.value(policy) if policy else 0.0
        cost += now * size
        version = versions[-1] if versions else ""
        runs += world.log(policy, size, seed=1000 * seed + size, version=version)
        dataset = world.dataset(runs, directory / f"snapshot-{seed}", versions=versions)
        policy, _ = train(dataset, policy, settings=SETTINGS, seed=seed)
        versions.append(f"p-{len(versions) + 1}")
    return cost / len(runs), now


def test_exploring_costs_at_most_three_points(
    load: Callable[..., int], report: Report, tmp_path: Path
) -> None:
    """What default exploration costs per run of the first 1,500: the best arm, minus as drawn."""
    count = load(60)
    found = spread(partial(one_learner, directory=tmp_path), range(count))
    costs, last = [cost for cost, _ in found], [now for _, now in found]
    report.load = {"learners": count, "runs": RUNS}
    report.figures = {
        "mean_points": round(100 * float(np.mean(costs)), 2),
        "most_points": round(100 * max(costs), 2),
        "mean_points_of_the_last_700": round(100 * float(np.mean(last)), 2),
    }
    assert np.mean(costs) <= 0.03


def one_chain(seed: int, directory: Path) -> int:
    """How many updates of -0.5 point each the gate lets through, one after the other."""
    bench = Bench(seed, directory / f"snapshot-{seed}")
    best = live = bench.incumbent
    for step in range(20):
        candidate = worse(bench.world, best, 0.005 * (step + 1), way="forgets", seed=seed)
        proof = bench.judge(candidate, incumbent=live, best=best, seed=100 * seed + step)
        if not passed(proof):
            return step
        assert not proof.is_best
        live = candidate
    return 20


def test_a_chain_of_small_steps_down_is_stopped(
    load: Callable[..., int], report: Report, tmp_path: Path
) -> None:
    """20 updates of -0.5 point each: held against the best version, they do not get far."""
    chains = load(20)
    lengths = spread(partial(one_chain, directory=tmp_path), range(chains))
    report.load = {"chains": chains}
    report.figures = {"updates_let_through": lengths}
    assert max(lengths) <= 5


def test_where_the_best_version_is_out_of_sight_only_steps_up_are_taken(tmp_path: Path) -> None:
    bench = Bench(1, tmp_path / "snapshot")
    far = bench.world.knowing(1.0, seed=1, lured=True)
    up = better(bench.world, bench.incumbent, 0.05, seed=1)
    same = bench.incumbent

    by_step = {
        step: {c.name: c for c in bench.judge(policy, best=far).checks}["best"]
        for step, policy in (("up", up), ("level", same))
    }

    assert by_step["up"].passed is True
    assert by_step["level"].passed is False
    assert "p-000001, the best so far, cannot be judged" in by_step["level"].reason


def test_a_receipt_says_what_decided(tmp_path: Path) -> None:
    bench = Bench(1, tmp_path / "snapshot")
    candidate = worse(bench.world, bench.incumbent, 0.1, way="misled", seed=1)

    checks = {check.name: check for check in bench.judge(candidate).checks}

    assert checks["best"].passed is False
    assert "beside p-000001, the best so far" in checks["best"].reason
    assert checks["best"].figures["support.runs"] > 1_000
    assert checks["best"].figures["dr.low"] < -0.02
    assert set(checks) == {"best", "control", "tools", "cost"}


def test_few_decisions_prove_nothing_and_say_so(tmp_path: Path) -> None:
    bench = Bench(1, tmp_path / "snapshot", runs=200)
    candidate = better(bench.world, bench.incumbent, 0.05, seed=1)

    proof = bench.judge(candidate)

    assert proof.tier == 0
    (check,) = proof.checks
    assert check.passed is None
    assert check.reason.startswith("unproven: ")


@pytest.mark.parametrize("by", [0.08])
def test_a_policy_below_the_agent_alone_is_held_back_even_if_it_is_the_best(
    by: float, tmp_path: Path
) -> None:
    bench = Bench(2, tmp_path / "snapshot")
    world = bench.world
    below = worse(
        world, bench.incumbent, world.value(bench.incumbent) - world.value(None) + by,
        way="misled", seed=2,
    )  # fmt: skip
    slightly = better(world, below, 0.01, seed=2)

    checks = {c.name: c for c in bench.judge(slightly, incumbent=below, best=below).checks}

    assert checks["control"].passed is False
    assert "beside the agent alone" in checks["control"].reason
