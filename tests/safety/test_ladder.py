"""The ladder, the kill switch, units and protected tools, while agents run and the daemon dies."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from agentgym import AgentGym
from agentgym.proto.v1 import policy_pb2
from agentgym.testing import LLMServer, ScriptedBrain, call_tool, say
from agentgym.trajectory import ArmKind, Fallback, Tool
from tests.faults.processes import DaemonProcess
from tests.safety.agents.decider import TASK, TOOLS

MakeAgent = Callable[[Path, str], Any]
Agentgym = Callable[..., Any]

RUNS = 40
UNITS = [f"customer-{i}" for i in range(400)]
WITHIN_S = 5.0
"""Of a second that is promised, on a machine that does a lot beside."""


def kinds(steps: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """Modes and assignments among steps."""
    return {(step["mode"], step["assignment"]) for step in steps}


def policy_units(agent: Any) -> set[str]:
    """The units that get the policy."""
    steps = agent.ask("runs", units=UNITS)
    return {u for u, step in zip(UNITS, steps, strict=True) if step["assignment"] == "policy"}


# ---- rungs


def test_each_rung_and_back_by_one_command_while_agents_run(
    desk: DaemonProcess, make_agent: MakeAgent, agentgym: Agentgym
) -> None:
    agents = [make_agent(desk.home, "desk") for _ in range(2)]
    other = make_agent(desk.home, "other")
    expected = {
        "observe": {("observe", "none")},
        "shadow": {("shadow", "shadow")},
        "canary": {("steer", "policy"), ("steer", "control")},
        "live": {("steer", "policy")},
    }
    way = ["observe", "up", "up", "up", "down", "down", "down", "live"]
    stages = ["observe", "shadow", "canary", "live", "canary", "shadow", "observe", "live"]

    for move, stage in zip(way, stages, strict=True):
        share = ["--share", "0.5"] if (move, stage) == ("up", "canary") else []
        reply = agentgym("stage", "desk", move, *share, "--reason", "a test")
        assert reply["now"]["stage"] == stage
        for agent in agents:
            assert agent.ask("at", stage=stage) == stage
            steps = agent.ask("runs", n=RUNS)
            assert kinds(steps) == expected[stage], stage
            applied = {step["assignment"] for step in steps if step["forced"]}
            assert applied <= {"policy"}
            assert all(step["decided"] for step in steps if step["assignment"] == "shadow")
            if stage == "canary":
                assert {step["probability"] for step in steps} == {0.5}
    assert kinds(other.ask("runs", n=RUNS)) == expected["live"]
    assert agentgym("stage", "other")["stages"][0]["recorded"] is False


def test_stage_pin_and_kill_survive_a_killed_daemon(
    desk: DaemonProcess, make_agent: MakeAgent, agentgym: Agentgym
) -> None:
    agentgym("stage", "desk", "canary", "--share", "0.25")
    agentgym("policy", "pin", "p-000001")
    agentgym("kill", "other", "--reason", "complaints")
    before = make_agent(desk.home, "desk")
    before.ask("at", stage="canary")
    units = policy_units(before)

    desk.kill()
    away = policy_units(before)
    desk.start()

    after = make_agent(desk.home, "desk")
    status = agentgym("status")
    places = {place["agent"]: place for place in status["stages"]}
    assert (places["desk"]["stage"], places["desk"]["canary_share"]) == ("canary", 0.25)
    assert (places["other"]["killed"], places["desk"]["killed"]) == (True, False)
    pinned = {scope["scope"]["agent"]: scope["pinned"] for scope in status["scopes"]}
    listed = desk.call("policies", "List", policy_pb2.ListPoliciesRequest())
    assert {policy.version: policy.pinned for policy in listed.policies}["p-000001"], pinned
    assert policy_units(after) == away == units
    assert after.ask("runs")[0]["mode"] == "steer"
    assert make_agent(desk.home, "other").ask("runs")[0]["fallback"] == "killed"


# ---- units


def test_units_keep_their_policy_in_every_process_as_the_share_grows(
    desk: DaemonProcess, make_agent: MakeAgent, agentgym: Agentgym
) -> None:
    agents = [make_agent(desk.home, "desk") for _ in range(2)]
    found = {}
    for share in ("0.1", "0.3", "0.6", "0.3"):
        agentgym("stage", "desk", "canary", "--share", share)
        sets = []
        for agent in agents:
            while agent.ask("runs")[0]["probability"] not in (float(share), 1 - float(share)):
                time.sleep(0.01)
            sets.append(policy_units(agent))
        assert sets[0] == sets[1]
        assert found.setdefault(share, sets[0]) == sets[0]

    assert found["0.1"] < found["0.3"] < found["0.6"]
    assert all(abs(len(units) / len(UNITS) - float(s)) < 0.1 for s, units in found.items())


# ---- kill


def by_command(agentgym: Agentgym, home: Path, agents: list[Any], killed: bool) -> None:
    agentgym("kill" if killed else "revive", "desk")


def by_file(agentgym: Agentgym, home: Path, agents: list[Any], killed: bool) -> None:
    if killed:
        (home / "kill").write_text("desk\n")
    else:
        (home / "kill").unlink()


def by_environment(agentgym: Agentgym, home: Path, agents: list[Any], killed: bool) -> None:
    for agent in agents:
        agent.ask("variable", value="1" if killed else "")


@pytest.mark.parametrize("way", [by_command, by_file, by_environment])
def test_a_kill_takes_effect_in_running_agents(
    way: Callable[..., None],
    desk: DaemonProcess,
    make_agent: MakeAgent,
    agentgym: Agentgym,
    load: Callable[..., int],
    report: Any,
) -> None:
    """32 agents fall back within a second, runs under way too, and come back; others go on."""
    processes = 2
    threads = load(32, 4) // processes
    agents = [make_agent(desk.home, "desk") for _ in range(processes)]
    other = make_agent(desk.home, "other")
    for agent in agents:
        assert agent.ask("open")["fallback"] == "none"
        if way is not by_environment:  # a child has an environment of its own
            agent.ask("fork")

    took = {}
    for killed in (True, False):
        if way is by_environment:
            way(agentgym, desk.home, agents, killed)
        for agent in agents:
            agent.tell("until", killed=killed, threads=threads)
        began = time.monotonic()
        if way is not by_environment:
            way(agentgym, desk.home, agents, killed)
        answers = [agent.answer() for agent in agents]
        assert [answer["wrong"] for answer in answers] == [[]] * processes
        took[killed] = max(answer["last"] for answer in answers) - began
        if killed:
            assert [agent.ask("go_on")["fallback"] for agent in agents] == ["killed"] * processes
            assert [agent.ask("go_on")["assignment"] for agent in agents] == ["policy"] * processes
            if way is not by_environment:
                assert [agent.ask("reap") for agent in agents] == [0] * processes
            assert other.ask("runs")[0]["fallback"] == "none"
    report.load.update(processes=processes, threads=threads * processes)
    report.figures.update(
        killed_after_s=round(took[True], 3), revived_after_s=round(took[False], 3)
    )
    assert took[True] < WITHIN_S, f"killed after {took[True]:.2f} s, alive after {took[False]:.2f}"
    assert [agent.ask("go_on")["fallback"] for agent in agents] == ["none"] * processes


def test_a_kill_without_a_daemon_is_a_file_and_one_with_it_lasts(
    desk: DaemonProcess, make_agent: MakeAgent, agentgym: Agentgym
) -> None:
    agent = make_agent(desk.home, "desk")
    desk.kill()

    assert agentgym("kill", "--reason", "no daemon")["file"] == str(desk.home / "kill")
    assert agent.ask("until", killed=True, threads=2)["wrong"] == []
    desk.start()
    assert agent.ask("runs")[0]["fallback"] == "killed"
    with pytest.raises(AssertionError, match="stops all agents"):
        agentgym("revive", "desk")
    agentgym("revive")
    assert agent.ask("until", killed=False, threads=2)["wrong"] == []


# ---- protected tools

PROTECTED = "refund"


class Explorer(threading.Thread):
    """An agent of its own that explores, and now and then does what cannot be taken back."""

    def __init__(self, home: Path, decisions: int) -> None:
        super().__init__(daemon=True)
        self._gym = AgentGym("desk", home=home, encoder_wait_s=30.0, protected=[PROTECTED])
        self._decisions = decisions
        self.counted: Counter[str] = Counter()

    def ready(self) -> None:
        """Waits for the daemon."""
        assert self._gym.ready(120)

    def run(self) -> None:
        """Runs of three steps; in every tenth the protected tool is called after the first."""
        number = 0
        while self.counted["decided"] < self._decisions:
            number += 1
            self._one(irreversible=number % 10 == 0)

    def _one(self, *, irreversible: bool) -> None:
        run = self._gym.recorder.start_run("desk", framework="test", task=TASK)
        for step in range(3):
            turn = run.turn(TOOLS)
            after = irreversible and step > 0
            if turn.fallback in (Fallback.NONE, Fallback.PROTECTED):
                self.counted["unsealed"] += (turn.fallback is Fallback.PROTECTED) is not after
            if turn.decision is not None:
                self._count(turn.decision)
            self.counted["forced"] += turn.forced is not None and turn.forced.name == PROTECTED
            called = PROTECTED if irreversible and step == 0 else "look_up"
            turn.finish([(called, str(step))])
            run.call(called, call_id=str(step)).finish()
        run.finish()

    def _count(self, decision: Any) -> None:
        self.counted["decided"] += 1
        at = [tool.name for tool in TOOLS].index(PROTECTED)
        explored = [a for a in decision.support if a.kind is ArmKind.FORCE and at in a.tools]
        self.counted["explored"] += len(explored)

    def close(self) -> None:
        """Ends its gym."""
        self._gym.close(0.0)


def test_protected_tools_are_never_explored_and_nothing_after_them(
    desk: DaemonProcess, load: Callable[..., int], report: Any
) -> None:
    """100,000 decisions of 32 agents whose policy wants the protected tool; the daemon dies."""
    agents, decisions = load(32, 4), load(100_000, 5_000)
    explorers = [Explorer(desk.home, -(-decisions // agents)) for _ in range(agents)]
    for explorer in explorers:
        explorer.ready()
    for explorer in explorers:
        explorer.start()

    desk.kill()
    desk.start()
    for explorer in explorers:
        explorer.join()
        explorer.close()

    counted = sum((explorer.counted for explorer in explorers), Counter[str]())
    report.load.update(agents=agents, decisions=decisions)
    report.figures.update(counted)
    assert counted["decided"] >= decisions
    assert (counted["explored"], counted["forced"], counted["unsealed"]) == (0, 0, 0)


def test_a_changed_tool_set_detaches_tool_by_tool(desk: DaemonProcess) -> None:
    """A tool that is described anew has only its prior; one that is gone is never forced."""
    gym = AgentGym("desk", home=desk.home, encoder_wait_s=30.0, seed=1)
    try:
        assert gym.ready(120)

        def scores(tools: tuple[Tool, ...]) -> dict[str, float]:
            run = gym.recorder.start_run("desk", framework="test", task=TASK)
            turn = run.turn(tools)
            turn.finish()
            run.finish()
            assert turn.decision is not None
            forced = [arm for arm in turn.decision.support if arm.kind is ArmKind.FORCE]
            assert {i for arm in forced for i in arm.tools} <= set(range(len(tools)))
            return {tools[arm.tools[0]].name: arm.score for arm in forced}

        learned = scores(TOOLS)
        described = Tool("refund", "Sends a parcel to the moon.")
        renamed = Tool("pay_back", TOOLS[1].description)
        assert learned["refund"] > 0.99
        for new in (described, renamed):
            anew = scores((TOOLS[0], new, TOOLS[2]))
            assert anew[new.name] < 0.9
            # Scores share one sum; between the two that stayed nothing has changed.
            ratio = learned["look_up"] / learned["escalate"]
            assert anew["look_up"] / anew["escalate"] == pytest.approx(ratio, rel=1e-6)
        other = (*TOOLS[:2], Tool("escalate", "Rings a bell."))
        assert scores(other)["refund"] > 0.99
        assert set(scores((TOOLS[0], TOOLS[2]))) == {"look_up", "escalate"}
    finally:
        gym.close(0.0)


# ---- shadow


@tool
def look_up(query: str) -> str:
    """Looks an order up."""
    return f"order {query}"


@tool
def refund(query: str) -> str:
    """Pays the price of an order back."""
    return f"refunded {query}"


@pytest.mark.parametrize("stage", ["observe", "shadow"])
def test_below_canary_the_model_sees_the_bytes_of_the_agent_without_us(
    stage: str, desk: DaemonProcess, agentgym: Agentgym
) -> None:
    agentgym("stage", "desk", stage)
    bodies = []
    gym = AgentGym("desk", home=desk.home, encoder_wait_s=30.0)
    try:
        assert gym.ready(120)
        for middleware in ([], [gym]):
            replies = [call_tool("look_up", {"query": "7"}), say("There it is.")]
            server = LLMServer(ScriptedBrain(replies), keep_alive=False).start()
            model = ChatOpenAI(
                base_url=server.base_url, api_key="none", model="stub", max_retries=0
            )
            agent: Any = create_agent(model, [look_up, refund], middleware=middleware)
            agent.invoke({"messages": [("user", "where is order 7?")]})
            bodies.append([request.body_bytes for request in server.requests])
            server.close()
    finally:
        gym.close(1.0)

    assert bodies[0] == bodies[1]
    assert len(bodies[0]) == 2
