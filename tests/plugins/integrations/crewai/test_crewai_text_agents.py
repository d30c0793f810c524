"""Agents of CrewAI whose tools stand in the prompt: shadowed, hinted only on request."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("crewai")

from crewai import LLM, Crew, Task

from agentgym.config import Mode
from agentgym.testing import ChatReply, ChatRequest, LLMServer, say
from tests.plugins.integrations.crewai.harness import QUIET, TOOLS, Play, clerk, gym_for, spans
from tests.plugins.integrations.trees import assert_whole

pytestmark = QUIET

TEXT = "Thought: I need it\nAction: {}\nAction Input: {}"


def _text_model(request: ChatRequest) -> ChatReply:
    if len(request.messages) > 2:
        return say("Thought: I now know\nFinal Answer: fine")
    last = request.messages[-1]["content"]
    name = "escalate" if "Use the tool escalate" in last else "refund"
    return say(TEXT.format(name, json.dumps({"order": "7"})))


class TextModel(type(LLM(model="openai/gpt-4o", api_key="none"))):  # type: ignore[misc]
    """A model that cannot call tools natively."""

    def supports_function_calling(self) -> bool:
        return False


def _text_crew(server: LLMServer) -> Crew:
    llm = TextModel(model="gpt-4o", base_url=server.base_url, api_key="none")
    agent = clerk(server, llm=llm)
    task = Task(description="Order 7 is late", expected_output="a text", agent=agent)
    return Crew(agents=[agent], tasks=[task])


@pytest.mark.parametrize("hinted", [False, True])
def test_a_text_agent_is_shadowed_and_hinted_only_on_request(serve: Any, hinted: bool) -> None:
    gym = gym_for(hint_text=str(hinted))
    gym.force(TOOLS, "escalate", "clerk")
    server = serve(Play(_text_model))

    result = gym.attach(_text_crew(server)).kickoff()

    assert str(result) == "fine"
    step = gym.sink.steps[0]
    assert step.mode is (Mode.ADVISE if hinted else Mode.SHADOW)
    assert [t.name for t in step.offered] == [t.name for t in TOOLS]
    assert step.called == (("escalate",) if hinted else ("refund",))
    assert spans(gym, "execute_tool")[0].attributes["gen_ai.tool.name"] == step.called[0]
    assert_whole(gym)
