"""`create_agent(model, tools, middleware=[gym])`: what reaches the model and what is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ToolRetryMiddleware
from langchain.agents.structured_output import ToolStrategy
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool, ToolException, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel

from agentgym import semconv
from agentgym.testing import ApiError, ChatReply, ChatRequest, EchoToolBrain, ToolCall, say
from agentgym.testing import call_tool as call
from agentgym.testing.recording import RecordingGym
from agentgym.trajectory import Assignment

ASK = {"messages": [{"role": "user", "content": "Where is order 7?"}]}
SCRIPT = (call("look_up", {"query": "7"}), say("Here it is."))


async def run(agent: Any, how: str, ask: Any = ASK) -> str:
    """Runs an agent in one of LangChain's four ways; returns its last message."""
    if how == "invoke":
        return str((await asyncio.to_thread(agent.invoke, ask))["messages"][-1].content)
    if how == "ainvoke":
        return str((await agent.ainvoke(ask))["messages"][-1].content)
    if how == "stream":
        return str([*agent.stream(ask, stream_mode="values")][-1]["messages"][-1].content)
    tokens = [chunk async for chunk, _ in agent.astream(ask, stream_mode="messages")]
    return "".join(str(c.content) for c in tokens if c.type == "AIMessageChunk")


WAYS = ["invoke", "ainvoke", "stream", "astream"]


@pytest.mark.parametrize("how", WAYS)
async def test_steer_forces_the_wanted_tool_once_on_the_wire(
    bench: Any, tools: list[BaseTool], gym: RecordingGym, check_tree: Any, how: str
) -> None:
    server, llm = bench(*SCRIPT)
    agent = create_agent(llm, tools, middleware=[gym])

    assert await run(agent, how) == "Here it is."

    first, second = (request.body for request in server.requests)
    assert first["tool_choice"] == {"type": "function", "function": {"name": "refund"}}
    assert [t["function"]["name"] for t in first["tools"]] == ["look_up", "refund"]
    assert "tool_choice" not in second
    assert [(step.called, step.force, step.assignment) for step in gym.sink.steps] == [
        (("refund",), "hard", Assignment.PINNED),
        ((), "", Assignment.PINNED),
    ]
    assert [s.name for s in check_tree(gym)] == [
        "chat gpt-4o",
        "execute_tool refund",
        "chat gpt-4o",
        f"invoke_agent {gym.config.agent}",
    ]


@pytest.mark.parametrize("how", WAYS)
async def test_advise_shows_the_tools_in_the_order_of_their_scores(
    bench: Any, tools: list[BaseTool], make_gym: Any, how: str
) -> None:
    server, llm = bench(*SCRIPT)
    gym = make_gym("advise")

    await run(create_agent(llm, tools, middleware=[gym]), how)

    first = server.requests[0].body
    assert [t["function"]["name"] for t in first["tools"]] == ["refund", "look_up"]
    assert "tool_choice" not in first
    assert gym.sink.steps[0].shown == (1, 0)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "observe"},
        {"mode": "shadow"},
        {"mode": "steer", "explore": True, "control_share": 1.0},
        {"mode": "steer", "disabled": True},
        {"mode": "steer", "agent": "without-policy"},
    ],
    ids=["observe", "shadow", "control", "disabled", "no policy"],
)
async def test_what_applies_nothing_sends_the_same_bytes_as_without_agentgym(
    bench: Any, tools: list[BaseTool], make_gym: Any, how: str, settings: dict[str, Any]
) -> None:
    server, llm = bench(*SCRIPT, *SCRIPT)
    gym = make_gym(**settings)
    if settings.get("agent"):
        gym.live.forget()

    without = await run(create_agent(llm, tools), how)
    with_gym = await run(create_agent(llm, tools, middleware=[gym]), how)

    bodies = [request.body_bytes for request in server.requests]
    assert bodies[:2] == bodies[2:]
    assert without == with_gym
    assert [step.called for step in gym.sink.steps] == (
        [] if settings.get("disabled") else [("look_up",), ()]
    )


