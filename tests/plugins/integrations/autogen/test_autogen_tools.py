"""Calls of AutoGen's tools and workbenches: their turn, their errors, and use outside of runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest

pytest.importorskip("autogen_agentchat")

from autogen_core.tools import FunctionTool, StaticStreamWorkbench, StaticWorkbench

from agentgym import semconv
from agentgym.testing import ChatReply, LLMServer, ScriptedBrain, ToolCall, say
from agentgym.testing.recording import RecordingGym
from tests.autogen_model import model
from tests.plugins.integrations.autogen.harness import (
    TURN_CALL_TURN,
    build,
    named,
    outline,
    weather,
)


async def test_a_tools_exception_is_a_visible_error(echo: LLMServer, route: str) -> None:
    gym = RecordingGym("bot", mode="observe")

    async with model(echo) as client:
        await build(client, gym, route).run(task="Atlantis")

    (call,) = named(gym, semconv.EXECUTE_TOOL)
    assert call.error == "tool_error"
    assert [past.error for past in gym.sink.steps[1].history] == [True]


async def test_unknown_tools_and_broken_arguments_are_visible_errors(route: str) -> None:
    gym = RecordingGym("bot", mode="observe")
    calls = (ToolCall("nothing"), ToolCall("weather", "{"), ToolCall("news", '{"city": "Bonn"}'))
    brain = ScriptedBrain([ChatReply(tool_calls=calls), say("done")])

    with LLMServer(brain, keep_alive=False) as server:
        async with model(server) as client:
            await build(client, gym, route).run(task="Bonn")

    spans = {s.attributes[semconv.TOOL_NAME]: s for s in named(gym, semconv.EXECUTE_TOOL)}
    assert {name: span.error for name, span in spans.items()} == {
        "nothing": "tool_error",
        "weather": "tool_error",
        "news": "",
    }
    assert len({span.parent_id for span in spans.values()}) == 1


async def test_parallel_calls_belong_to_the_turn_that_asked(route: str) -> None:
    gym = RecordingGym("bot", mode="observe")
    calls = tuple(ToolCall(name, '{"city": "Bonn"}') for name in ("weather", "news", "weather"))
    brain = ScriptedBrain([ChatReply(tool_calls=calls), say("done")])

    with LLMServer(brain, keep_alive=False) as server:
        async with model(server) as client:
            await build(client, gym, route).run(task="Bonn")

    ((_, first, second),) = outline(gym)
    assert sorted(name for (name,) in first[1:]) == [
        "execute_tool news",
        "execute_tool weather",
        "execute_tool weather",
    ]
    assert second == ["chat gpt-4o"]


async def test_tools_given_as_a_workbench_are_recorded(echo: LLMServer, route: str) -> None:
    gym = RecordingGym("bot", mode="observe")
    shared = StaticWorkbench([FunctionTool(weather, "Tells the weather.")])

    async with model(echo) as client:
        for _ in range(2):
            await build(client, gym, route, tools=None, workbench=shared).run(task="Bonn")

    assert outline(gym) == TURN_CALL_TURN * 2


class FailingWorkbench(StaticWorkbench):
    """Raises where AutoGen's own would return an error."""

    async def call_tool(self, *args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("the workbench is gone")


class FailingStreamWorkbench(StaticStreamWorkbench):
    """Raises where AutoGen's own would return an error."""

    async def call_tool_stream(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        raise ConnectionError("the workbench is gone")
        yield


async def test_the_failure_of_a_workbench_reaches_the_caller_and_is_recorded(
    echo: LLMServer, route: str
) -> None:
    gym = RecordingGym("bot", mode="observe")
    workbench = FailingWorkbench([FunctionTool(weather, "Tells the weather.")])

    async with model(echo) as client:
        # AutoGen waits for ever for results of the calls, so the call is made without the agent.
        build(client, gym, route, tools=None, workbench=workbench)
        with gym.trajectory(), pytest.raises(ConnectionError):
            await workbench.call_tool("weather")

    (call,) = named(gym, semconv.EXECUTE_TOOL)
    assert call.error == "ConnectionError"


async def test_the_failure_of_a_streaming_workbench_reaches_the_caller_and_is_recorded(
    echo: LLMServer, route: str
) -> None:
    gym = RecordingGym("bot", mode="observe")
    workbench = FailingStreamWorkbench([FunctionTool(weather, "Tells the weather.")])

    async with model(echo) as client:
        build(client, gym, route, tools=None, workbench=workbench)
        with gym.trajectory(), pytest.raises(ConnectionError):
            _ = [item async for item in workbench.call_tool_stream("weather")]

    (call,) = named(gym, semconv.EXECUTE_TOOL)
    assert call.error == "ConnectionError"


@pytest.mark.parametrize("kind", [StaticWorkbench, StaticStreamWorkbench])
async def test_tools_used_outside_of_runs_are_not_recorded(
    echo: LLMServer, route: str, kind: type[StaticWorkbench]
) -> None:
    gym = RecordingGym("bot", mode="observe")
    workbench = kind([FunctionTool(weather, "Tells the weather.")])

    async with model(echo) as client:
        build(client, gym, route, tools=None, workbench=workbench)
        result = await workbench.call_tool("weather", {"city": "Bonn"})
        if isinstance(workbench, StaticStreamWorkbench):
            stream = workbench.call_tool_stream("weather", {"city": "Bonn"})
            assert [item async for item in stream] == [result]

    assert result.to_text() == "sunny in Bonn"
    assert gym.sink.items == []
