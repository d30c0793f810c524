"""What the policy's decisions change of AutoGen's requests, and what they leave alone."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("autogen_agentchat")

from autogen_core.tools import FunctionTool, StaticWorkbench

from agentgym import semconv
from agentgym.testing import ChatReply, ChatRequest, LLMServer, call_tool, say
from agentgym.testing.recording import RecordingGym
from agentgym.trajectory import Assignment, Fallback
from tests.autogen_model import model
from tests.plugins.integrations.autogen.harness import (
    TOOLS,
    answer,
    bodies,
    build,
    choice,
    named,
    news,
    shown,
    weather,
)
from tests.plugins.integrations.trees import assert_whole


async def test_steer_forces_the_tool_for_one_turn_then_leaves_the_agent_alone(
    echo: LLMServer, route: str
) -> None:
    gym = RecordingGym("bot", mode="steer", explore=False)
    gym.force(TOOLS, "news", "assistant")

    async with model(echo) as client:
        result = await build(client, gym, route).run(task="Bonn")

    assert choice(echo) == {"type": "function", "function": {"name": "news"}}
    assert shown(echo) == ["weather", "news"]
    assert choice(echo, 1) == "auto"
    assert answer(result) == "Bonn -> no news in Bonn"
    assert [step.force for step in gym.sink.steps] == ["hard", ""]
    assert gym.sink.steps[0].policy_version == "p-000001"


async def test_advise_reorders_the_tools(echo: LLMServer, route: str) -> None:
    gym = RecordingGym("bot", mode="advise", explore=False)
    gym.force(TOOLS, "news", "assistant")

    async with model(echo) as client:
        result = await build(client, gym, route).run(task="Bonn")

    assert shown(echo)[0] == "news"
    assert choice(echo) == "auto"
    assert answer(result) == "Bonn -> no news in Bonn"


@pytest.mark.parametrize("settings", [{"mode": "observe"}, {"mode": "shadow"}, {"mode": "steer"}])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_policy_does_not_decide_reaches_the_model_byte_for_byte(
    echo: LLMServer, route: str, settings: dict[str, Any], stream: bool
) -> None:
    gym = RecordingGym("bot", **settings)
    if settings["mode"] == "shadow":
        gym.force(TOOLS, "news", "assistant")

    async with model(echo) as client:
        bare = await build(client, model_client_stream=stream).run(task="Bonn")
        expected = bodies(echo)
        echo.clear()
        seen = await build(client, gym, route, model_client_stream=stream).run(task="Bonn")

    assert bodies(echo) == expected
    assert answer(seen) == answer(bare)
    assert [type(m) for m in seen.messages] == [type(m) for m in bare.messages]
    assert_whole(gym)


async def test_a_control_trajectory_is_left_alone(echo: LLMServer, route: str) -> None:
    gym = RecordingGym("bot", mode="steer", control_share=1.0)
    gym.force(TOOLS, "news", "assistant")

    async with model(echo) as client:
        await build(client).run(task="Bonn")
        expected = bodies(echo)
        echo.clear()
        await build(client, gym, route).run(task="Bonn")

    assert bodies(echo) == expected
    assert {step.assignment for step in gym.sink.steps} == {Assignment.CONTROL}


async def test_without_a_policy_steps_fall_back(echo: LLMServer, route: str) -> None:
    gym = RecordingGym("bot", mode="steer")

    async with model(echo) as client:
        await build(client, gym, route).run(task="Bonn")

    assert {step.fallback for step in gym.sink.steps} == {Fallback.NO_POLICY}


@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize("workbench", [False, True])
async def test_a_hidden_tool_is_logged_and_blocked_only_on_request(
    route: str, block: bool, workbench: bool
) -> None:
    """A server need not obey `tool_choice`: this one calls the other tool."""

    class Disobedient:
        def reply(self, request: ChatRequest) -> ChatReply:
            object.__setattr__(request, "forced_tool", None)
            if any(message["role"] == "tool" for message in request.messages):
                return say("done")
            return call_tool("weather", {"city": "Bonn"})

    gym = RecordingGym("bot", mode="steer", explore=False, block_hidden=block)
    gym.force(TOOLS, "news", "assistant")
    tools = [FunctionTool(weather, weather.__doc__ or ""), FunctionTool(news, news.__doc__ or "")]
    options = {"workbench": StaticWorkbench(list(tools)), "tools": None} if workbench else {}

    with LLMServer(Disobedient(), keep_alive=False) as server:
        async with model(server) as client:
            await build(client, gym, route, **options).run(task="Bonn")
        (result,) = [
            m["content"] for m in server.requests[1].body["messages"] if m["role"] == "tool"
        ]

    (call,) = named(gym, semconv.EXECUTE_TOOL)
    assert call.attributes[semconv.HIDDEN] is True
    assert call.attributes.get(semconv.VETOED, False) is block
    assert ("not available" in result) is block
    assert ("sunny" in result) is not block


async def test_a_reflection_is_a_turn_but_no_step(echo: LLMServer, route: str) -> None:
    gym = RecordingGym("bot", mode="steer", explore=False)
    gym.force(TOOLS, "news", "assistant")
    options = {"max_tool_iterations": 1, "reflect_on_tool_use": True}

    async with model(echo) as client:
        await build(client, gym, route, **options).run(task="Bonn")

    assert len(named(gym, semconv.CHAT)) == 2
    assert len(gym.sink.steps) == 1
    assert_whole(gym)


async def test_streams_are_recorded_and_steered(echo: LLMServer, route: str) -> None:
    gym = RecordingGym("bot", mode="steer", explore=False)
    gym.force(TOOLS, "news", "assistant")

    async with model(echo) as client:
        agent = build(client, gym, route, model_client_stream=True)
        items = [item async for item in agent.run_stream(task="Bonn")]
        gym.reward(0.5)

    assert answer(items[-1]) == "Bonn -> no news in Bonn"
    assert choice(echo) == {"type": "function", "function": {"name": "news"}}
    assert_whole(gym)
    assert [reward.trajectory_id for reward in gym.sink.rewards] == gym.sink.ended