def test_usage_models_and_parents_are_recorded(
    bench: Any, tools: list[BaseTool], gym: RecordingGym, check_tree: Any
) -> None:
    _, llm = bench(*SCRIPT)

    create_agent(llm, tools, middleware=[gym]).invoke(ASK)

    chat, execute, _, root = check_tree(gym)
    assert chat.attributes[semconv.INPUT_TOKENS] > 0
    assert chat.attributes[semconv.OUTPUT_TOKENS] > 0
    assert chat.attributes[semconv.RESPONSE_MODEL] == "gpt-4o-2024-08-06"
    assert chat.attributes[semconv.PROVIDER_NAME] == "openai"
    assert (chat.parent_id, execute.parent_id) == (root.span_id, chat.span_id)
    assert execute.attributes[semconv.DECISION_ID] == chat.span_id.hex()
    assert [task.text for task in gym.sink.tasks] == ["Where is order 7?"]


def test_a_reward_after_invoke_finds_the_trajectory_past_other_chains(
    bench: Any, tools: list[BaseTool], gym: RecordingGym
) -> None:
    _, llm = bench(*SCRIPT)
    agent = create_agent(llm, tools, middleware=[gym])

    agent.invoke(ASK)
    RunnableLambda(len).invoke("some judge that nobody attached")
    gym.reward(1.0)

    assert [r.trajectory_id for r in gym.sink.rewards] == gym.sink.ended


async def test_rewards_of_concurrent_tasks_do_not_mix(
    bench: Any, tools: list[BaseTool], gym: RecordingGym
) -> None:
    _, llm = bench(brain=EchoToolBrain())
    agent = create_agent(llm, tools, middleware=[gym])

    async def one(number: int) -> None:
        await agent.ainvoke({"messages": [("user", f"order {number}")]})
        gym.reward(number / 8)

    await asyncio.gather(*(one(n) for n in range(8)))

    texts = {task.trajectory_id: task.text for task in gym.sink.tasks}
    assert {texts[r.trajectory_id]: r.value for r in gym.sink.rewards} == {
        f"order {n}": n / 8 for n in range(8)
    }


def test_the_thread_id_is_the_key(bench: Any, tools: list[BaseTool], gym: RecordingGym) -> None:
    _, llm = bench(*SCRIPT, *SCRIPT)
    agent = create_agent(llm, tools, middleware=[gym], checkpointer=InMemorySaver())

    for _ in range(2):
        agent.invoke(ASK, {"configurable": {"thread_id": "ticket-1"}})

    roots = [span for span in gym.sink.spans if not span.parent_id]
    assert [root.attributes[semconv.TRAJECTORY_KEY] for root in roots] == ["ticket-1"] * 2


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_parallel_tool_calls_belong_to_the_turn_that_asked(
    bench: Any, tools: list[BaseTool], make_gym: Any, check_tree: Any, how: str
) -> None:
    both = ChatReply(
        tool_calls=(ToolCall("look_up", '{"query": "1"}'), ToolCall("refund", '{"query": "2"}'))
    )
    _, llm = bench(both, say("done"))
    gym = make_gym("shadow")

    await run(create_agent(llm, tools, middleware=[gym]), how)

    spans = check_tree(gym)
    executed = [span for span in spans if span.name.startswith("execute_tool")]
    assert {span.name for span in executed} == {"execute_tool look_up", "execute_tool refund"}
    assert {span.parent_id for span in executed} == {spans[0].span_id}
    assert gym.sink.steps[0].called == ("look_up", "refund")


@tool
def broken(query: str) -> str:
    """Always fails."""
    raise ValueError("no")


@tool
def refusing(query: str) -> str:
    """Fails politely."""
    raise ToolException("not today")


refusing.handle_tool_error = True


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_a_tool_that_raises_ends_everything_and_its_error_is_the_hosts(
    bench: Any, make_gym: Any, check_tree: Any, how: str
) -> None:
    _, llm = bench(call("broken", {"query": "1"}))
    gym = make_gym("shadow")

    with pytest.raises(ValueError, match="no"):
        await run(create_agent(llm, [broken], middleware=[gym]), how)

    assert {s.name: s.error for s in check_tree(gym)} == {
        "chat gpt-4o": "",
        "execute_tool broken": "ValueError",
        "invoke_agent desk": "ValueError",
    }


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_a_tool_message_with_an_error_status_is_a_visible_error(
    bench: Any, make_gym: Any, check_tree: Any, how: str
) -> None:
    _, llm = bench(call("refusing", {"query": "1"}), say("sorry"))
    gym = make_gym("shadow")

    await run(create_agent(llm, [refusing], middleware=[gym]), how)

    errors = {s.name: s.error for s in check_tree(gym)}
    assert errors["execute_tool refusing"] == "ToolException"
    assert errors["invoke_agent desk"] == ""
    assert [past.error for past in gym.sink.steps[1].history] == [True]


