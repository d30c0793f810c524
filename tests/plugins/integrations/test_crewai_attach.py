"""CrewAI's own crews, agents and model client against a stub server: what is recorded and sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("crewai")

from crewai import LLM, Agent, Crew, Process, Task
from crewai.hooks.dispatch import HookAborted, InterceptionPoint, scoped_hooks
from crewai.tools import tool
from crewai.tools.tool_failure import ToolFailure

from agentgym.config import Mode
from agentgym.errors import UnsupportedError
from agentgym.items import SpanItem
from agentgym.testing import ChatReply, ChatRequest, LLMServer, ToolCall, say
from agentgym.testing.llm_brain import is_tool_result
from agentgym.testing.recording import RecordingGym
from agentgym.trajectory import Assignment, Fallback, Tool

# CrewAI reads deprecated fields of its own whenever an agent is made.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@tool("lookup_order")
def lookup_order(order: str) -> str:
    """Looks up an order."""
    return f"order {order} was sent"


@tool("refund")
def refund(order: str) -> str:
    """Refunds an order."""
    if order == "broken":
        raise ValueError("no such order")
    return f"refunded {order}"


@tool("escalate")
def escalate(order: str, urgency: int = 1) -> str:
    """Hands an order to a person."""
    return f"escalated {order}"


DESK = (lookup_order, refund, escalate)
SHAPES = {"order": {"type": "string"}}
TOOLS = (
    Tool("lookup_order", "Looks up an order.", {"properties": SHAPES, "required": ["order"]}),
    Tool("refund", "Refunds an order.", {"properties": SHAPES, "required": ["order"]}),
    Tool(
        "escalate",
        "Hands an order to a person.",
        {"properties": {**SHAPES, "urgency": {"type": "integer"}}, "required": ["order"]},
    ),
)


class Model:
    """Calls the first of its wanted tools that it is shown, once, then repeats the result."""

    def __init__(self, *wanted: str, arguments: dict[str, Any] | None = None) -> None:
        self.wanted = wanted
        self.arguments = arguments or {"order": "7"}

    def reply(self, request: ChatRequest) -> ChatReply:
        results = [m for m in request.messages if is_tool_result(m)]
        if results or not request.tools:
            return say(f"It says: {[m['content'] for m in results]}")
        shown = [spec.name for spec in request.tools]
        name = next((name for name in self.wanted if name in shown), shown[0])
        return ChatReply(tool_calls=(ToolCall(name, json.dumps(self.arguments)),))


class Every:
    """Calls several tools in one answer."""

    def reply(self, request: ChatRequest) -> ChatReply:
        if any(is_tool_result(m) for m in request.messages):
            return say("done")
        arguments = json.dumps({"order": "7"})
        return ChatReply(tool_calls=tuple(ToolCall(t.name, arguments) for t in request.tools))


class Play:
    """Answers by what a request contains."""

    def __init__(self, reply: Callable[[ChatRequest], ChatReply]) -> None:
        self.reply = reply


@pytest.fixture
def serve() -> Iterator[Callable[[Any], LLMServer]]:
    servers: list[LLMServer] = []

    def start(brain: Any) -> LLMServer:
        servers.append(LLMServer(brain, keep_alive=False).start())
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def model(server: LLMServer, **settings: Any) -> LLM:
    return LLM(model="openai/gpt-4o", base_url=server.base_url, api_key="none", **settings)


def clerk(server: LLMServer, *, role: str = "Clerk", **settings: Any) -> Agent:
    settings.setdefault("tools", list(DESK))
    settings.setdefault("llm", model(server))
    return Agent(role=role, goal="help", backstory="kind", **settings)


def crew(server: LLMServer, **settings: Any) -> Crew:
    agent = clerk(server)
    task = Task(description="Order {order} is late", expected_output="a text", agent=agent)
    return Crew(agents=[agent], tasks=[task], **settings)


def gym_for(mode: str = "steer", **settings: Any) -> RecordingGym:
    settings.setdefault("explore", "false")  # sampling keeps 2 % for leaving the agent alone
    gym = RecordingGym("desk", mode=mode, **settings)
    return gym


def spans(gym: RecordingGym, operation: str) -> list[SpanItem]:
    found = [s for s in gym.sink.spans if s.attributes["gen_ai.operation.name"] == operation]
    return sorted(found, key=lambda span: span.start_ns)


def shown(server: LLMServer) -> list[list[str]]:
    return [[t["function"]["name"] for t in r.body.get("tools", ())] for r in server.requests]


def assert_whole(gym: RecordingGym, *, trajectories: int = 1) -> None:
    """Every trajectory ended, has one root, and every parent exists."""
    assert len(gym.sink.ended) == len(set(gym.sink.ended)) == trajectories
    ids = {(span.trajectory_id, span.span_id) for span in gym.sink.spans}
    roots = [span for span in gym.sink.spans if not span.parent_id]
    assert sorted(span.trajectory_id for span in roots) == sorted(gym.sink.ended)
    for span in gym.sink.spans:
        assert not span.parent_id or (span.trajectory_id, span.parent_id) in ids


# ---- what is recorded


def test_a_kickoff_is_one_trajectory_of_crew_agent_turns_and_calls(serve: Any) -> None:
    gym = gym_for("observe")
    desk = gym.attach(crew(serve(Model("refund"))))

    result = desk.kickoff({"order": "7"})
    gym.reward(1.0)

    assert "refunded 7" in str(result)
    assert_whole(gym)
    (root,) = spans(gym, "invoke_workflow")
    (agent,) = spans(gym, "invoke_agent")
    first, second = spans(gym, "chat")
    (call,) = spans(gym, "execute_tool")
    assert (root.name, agent.name) == ("invoke_workflow desk", "invoke_agent Clerk")
    assert [agent.parent_id, first.parent_id, second.parent_id, call.parent_id] == [
        root.span_id,
        agent.span_id,
        agent.span_id,
        first.span_id,
    ]
    assert call.attributes["gen_ai.tool.name"] == "refund"
    assert call.attributes["gen_ai.tool.call.id"].startswith("call_")
    assert first.attributes["gen_ai.usage.input_tokens"] > 0
    assert first.attributes["gen_ai.request.model"] == "gpt-4o"
    assert [step.called for step in gym.sink.steps] == [("refund",), ()]
    assert [task.text for task in gym.sink.tasks] == ["Order 7 is late"]
    assert gym.sink.rewards[0].trajectory_id == root.trajectory_id


def test_offered_tools_have_the_shape_that_other_frameworks_see(serve: Any) -> None:
    gym = gym_for("observe")

    gym.attach(crew(serve(Model("refund")))).kickoff({"order": "7"})

    offered = gym.sink.steps[0].offered
    assert [t.fingerprint for t in offered] == [t.fingerprint for t in TOOLS]


def test_a_named_crew_gives_its_name_to_the_run(serve: Any) -> None:
    gym = gym_for("observe")

    gym.attach(crew(serve(Model("refund")), name="front office")).kickoff({"order": "7"})

    assert spans(gym, "invoke_workflow")[0].name == "invoke_workflow front office"


def test_a_tool_that_raises_is_a_visible_error(serve: Any) -> None:
    gym = gym_for("observe")
    server = serve(Model("refund", arguments={"order": "broken"}))

    gym.attach(crew(server)).kickoff({"order": "7"})

    assert spans(gym, "execute_tool")[0].error == "ToolError"
    assert gym.sink.steps[1].history[0].error


def test_a_tool_that_does_not_exist_is_a_visible_error(serve: Any) -> None:
    def reply(request: ChatRequest) -> ChatReply:
        if any(is_tool_result(m) for m in request.messages):
            return say("sorry")
        return ChatReply(tool_calls=(ToolCall("invented", "{}"),))

    gym = gym_for("observe")

    gym.attach(crew(serve(Play(reply)))).kickoff({"order": "7"})

    assert spans(gym, "execute_tool")[0].error == "unknown_tool"


def test_arguments_that_do_not_parse_are_a_visible_error(serve: Any) -> None:
    def reply(request: ChatRequest) -> ChatReply:
        if any(is_tool_result(m) for m in request.messages):
            return say("sorry")
        return ChatReply(tool_calls=(ToolCall("refund", "{not json"),))

    gym = gym_for("observe")

    gym.attach(crew(serve(Play(reply)))).kickoff({"order": "7"})

    (call,) = spans(gym, "execute_tool")
    assert (call.attributes["gen_ai.tool.name"], call.error) == ("refund", "invalid_arguments")
    assert call.parent_id == spans(gym, "chat")[0].span_id


def test_a_failure_that_a_tool_declares_is_a_visible_error(serve: Any) -> None:
    @tool("refund")
    def declining(order: str) -> Any:
        """Refunds an order."""
        return ToolFailure(message="too late")

    gym = gym_for("observe")
    agent = clerk(serve(Model("refund")), tools=[declining])
    task = Task(description="Refund 7", expected_output="a text", agent=agent)

    gym.attach(Crew(agents=[agent], tasks=[task])).kickoff()

    assert spans(gym, "execute_tool")[0].error == "tool_reported"


def test_results_that_are_no_text_are_no_errors(serve: Any) -> None:
    @tool("refund")
    def counting(order: str) -> int:
        """Refunds an order."""
        return 7

    gym = gym_for("observe")
    agent = clerk(serve(Model("refund")), tools=[counting])
    task = Task(description="Refund 7", expected_output="a text", agent=agent)

    gym.attach(Crew(agents=[agent], tasks=[task])).kickoff()

    assert spans(gym, "execute_tool")[0].error == ""


def test_parallel_calls_find_their_ids_and_their_turn(serve: Any) -> None:
    gym = gym_for("observe")

    gym.attach(crew(serve(Every()))).kickoff({"order": "7"})

    calls = spans(gym, "execute_tool")
    assert {c.attributes["gen_ai.tool.name"] for c in calls} == {t.name for t in TOOLS}
    assert len({c.attributes["gen_ai.tool.call.id"] for c in calls}) == 3
    assert {c.parent_id for c in calls} == {spans(gym, "chat")[0].span_id}
    assert gym.sink.steps[0].called == ("lookup_order", "refund", "escalate")


# ---- routes


async def _kickoff_async(desk: Crew) -> Any:
    return await desk.kickoff_async(inputs={"order": "7"})


async def _akickoff(desk: Crew) -> Any:
    return await desk.akickoff(inputs={"order": "7"})


@pytest.mark.parametrize("kickoff", [_kickoff_async, _akickoff])
async def test_async_kickoffs_are_recorded_and_rewarded_like_the_sync_one(
    serve: Any, kickoff: Any
) -> None:
    gym = gym_for()
    gym.force(TOOLS, "escalate", "clerk")
    server = serve(Model("refund"))
    desk = gym.attach(crew(server))

    result = await kickoff(desk)
    gym.reward(1.0)

    assert "escalated 7" in str(result)
    assert shown(server)[0] == ["escalate"]
    assert_whole(gym)
    assert gym.sink.rewards[0].trajectory_id == gym.sink.ended[0]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_streamed_kickoffs_are_one_trajectory(serve: Any, asynchronous: bool) -> None:
    gym = gym_for("observe")
    desk = gym.attach(crew(serve(Model("refund")), stream=True))

    if asynchronous:
        async for _ in await desk.akickoff(inputs={"order": "7"}):
            pass
    else:
        await asyncio.to_thread(lambda: list(desk.kickoff({"order": "7"})))

    assert_whole(gym)
    assert [step.called for step in gym.sink.steps] == [("refund",), ()]


def test_kickoff_for_each_makes_one_trajectory_per_input(serve: Any) -> None:
    gym = gym_for()
    gym.force(TOOLS, "escalate", "clerk")
    server = serve(Model("refund"))

    gym.attach(crew(server)).kickoff_for_each([{"order": str(n)} for n in range(3)])

    assert_whole(gym, trajectories=3)
    assert {t.text for t in gym.sink.tasks} == {f"Order {n} is late" for n in range(3)}
    assert shown(server)[::2] == [["escalate"]] * 3


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_agent_by_itself_is_attached_and_kicked_off(
    serve: Any, asynchronous: bool
) -> None:
    gym = gym_for()
    gym.force(TOOLS, "escalate", "clerk")
    server = serve(Model("refund"))
    agent = gym.attach(clerk(server))

    if asynchronous:
        result = await agent.akickoff([{"role": "user", "content": "Order 7 is late"}])
    else:
        result = await asyncio.to_thread(agent.kickoff, "Order 7 is late")

    assert "escalated 7" in result.raw
    assert shown(server) == [["escalate"], ["lookup_order", "refund", "escalate"]]
    assert [task.text for task in gym.sink.tasks] == ["Order 7 is late"]
    assert_whole(gym)


async def test_an_agent_kicked_off_inside_a_loop_gives_the_coroutine_it_gave_before(
    serve: Any,
) -> None:
    gym = gym_for("observe")
    agent = gym.attach(clerk(serve(Model("refund"))))

    result = await agent.kickoff("Order 7 is late")

    assert "refunded 7" in result.raw
    assert_whole(gym)


def test_a_reused_crew_makes_a_new_trajectory_each_time(serve: Any) -> None:
    gym = gym_for()
    server = serve(Model("refund"))
    desk = gym.attach(crew(server))

    desk.kickoff({"order": "1"})
    gym.force(TOOLS, "escalate", "clerk")
    desk.kickoff({"order": "2"})
    gym.force(TOOLS, "lookup_order", "clerk")
    desk.kickoff({"order": "3"})

    assert_whole(gym, trajectories=3)
    assert [step.called for step in gym.sink.steps][::2] == [
        ("refund",),
        ("escalate",),
        ("lookup_order",),
    ]


def test_several_tasks_and_agents_are_runs_of_one_trajectory(serve: Any) -> None:
    gym = gym_for("observe")
    server = serve(Model("refund"))
    first, second = clerk(server), clerk(server, role="Auditor")
    tasks = [
        Task(description="Refund 7", expected_output="a text", agent=first, async_execution=True),
        Task(description="Check 7", expected_output="a text", agent=second),
    ]

    gym.attach(Crew(agents=[first], tasks=tasks)).kickoff()

    assert_whole(gym)
    assert {s.name for s in spans(gym, "invoke_agent")} == {
        "invoke_agent Clerk",
        "invoke_agent Auditor",
    }


async def test_32_concurrent_copies_do_not_mix(serve: Any) -> None:
    def reply(request: ChatRequest) -> ChatReply:
        text = next(m["content"] for m in request.messages if m["role"] == "user")
        order = text.split("Order ")[1].split(" ")[0]
        if any(is_tool_result(m) for m in request.messages):
            return say(f"done {order}")
        return ChatReply(tool_calls=(ToolCall("refund", json.dumps({"order": order})),))

    gym = gym_for("observe", capture_content="true")
    desk = gym.attach(crew(serve(Play(reply))))

    results = await desk.akickoff_for_each([{"order": f"n{i}"} for i in range(32)])

    assert sorted(map(str, results)) == sorted(f"done n{i}" for i in range(32))
    assert_whole(gym, trajectories=32)
    texts = {task.trajectory_id: task.text for task in gym.sink.tasks}
    calls = spans(gym, "execute_tool")
    assert len(calls) == 32
    for call in calls:
        order = texts[call.trajectory_id].split()[1]
        assert f"'{order}'" in call.attributes["gen_ai.tool.call.arguments"]


# ---- nesting


def _delegation(request: ChatRequest) -> ChatReply:
    names = [spec.name for spec in request.tools]
    if any(is_tool_result(m) for m in request.messages):
        return say("done")
    if "delegate_work_to_coworker" in names:
        arguments = {"task": "refund 7", "context": "late", "coworker": "Clerk"}
        return ChatReply(tool_calls=(ToolCall(names[-2], json.dumps(arguments)),))
    return ChatReply(tool_calls=(ToolCall("refund", json.dumps({"order": "7"})),))


def _assert_delegated(gym: RecordingGym, boss_name: str) -> None:
    assert_whole(gym)
    boss, worker = spans(gym, "invoke_agent")
    delegated, refunded = spans(gym, "execute_tool")
    assert boss.attributes["gen_ai.agent.name"].strip() == boss_name
    assert delegated.attributes["gen_ai.tool.name"] == "delegate_work_to_coworker"
    assert worker.parent_id == delegated.span_id
    assert refunded.attributes["gen_ai.agent.name"] == "Clerk"
    assert "refund 7" in {task.text for task in gym.sink.tasks}


def test_a_coworker_runs_below_the_call_that_delegated_to_it(serve: Any) -> None:
    gym = gym_for("observe")
    server = serve(Play(_delegation))
    boss = clerk(server, role="Boss", allow_delegation=True, tools=[])
    task = Task(description="Order 7 is late", expected_output="a text", agent=boss)

    gym.attach(Crew(agents=[boss, clerk(server)], tasks=[task])).kickoff()

    _assert_delegated(gym, "Boss")


def test_the_manager_that_a_hierarchical_crew_creates_is_attached(serve: Any) -> None:
    gym = gym_for("observe")
    server = serve(Play(_delegation))
    desk = Crew(
        agents=[clerk(server)],
        tasks=[Task(description="Order 7 is late", expected_output="a text")],
        process=Process.hierarchical,
        manager_llm=model(server),
    )

    gym.attach(desk).kickoff()

    _assert_delegated(gym, "Crew Manager")


def test_a_crew_inside_a_tool_is_part_of_the_outer_trajectory(serve: Any) -> None:
    gym = gym_for("observe")
    server = serve(Model("ask_desk", "refund"))
    inner = gym.attach(crew(server, name="inner"))

    @tool("ask_desk")
    def ask_desk(order: str) -> str:
        """Asks the desk."""
        return str(inner.kickoff({"order": order}))

    boss = clerk(server, role="Boss", tools=[ask_desk])
    task = Task(description="Ask about 7", expected_output="a text", agent=boss)
    gym.attach(Crew(agents=[boss], tasks=[task], name="outer")).kickoff()

    assert_whole(gym)
    outer, below = spans(gym, "invoke_workflow")
    asked = spans(gym, "execute_tool")[0]
    assert (outer.parent_id, below.parent_id) == (b"", asked.span_id)


# ---- decisions


def test_a_forced_tool_is_the_only_one_shown_with_a_hint_for_one_call(serve: Any) -> None:
    gym = gym_for(explore="true", seed=1)
    gym.force(TOOLS, "escalate", "clerk")
    server = serve(Model("refund"))
    desk = gym.attach(crew(server))

    result = desk.kickoff({"order": "7"})

    assert "escalated 7" in str(result)
    assert shown(server) == [["escalate"], ["lookup_order", "refund", "escalate"]]
    first, second = (r.body for r in server.requests)
    assert first["tool_choice"] == "auto"
    assert "Use the tool escalate" in first["messages"][-1]["content"]
    assert "Use the tool" not in json.dumps(second["messages"])
    step = gym.sink.steps[0]
    assert (step.assignment, step.force, step.called) == (Assignment.POLICY, "soft", ("escalate",))
    assert spans(gym, "chat")[1].attributes["agentgym.arm"] == "defer"


def test_advice_reorders_and_narrows_what_is_shown(serve: Any) -> None:
    gym = gym_for("advise")
    gym.force(TOOLS, "escalate", "clerk")
    server = serve(Model())

    gym.attach(crew(server)).kickoff({"order": "7"})

    step = gym.sink.steps[0]
    assert shown(server)[0] == [TOOLS[i].name for i in step.shown]
    assert shown(server)[0][0] == "escalate"
    assert "Use the tool" not in server.requests[0].body["messages"][-1]["content"]


def _bodies(serve: Any, gym: RecordingGym | None) -> list[bytes]:
    server = serve(Model("refund"))
    desk = crew(server)
    if gym is not None:
        gym.force(TOOLS, "escalate", "clerk", control_share=gym.config.control_share or 0.0)
        gym.attach(desk)
    desk.kickoff({"order": "7"})
    desk.kickoff_for_each([{"order": "8"}])
    return [request.body_bytes for request in server.requests]


@pytest.mark.parametrize(
    "settings", [{"mode": "observe"}, {"mode": "shadow"}, {"explore": "true", "control_share": "1"}]
)
def test_without_a_decision_to_apply_the_requests_are_byte_for_byte_the_same(
    serve: Any, settings: dict[str, str]
) -> None:
    gym = gym_for(**settings)

    assert _bodies(serve, gym) == _bodies(serve, None)
    assert gym.sink.steps[0].mode is gym.config.mode


def test_without_a_policy_a_steered_crew_falls_back_to_the_same_requests(serve: Any) -> None:
    gym = gym_for()
    server = serve(Model("refund"))

    gym.attach(crew(server)).kickoff({"order": "7"})

    assert shown(server)[0] == [t.name for t in TOOLS]
    assert gym.sink.steps[0].fallback is Fallback.NO_POLICY


def test_a_hidden_tool_runs_and_is_marked_unless_blocking_was_asked_for(serve: Any) -> None:
    def stubborn(request: ChatRequest) -> ChatReply:
        results = [m["content"] for m in request.messages if is_tool_result(m)]
        if results:
            return say(results[0])
        return ChatReply(tool_calls=(ToolCall("refund", json.dumps({"order": "7"})),))

    results = []
    for block in ("false", "true"):
        gym = gym_for(block_hidden=block)
        gym.force(TOOLS, "escalate", "clerk")
        results.append(str(gym.attach(crew(serve(Play(stubborn)))).kickoff({"order": "7"})))
        assert spans(gym, "execute_tool")[0].attributes["agentgym.hidden"]

    assert results == ["refunded 7", "The tool refund is not at hand now; use escalate."]


# ---- text agents


TEXT = "Thought: I need it\nAction: {}\nAction Input: {}"


def _text_model(request: ChatRequest) -> ChatReply:
    if len(request.messages) > 2:
        return say("Thought: I now know\nFinal Answer: fine")
    last = request.messages[-1]["content"]
    name = "escalate" if "Use the tool escalate" in last else "refund"
    return say(TEXT.format(name, json.dumps({"order": "7"})))


class TextModel(type(LLM(model="openai/gpt-4o", api_key="none"))):  # type: ignore[misc]
    """A model that cannot call tools natively."""

    def supports_function_calling(self) -> bool:
        return False


def _text_crew(server: LLMServer) -> Crew:
    llm = TextModel(model="gpt-4o", base_url=server.base_url, api_key="none")
    agent = clerk(server, llm=llm)
    task = Task(description="Order 7 is late", expected_output="a text", agent=agent)
    return Crew(agents=[agent], tasks=[task])


@pytest.mark.parametrize("hinted", [False, True])
def test_a_text_agent_is_shadowed_and_hinted_only_on_request(serve: Any, hinted: bool) -> None:
    gym = gym_for(hint_text=str(hinted))
    gym.force(TOOLS, "escalate", "clerk")
    server = serve(Play(_text_model))

    result = gym.attach(_text_crew(server)).kickoff()

    assert str(result) == "fine"
    step = gym.sink.steps[0]
    assert step.mode is (Mode.ADVISE if hinted else Mode.SHADOW)
    assert [t.name for t in step.offered] == [t.name for t in TOOLS]
    assert step.called == (("escalate",) if hinted else ("refund",))
    assert spans(gym, "execute_tool")[0].attributes["gen_ai.tool.name"] == step.called[0]
    assert_whole(gym)


# ---- failures


def test_an_error_of_the_model_goes_through_and_ends_everything(serve: Any) -> None:
    def fail(request: ChatRequest) -> ChatReply:
        raise RuntimeError("down")

    gym = gym_for("observe")
    desk = gym.attach(crew(serve(Play(fail))))

    with pytest.raises(Exception, match="down"):
        desk.kickoff({"order": "7"})

    assert_whole(gym)
    assert spans(gym, "invoke_workflow")[0].error
    assert len(spans(gym, "invoke_agent")) == 1  # CrewAI's own retries are turns of one run
    assert all(span.error for span in spans(gym, "chat"))
    assert not gym.sink.steps[0].completed


async def test_cancellation_leaves_nothing_open(serve: Any) -> None:
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(request: ChatRequest) -> ChatReply:
        loop.call_soon_threadsafe(started.set)
        return ChatReply(text="late", delay_s=60)

    gym = gym_for("observe")
    server = serve(Play(hang))
    agent = gym.attach(clerk(server, llm=model(server, max_retries=0)))
    task = asyncio.create_task(agent.kickoff_async("Order 7 is late"))
    await started.wait()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.close()  # the thread that CrewAI leaves behind still waits for the answer

    assert gym.sink.ended
    root = next(span for span in gym.sink.spans if not span.parent_id)
    assert root.attributes["agentgym.incomplete"] == "cancelled"


@pytest.mark.parametrize("verb", ["start_run", "decide"])
def test_if_our_code_fails_the_crew_runs_as_without_us(
    serve: Any, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError

    expected = _bodies(serve, None)
    gym = gym_for()
    gym.guard.strict = False
    monkeypatch.setattr(gym.recorder, verb, broken)

    assert _bodies(serve, gym) == expected
    assert gym.guard.errors


@pytest.mark.parametrize("verb", ["before", "after"])
def test_if_our_hooks_fail_the_tools_run_as_without_us(
    serve: Any, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError

    gym = gym_for("observe")
    gym.guard.strict = False
    place = {"before": "call", "after": "done"}[verb]
    monkeypatch.setattr("agentgym.recorder.Run." + place, broken)

    result = gym.attach(crew(serve(Model("refund")))).kickoff({"order": "7"})

    assert "refunded 7" in str(result)
    assert len(gym.sink.ended) == 1


def test_a_disabled_gym_changes_nothing(serve: Any) -> None:
    desk = crew(serve(Model("refund")))
    kind = type(desk)

    gym_for(disabled="1").attach(desk)

    assert type(desk) is kind


def test_a_gym_that_switched_itself_off_records_nothing(serve: Any) -> None:
    gym = gym_for()
    desk = gym.attach(crew(serve(Model("refund"))))
    gym.guard.open = True

    desk.kickoff({"order": "7"})

    assert gym.sink.items == []


# ---- the objects stay what they were


def test_attached_objects_keep_type_state_and_token_counts(serve: Any) -> None:
    gym = gym_for("observe")
    server = serve(Model("refund"))
    desk = crew(server)
    (agent,), llm = desk.agents, desk.agents[0].llm

    assert gym.attach(gym.attach(desk)) is desk
    desk.kickoff({"order": "7"})

    assert isinstance(desk, Crew)
    assert isinstance(agent, Agent)
    assert isinstance(agent.llm, type(llm))
    assert llm.get_token_usage_summary().successful_requests == 2
    assert desk.usage_metrics.successful_requests == 2
    assert gym.wrap(agent.llm) is agent.llm


def test_a_second_gym_takes_over_instead_of_piling_up(serve: Any) -> None:
    first, second = gym_for("observe"), gym_for("observe")
    desk = second.attach(first.attach(crew(serve(Model("refund")))))

    desk.kickoff({"order": "7"})

    assert first.sink.items == []
    assert_whole(second)


def test_hooks_of_the_user_still_run_and_their_veto_is_a_visible_error(serve: Any) -> None:
    seen: list[str] = []

    def veto(context: Any) -> None:
        seen.append(context.tool_name)
        raise HookAborted("not today")

    gym = gym_for("observe")
    desk = gym.attach(crew(serve(Model("refund"))))

    with scoped_hooks({InterceptionPoint.PRE_TOOL_CALL: [veto]}):
        desk.kickoff({"order": "7"})

    assert seen == ["refund"]
    assert spans(gym, "execute_tool")[0].error == "blocked"


def test_a_plain_crew_among_attached_ones_is_not_recorded(serve: Any) -> None:
    gym = gym_for("observe")
    attached, plain = gym.attach(crew(serve(Model("refund")))), crew(serve(Model("refund")))

    with scoped_hooks({}):
        attached.kickoff({"order": "7"})
        plain.kickoff({"order": "8"})

    assert_whole(gym)
    assert len(spans(gym, "execute_tool")) == 1


@pytest.mark.parametrize("verb", ["attach", "wrap"])
def test_other_objects_of_crewai_are_refused_with_advice(serve: Any, verb: str) -> None:
    task = Task(description="x", expected_output="y")

    with pytest.raises(UnsupportedError, match="gym"):
        getattr(gym_for(), verb)(task)
