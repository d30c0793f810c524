"""What the policy's decisions change of CrewAI's requests, and what they leave alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("crewai")

from agentgym.testing import ChatReply, ChatRequest, ToolCall, say
from agentgym.testing.llm_brain import is_tool_result
from agentgym.trajectory import Assignment, Fallback
from tests.plugins.integrations.crewai.harness import (
    QUIET,
    TOOLS,
    Model,
    Play,
    bodies,
    crew,
    gym_for,
    shown,
    spans,
)

pytestmark = QUIET


def test_a_forced_tool_is_the_only_one_shown_with_a_hint_for_one_call(serve: Any) -> None:
    gym = gym_for(explore="true", seed=1)
    gym.force(TOOLS, "escalate", "clerk")
    server = serve(Model("refund"))
    desk = gym.attach(crew(server))

    result = desk.kickoff({"order": "7"})

    assert "escalated 7" in str(result)
    assert shown(server) == [["escalate"], ["lookup_order", "refund", "escalate"]]
    first, second = (r.body for r in server.requests)
    assert first["tool_choice"] == "auto"
    assert "Use the tool escalate" in first["messages"][-1]["content"]
    assert "Use the tool" not in json.dumps(second["messages"])
    step = gym.sink.steps[0]
    assert (step.assignment, step.force, step.called) == (Assignment.POLICY, "soft", ("escalate",))
    assert spans(gym, "chat")[1].attributes["agentgym.arm"] == "defer"


def test_advice_reorders_and_narrows_what_is_shown(serve: Any) -> None:
    gym = gym_for("advise")
    gym.force(TOOLS, "escalate", "clerk")
    server = serve(Model())

    gym.attach(crew(server)).kickoff({"order": "7"})

    step = gym.sink.steps[0]
    assert shown(server)[0] == [TOOLS[i].name for i in step.shown]
    assert shown(server)[0][0] == "escalate"
    assert "Use the tool" not in server.requests[0].body["messages"][-1]["content"]


@pytest.mark.parametrize(
    "settings", [{"mode": "observe"}, {"mode": "shadow"}, {"explore": "true", "control_share": "1"}]
)
def test_without_a_decision_to_apply_the_requests_are_byte_for_byte_the_same(
    serve: Any, settings: dict[str, str]
) -> None:
    gym = gym_for(**settings)

    assert bodies(serve, gym) == bodies(serve, None)
    assert gym.sink.steps[0].mode is gym.config.mode


def test_without_a_policy_a_steered_crew_falls_back_to_the_same_requests(serve: Any) -> None:
    gym = gym_for()
    server = serve(Model("refund"))

    gym.attach(crew(server)).kickoff({"order": "7"})

    assert shown(server)[0] == [t.name for t in TOOLS]
    assert gym.sink.steps[0].fallback is Fallback.NO_POLICY


def test_a_hidden_tool_runs_and_is_marked_unless_blocking_was_asked_for(serve: Any) -> None:
    def stubborn(request: ChatRequest) -> ChatReply:
        results = [m["content"] for m in request.messages if is_tool_result(m)]
        if results:
            return say(results[0])
        return ChatReply(tool_calls=(ToolCall("refund", json.dumps({"order": "7"})),))

    results = []
    for block in ("false", "true"):
        gym = gym_for(block_hidden=block)
        gym.force(TOOLS, "escalate", "clerk")
        results.append(str(gym.attach(crew(serve(Play(stubborn)))).kickoff({"order": "7"})))
        assert spans(gym, "execute_tool")[0].attributes["agentgym.hidden"]

    assert results == ["refunded 7", "The tool refund is not at hand now; use escalate."]