def test_a_tool_that_does_not_exist_is_a_failed_call(
    bench: Any, tools: list[BaseTool], make_gym: Any, check_tree: Any
) -> None:
    _, llm = bench(call("teleport", {"query": "1"}), say("sorry"))
    gym = make_gym("shadow")

    create_agent(llm, tools, middleware=[gym]).invoke(ASK)

    assert {s.name: s.error for s in check_tree(gym)}["execute_tool teleport"] == "ToolException"


def test_every_attempt_of_a_retried_tool_is_a_call(
    bench: Any, make_gym: Any, check_tree: Any
) -> None:
    attempts = iter([ValueError("first"), None])

    @tool
    def flaky(query: str) -> str:
        """Works at the second attempt."""
        error = next(attempts)
        if error:
            raise error
        return "ok"

    _, llm = bench(call("flaky", {"query": "1"}), say("done"))
    gym = make_gym("shadow")
    retry = ToolRetryMiddleware(max_retries=1, initial_delay=0.0, jitter=False)

    create_agent(llm, [flaky], middleware=[gym, retry]).invoke(ASK)

    spans = [s for s in check_tree(gym) if s.name == "execute_tool flaky"]
    assert [span.error for span in spans] == ["ValueError", ""]


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_a_nested_agent_is_a_run_below_the_call(
    bench: Any, tools: list[BaseTool], make_gym: Any, check_tree: Any, how: str
) -> None:
    _, llm = bench(call("ask_clerk", {"query": "1"}), *SCRIPT, say("done"))
    gym = make_gym("shadow")
    clerk = create_agent(llm, tools, middleware=[gym], name="Clerk")

    @tool
    async def ask_clerk(query: str) -> str:
        """Asks the clerk."""
        answer = await clerk.ainvoke({"messages": [("user", query)]})
        return str(answer["messages"][-1].content)

    def ask_sync(query: str) -> str:
        return str(clerk.invoke({"messages": [("user", query)]})["messages"][-1].content)

    ask_clerk.func = ask_sync

    await run(create_agent(llm, [ask_clerk], middleware=[gym], name="Boss"), how)

    spans = {span.name: span for span in check_tree(gym)}
    inner = spans["invoke_agent Clerk"]
    assert inner.parent_id == spans["execute_tool ask_clerk"].span_id
    assert inner.attributes[semconv.AGENT_PATH] == "boss/clerk"
    assert {(s.agent_name, s.agent_path) for s in gym.sink.steps} == {
        ("boss", ("boss",)),
        ("clerk", ("boss", "clerk")),
    }


def test_an_unnamed_agent_in_a_named_one_goes_by_the_gyms_name(
    bench: Any, tools: list[BaseTool], make_gym: Any
) -> None:
    _, llm = bench(call("ask", {"query": "1"}), *SCRIPT, say("done"))
    gym = make_gym("shadow")
    inner = create_agent(llm, tools, middleware=[gym])

    @tool
    def ask(query: str) -> str:
        """Asks."""
        return str(inner.invoke({"messages": [("user", query)]})["messages"][-1].content)

    create_agent(llm, [ask], middleware=[gym], name="Boss").invoke(ASK, {"run_name": "run 17"})

    assert {step.agent_path for step in gym.sink.steps} == {("boss",), ("boss", "desk")}


def test_agents_that_are_nodes_of_a_graph_are_runs_below_one_workflow(
    bench: Any, tools: list[BaseTool], make_gym: Any, check_tree: Any
) -> None:
    _, llm = bench(*SCRIPT, *SCRIPT)
    gym = make_gym("shadow")
    graph = StateGraph(MessagesState)
    for name in ("first", "second"):
        graph.add_node(name, create_agent(llm, tools, middleware=[gym], name=name))
    graph.add_edge(START, "first")
    graph.add_edge("first", "second")
    graph.add_edge("second", END)

    graph.compile(name="flow").invoke(ASK)

    spans = {span.name: span for span in check_tree(gym)}
    root = spans["invoke_workflow flow"]
    assert spans["invoke_agent first"].parent_id == root.span_id
    assert spans["invoke_agent second"].parent_id == root.span_id
    assert len(gym.sink.ended) == 1


