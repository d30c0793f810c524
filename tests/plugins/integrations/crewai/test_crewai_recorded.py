"""CrewAI's own crews against a stub server: what is recorded."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("crewai")

from crewai import Crew, Task
from crewai.tools import tool
from crewai.tools.tool_failure import ToolFailure

from agentgym.testing import ChatReply, ChatRequest, ToolCall, say
from agentgym.testing.llm_brain import is_tool_result
from tests.plugins.integrations.crewai.harness import (
    QUIET,
    TOOLS,
    Model,
    Play,
    clerk,
    crew,
    gym_for,
    spans,
)
from tests.plugins.integrations.trees import assert_whole

pytestmark = QUIET


class Every:
    """Calls several tools in one answer."""

    def reply(self, request: ChatRequest) -> ChatReply:
        if any(is_tool_result(m) for m in request.messages):
            return say("done")
        arguments = json.dumps({"order": "7"})
        return ChatReply(tool_calls=tuple(ToolCall(t.name, arguments) for t in request.tools))


def test_a_kickoff_is_one_trajectory_of_crew_agent_turns_and_calls(serve: Any) -> None:
    gym = gym_for("observe")
    desk = gym.attach(crew(serve(Model("refund"))))

    result = desk.kickoff({"order": "7"})
    gym.reward(1.0)

    assert "refunded 7" in str(result)
    assert_whole(gym)
    (root,) = spans(gym, "invoke_workflow")
    (agent,) = spans(gym, "invoke_agent")
    first, second = spans(gym, "chat")
    (call,) = spans(gym, "execute_tool")
    assert (root.name, agent.name) == ("invoke_workflow desk", "invoke_agent Clerk")
    assert [agent.parent_id, first.parent_id, second.parent_id, call.parent_id] == [
        root.span_id,
        agent.span_id,
        agent.span_id,
        first.span_id,
    ]
    assert call.attributes["gen_ai.tool.name"] == "refund"
    assert call.attributes["gen_ai.tool.call.id"].startswith("call_")
    assert first.attributes["gen_ai.usage.input_tokens"] > 0
    assert first.attributes["gen_ai.request.model"] == "gpt-4o"
    assert [step.called for step in gym.sink.steps] == [("refund",), ()]
    assert [task.text for task in gym.sink.tasks] == ["Order 7 is late"]
    assert gym.sink.rewards[0].trajectory_id == root.trajectory_id


def test_offered_tools_have_the_shape_that_other_frameworks_see(serve: Any) -> None:
    gym = gym_for("observe")

    gym.attach(crew(serve(Model("refund")))).kickoff({"order": "7"})

    offered = gym.sink.steps[0].offered
    assert [t.fingerprint for t in offered] == [t.fingerprint for t in TOOLS]


def test_a_named_crew_gives_its_name_to_the_run(serve: Any) -> None:
    gym = gym_for("observe")

    gym.attach(crew(serve(Model("refund")), name="front office")).kickoff({"order": "7"})

    assert spans(gym, "invoke_workflow")[0].name == "invoke_workflow front office"


def test_a_tool_that_raises_is_a_visible_error(serve: Any) -> None:
    gym = gym_for("observe")
    server = serve(Model("refund", arguments={"order": "broken"}))

    gym.attach(crew(server)).kickoff({"order": "7"})

    assert spans(gym, "execute_tool")[0].error == "ToolError"
    assert gym.sink.steps[1].history[0].error


def test_a_tool_that_does_not_exist_is_a_visible_error(serve: Any) -> None:
    def reply(request: ChatRequest) -> ChatReply:
        if any(is_tool_result(m) for m in request.messages):
            return say("sorry")
        return ChatReply(tool_calls=(ToolCall("invented", "{}"),))

    gym = gym_for("observe")

    gym.attach(crew(serve(Play(reply)))).kickoff({"order": "7"})

    assert spans(gym, "execute_tool")[0].error == "unknown_tool"


def test_arguments_that_do_not_parse_are_a_visible_error(serve: Any) -> None:
    def reply(request: ChatRequest) -> ChatReply:
        if any(is_tool_result(m) for m in request.messages):
            return say("sorry")
        return ChatReply(tool_calls=(ToolCall("refund", "{not json"),))

    gym = gym_for("observe")

    gym.attach(crew(serve(Play(reply)))).kickoff({"order": "7"})

    (call,) = spans(gym, "execute_tool")
    assert (call.attributes["gen_ai.tool.name"], call.error) == ("refund", "invalid_arguments")
    assert call.parent_id == spans(gym, "chat")[0].span_id


def test_a_failure_that_a_tool_declares_is_a_visible_error(serve: Any) -> None:
    @tool("refund")
    def declining(order: str) -> Any:
        """Refunds an order."""
        return ToolFailure(message="too late")

    gym = gym_for("observe")
    agent = clerk(serve(Model("refund")), tools=[declining])
    task = Task(description="Refund 7", expected_output="a text", agent=agent)

    gym.attach(Crew(agents=[agent], tasks=[task])).kickoff()

    assert spans(gym, "execute_tool")[0].error == "tool_reported"


def test_results_that_are_no_text_are_no_errors(serve: Any) -> None:
    @tool("refund")
    def counting(order: str) -> int:
        """Refunds an order."""
        return 7

    gym = gym_for("observe")
    agent = clerk(serve(Model("refund")), tools=[counting])
    task = Task(description="Refund 7", expected_output="a text", agent=agent)

    gym.attach(Crew(agents=[agent], tasks=[task])).kickoff()

    assert spans(gym, "execute_tool")[0].error == ""


def test_parallel_calls_find_their_ids_and_their_turn(serve: Any) -> None:
    gym = gym_for("observe")

    gym.attach(crew(serve(Every()))).kickoff({"order": "7"})

    calls = spans(gym, "execute_tool")
    assert {c.attributes["gen_ai.tool.name"] for c in calls} == {t.name for t in TOOLS}
    assert len({c.attributes["gen_ai.tool.call.id"] for c in calls}) == 3
    assert {c.parent_id for c in calls} == {spans(gym, "chat")[0].span_id}
    assert gym.sink.steps[0].called == ("lookup_order", "refund", "escalate")
