"""AutoGen's agents below and beside one another: inside tools, in tasks, in threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

pytest.importorskip("autogen_agentchat")

from autogen_agentchat.tools import AgentTool

from agentgym.testing import LLMServer
from agentgym.testing.recording import RecordingGym
from tests.autogen_model import model
from tests.plugins.integrations.autogen.harness import TOOLS, answer, build, outline
from tests.plugins.integrations.trees import assert_whole


async def test_an_agent_behind_a_tool_is_part_of_the_trajectory(
    echo: LLMServer, route: str
) -> None:
    gym = RecordingGym("bot", mode="steer", explore=False)
    gym.force(TOOLS, "news", "inner")

    async with model(echo) as client:
        inner = build(client, gym if route == "wrap" else None, route, name="inner")
        outer = build(client, gym, route, name="outer", tools=[AgentTool(inner)])
        await outer.run(task="Bonn")

    ((_, (_, (_, nested)), _),) = outline(gym)
    assert nested[0] == "invoke_agent inner"
    assert nested[1] == ["chat gpt-4o", ["execute_tool news"]]
    assert_whole(gym)
    assert gym.sink.steps[1].agent_path == ("outer", "inner")


async def test_an_agent_inside_a_synchronous_tool_finds_its_parent(
    echo: LLMServer, route: str
) -> None:
    """AutoGen runs such tools in threads without the context of the caller."""
    gym = RecordingGym("bot", mode="observe")

    def ask(city: str) -> str:
        """Asks another agent."""

        async def run() -> str:
            async with model(echo) as client:
                return answer(await build(client, gym, route, name="inner").run(task=city))

        return asyncio.run(run())

    async with model(echo) as client:
        await build(client, gym, route, name="outer", tools=[ask]).run(task="Bonn")

    ((_, (_, (_, nested)), _),) = outline(gym)
    assert nested[0] == "invoke_agent inner"
    assert_whole(gym)


async def test_concurrent_agents_do_not_mix(echo: LLMServer, route: str) -> None:
    gym = RecordingGym("bot", mode="steer", explore=False)
    gym.force(TOOLS, "news", "assistant")
    cities = [f"city-{number}" for number in range(32)]

    async with model(echo) as client:

        async def one(city: str) -> str:
            result = await build(client, gym, route).run(task=city)
            gym.reward(1.0, name=city)
            return answer(result)

        answers = await asyncio.gather(*[one(city) for city in cities])

    assert answers == [f"{city} -> no news in {city}" for city in cities]
    assert_whole(gym, trajectories=32)
    rewarded = {reward.trajectory_id: reward.name for reward in gym.sink.rewards}
    assert {task.trajectory_id: task.text for task in gym.sink.tasks} == rewarded


def test_threads_with_loops_of_their_own_do_not_mix(echo: LLMServer, route: str) -> None:
    gym = RecordingGym("bot", mode="observe")
    answers: dict[str, str] = {}

    def one(city: str) -> None:
        async def run() -> None:
            async with model(echo) as client:
                answers[city] = answer(await build(client, gym, route).run(task=city))

        asyncio.run(run())

    threads = [threading.Thread(target=one, args=(f"city-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == {f"city-{n}": f"city-{n} -> sunny in city-{n}" for n in range(4)}
    assert_whole(gym, trajectories=4)