def test_thirty_two_threads_share_one_agent_without_mixing_up(
    bench: Any, tools: list[BaseTool], gym: RecordingGym, check_tree: Any
) -> None:
    server, llm = bench(brain=EchoToolBrain())
    agent = create_agent(llm, tools, middleware=[gym])

    def one(number: int) -> str:
        asked = {"messages": [("user", f"order {number}")]}
        return str(agent.invoke(asked)["messages"][-1].content)

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(one, range(32)))

    assert answers == [f"order {n} -> refunded order {n}" for n in range(32)]
    spans = check_tree(gym)
    assert len(gym.sink.ended) == 32
    assert len(spans) == 32 * 4
    assert len(server.requests) == 64


async def test_thirty_two_tasks_share_one_agent_without_mixing_up(
    bench: Any, tools: list[BaseTool], gym: RecordingGym, check_tree: Any
) -> None:
    _, llm = bench(brain=EchoToolBrain())
    agent = create_agent(llm, tools, middleware=[gym])

    async def one(number: int) -> str:
        result = await agent.ainvoke({"messages": [("user", f"order {number}")]})
        return str(result["messages"][-1].content)

    answers = await asyncio.gather(*(one(n) for n in range(32)))

    assert answers == [f"order {n} -> refunded order {n}" for n in range(32)]
    check_tree(gym)
    assert len(gym.sink.ended) == 32


# ---- the ways in which a run may not reach its end


async def test_cancelling_in_a_tool_leaves_nothing_open(
    bench: Any, make_gym: Any, check_tree: Any
) -> None:
    started = asyncio.Event()

    @tool
    async def wait(query: str) -> str:
        """Waits for ever."""
        started.set()
        await asyncio.Event().wait()
        return ""

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


# ---- more than one gym, more than one agent


def test_two_gyms_on_one_agent_record_two_trajectories(
    bench: Any, tools: list[BaseTool], make_gym: Any, check_tree: Any
) -> None:
    _, llm = bench(*SCRIPT)
    one, two = make_gym("shadow"), make_gym("shadow", agent="other")

    create_agent(llm, tools, middleware=[one, two]).invoke(ASK)

    assert len(check_tree(one)) == len(check_tree(two)) == 4
    assert one.sink.ended != two.sink.ended


def test_one_gym_serves_several_agents(
    bench: Any, tools: list[BaseTool], gym: RecordingGym, check_tree: Any
) -> None:
    _, llm = bench(*SCRIPT, *SCRIPT)

    for _ in range(2):
        create_agent(llm, tools, middleware=[gym]).invoke(ASK)

    check_tree(gym)
    assert len(gym.sink.ended) == 2


def test_an_attached_agent_inside_an_unattached_one_is_part_of_one_workflow(
    bench: Any, tools: list[BaseTool], make_gym: Any, check_tree: Any
) -> None:
    _, llm = bench(call("ask", {"query": "1"}), *SCRIPT, say("done"))
    gym = make_gym("shadow")
    inner = create_agent(llm, tools, middleware=[gym])

    @tool
    def ask(query: str) -> str:
        """Asks."""
        return str(inner.invoke({"messages": [("user", query)]})["messages"][-1].content)

    create_agent(llm, [ask]).invoke(ASK)

    assert [s.name for s in check_tree(gym)][-2:] == [
        "invoke_agent desk",
        "invoke_workflow LangGraph",
    ]


def test_a_run_inside_the_users_trajectory_is_part_of_it(
    bench: Any, tools: list[BaseTool], gym: RecordingGym, check_tree: Any
) -> None:
    _, llm = bench(*SCRIPT, *SCRIPT)
    agent = create_agent(llm, tools, middleware=[gym])

    with gym.trajectory("case-1"):
        agent.invoke(ASK)
        agent.invoke(ASK)

    check_tree(gym)
    assert len(gym.sink.ended) == 1


# ---- structured answers, vetoes, other middleware


class Verdict(BaseModel):
    """The answer's shape."""

    ok: bool


