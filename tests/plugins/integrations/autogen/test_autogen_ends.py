"""Runs of AutoGen's agents and teams that do not reach their end: left, cancelled, failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

pytest.importorskip("autogen_agentchat")

from autogen_agentchat.agents import BaseChatAgent
from autogen_agentchat.base import Response
from autogen_agentchat.messages import BaseChatMessage, TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core import CancellationToken
from autogen_core.models import UserMessage
from autogen_ext.models.replay import ReplayChatCompletionClient

from agentgym import semconv
from agentgym.testing import ChatReply, ChatRequest, LLMServer, ScriptedBrain
from agentgym.testing.recording import RecordingGym
from tests.autogen_model import model
from tests.plugins.integrations.autogen.harness import build, named, pair
from tests.plugins.integrations.trees import assert_whole


async def test_a_stream_that_is_left_early_stays_whole(echo: LLMServer, route: str) -> None:
    gym = RecordingGym("bot", mode="observe")

    async with model(echo) as client:
        stream = build(client, gym, route, model_client_stream=True).run_stream(task="Bonn")
        async for item in stream:
            if "Call" in type(item).__name__:
                break
        await stream.aclose()
        for _ in range(5):  # generators below close one turn of the loop after another
            await asyncio.sleep(0)

    assert_whole(gym)
    (root,) = named(gym, semconv.INVOKE_AGENT)
    assert root.attributes[semconv.INCOMPLETE] == "cancelled"


@pytest.mark.parametrize("how", ["token", "task"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancelled_run_stays_whole(route: str, how: str, stream: bool) -> None:
    gym = RecordingGym("bot", mode="observe")
    arrived, loop = asyncio.Event(), asyncio.get_running_loop()

    class Slow:
        def reply(self, request: ChatRequest) -> ChatReply:
            loop.call_soon_threadsafe(arrived.set)
            return ChatReply(text="late", delay_s=60)

    token = CancellationToken()
    with LLMServer(Slow(), keep_alive=False) as server:
        async with model(server) as client:
            agent = build(client, gym, route, model_client_stream=stream)
            run = asyncio.create_task(agent.run(task="Bonn", cancellation_token=token))
            await arrived.wait()
            token.cancel() if how == "token" else run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run

    assert_whole(gym)
    assert {span.error for span in gym.sink.spans} == {"cancelled"}
    assert [step.completed for step in gym.sink.steps] == [False]


async def test_cancelling_inside_a_tool_stays_whole(echo: LLMServer, route: str) -> None:
    gym = RecordingGym("bot", mode="observe")
    started, never = asyncio.Event(), asyncio.Event()

    async def wait(city: str) -> str:
        """Waits."""
        started.set()
        await never.wait()
        return city

    async with model(echo) as client:
        run = asyncio.create_task(build(client, gym, route, tools=[wait]).run(task="Bonn"))
        await started.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        never.set()  # AutoGen leaves the tool running
        for _ in range(5):
            await asyncio.sleep(0)

    assert_whole(gym)
    (call,) = named(gym, semconv.EXECUTE_TOOL)
    assert call.error == "cancelled"


async def test_the_models_failure_reaches_the_caller_and_is_recorded(route: str) -> None:
    gym = RecordingGym("bot", mode="observe")

    with LLMServer(ScriptedBrain([]), keep_alive=False) as server:
        async with model(server) as client:
            with pytest.raises(Exception, match="Expected at most 0 requests"):
                await build(client, gym, route).run(task="Bonn")

    assert_whole(gym)
    assert {span.error for span in gym.sink.spans} == {"InternalServerError"}


async def test_a_stream_of_tokens_that_is_left_early_ends_its_turn(echo: LLMServer) -> None:
    gym = RecordingGym("bot", mode="observe")

    async with model(echo) as client:
        stream = gym.wrap(client).create_stream([UserMessage(content="Bonn", source="user")])
        await anext(stream)
        await stream.aclose()

    assert_whole(gym)
    assert {span.error for span in gym.sink.spans} == {"cancelled"}


async def test_a_stream_without_an_end_does_not_leave_its_turn_open() -> None:
    class Endless(ReplayChatCompletionClient):
        async def create_stream(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            yield "one "
            yield "two"

    gym = RecordingGym("bot", mode="observe")

    stream = gym.wrap(Endless([])).create_stream([UserMessage(content="Bonn", source="user")])
    chunks = [chunk async for chunk in stream]

    assert chunks == ["one ", "two"]
    assert_whole(gym)


@pytest.mark.parametrize("how", ["token", "task"])
async def test_a_cancelled_team_stays_whole(how: str) -> None:
    gym = RecordingGym("bot", mode="observe")
    arrived, loop = asyncio.Event(), asyncio.get_running_loop()

    class Slow:
        def reply(self, request: ChatRequest) -> ChatReply:
            loop.call_soon_threadsafe(arrived.set)
            return ChatReply(text="late", delay_s=1)

    token = CancellationToken()
    with LLMServer(Slow(), keep_alive=False) as server:
        async with model(server) as client:
            team = gym.attach(RoundRobinGroupChat(pair(client), max_turns=2))
            run = asyncio.create_task(team.run(task="Bonn", cancellation_token=token))
            await arrived.wait()
            token.cancel() if how == "token" else run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run

    assert_whole(gym)
    (root,) = named(gym, semconv.INVOKE_WORKFLOW)
    assert root.attributes[semconv.INCOMPLETE] == "cancelled"


async def test_a_members_failure_is_the_teams() -> None:
    class Broken(BaseChatAgent):
        """An agent that knows on_messages only."""

        produced_message_types: Sequence[type[BaseChatMessage]] = (TextMessage,)

        async def on_messages(
            self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
        ) -> Response:
            raise LookupError("nothing there")

        async def on_reset(self, cancellation_token: CancellationToken) -> None: ...

    gym = RecordingGym("bot", mode="observe")
    broken = gym.attach(Broken("broken", "Fails."))
    team = gym.attach(RoundRobinGroupChat([broken], max_turns=1))

    with pytest.raises(LookupError):
        await broken.run(task="Bonn")
    with pytest.raises(RuntimeError, match="nothing there"):
        await team.run(task="Bonn")

    assert_whole(gym, trajectories=2)
    assert [span.error for span in gym.sink.spans] == ["LookupError", "LookupError", "RuntimeError"]
