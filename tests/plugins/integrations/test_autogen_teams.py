"""AutoGen teams, handoffs, people, and bare loops over a wrapped client."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("autogen_agentchat")

from autogen_agentchat.agents import (
    AssistantAgent,
    BaseChatAgent,
    SocietyOfMindAgent,
    UserProxyAgent,
)
from autogen_agentchat.base import Response
from autogen_agentchat.conditions import HandoffTermination, MaxMessageTermination
from autogen_agentchat.messages import BaseChatMessage, TextMessage
from autogen_agentchat.teams import (
    DiGraphBuilder,
    GraphFlow,
    MagenticOneGroupChat,
    RoundRobinGroupChat,
    SelectorGroupChat,
    Swarm,
)
from autogen_agentchat.tools import TeamTool
from autogen_core import CancellationToken, FunctionCall, SingleThreadedAgentRuntime
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
from autogen_ext.models.openai import OpenAIChatCompletionClient
from autogen_ext.models.replay import ReplayChatCompletionClient

from agentgym import semconv
from agentgym.integrations.autogen import GymClient
from agentgym.integrations.autogen import client as client_module
from agentgym.items import SpanItem
from agentgym.testing import ChatReply, ChatRequest, EchoToolBrain, LLMServer, call_tool
from agentgym.testing.recording import RecordingGym
from agentgym.trajectory import Tool

CITY = {"properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = (Tool("weather", "Tells the weather.", CITY), Tool("news", "Tells the news.", CITY))


def weather(city: str) -> str:
    """Tells the weather."""
    return f"sunny in {city}"


async def news(city: str) -> str:
    """Tells the news."""
    return f"no news in {city}"


@pytest.fixture
def echo() -> Iterator[LLMServer]:
    with LLMServer(EchoToolBrain(), keep_alive=False) as server:
        yield server


@asynccontextmanager
async def model(server: LLMServer) -> AsyncIterator[OpenAIChatCompletionClient]:
    client = OpenAIChatCompletionClient(model="gpt-4o", base_url=server.base_url, api_key="none")
    try:
        yield client
    finally:
        await client.close()


def member(name: str, client: Any, **options: Any) -> AssistantAgent:
    tools: list[Any] = [weather, news]
    return AssistantAgent(name, model_client=client, **{"tools": tools, **options})


def pair(client: Any) -> list[Any]:
    return [member("first", client), member("second", client)]


def named(gym: RecordingGym, operation: str) -> list[SpanItem]:
    return [s for s in gym.sink.spans if s.attributes[semconv.OPERATION_NAME] == operation]


def agents(gym: RecordingGym) -> set[str]:
    return {s.attributes[semconv.AGENT_PATH] for s in named(gym, semconv.INVOKE_AGENT)}


def assert_whole(gym: RecordingGym, trajectories: int = 1) -> None:
    """Every trajectory ended, with one root and no span whose parent is missing."""
    ids = {span.trajectory_id for span in gym.sink.spans}
    assert len(ids) == trajectories
    assert sorted(gym.sink.ended) == sorted(ids)
    for trajectory_id in ids:
        spans = [span for span in gym.sink.spans if span.trajectory_id == trajectory_id]
        known = {span.span_id for span in spans}
        assert [span.parent_id for span in spans if span.parent_id not in known] == [b""]


async def test_a_team_run_is_one_trajectory_with_a_run_per_turn_of_a_member(
    echo: LLMServer,
) -> None:
    gym = RecordingGym("bot", mode="steer", explore=False)
    gym.force(TOOLS, "news", "second")

    async with model(echo) as client:
        team = gym.attach(
            RoundRobinGroupChat(pair(client), termination_condition=MaxMessageTermination(3))
        )
        result = await team.run(task="Bonn")
        gym.reward(1.0)

    assert_whole(gym)
    (root,) = named(gym, semconv.INVOKE_WORKFLOW)
    assert root.attributes[semconv.AGENT_NAME] == "bot"
    assert agents(gym) == {"bot/first", "bot/second"}
    assert result.messages[-1].to_text().startswith("no news")
    assert [task.text for task in gym.sink.tasks] == ["Bonn"]
    assert [reward.trajectory_id for reward in gym.sink.rewards] == gym.sink.ended


async def test_a_team_with_a_runtime_of_the_users_own_is_one_trajectory(echo: LLMServer) -> None:
    """Such a runtime runs its members in a context that never saw the team's run."""
    gym = RecordingGym("bot", mode="observe")
    runtime = SingleThreadedAgentRuntime()
    runtime.start()

    async with model(echo) as client:
        team = SelectorGroupChat(
            pair(client),
            client,
            name="desk",
            runtime=runtime,
            allow_repeated_speaker=True,
            selector_prompt="{roles} {participants} {history} Say: first",
            termination_condition=MaxMessageTermination(3),
        )
        gym.attach(team)
        await team.run(task="Bonn first")
        await runtime.stop()

    assert_whole(gym)
    assert agents(gym) == {"desk/first"}
    root_turns = [s for s in named(gym, semconv.CHAT) if s.attributes[semconv.AGENT_NAME] == "desk"]
    assert root_turns


async def test_a_team_can_be_reset_and_run_again(echo: LLMServer) -> None:
    gym = RecordingGym("bot", mode="observe")

    async with model(echo) as client:
        team = gym.attach(
            RoundRobinGroupChat(pair(client), termination_condition=MaxMessageTermination(2))
        )
        await team.run(task="Bonn")
        await team.reset()
        await team.run(task="Rome")

    assert_whole(gym, trajectories=2)
    assert [task.text for task in gym.sink.tasks] == ["Bonn", "Rome"]


