"""What is stored is what was decided: the trainer computes it again and leaves out what it must."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import ToolException, tool
from langchain_openai import ChatOpenAI

from agentgym import AgentGym
from agentgym.proto.v1 import common_pb2
from agentgym.testing import EchoToolBrain, LLMServer
from agentgym_daemon.learning.crossfit import HALVES
from agentgym_daemon.learning.dataset import Trajectory
from agentgym_daemon.learning.settings import LearningSettings

pytestmark = pytest.mark.e2e

RETRAIN = 60


@tool
def look_up(query: str) -> str:
    """Looks an order up."""
    return f"order {query}"


@tool
def refund(query: str) -> str:
    """Pays money back."""
    return f"refunded {query}"


@tool
def escalate(query: str) -> str:
    """Hands an order to a person."""
    raise ToolException("nobody is there")


escalate.handle_tool_error = True


def serve_customers(gym: AgentGym, server: LLMServer, count: int) -> None:
    """Runs whose customers are content when they get their money back."""
    llm = ChatOpenAI(model="gpt-4o", base_url=server.base_url, api_key="test", max_retries=0)
    agent = create_agent(llm, [look_up, refund, escalate], middleware=[gym])
    for number in range(count):
        answer = agent.invoke({"messages": [("user", f"order {number}?")]})
        gym.reward(float("refunded" in answer["messages"][-1].content))


def wait_for_trainings(daemon: Any, count: int) -> None:
    """Returns when so many trainings are on record, which comes after their versions' fate."""
    while len(re.findall(r"training \S+: \w+ in", daemon.log)) < count:
        time.sleep(0.05)


def may_be_learned_from(decision: Any) -> bool:
    """Whether a step was sampled by a policy that acted."""
    return (
        decision.assignment == common_pb2.ASSIGNMENT_POLICY
        and decision.fallback == common_pb2.FALLBACK_NONE
        and not decision.greedy
        and decision.arm >= 0
    )


def trained_on(stored: Sequence[Any]) -> list[Any]:
    """The trajectories that are not held out, by the trainer's own rule."""
    one_in = LearningSettings().held_out_in
    ids = {s.summary.trajectory_id for s in stored}
    held_out = {i for i in ids if Trajectory(i, None, (), 0).held_out(one_in)}
    return [s for s in stored if s.summary.trajectory_id not in held_out]


@pytest.mark.timeout(300)
def test_trainings_recompute_what_was_stored_and_leave_out_what_no_policy_sampled(
    make_daemon: Callable[..., Any], forcing: Any, make_gym: Any, serve: Any
) -> None:
    flags = ["--control-share", "0.25", "--temperature", "0.5", "--log-level", "info"]
    daemon = make_daemon(
        forcing("desk"), flags=[*flags, "--retrain-trajectories", str(RETRAIN)]
    ).start()
    server = serve(brain=EchoToolBrain())
    gym = make_gym(daemon, "desk")
    serve_customers(gym, server, 40)
    others = (
        make_gym(daemon, "desk", mode="shadow"),
        make_gym(daemon, "desk", explore=False),
        make_gym(daemon, "desk", protected="look_up,refund,escalate"),
    )
    for other, count in zip(others, (8, 6, 6), strict=True):
        serve_customers(other, server, count)
        assert other.flush(30)
    assert gym.flush(30)
    wait_for_trainings(daemon, 1)
    first = daemon.stored(gym)
    serve_customers(gym, server, RETRAIN)
    assert gym.flush(30)
    wait_for_trainings(daemon, 2)
    both = daemon.stored(gym)
    runs = daemon.trainings()

    kinds = Counter(d.assignment for s in first for d in s.decisions)
    assert min(kinds[a] for a in (1, 2, 3, 4)) > 0  # policy, control, shadow, pinned
    assert {d.fallback for s in first for d in s.decisions} == {
        common_pb2.FALLBACK_NONE,
        common_pb2.FALLBACK_PROTECTED,
    }
    for stored in both:
        stored.check()
    reports = [json.loads(run.report_json) for run in runs]
    assert [run.trajectories for run in runs] == [RETRAIN, 2 * RETRAIN]
    for report, data in zip(reports, (first, both), strict=True):
        kept = trained_on(data)
        learned = [d for s in kept for d in s.decisions if may_be_learned_from(d)]
        assert report["trajectories"] == len(kept)
        assert report["held_out"] == len(data) - len(kept)
        assert report["steps"] == sum(len(s.decisions) for s in kept)
        assert report["gradient_steps"] == len(learned)
        assert report["ratio_error"] <= 1e-6
        assert 0 < report["gradient_steps_of_parent"] <= len(learned)
    assert reports[0]["gradient_steps_of_parent"] == reports[0]["gradient_steps"]
    twins = {path.name for path in (daemon.home / "twins").iterdir()}
    live = max(r.version for r in runs if r.verdict == "promoted")
    assert {f"{live}.{half}.safetensors" for half in range(HALVES)} <= twins
