"""Off-policy estimates against the truth, on decision records that the real plugin made."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from agentgym_daemon.learning.evaluation import targets
from agentgym_daemon.learning.evaluation.compare import Evidence
from tests.reports import FULL, Report
from tests.safety.candidates import mixed
from tests.safety.spread import spread
from tests.safety.world import World

SIZES = (500, 1000, 2000) if FULL else (500, 1000)
_COMPARED = 1000
_EARLIER = 400
pytestmark = [pytest.mark.timeout(900), pytest.mark.no_cover]


def world_of(steps: int, seed: int) -> World:
    """Without a policy two of three runs of one step succeed, and six of ten of two steps."""
    return World(seed=seed, slots=steps, misled=0.4 if steps == 1 else 0.2)


@dataclass
class Tally:
    """How often intervals held, how wide they were, and how often there was an answer."""

    held: Counter[tuple[str, int]] = field(default_factory=Counter)
    given: Counter[tuple[str, int]] = field(default_factory=Counter)
    width: defaultdict[tuple[str, int], float] = field(default_factory=lambda: defaultdict(float))
    answered: Counter[int] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Takes in what another log gave."""
        self.held.update(other.held)
        self.given.update(other.given)
        for key, width in other.width.items():
            self.width[key] += width
        self.answered.update(other.answered)


def one_log(seed: int, steps: int, directory: Path) -> Tally:
    """Estimates on the growing log of one world, beside that world's own probabilities.

    A difference is also joined from runs of two versions, as a gate finds them.
    """
    world, rng = world_of(steps, seed), np.random.default_rng(seed)
    start, end = world.knowing(0.3, seed=seed), world.knowing(0.9, seed=seed)
    here = rng.uniform(0.2, 0.7)
    earlier, behaviour = mixed(start, end, 0.6 * here), mixed(start, end, here)
    target = mixed(start, end, here + rng.uniform(-0.15, 0.25))
    value, acting, alone = (world.value(p) for p in (target, behaviour, None))
    runs = list(world.log(behaviour, SIZES[-1], seed=seed))
    dataset = world.dataset(runs, directory / f"runs-{steps}-{seed}")
    to, of = targets.policy(target, dataset), targets.policy(behaviour, dataset)
    tally = Tally()
    for size in SIZES:
        evidence = Evidence(dataset.trajectories[:size])
        found = evidence.value(to)
        tally.answered[size] += found.identifiable
        truths = [(name, one, value) for name, one in found.estimates.items()]
        if found.identifiable and size == _COMPARED:
            lift, beside = evidence.lift(to), evidence.difference(to, of)
            truths.append(("lift", lift.estimates["dr"], value - alone))
            truths.append(("difference", beside.estimates["dr"], value - acting))
            first = world.log(earlier, _EARLIER, seed=10_000 + seed, version="p-000000")
            mixture = [*first, *runs[: size - _EARLIER]]
            both = world.dataset(mixture, directory / f"both-{steps}-{seed}")
            sides = targets.policy(target, both), targets.policy(behaviour, both)
            joined = Evidence(both.trajectories).difference(*sides)
            if joined.identifiable:
                truths.append(("difference_joined", joined.estimates["dr"], value - acting))
        for name, one, truth in truths:
            tally.given[name, size] += 1
            tally.held[name, size] += one.low <= truth <= one.high
            tally.width[name, size] += one.high - one.low
    return tally


@pytest.mark.parametrize("steps", [1, 2])
def test_intervals_hold_the_truth(
    load: Callable[..., int], report: Report, tmp_path: Path, steps: int
) -> None:
    """95 % intervals of IPS, SNIPS, DR, of the lift and of a difference hold in >= 93 % of logs."""
    logs, all_logs = load(500), Tally()
    for tally in spread(partial(one_log, steps=steps, directory=tmp_path), range(logs)):
        all_logs.add(tally)
    held, given, answered = all_logs.held, all_logs.given, all_logs.answered
    report.load = {"logs": logs, "steps": steps}
    report.figures = {
        f"{name}_{size}": f"{held[name, size] / count:.3f}"
        f" (width {all_logs.width[name, size] / count:.3f})"
        for (name, size), count in sorted(given.items())
    } | {f"answered_{size}": answered[size] / logs for size in SIZES}

    least = 0.93 if logs >= 500 else 0.80  # of 25 logs, 5 misses are as rare as 1 in 100
    assert {key: held[key] / n for key, n in given.items() if held[key] < least * n} == {}
    for size in SIZES[1:]:
        assert answered[size] / logs >= (0.9 if steps == 1 else 0.6)


def test_where_nothing_was_randomised_nothing_is_identifiable(tmp_path: Path) -> None:
    world = world_of(1, 0)
    policy = world.knowing(0.5)
    runs = [*world.log(None, 200, seed=0), *world.log(policy, 200, seed=1, explore=False)]
    dataset = world.dataset(runs, tmp_path / "snapshot")

    found = Evidence(dataset.trajectories).value(targets.policy(policy, dataset))

    assert not found.identifiable
    assert found.plain()["reason"] == "0 runs were sampled by a policy; 30 are needed"


def test_a_policy_that_does_what_was_never_tried_is_not_judged(tmp_path: Path) -> None:
    """Its interval would be as wide as what is not known."""
    world = world_of(1, 0)
    behaviour, other = world.knowing(1.0), world.knowing(1.0, lured=True)
    dataset = world.dataset(list(world.log(behaviour, 800, seed=0)), tmp_path / "snapshot")

    found = Evidence(dataset.trajectories).value(targets.policy(other, dataset))

    assert not found.identifiable
    assert found.support.reason
