"""The ways in which a run of LangChain may not reach its end: cancelled, closed, failed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import BaseTool

from agentgym import semconv
from agentgym.testing import ApiError, ChatReply, ChatRequest
from agentgym.testing import call_tool as call
from agentgym.testing.recording import RecordingGym
from tests.plugins.integrations.langchain.asking import ASK, SCRIPT, WAYS, run, waiting_tool


async def test_cancelling_in_a_tool_leaves_nothing_open(
    bench: Any, make_gym: Any, check_tree: Any
) -> None:
    started, wait = waiting_tool()
    _, llm = bench(call("wait", {"query": "1"}))
    gym = make_gym("shadow")
    task = asyncio.create_task(create_agent(llm, [wait], middleware=[gym]).ainvoke(ASK))
    await started.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

    spans = {span.name: span for span in check_tree(gym)}
    assert spans["execute_tool wait"].attributes[semconv.INCOMPLETE] == "cancelled"
    assert spans["invoke_agent desk"].attributes[semconv.INCOMPLETE] == "cancelled"


async def test_cancelling_in_the_model_leaves_nothing_open(
    bench: Any, tools: list[BaseTool], gym: RecordingGym, check_tree: Any
) -> None:
    server, llm = bench(ChatReply(text="late", delay_s=60.0))
    agent = create_agent(llm, tools, middleware=[gym])
    task = asyncio.create_task(agent.ainvoke(ASK))
    while not server.requests:
        await asyncio.sleep(0.001)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

    assert {span.error for span in check_tree(gym)} == {"cancelled"}
    assert [step.completed for step in gym.sink.steps] == [False]


def test_closing_a_stream_early_leaves_nothing_open(
    bench: Any, tools: list[BaseTool], make_gym: Any, check_tree: Any
) -> None:
    _, llm = bench(*SCRIPT)
    gym = make_gym("shadow")
    stream = create_agent(llm, tools, middleware=[gym]).stream(ASK)
    next(stream)

    stream.close()

    assert check_tree(gym)[-1].attributes[semconv.INCOMPLETE] == "cancelled"


async def test_closing_an_async_stream_early_leaves_nothing_open(
    bench: Any, tools: list[BaseTool], make_gym: Any, check_tree: Any
) -> None:
    _, llm = bench(*SCRIPT)
    gym = make_gym("shadow")
    stream = create_agent(llm, tools, middleware=[gym]).astream(ASK)
    await anext(stream)

    await stream.aclose()

    check_tree(gym)


@pytest.mark.parametrize("how", WAYS)
async def test_a_failing_model_ends_everything_and_its_error_is_the_hosts(
    bench: Any, tools: list[BaseTool], make_gym: Any, check_tree: Any, how: str
) -> None:
    def fail(request: ChatRequest) -> ChatReply:
        raise ApiError(500, "down", retry=False)

    server, llm = bench(fail)
    gym = make_gym("steer")

    with pytest.raises(Exception, match="down"):
        await run(create_agent(llm, tools, middleware=[gym]), how)

    errors = {span.error for span in check_tree(gym)}
    assert len(errors) == 1
    assert "" not in errors
    assert len(server.requests) == 1


@pytest.mark.parametrize("how", WAYS)
async def test_a_request_that_the_provider_refuses_because_of_us_is_sent_as_it_was(
    bench: Any, tools: list[BaseTool], gym: RecordingGym, check_tree: Any, how: str
) -> None:
    def refuse(request: ChatRequest) -> ChatReply:
        raise ApiError(400, "no forced tools with thinking", retry=False)

    server, llm = bench(refuse, *SCRIPT)
    gym.guard.strict = False
    agent = create_agent(llm, tools, middleware=[gym])

    assert await run(agent, how) == "Here it is."

    choices = ["tool_choice" in request.body for request in server.requests]
    assert choices == [True, False, False]
    tried, plain, execute, *_ = check_tree(gym)
    assert (tried.error, plain.error) == ("OpenAIInvalidRequestError", "")
    assert execute.parent_id == plain.span_id
    assert semconv.HIDDEN not in execute.attributes
    assert gym.guard.errors["langchain.refused"] == 1
