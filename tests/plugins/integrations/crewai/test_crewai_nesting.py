"""Coworkers, managers and crews inside tools are parts of the outer trajectory."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("crewai")

from crewai import Crew, Process, Task
from crewai.tools import tool

from agentgym.testing import ChatReply, ChatRequest, ToolCall, say
from agentgym.testing.llm_brain import is_tool_result
from agentgym.testing.recording import RecordingGym
from tests.plugins.integrations.crewai.harness import (
    QUIET,
    Model,
    Play,
    clerk,
    crew,
    gym_for,
    model,
    spans,
)
from tests.plugins.integrations.trees import assert_whole

pytestmark = QUIET


def _delegation(request: ChatRequest) -> ChatReply:
    names = [spec.name for spec in request.tools]
    if any(is_tool_result(m) for m in request.messages):
        return say("done")
    if "delegate_work_to_coworker" in names:
        arguments = {"task": "refund 7", "context": "late", "coworker": "Clerk"}
        return ChatReply(tool_calls=(ToolCall(names[-2], json.dumps(arguments)),))
    return ChatReply(tool_calls=(ToolCall("refund", json.dumps({"order": "7"})),))


def _assert_delegated(gym: RecordingGym, boss_name: str) -> None:
    assert_whole(gym)
    boss, worker = spans(gym, "invoke_agent")
    delegated, refunded = spans(gym, "execute_tool")
    assert boss.attributes["gen_ai.agent.name"].strip() == boss_name
    assert delegated.attributes["gen_ai.tool.name"] == "delegate_work_to_coworker"
    assert worker.parent_id == delegated.span_id
    assert refunded.attributes["gen_ai.agent.name"] == "Clerk"
    assert "refund 7" in {task.text for task in gym.sink.tasks}


def test_a_coworker_runs_below_the_call_that_delegated_to_it(serve: Any) -> None:
    gym = gym_for("observe")
    server = serve(Play(_delegation))
    boss = clerk(server, role="Boss", allow_delegation=True, tools=[])
    task = Task(description="Order 7 is late", expected_output="a text", agent=boss)

    gym.attach(Crew(agents=[boss, clerk(server)], tasks=[task])).kickoff()

    _assert_delegated(gym, "Boss")


def test_the_manager_that_a_hierarchical_crew_creates_is_attached(serve: Any) -> None:
    gym = gym_for("observe")
    server = serve(Play(_delegation))
    desk = Crew(
        agents=[clerk(server)],
        tasks=[Task(description="Order 7 is late", expected_output="a text")],
        process=Process.hierarchical,
        manager_llm=model(server),
    )

    gym.attach(desk).kickoff()

    _assert_delegated(gym, "Crew Manager")


def test_a_crew_inside_a_tool_is_part_of_the_outer_trajectory(serve: Any) -> None:
    gym = gym_for("observe")
    server = serve(Model("ask_desk", "refund"))
    inner = gym.attach(crew(server, name="inner"))

    @tool("ask_desk")
    def ask_desk(order: str) -> str:
        """Asks the desk."""
        return str(inner.kickoff({"order": order}))

    boss = clerk(server, role="Boss", tools=[ask_desk])
    task = Task(description="Ask about 7", expected_output="a text", agent=boss)
    gym.attach(Crew(agents=[boss], tasks=[task], name="outer")).kickoff()

    assert_whole(gym)
    outer, below = spans(gym, "invoke_workflow")
    asked = spans(gym, "execute_tool")[0]
    assert (outer.parent_id, below.parent_id) == (b"", asked.span_id)
