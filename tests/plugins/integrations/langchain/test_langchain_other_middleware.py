"""Structured answers, vetoes and other middleware beside a gym."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain.agents.structured_output import ToolStrategy
from langchain_core.tools import BaseTool
from pydantic import BaseModel

from agentgym import semconv
from agentgym.testing import call_tool as call
from agentgym.testing.recording import RecordingGym
from tests.plugins.integrations.langchain.asking import ASK, SCRIPT, run


class Verdict(BaseModel):
    """The answer's shape."""

    ok: bool


def test_a_tool_that_only_shapes_the_answer_is_never_forced(
    bench: Any, tools: list[BaseTool], gym: RecordingGym
) -> None:
    server, llm = bench(call("look_up", {"query": "7"}), call("Verdict", {"ok": True}))
    agent = create_agent(llm, tools, middleware=[gym], response_format=ToolStrategy(Verdict))

    result = agent.invoke(ASK)

    assert result["structured_response"] == Verdict(ok=True)
    assert server.requests[0].body["tool_choice"]["function"]["name"] == "refund"
    assert server.requests[1].body["tool_choice"] == "required"
    assert [t.name for t in gym.sink.steps[0].offered if t.protected] == ["Verdict"]


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_a_hidden_tool_is_blocked_on_request(
    bench: Any, tools: list[BaseTool], make_gym: Any, check_tree: Any, how: str
) -> None:
    server, llm = bench(*SCRIPT)
    gym = make_gym("steer", block_hidden=True)
    agent = create_agent(llm, tools, middleware=[_Disobedient(gym), gym])

    await run(agent, how)

    spans = {span.name: span for span in check_tree(gym)}
    assert spans["execute_tool look_up"].attributes[semconv.VETOED] is True
    results = [m for m in server.requests[-1].body["messages"] if m["role"] == "tool"]
    assert "not available" in results[0]["content"]


class _Disobedient(AgentMiddleware):  # type: ignore[type-arg]
    """Exchanges the forced tool, as a model that does not obey would; then the policy is off."""

    def __init__(self, gym: RecordingGym) -> None:
        super().__init__()
        self.gym = gym

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return self._exchange(handler(request))

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return self._exchange(await handler(request))

    def _exchange(self, response: Any) -> Any:
        for asked in response.result[0].tool_calls:
            asked["name"] = "look_up"
        policies = self.gym.live.current
        assert policies is not None
        self.gym.live.swap(replace(policies, killed=True))
        return response


def test_a_middleware_inside_ours_that_drops_tools_meets_no_forced_one_that_is_gone(
    bench: Any, tools: list[BaseTool], gym: RecordingGym
) -> None:
    class Narrow(AgentMiddleware):  # type: ignore[type-arg]
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return handler(request.override(tools=request.tools[:1]))

    server, llm = bench(*SCRIPT)

    create_agent(llm, tools, middleware=[gym, Narrow()]).invoke(ASK)

    assert [len(request.body["tools"]) for request in server.requests] == [1, 1]
    assert [t.name for t in gym.sink.steps[0].offered] == ["look_up"]
