"""AutoGen's own agents and OpenAI client against a stub server: what is recorded and sent."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("autogen_agentchat")

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import TaskResult
from autogen_agentchat.messages import TextMessage
from autogen_agentchat.tools import AgentTool
from autogen_core import CancellationToken
from autogen_core.models import UserMessage
from autogen_core.tools import FunctionTool, StaticStreamWorkbench, StaticWorkbench
from autogen_ext.models.openai import OpenAIChatCompletionClient
from autogen_ext.models.replay import ReplayChatCompletionClient

from agentgym import semconv
from agentgym.errors import UnsupportedError
from agentgym.items import SpanItem
from agentgym.recorder import Recorder, Run, Turn
from agentgym.testing import (
    ChatReply,
    ChatRequest,
    EchoToolBrain,
    LLMServer,
    ScriptedBrain,
    ToolCall,
    call_tool,
    say,
)
from agentgym.testing.recording import RecordingGym
from agentgym.trajectory import Assignment, Fallback, Tool
from agentgym.tree import Call

CITY = {"properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = (Tool("weather", "Tells the weather.", CITY), Tool("news", "Tells the news.", CITY))
ROUTES = ("wrap", "attach")


def weather(city: str) -> str:
    """Tells the weather."""
    if city == "Atlantis":
        raise LookupError("no such city")
    return f"sunny in {city}"


async def news(city: str) -> str:
    """Tells the news."""
    return f"no news in {city}"


@pytest.fixture(params=ROUTES)
def route(request: pytest.FixtureRequest) -> str:
    return str(request.param)


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


def build(
    client: Any, gym: RecordingGym | None = None, route: str = "wrap", **options: Any
) -> AssistantAgent:
    """An agent as a user would build it; without a gym the uninstrumented one."""
    settings: dict[str, Any] = {"tools": [weather, news], "max_tool_iterations": 3, **options}
    name = settings.pop("name", "assistant")
    wrapped = gym.wrap(client) if gym and route == "wrap" else client
    agent = AssistantAgent(name, model_client=wrapped, **settings)
    return gym.attach(agent) if gym and route == "attach" else agent


def answer(result: TaskResult) -> str:
    return result.messages[-1].to_text()


def bodies(server: LLMServer) -> list[bytes]:
    return [request.body_bytes for request in server.requests]


def shown(server: LLMServer, index: int = 0) -> list[str]:
    return [tool["function"]["name"] for tool in server.requests[index].body["tools"]]


def choice(server: LLMServer, index: int = 0) -> Any:
    return server.requests[index].body.get("tool_choice")


def named(gym: RecordingGym, operation: str) -> list[SpanItem]:
    return [s for s in gym.sink.spans if s.attributes[semconv.OPERATION_NAME] == operation]


def outline(gym: RecordingGym, parent: bytes = b"") -> list[Any]:
    """The tree of the spans, as nested lists of names in the order of their starts."""
    children = [span for span in gym.sink.spans if span.parent_id == parent]
    return [
        [span.name, *outline(gym, span.span_id)]
        for span in sorted(children, key=lambda span: span.start_ns)
    ]


def assert_whole(gym: RecordingGym, trajectories: int = 1) -> None:
    """Every trajectory ended, with one root and no span whose parent is missing."""
    ids = {span.trajectory_id for span in gym.sink.spans}
    assert len(ids) == trajectories
    assert sorted(gym.sink.ended) == sorted(ids)
    for trajectory_id in ids:
        spans = [span for span in gym.sink.spans if span.trajectory_id == trajectory_id]
        known = {span.span_id for span in spans}
        assert [span.parent_id for span in spans if span.parent_id not in known] == [b""]


TURN_CALL_TURN = [
    [
        "invoke_agent assistant",
        ["chat gpt-4o", ["execute_tool weather"]],
        ["chat gpt-4o"],
    ]
]


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


FAULTS: tuple[tuple[type, str], ...] = (
    (Recorder, "start_run"),
    (Recorder, "decide"),
    (Run, "turn"),
    (Run, "call"),
    (Run, "finish"),
    (Turn, "finish"),
    (Call, "finish"),
)


@pytest.mark.parametrize(("owner", "method"), FAULTS, ids=[f"{o.__name__}.{m}" for o, m in FAULTS])
@pytest.mark.parametrize("stream", [False, True])
async def test_our_own_failure_changes_nothing(
    echo: LLMServer,
    route: str,
    owner: type,
    method: str,
    stream: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gym = RecordingGym("bot", mode="observe")
    gym.guard.strict = False

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("injected")

    async with model(echo) as client:
        bare = await build(client, model_client_stream=stream).run(task="Bonn")
        expected = bodies(echo)
        echo.clear()
        agent = build(client, gym, route, model_client_stream=stream)
        monkeypatch.setattr(owner, method, fail)
        seen = await agent.run(task="Bonn")

    assert answer(seen) == answer(bare)
    assert bodies(echo) == expected
    assert gym.guard.errors


async def test_a_switched_off_gym_changes_nothing(echo: LLMServer, route: str) -> None:
    gym = RecordingGym("bot", disabled=True)

    async with model(echo) as client:
        agent = build(client, gym, route)
        await agent.run(task="Bonn")

    assert agent._model_client is client
    assert gym.sink.items == []


async def test_an_open_guard_changes_nothing(echo: LLMServer, route: str) -> None:
    gym = RecordingGym("bot", mode="steer", explore=False)
    gym.force(TOOLS, "news", "assistant")

    async with model(echo) as client:
        agent = build(client, gym, route)
        gym.guard.open = True
        result = await agent.run(task="Bonn")

    assert answer(result) == "Bonn -> sunny in Bonn"
    assert gym.sink.items == []


async def test_an_attached_agent_can_still_be_written_down(echo: LLMServer, route: str) -> None:
    gym = RecordingGym("bot", mode="observe")

    async with model(echo) as client:
        bare = build(client).dump_component()
        seen = build(client, gym, route).dump_component()

    assert seen == bare


async def test_attaching_twice_records_once(echo: LLMServer) -> None:
    gym = RecordingGym("bot", mode="observe")

    async with model(echo) as client:
        agent = build(gym.wrap(gym.wrap(client)), gym)
        gym.attach(gym.attach(agent))
        await agent.run(task="Bonn")

    assert outline(gym) == TURN_CALL_TURN


async def test_tools_given_as_a_workbench_are_recorded(echo: LLMServer, route: str) -> None:
    gym = RecordingGym("bot", mode="observe")
    shared = StaticWorkbench([FunctionTool(weather, "Tells the weather.")])

    async with model(echo) as client:
        for _ in range(2):
            await build(client, gym, route, tools=None, workbench=shared).run(task="Bonn")

    assert outline(gym) == TURN_CALL_TURN * 2


def test_other_objects_are_refused_with_what_to_do() -> None:
    gym = RecordingGym("bot")
    token = CancellationToken()

    with pytest.raises(UnsupportedError, match=r"gym\.attach\(agent_or_team\)"):
        gym.wrap(token)
    with pytest.raises(UnsupportedError, match=r"gym\.wrap\(client\)"):
        gym.attach(token)


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
