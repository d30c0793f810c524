"""The watch: how soon it rolls back, how seldom without reason, and in a running daemon."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentgym import AgentGym
from agentgym.cli import main
from agentgym.proto.v1 import common_pb2
from agentgym_daemon.bench.placing import Placed, place
from agentgym_daemon.lock import prepare, read_feature_key
from agentgym_daemon.store.record import Run
from agentgym_daemon.watch.verdict import Act, Situation, judge
from tests.faults.processes import DaemonProcess
from tests.hook import Hook, serving
from tests.reports import Report
from tests.safety.spread import spread
from tests.safety.world import NAME, World

pytestmark = pytest.mark.timeout(900)
OLD, NEW = "p-000001", "p-000002"
CONTROL = 0.1
LOOK_EVERY = 10
AGENT = "watched"


def runs_at(rates: list[float], version: list[str], *, control: float, seed: int) -> list[Run]:
    """Runs of the policy at these rates, mixed with a control group at the default share."""
    rng = np.random.default_rng(seed)
    runs: list[Run] = []
    for rate, name in zip(rates, version, strict=True):
        while rng.random() < CONTROL:
            runs.append(Run(len(runs), len(runs) + 1, True, bool(rng.random() < control), name))
        runs.append(Run(len(runs), len(runs) + 1, False, bool(rng.random() < rate), name))
    return runs


def first_rollback(runs: list[Run], situation: Situation, start: int) -> float:
    """Runs of the policy after `start` of them until the watch rolls back, as it looks along."""
    treated = [i for i, run in enumerate(runs) if not run.control]
    for seen in range(start, len(treated), LOOK_EVERY):
        if judge(runs[: treated[seen] + 1], situation).act is Act.ROLL_BACK:
            return seen + 1 - start
    return float("inf")


def one_drop(seed: int, *, by: float, within: int) -> float:
    """How many runs of the policy a drop of the live version went on."""
    before = float(np.random.default_rng([seed, 1]).uniform(0.75, 0.95))
    rates = [before] * 1_000 + [before - by] * within
    runs = runs_at(rates, [OLD] * 1_000 + [NEW] * within, control=0.65, seed=seed)
    return first_rollback(runs, Situation(NEW), 1_000)


@pytest.mark.parametrize(("points", "within"), [(20, 200), (10, 800)])
def test_a_live_drop_is_rolled_back_in_time(
    load: Callable[..., int], report: Report, points: int, within: int
) -> None:
    """A drop of >= 20 points within 200 runs of the policy, of >= 10 within 800, in >= 95 %."""
    count = load(400)
    found = spread(partial(one_drop, by=points / 100, within=within), range(count))
    in_time = sum(delay <= within for delay in found) / count
    report.load = {"drops": count, "points": points}
    report.figures = {"in_time": in_time, "median_runs": float(np.median(found))}
    assert in_time >= (0.95 if count >= 400 else 0.85)


def one_calm(seed: int, *, runs: int) -> int:
    """Rollbacks of a policy whose worth never changes."""
    rate = float(np.random.default_rng([seed, 2]).uniform(0.65, 0.97))
    history = runs_at([rate] * runs, [OLD] * runs, control=0.6, seed=seed)
    return int(judge(history, Situation(OLD)).act is not Act.NOTHING)


def test_without_a_drop_there_is_hardly_ever_a_rollback(
    load: Callable[..., int], report: Report
) -> None:
    """At most one false rollback in 10,000 runs."""
    histories, runs = load(400), 2_500
    false = sum(spread(partial(one_calm, runs=runs), range(histories)))
    report.load = {"runs": histories * runs}
    report.figures = {"false_rollbacks": false}
    # A rate of 1 in 10,000 would give 100 of 1,000,000, and 5 of 50,000.
    assert false <= histories * runs / 10_000 + (0 if histories >= 400 else 4)


# ---- in a running daemon


@pytest.fixture
def hook() -> Iterator[Hook]:
    with serving() as made:
        yield made


class Site:
    """A daemon with a good live version and a bad candidate, and an agent that works."""

    def __init__(self, home: Path, daemon: DaemonProcess) -> None:
        self.home, self.daemon = home, daemon
        self.world = World(seed=7, requests=30, key=read_feature_key(home))
        self.gym, self._rng = AgentGym(AGENT, home=home, seed=7), random.Random(7)

    def go(self, runs: int) -> None:
        """The agent runs, and every run is rewarded."""
        assert self.gym.ready()
        for _ in range(runs):
            success, _, trajectory = self.world.play(
                self.gym, self._rng.choice(self.world.requests), self._rng
            )
            self.gym.reward(float(success), trajectory=trajectory)
        assert self.gym.flush(60)


@pytest.fixture
def site(make_daemon: Callable[..., DaemonProcess], home: Path, hook: Hook) -> Iterator[Site]:
    prepare(home)
    world = World(seed=7, requests=30, key=read_feature_key(home))
    scope = common_pb2.Scope(agent=AGENT, agent_name=NAME, feature_schema=1)
    good, bad = world.knowing(1.0, seed=7), world.knowing(1.0, seed=7, lured=True)
    place(home, [Placed(scope, good), Placed(scope, bad, live=False)])
    daemon = make_daemon(
        "--encoder", "none", "--retrain-trajectories", "1000000", "--alert-webhook", hook.url,
        home=home,
    ).start()  # fmt: skip
    made = Site(home, daemon)
    yield made
    made.gym.close()


def test_a_bad_promotion_is_taken_back_explained_and_kept_away(
    site: Site,
    hook: Hook,
    agentgym: Callable[..., Any],
    until: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    site.go(400)
    agentgym("policy", "promote", NEW, "--reason", "looks good")
    until(lambda: NEW in site.gym.status()["policies"].values(), "the agent has the bad version")

    for _ in range(15):
        site.go(20)
        site.daemon.applied()
        statuses = {p["version"]: p["status"] for p in agentgym("policy", "list")["policies"]}
        if statuses[NEW] == "quarantined":
            break

    until(lambda: OLD in site.gym.status()["policies"].values(), "the agent is back")
    assert statuses[OLD] == "live"
    changes = [entry["change"] for entry in agentgym("audit", "list")["entries"]]
    back = [change for change in reversed(changes) if change["actor"] == "watch"]
    assert [c["kind"] for c in back] == ["rollback", "quarantine"]
    receipt = json.loads(back[0]["receipt_json"])
    assert receipt["watch"] == "fall"
    assert receipt["blamed"] == [NEW]
    assert receipt["reference"] > 0.8 > receipt["rate"]
    until(lambda: hook.bodies, "the webhook heard of it")
    assert hook.bodies[0]["kind"] == "rollback"
    assert f"{NEW} rolled back to {OLD}: success fell from" in hook.bodies[0]["text"]

    told = agentgym("watch", AGENT)
    assert told["mode"] == "act"
    assert [a["kind"] for a in told["alerts"]] == ["rollback"]
    assert main(["--home", str(site.home), "watch"]) == 0
    page = capsys.readouterr().out
    assert "Live policies, as the watch sees them" in page
    assert f"rollback of {AGENT}" in page

    site.daemon.kill()
    site.daemon.start()
    site.go(100)
    site.daemon.applied()
    statuses = {p["version"]: p["status"] for p in agentgym("policy", "list")["policies"]}
    assert statuses == {OLD: "live", NEW: "quarantined"}
    assert main(["--home", str(site.home), "policy", "promote", NEW]) == 1
    assert f"{NEW} is quarantined (success fell from" in capsys.readouterr().err
