"""What a rollout asks the policy, and what it leaves behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agentgym.policy.arms import Exploration
from agentgym.proto.v1 import common_pb2
from agentgym.trajectory import Tool
from agentgym_daemon.learning.rollouts.served import Served, Serving, open_policy
from agentgym_daemon.learning.rollouts.session import ToolRun, read_run, trajectory_id_of
from agentgym_daemon.rpc import validate

Make = Callable[..., Served]
Tools = tuple[Tool, ...]


def read(run: ToolRun) -> Any:
    return read_run((span.name, span.attributes) for span in run.spans())


def test_spans_tell_the_whole_run(served: Make, tools: Tools) -> None:
    run = ToolRun(served(), "Money back please", b"\1" * 16, key="ro-1")
    first = run.step(tools)
    first.called("refund", error=True)
    run.step(tools).called("ticket")
    run.step(tools).answered()

    told = read(run)

    decisions = told.record.decisions
    assert [list(d.called) for d in decisions] == [["refund"], ["ticket"], []]
    assert [d.completed for d in decisions] == [True, True, True]
    assert [(c.tool, c.error) for c in told.calls] == [("refund", True), ("ticket", False)]
    assert [c.decision_id for c in told.calls] == [d.decision_id for d in decisions[:2]]
    assert [(p.tool, p.error) for p in decisions[2].history] == [
        (tools[1].fingerprint, True),
        (tools[2].fingerprint, False),
    ]
    assert {d.policy_version for d in decisions} == {"p-7"}
    assert [tool.name for tool in told.catalogue.tools] == ["track", "refund", "ticket"]


def test_the_daemon_would_take_the_records(served: Make, tools: Tools) -> None:
    run = ToolRun(served(), "Money back please", b"\1" * 16)
    run.step(tools).called("refund")
    run.step(tools)

    told = read(run)

    assert [validate.decision_fault(d) for d in told.record.decisions] == ["", ""]
    assert [validate.features_fault(f) for f in told.record.features] == [""]
    assert [validate.tool_fault(t) for t in told.catalogue.tools] == [""] * 3


def test_what_is_forced_is_what_was_drawn(served: Make, tools: Tools) -> None:
    exploration = Exploration(temperature=1.0)
    version = served(exploration=exploration)
    seen: Counter[str] = Counter()
    for number in range(200):
        run = ToolRun(version, "Where is it?", number.to_bytes(16, "big"))
        step = run.step(tools)
        seen[step.tool or "defer"] += 1
        (record,) = read(run).record.decisions
        arm = record.support[record.arm]
        assert record.arm_propensity == arm.probability
        assert step.tool == (tools[arm.tools[0]].name if arm.tools else None)

    assert set(seen) == {"defer", "track", "refund", "ticket"}


def test_a_run_is_the_same_for_the_same_trajectory_and_seed(served: Make, tools: Tools) -> None:
    def taken(seed: int) -> list[str | None]:
        version = served(seed=seed)
        runs = [ToolRun(version, "x", n.to_bytes(16, "big"), clock=lambda: 1.0) for n in range(40)]
        return [run.step(tools).tool for run in runs]

    assert taken(1) == taken(1)
    assert taken(1) != taken(2)


def test_a_share_of_runs_is_left_alone(served: Make, tools: Tools) -> None:
    version = served(control_share=0.5)
    runs = [ToolRun(version, "x", n.to_bytes(16, "big")) for n in range(400)]
    controlled = [run for run in runs if run.controlled]

    assert 150 < len(controlled) < 250
    step = controlled[0].step(tools)
    assert step.tool is None
    (record,) = read(controlled[0]).record.decisions
    assert (record.assignment, record.assignment_probability) == (
        common_pb2.ASSIGNMENT_CONTROL,
        0.5,
    )
    assert not record.support


def test_validation_takes_the_best_arm_and_says_so(served: Make, tools: Tools) -> None:
    run = ToolRun(served(control_share=1.0), "Where is it?", b"\1" * 16, greedy=True)
    run.step(tools)

    (record,) = read(run).record.decisions
    assert record.greedy
    assert record.assignment == common_pb2.ASSIGNMENT_PINNED
    assert max(arm.score for arm in record.support) == record.support[record.arm].score


def test_without_a_version_nothing_is_decided(served: Make, tools: Tools) -> None:
    run = ToolRun(served(data=False), "Where is it?", b"\1" * 16)

    assert run.step(tools).tool is None
    (record,) = read(run).record.decisions
    assert record.fallback == common_pb2.FALLBACK_NO_POLICY
    assert record.policy_version == ""


def test_protected_tools_are_never_forced(served: Make, tools: Tools) -> None:
    version = served()
    one = [replace(tools[0], protected=True), *tools[1:]]
    every = [replace(tool, protected=True) for tool in tools]

    drawn = {ToolRun(version, "x", n.to_bytes(16, "big")).step(one).tool for n in range(60)}
    run = ToolRun(version, "x", b"\1" * 16)

    assert "track" not in drawn
    assert run.step(every).tool is None
    assert read(run).record.decisions[0].fallback == common_pb2.FALLBACK_PROTECTED


def test_a_turn_without_tools_and_an_endless_run_are_refused(served: Make, tools: Tools) -> None:
    run = ToolRun(served(data=False), "x", b"\1" * 16)

    with pytest.raises(ValueError, match="at least one tool"):
        run.step([])
    for _ in range(1000):
        run.step(tools)
    with pytest.raises(RuntimeError, match="loop"):
        run.step(tools)


def test_a_run_that_never_asked_tells_nothing() -> None:
    assert read_run([("chat", {"gen_ai.operation.name": "chat"})]) is None


def test_attempts_are_trajectories_of_their_own() -> None:
    assert trajectory_id_of("ro-1-1") != trajectory_id_of("ro-1-2")
    assert len(trajectory_id_of("ro-1-1")) == 16


def test_a_version_travels_as_json_values(served: Make) -> None:
    serving = served(encoder="default").serving

    assert Serving.of(serving.values()) == serving
    assert serving.endpoint == "agentgym://policy/p-7"
    assert Serving("desk").endpoint == "agentgym://policy/none"


def test_a_version_is_opened_once(served: Make) -> None:
    values = served().serving.values()
    first = open_policy(values)

    assert open_policy(dict(values)) is first
    for seed in range(5):
        open_policy({**values, "seed": 100 + seed})
    assert open_policy(values) is not first
