"""Bare loops over a wrapped client of AutoGen, and what the client is to everybody else."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("autogen_agentchat")

from autogen_core import CancellationToken, FunctionCall
from autogen_core.models import (
    AssistantMessage,
    CreateResult,
    FunctionExecutionResult,
    FunctionExecutionResultMessage,
    LLMMessage,
    RequestUsage,
    UserMessage,
)
from autogen_core.tools import FunctionTool
from autogen_ext.models.replay import ReplayChatCompletionClient

from agentgym import semconv
from agentgym.integrations.autogen import GymClient
from agentgym.integrations.autogen import client as client_module
from agentgym.testing import LLMServer
from agentgym.testing.recording import RecordingGym
from tests.autogen_model import model
from tests.plugins.integrations.autogen.harness import (
    TOOLS,
    agents,
    member,
    named,
    news,
    weather,
)
from tests.plugins.integrations.trees import assert_whole


def user(text: str) -> list[LLMMessage]:
    return [UserMessage(content=text, source="user")]


async def loop_over(client: Any, text: str, *, calls: int = 2) -> str:
    """What an agent of the core API does by hand."""
    tools = [FunctionTool(weather, "Tells the weather."), FunctionTool(news, "Tells the news.")]
    messages = user(text)
    for _ in range(calls):
        result = await client.create(messages, tools=tools)
        if isinstance(result.content, str):
            return result.content
        messages.append(AssistantMessage(content=result.content, source="me"))
        results = []
        for call in result.content:
            tool = next(tool for tool in tools if tool.name == call.name)
            value = await tool.run_json({"city": text}, CancellationToken())
            done = FunctionExecutionResult(
                content=str(value), name=call.name, call_id=call.id, is_error=False
            )
            results.append(done)
        messages.append(FunctionExecutionResultMessage(content=results))
    return ""


async def test_a_bare_loop_is_one_inferred_run_per_message(echo: LLMServer) -> None:
    gym = RecordingGym("bot", mode="steer", explore=False)
    gym.force(TOOLS, "news", "bot")

    async with model(echo) as client:
        wrapped = gym.wrap(client)
        answers = [await loop_over(wrapped, city) for city in ("Bonn", "Rome")]

    assert answers == ["Bonn -> no news in Bonn", "Rome -> no news in Rome"]
    assert_whole(gym, trajectories=2)
    assert [span.attributes[semconv.TOOL_NAME] for span in named(gym, semconv.EXECUTE_TOOL)] == [
        "news",
        "news",
    ]
    assert [task.text for task in gym.sink.tasks] == ["Bonn", "Rome"]


async def test_a_bare_loop_inside_a_trajectory_belongs_to_it(echo: LLMServer) -> None:
    gym = RecordingGym("bot", mode="observe")

    async with model(echo) as client:
        with gym.trajectory("ticket-1"):
            await loop_over(gym.wrap(client), "Bonn")

    assert_whole(gym)
    assert named(gym, semconv.INVOKE_AGENT) == []
    assert len(named(gym, semconv.EXECUTE_TOOL)) == 1


async def test_a_loop_inside_a_tool_is_a_nested_run(echo: LLMServer) -> None:
    gym = RecordingGym("bot", mode="observe")

    async with model(echo) as client:
        wrapped = gym.wrap(client)

        async def ask(city: str) -> str:
            """Asks the model."""
            return await loop_over(wrapped, city)

        await member("outer", wrapped, tools=[ask]).run(task="Bonn")

    assert_whole(gym)
    assert agents(gym) == {"outer", "outer/bot"}


async def test_a_failing_bare_call_ends_its_inferred_run(echo: LLMServer) -> None:
    gym = RecordingGym("bot", mode="observe")
    wrapped = gym.wrap(ReplayChatCompletionClient([]))

    with pytest.raises(ValueError, match="No more mock responses"):
        await wrapped.create(user("Bonn"))

    assert_whole(gym)
    assert {span.error for span in gym.sink.spans} == {"ValueError"}


async def test_abandoned_bare_loops_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_WAITING", 2)
    gym = RecordingGym("bot", mode="observe")
    replies: list[str | CreateResult] = [
        CreateResult(
            finish_reason="function_calls",
            content=[FunctionCall(id=call_id, name="weather", arguments="{}")],
            usage=RequestUsage(prompt_tokens=1, completion_tokens=1),
            cached=False,
        )
        for call_id in ("a", "a", "b", "c", "d")
    ]
    wrapped = gym.wrap(
        ReplayChatCompletionClient(
            replies,
            model_info={
                "vision": False,
                "function_calling": True,
                "json_output": False,
                "family": "unknown",
                "structured_output": False,
            },
        )
    )

    for city in "vwxyz":
        await wrapped.create(user(city), tools=[FunctionTool(weather, "Tells the weather.")])

    assert len(gym.sink.ended) == 3
    assert [span.error for span in named(gym, semconv.INVOKE_AGENT)] == ["abandoned"] * 3


async def test_a_choice_of_the_host_is_not_ours_to_change(echo: LLMServer) -> None:
    gym = RecordingGym("bot", mode="steer", explore=False)
    gym.force(TOOLS, "news", "bot")
    tools = [FunctionTool(weather, "Tells the weather."), FunctionTool(news, "Tells the news.")]

    async with model(echo) as client:
        await gym.wrap(client).create(user("Bonn"), tools=tools, tool_choice=tools[0])

    assert echo.requests[0].body["tool_choice"]["function"]["name"] == "weather"
    assert gym.sink.steps == []


async def test_a_client_that_forces_nothing_is_shown_one_tool() -> None:
    """Clients of older versions take no `tool_choice`."""
    offered: list[list[str]] = []

    class Old(ReplayChatCompletionClient):
        async def create(  # type: ignore[override]
            self, messages: Sequence[LLMMessage], *, tools: Sequence[Any] = ()
        ) -> CreateResult:
            offered.append(
                [tool["name"] if isinstance(tool, dict) else tool.name for tool in tools]
            )
            return await super().create(messages)

    gym = RecordingGym("bot", mode="steer", explore=False)
    gym.force(TOOLS, "news", "bot")
    tools = [FunctionTool(weather, "Tells the weather."), FunctionTool(news, "Tells the news.")]

    await gym.wrap(Old(["done"])).create(user("Bonn"), tools=tools)

    assert offered == [["news"]]
    assert [step.force for step in gym.sink.steps] == ["soft"]


async def test_a_wrapped_client_answers_for_the_one_it_wraps() -> None:
    client = ReplayChatCompletionClient(["done"])
    wrapped = RecordingGym("bot", mode="observe").wrap(client)
    messages: list[LLMMessage] = [UserMessage(content=["Bonn", "Rome"], source="user")]

    await wrapped.create(messages)

    assert isinstance(wrapped, GymClient)
    assert wrapped.dump_component() == client.dump_component()
    assert wrapped._to_config() == client._to_config()
    assert wrapped.model_info == client.model_info
    with pytest.warns(DeprecationWarning, match="use model_info"):
        assert wrapped.capabilities == client.capabilities
    assert wrapped.actual_usage() == client.actual_usage()
    assert wrapped.total_usage() == client.total_usage() != RequestUsage(0, 0)
    assert wrapped.count_tokens(messages) == client.count_tokens(messages)
    assert wrapped.remaining_tokens(messages) == client.remaining_tokens(messages)
    assert wrapped.component_type == "replay_chat_completion_client"
    await wrapped.close()


def test_a_wrapped_client_can_be_copied() -> None:
    client = ReplayChatCompletionClient(["done"])
    gym = RecordingGym("bot", mode="observe")

    copied = copy.copy(gym.wrap(client))

    assert isinstance(copied, GymClient)
    assert copied.inner is client
