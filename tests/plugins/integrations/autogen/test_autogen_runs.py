"""AutoGen's own agents against a stub server: which runs, turns and tasks are recorded."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("autogen_agentchat")

from autogen_agentchat.messages import TextMessage
from autogen_core import CancellationToken
from autogen_ext.models.openai import OpenAIChatCompletionClient

from agentgym import semconv
from agentgym.testing import EchoToolBrain, LLMServer
from agentgym.testing.recording import RecordingGym
from tests.autogen_model import model
from tests.plugins.integrations.autogen.harness import (
    TOOLS,
    TURN_CALL_TURN,
    answer,
    build,
    named,
    outline,
)
from tests.plugins.integrations.trees import assert_whole


async def test_a_run_is_one_trajectory_with_turns_and_calls(echo: LLMServer, route: str) -> None:
    gym = RecordingGym("bot", mode="observe")

    async with model(echo) as client:
        await build(client, gym, route).run(task="Bonn")

    assert outline(gym) == TURN_CALL_TURN
    assert_whole(gym)
    first, _ = gym.sink.steps
    assert [tool.fingerprint for tool in first.offered] == [tool.fingerprint for tool in TOOLS]
    assert first.called == ("weather",)
    assert [task.text for task in gym.sink.tasks] == ["Bonn"]


async def test_turns_know_their_model_and_tokens(echo: LLMServer, route: str) -> None:
    gym = RecordingGym("bot", mode="observe")

    async with model(echo) as client:
        await build(client, gym, route).run(task="Bonn")

    chat = named(gym, semconv.CHAT)[0].attributes
    assert chat[semconv.PROVIDER_NAME] == "openai"
    assert chat[semconv.REQUEST_MODEL] == "gpt-4o"
    assert chat[semconv.INPUT_TOKENS] > 0
    assert chat[semconv.OUTPUT_TOKENS] > 0


async def test_by_default_an_agent_ends_with_the_summary_of_its_tools(
    echo: LLMServer, route: str
) -> None:
    gym = RecordingGym("bot", mode="observe")

    async with model(echo) as client:
        result = await build(client, gym, route, max_tool_iterations=1).run(task="Bonn")
        gym.reward(1.0)

    assert answer(result) == "sunny in Bonn"
    assert outline(gym) == [
        ["invoke_agent assistant", ["chat gpt-4o", ["execute_tool weather"]]],
    ]
    assert [reward.trajectory_id for reward in gym.sink.rewards] == gym.sink.ended


async def test_one_agent_run_again_gives_one_trajectory_each_time(
    echo: LLMServer, route: str
) -> None:
    gym = RecordingGym("bot", mode="observe")

    async with model(echo) as client:
        agent = build(client, gym, route)
        await agent.run(task="Bonn")
        gym.reward(0.0)
        await agent.on_reset(CancellationToken())
        await agent.run(task="Rome")
        gym.reward(1.0)

    assert_whole(gym, trajectories=2)
    assert [(r.trajectory_id, r.value) for r in gym.sink.rewards] == list(
        zip(gym.sink.ended, (0.0, 1.0), strict=True)
    )
    assert [task.text for task in gym.sink.tasks] == ["Bonn", "Rome"]


async def test_a_run_without_a_task_goes_on_with_the_last_one(echo: LLMServer, route: str) -> None:
    gym = RecordingGym("bot", mode="observe")

    async with model(echo) as client:
        agent = build(client, gym, route)
        await agent.run(task=[TextMessage(content="Bonn", source="user")])
        await agent.run()

    assert [task.text for task in gym.sink.tasks] == ["Bonn", "Bonn"]


async def test_messages_can_be_handed_over_directly(echo: LLMServer, route: str) -> None:
    gym = RecordingGym("bot", mode="observe")
    message = TextMessage(content="Bonn", source="user")

    async with model(echo) as client:
        agent = build(client, gym, route)
        await agent.on_messages([message], CancellationToken())

    assert outline(gym) == TURN_CALL_TURN
    assert_whole(gym)


def test_a_reward_follows_a_run_in_a_loop_of_its_own(echo: LLMServer, route: str) -> None:
    gym = RecordingGym("bot", mode="observe")

    async def once(city: str) -> None:
        async with model(echo) as client:
            await build(client, gym, route).run(task=city)

    for value in (0.25, 0.75):
        with gym.trajectory():
            asyncio.run(once("Bonn"))
        gym.reward(value)

    assert [(r.trajectory_id, r.value) for r in gym.sink.rewards] == list(
        zip(gym.sink.ended, (0.25, 0.75), strict=True)
    )


def test_a_reward_follows_asyncio_run(route: str) -> None:
    gym = RecordingGym("bot", mode="observe")

    with LLMServer(EchoToolBrain(), keep_alive=False) as server:
        client = OpenAIChatCompletionClient(model="gpt-4o", base_url=server.base_url, api_key="no")
        agent = build(client, gym, route)
        for value in (0.25, 0.75):
            asyncio.run(agent.run(task="Bonn"))
            gym.reward(value)
        asyncio.run(client.close())

    assert [(r.trajectory_id, r.value) for r in gym.sink.rewards] == list(
        zip(gym.sink.ended, (0.25, 0.75), strict=True)
    )