async def test_an_attached_team_behaves_as_without(echo: LLMServer) -> None:
    async with model(echo) as client:
        requests = []
        for gym in (None, RecordingGym("bot", mode="observe")):
            echo.clear()
            team = RoundRobinGroupChat(pair(client), termination_condition=MaxMessageTermination(4))
            stream = (gym.attach(team) if gym else team).run_stream(task="Bonn")
            kinds = [type(item) async for item in stream]
            requests.append((kinds, [request.body_bytes for request in echo.requests]))

    assert requests[0] == requests[1]


async def test_handoffs_and_people_are_observed() -> None:
    gym = RecordingGym("bot", mode="observe")

    def answer(request: ChatRequest) -> ChatReply:
        names = [tool.name for tool in request.tools]
        target = next((name for name in names if name.startswith("transfer_to_second")), None)
        return call_tool(target) if target else call_tool("transfer_to_user")

    class Desk:
        def reply(self, request: ChatRequest) -> ChatReply:
            return answer(request)

    with LLMServer(Desk(), keep_alive=False) as server:
        async with model(server) as client:
            first = member("first", client, handoffs=["second"])
            second = member("second", client, handoffs=["user"])
            person = UserProxyAgent("user", input_func=lambda _: "thanks")
            team = Swarm(
                [first, second, person],
                termination_condition=HandoffTermination("first") | MaxMessageTermination(4),
            )
            await gym.attach(team).run(task="Bonn")

    assert_whole(gym)
    assert agents(gym) == {"bot/first", "bot/second", "bot/user"}
    calls = {s.attributes[semconv.TOOL_NAME]: s.error for s in named(gym, semconv.EXECUTE_TOOL)}
    assert calls == {"transfer_to_second": "", "transfer_to_user": ""}
    assert {task.text for task in gym.sink.tasks} == {"Bonn"}


async def test_teams_inside_teams_agents_and_tools_are_one_trajectory(echo: LLMServer) -> None:
    gym = RecordingGym("bot", mode="observe")

    async with model(echo) as client:

        def small(name: str) -> RoundRobinGroupChat:
            return RoundRobinGroupChat([member(f"{name}_member", client)], name=name, max_turns=1)

        tool = TeamTool(small("below"), name="below", description="Asks a team.")
        team = RoundRobinGroupChat(
            [
                small("inner"),
                SocietyOfMindAgent("society", small("mind"), client),
                member("boss", client, tools=[tool]),
            ],
            name="outer",
            max_turns=3,
        )
        await gym.attach(team).run(task="Bonn")

    assert_whole(gym)
    assert agents(gym) == {
        "outer/inner/inner-member",
        "outer/society",
        "outer/society/mind/mind-member",
        "outer/boss",
        "outer/boss/below/below-member",
    }


async def test_members_that_work_at_the_same_time_do_not_mix(echo: LLMServer) -> None:
    gym = RecordingGym("bot", mode="observe")

    async with model(echo) as client:
        members = [member(name, client, max_tool_iterations=2) for name in ("a", "b", "c")]
        graph = DiGraphBuilder()
        for agent in members:
            graph.add_node(agent)
        graph.add_edge(members[0], members[1]).add_edge(members[0], members[2])
        flow = GraphFlow(members, graph.build())
        await gym.attach(flow).run(task="Bonn")

    assert_whole(gym)
    assert agents(gym) == {"bot/a", "bot/b", "bot/c"}
    owners = {s.span_id: s.attributes[semconv.AGENT_NAME] for s in gym.sink.spans}
    for call in named(gym, semconv.EXECUTE_TOOL):
        assert owners[call.parent_id] == call.attributes[semconv.AGENT_NAME]


async def test_the_orchestrator_of_magentic_one_is_recorded() -> None:
    gym = RecordingGym("bot", mode="observe")
    item = '{{"reason": "r", "answer": {}}}'
    ledger = (
        "{"
        + ", ".join(
            f'"{key}": ' + item.format(value)
            for key, value in {
                "is_request_satisfied": "true",
                "is_in_loop": "false",
                "is_progress_being_made": "true",
                "next_speaker": '"first"',
                "instruction_or_question": '"go"',
            }.items()
        )
        + "}"
    )
    replies = ["facts", "plan", ledger, "final"]
    client = ReplayChatCompletionClient(replies)

    team = MagenticOneGroupChat([member("first", client, tools=None)], client)
    await gym.attach(team).run(task="Bonn")

    assert_whole(gym)
    assert len(named(gym, semconv.CHAT)) == len(replies)
    assert gym.sink.steps == []


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


async def test_a_broken_gym_leaves_the_team_alone(
    echo: LLMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gym = RecordingGym("bot", mode="observe")
    gym.guard.strict = False

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("injected")

    async with model(echo) as client:
        team = gym.attach(RoundRobinGroupChat(pair(client), max_turns=2))
        monkeypatch.setattr(gym.recorder, "start_run", fail)
        result = await team.run(task="Bonn")

    assert len(result.messages) == 7
    assert gym.sink.items == []


async def test_members_with_wrapped_clients_join_the_trajectory_around_the_team(
    echo: LLMServer,
) -> None:
    gym = RecordingGym("bot", mode="observe")

    async with model(echo) as client:
        team = RoundRobinGroupChat(pair(gym.wrap(client)), max_turns=2)
        with gym.trajectory("ticket-1"):
            await team.run(task="Bonn")

    assert_whole(gym)
    assert agents(gym) == {"bot/first", "bot/second"}


# ---- bare loops over a client


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
