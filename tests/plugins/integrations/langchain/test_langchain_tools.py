"""Calls of LangChain's tools: the turn that asked, errors, attempts, and what is passed on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ToolRetryMiddleware
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool, ToolException, tool

from agentgym.testing import ChatReply, ToolCall, say
from agentgym.testing import call_tool as call
from agentgym.testing.recording import RecordingGym
from tests.plugins.integrations.langchain.asking import ASK, run


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_parallel_tool_calls_belong_to_the_turn_that_asked(
    bench: Any, tools: list[BaseTool], make_gym: Any, check_tree: Any, how: str
) -> None:
    both = ChatReply(
        tool_calls=(ToolCall("look_up", '{"query": "1"}'), ToolCall("refund", '{"query": "2"}'))
    )
    _, llm = bench(both, say("done"))
    gym = make_gym("shadow")

    await run(create_agent(llm, tools, middleware=[gym]), how)

    spans = check_tree(gym)
    executed = [span for span in spans if span.name.startswith("execute_tool")]
    assert {span.name for span in executed} == {"execute_tool look_up", "execute_tool refund"}
    assert {span.parent_id for span in executed} == {spans[0].span_id}
    assert gym.sink.steps[0].called == ("look_up", "refund")


@tool
def broken(query: str) -> str:
    """Always fails."""
    raise ValueError("no")


@tool
def refusing(query: str) -> str:
    """Fails politely."""
    raise ToolException("not today")


refusing.handle_tool_error = True


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_a_tool_that_raises_ends_everything_and_its_error_is_the_hosts(
    bench: Any, make_gym: Any, check_tree: Any, how: str
) -> None:
    _, llm = bench(call("broken", {"query": "1"}))
    gym = make_gym("shadow")

    with pytest.raises(ValueError, match="no"):
        await run(create_agent(llm, [broken], middleware=[gym]), how)

    assert {s.name: s.error for s in check_tree(gym)} == {
        "chat gpt-4o": "",
        "execute_tool broken": "ValueError",
        "invoke_agent desk": "ValueError",
    }


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_a_tool_message_with_an_error_status_is_a_visible_error(
    bench: Any, make_gym: Any, check_tree: Any, how: str
) -> None:
    _, llm = bench(call("refusing", {"query": "1"}), say("sorry"))
    gym = make_gym("shadow")

    await run(create_agent(llm, [refusing], middleware=[gym]), how)

    errors = {s.name: s.error for s in check_tree(gym)}
    assert errors["execute_tool refusing"] == "ToolException"
    assert errors["invoke_agent desk"] == ""
    assert [past.error for past in gym.sink.steps[1].history] == [True]


def test_a_tool_that_does_not_exist_is_a_failed_call(
    bench: Any, tools: list[BaseTool], make_gym: Any, check_tree: Any
) -> None:
    _, llm = bench(call("teleport", {"query": "1"}), say("sorry"))
    gym = make_gym("shadow")

    create_agent(llm, tools, middleware=[gym]).invoke(ASK)

    assert {s.name: s.error for s in check_tree(gym)}["execute_tool teleport"] == "ToolException"


def test_every_attempt_of_a_retried_tool_is_a_call(
    bench: Any, make_gym: Any, check_tree: Any
) -> None:
    attempts = iter([ValueError("first"), None])

    @tool
    def flaky(query: str) -> str:
        """Works at the second attempt."""
        error = next(attempts)
        if error:
            raise error
        return "ok"

    _, llm = bench(call("flaky", {"query": "1"}), say("done"))
    gym = make_gym("shadow")
    retry = ToolRetryMiddleware(max_retries=1, initial_delay=0.0, jitter=False)

    create_agent(llm, [flaky], middleware=[gym, retry]).invoke(ASK)

    spans = [s for s in check_tree(gym) if s.name == "execute_tool flaky"]
    assert [span.error for span in spans] == ["ValueError", ""]


def test_a_tool_message_is_passed_on_untouched(
    bench: Any, make_gym: Callable[..., RecordingGym]
) -> None:
    @tool(response_format="content_and_artifact")
    def with_artifact(query: str) -> tuple[str, dict[str, int]]:
        """Returns more than text."""
        return "text", {"rows": 3}

    _, llm = bench(call("with_artifact", {"query": "1"}), say("done"))

    result = create_agent(llm, [with_artifact], middleware=[make_gym("steer")]).invoke(ASK)

    messages = [m for m in result["messages"] if isinstance(m, ToolMessage)]
    assert [(m.content, m.artifact) for m in messages] == [("text", {"rows": 3})]