def test_a_tool_that_only_shapes_the_answer_is_never_forced(
    bench: Any, tools: list[BaseTool], gym: RecordingGym
) -> None:
    server, llm = bench(call("look_up", {"query": "7"}), call("Verdict", {"ok": True}))
    agent = create_agent(llm, tools, middleware=[gym], response_format=ToolStrategy(Verdict))

    result = agent.invoke(ASK)

    assert result["structured_response"] == Verdict(ok=True)
    assert server.requests[0].body["tool_choice"]["function"]["name"] == "refund"
    assert server.requests[1].body["tool_choice"] == "required"
    assert [t.name for t in gym.sink.steps[0].offered if t.protected] == ["Verdict"]


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_a_hidden_tool_is_blocked_on_request(
    bench: Any, tools: list[BaseTool], make_gym: Any, check_tree: Any, how: str
) -> None:
    server, llm = bench(*SCRIPT)
    gym = make_gym("steer", block_hidden=True)
    agent = create_agent(llm, tools, middleware=[_Disobedient(gym), gym])

    await run(agent, how)

    spans = {span.name: span for span in check_tree(gym)}
    assert spans["execute_tool look_up"].attributes[semconv.VETOED] is True
    results = [m for m in server.requests[-1].body["messages"] if m["role"] == "tool"]
    assert "not available" in results[0]["content"]


class _Disobedient(AgentMiddleware):  # type: ignore[type-arg]
    """Exchanges the forced tool, as a model that does not obey would; then the policy is off."""

    def __init__(self, gym: RecordingGym) -> None:
        super().__init__()
        self.gym = gym

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return self._exchange(handler(request))

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return self._exchange(await handler(request))

    def _exchange(self, response: Any) -> Any:
        for asked in response.result[0].tool_calls:
            asked["name"] = "look_up"
        policies = self.gym.live.current
        assert policies is not None
        self.gym.live.swap(replace(policies, killed=True))
        return response


def test_a_middleware_inside_ours_that_drops_tools_meets_no_forced_one_that_is_gone(
    bench: Any, tools: list[BaseTool], gym: RecordingGym
) -> None:
    class Narrow(AgentMiddleware):  # type: ignore[type-arg]
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return handler(request.override(tools=request.tools[:1]))

    server, llm = bench(*SCRIPT)

    create_agent(llm, tools, middleware=[gym, Narrow()]).invoke(ASK)

    assert [len(request.body["tools"]) for request in server.requests] == [1, 1]
    assert [t.name for t in gym.sink.steps[0].offered] == ["look_up"]


# ---- our own failures


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize(
    "place",
    [
        "agentgym.recorder.Recorder.start_run",
        "agentgym.recorder.Recorder.decide",
        "agentgym.tree.Turn.finish",
        "agentgym.tree.Run.call",
        "agentgym.tree.Call.finish",
        "agentgym.tree.Run.finish",
        "agentgym.integrations.langchain.gym_hooks.steered",
        "agentgym.integrations.langchain.frames.Frames.start",
        "agentgym.integrations.langchain.frames.Frames.end",
        "agentgym.integrations.langchain.frames.Frames.start_tool",
    ],
)
async def test_our_own_failure_leaves_the_agent_as_it_is(
    bench: Any,
    tools: list[BaseTool],
    make_gym: Any,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    place: str,
) -> None:
    server, llm = bench(*SCRIPT, *SCRIPT)
    gym = make_gym("shadow")
    gym.guard.strict = False
    expected = await run(create_agent(llm, tools), how)

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("ours")

    with monkeypatch.context() as patch:
        patch.setattr(place, fail)
        answer = await run(create_agent(llm, tools, middleware=[gym]), how)

    bodies = [request.body_bytes for request in server.requests]
    assert answer == expected
    assert bodies[:2] == bodies[2:]
    _drop_frames()


def _drop_frames() -> None:
    from agentgym.integrations.langchain.frames import FRAMES

    FRAMES._open.clear()


def test_a_gym_is_a_middleware_and_a_handler_to_langchain(gym: RecordingGym) -> None:
    assert isinstance(gym, AgentMiddleware)
    assert isinstance(gym, BaseCallbackHandler)
    assert isinstance(gym, RecordingGym)
    assert type(gym) is RecordingGym
    with pytest.raises(AttributeError, match="teleport"):
        gym.teleport  # noqa: B018


def test_a_tool_message_is_passed_on_untouched(
    bench: Any, make_gym: Callable[..., RecordingGym]
) -> None:
    @tool(response_format="content_and_artifact")
    def with_artifact(query: str) -> tuple[str, dict[str, int]]:
        """Returns more than text."""
        return "text", {"rows": 3}

    _, llm = bench(call("with_artifact", {"query": "1"}), say("done"))

    result = create_agent(llm, [with_artifact], middleware=[make_gym("steer")]).invoke(ASK)

    messages = [m for m in result["messages"] if isinstance(m, ToolMessage)]
    assert [(m.content, m.artifact) for m in messages] == [("text", {"rows": 3})]
