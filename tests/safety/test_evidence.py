"""What people ask a running daemon: is a version better, and are the policies worth it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentgym import AgentGym
from agentgym.cli import main
from agentgym.proto.v1 import common_pb2
from agentgym_daemon.bench.placing import Placed, place
from agentgym_daemon.lock import prepare, read_feature_key
from tests.faults.processes import DaemonProcess
from tests.reports import share_of
from tests.safety.candidates import better, mixed
from tests.safety.world import NAME, World

AGENT = "evidence"
RUNS = share_of(8_000, least=600)
CONTROL = 0.3
LIVE, BETTER = "p-000001", "p-000002"


class Site:
    """A daemon that has seen many runs of a world under its live policy."""

    def __init__(
        self, home: Path, daemon: DaemonProcess, world: World, values: list[float]
    ) -> None:
        self.home, self.daemon, self.world = home, daemon, world
        self.alone, self.live, self.better = values


@pytest.fixture
def site(make_daemon: Callable[..., DaemonProcess], home: Path) -> Site:
    """Two versions are registered; the first one decided all runs but the control group's."""
    prepare(home)
    world = World(seed=3, requests=40, key=read_feature_key(home))
    live = mixed(world.knowing(0.3, seed=3), world.knowing(1.0, seed=3), 0.5)
    more = better(world, live, 0.05, seed=3)
    scope = common_pb2.Scope(agent=AGENT, agent_name=NAME, feature_schema=1)
    place(home, [Placed(scope, live), Placed(scope, more, live=False)])
    daemon = make_daemon(
        "--encoder", "none", "--control-share", str(CONTROL), "--retrain-trajectories", "1000000",
        home=home,
    ).start()  # fmt: skip
    gym, rng = AgentGym(AGENT, home=home, seed=5), random.Random(5)
    assert gym.ready()
    for _ in range(RUNS):
        success, _, trajectory = world.play(gym, rng.choice(world.requests), rng)
        gym.reward(float(success), trajectory=trajectory)
    assert gym.flush(60)
    gym.close()
    daemon.applied()
    return Site(home, daemon, world, [world.value(p) for p in (None, live, more)])


def test_evaluate_and_lift_hold_the_truth_and_read_well(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(*words: str) -> Any:
        assert main(["--home", str(site.home), *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    def read(*words: str) -> str:
        assert main(["--home", str(site.home), *words]) == 0
        return capsys.readouterr().out

    beside_live = ask("evaluate", BETTER, "--against", LIVE)
    beside_alone = ask("evaluate", BETTER)
    lift = ask("lift", AGENT)

    assert beside_live["identifiable"]
    truth = site.better - site.live
    (dr,) = [e for e in beside_live["difference"] if e["estimator"] == "dr"]
    assert dr["low"] - 0.02 <= truth <= dr["high"] + 0.02
    assert dr["low"] > 0.0
    (value,) = [e for e in beside_live["value"] if e["estimator"] == "dr"]
    assert value["low"] - 0.02 <= site.better <= value["high"] + 0.02
    assert beside_live["left_out"] == 0  # neither of them was trained on anything
    assert beside_alone["control"] > 0.2 * RUNS
    (dr,) = beside_alone["difference"]
    assert dr["low"] - 0.02 <= site.better - site.alone <= dr["high"] + 0.02

    metrics = {metric["name"]: metric for metric in lift["metrics"]}
    success = metrics["success"]
    assert success["policy_runs"] + success["control_runs"] == RUNS
    assert success["low"] <= site.live - site.alone <= success["high"]
    assert lift["strata"] == 1
    assert abs(lift["control_share"] - CONTROL) < 0.08
    assert lift["runs_needed"] > 1_000
    assert set(metrics) == {"success", "tool_reliability", "tokens", "tool_calls", "seconds"}

    told = read("evaluate", BETTER, "--against", LIVE)
    assert f"{BETTER} beside {LIVE}" in told
    assert "doubly robust" in told
    assert "that trained neither" in told
    told = read("lift", AGENT)
    assert "95 %, at any time" in told
    assert "four of five cases" in told


def test_a_step_to_live_is_looked_at_and_a_script_may_insist(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str, code: int = 0) -> str:
        assert main(["--home", str(site.home), *words]) == code
        printed = capsys.readouterr()
        return printed.err if code else printed.out

    lift = json.loads(run("lift", AGENT, "--json"))
    (success,) = [m for m in lift["metrics"] if m["name"] == "success"]
    run("stage", AGENT, "canary", "--share", "0.5")

    if success["low"] > 0.0:
        told = run("stage", AGENT, "up", "--if-proven")
        assert "proven: " in told
        assert "runs of the policy beside" in told
    else:
        refused = run("stage", AGENT, "up", "--if-proven", code=1)
        assert f"'{AGENT}' stays at canary (0.5): not proven" in refused
        told = run("stage", AGENT, "up")
        assert "unproven: " in told
        assert "(1000 needed)" in told or "not identifiable" in told
    assert f"{AGENT}: canary 0.5 -> live" in told
    site.daemon.applied()
    newest = json.loads(run("audit", "list", "--limit", "1", "--json"))["entries"][0]["change"]
    receipt = json.loads(newest["receipt_json"])
    assert (receipt["tier"], receipt["proven"]) == (2, success["low"] > 0.0)
    run("stage", AGENT, "down")
    assert "only a step from canary to live can be" in run(
        "stage", AGENT, "shadow", "--if-proven", code=1
    )


def test_what_cannot_be_asked_is_said_clearly(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str) -> str:
        assert main(["--home", str(site.home), *words]) == 1
        return capsys.readouterr().err

    assert "unknown policy version 'p-9'" in refused("evaluate", "p-9")
    assert "no closed and rewarded run of agent 'nobody'" in refused("lift", "nobody")
    assert "effect: expected a number between 0 and 1" in refused("lift", AGENT, "--effect", "2")
    assert "at most 20000" in refused("evaluate", LIVE, "--trajectories", "99999")
