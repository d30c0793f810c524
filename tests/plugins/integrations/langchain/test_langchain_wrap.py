"""`gym.wrap(llm)`: the same model to everybody else, and what the policy does through it."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_classic.agents import AgentExecutor, create_tool_calling_agent
from langchain_core.caches import InMemoryCache
from langchain_core.messages import HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool, tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from agentgym import semconv
from agentgym.errors import UnsupportedError
from agentgym.testing import ApiError, ChatReply, ChatRequest, say
from agentgym.testing import call_tool as call
from agentgym.testing.recording import RecordingGym
from tests.plugins.integrations.langchain.asking import SCRIPT, waiting_tool

FORCED = {"type": "function", "function": {"name": "refund"}}
PROMPT = ChatPromptTemplate.from_messages(
    [("system", "Help."), ("human", "{input}"), ("placeholder", "{agent_scratchpad}")]
)


def prebuilt(llm: Any, tools: list[BaseTool]) -> Any:
    from langgraph.prebuilt import create_react_agent

    with pytest.warns(DeprecationWarning, match="create_react_agent"):
        return create_react_agent(llm, tools)


def prebound(llm: Any, tools: list[BaseTool]) -> Any:
    return prebuilt(llm.bind_tools(tools), tools)


def modern(llm: Any, tools: list[BaseTool]) -> Any:
    return create_agent(llm, tools)


def executor(llm: Any, tools: list[BaseTool]) -> Any:
    return AgentExecutor(agent=create_tool_calling_agent(llm, tools, PROMPT), tools=tools)


async def run(agent: Any, how: str) -> str:
    executing = isinstance(agent, AgentExecutor)
    ask: Any = {"input": "order 7?"} if executing else {"messages": [("user", "order 7?")]}
    match how:
        case "invoke":
            result = await asyncio.to_thread(agent.invoke, ask)
        case "ainvoke":
            result = await agent.ainvoke(ask)
        case "stream":
            result = [*agent.stream(ask, **({} if executing else {"stream_mode": "values"}))][-1]
        case _:
            parts = [
                part
                async for part in agent.astream(
                    ask, **({} if executing else {"stream_mode": "values"})
                )
            ]
            result = parts[-1]
    return str(result["output"] if executing else result["messages"][-1].content)


WAYS = ["invoke", "ainvoke", "stream", "astream"]
KINDS = [prebuilt, prebound, modern, executor]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("kind", KINDS)
async def test_steer_forces_the_wanted_tool_once_on_the_wire(
    bench: Any, tools: list[BaseTool], gym: RecordingGym, check_tree: Any, kind: Any, how: str
) -> None:
    server, llm = bench(*SCRIPT)

    assert await run(kind(gym.wrap(llm), tools), how) == "Here it is."

    assert [request.body.get("tool_choice") for request in server.requests] == [FORCED, None]
    assert [step.called for step in gym.sink.steps] == [("refund",), ()]
    assert [step.history[0].error for step in gym.sink.steps[1:]] == [False]
    chat, execute, _, root = check_tree(gym)
    assert [span.name for span in (chat, execute, root)] == [
        "chat gpt-4o",
        "execute_tool refund",
        "invoke_agent desk",
    ]
    assert (execute.parent_id, chat.parent_id) == (chat.span_id, root.span_id)
    assert {task.text for task in gym.sink.tasks} == {"order 7?"}


@pytest.mark.parametrize("kind", KINDS)
async def test_advise_shows_the_tools_in_the_order_of_their_scores(
    bench: Any, tools: list[BaseTool], make_gym: Any, kind: Any
) -> None:
    server, llm = bench(*SCRIPT)

    await run(kind(make_gym("advise").wrap(llm), tools), "ainvoke")

    shown = [t["function"]["name"] for t in server.requests[0].body["tools"]]
    assert shown == ["refund", "look_up"]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["observe", "shadow"])
async def test_what_applies_nothing_sends_the_same_bytes_as_without_agentgym(
    bench: Any, tools: list[BaseTool], make_gym: Any, kind: Any, how: str, mode: str
) -> None:
    server, llm = bench(*SCRIPT, *SCRIPT)

    without = await run(kind(llm, tools), how)
    with_gym = await run(kind(make_gym(mode).wrap(llm), tools), how)

    bodies = [request.body_bytes for request in server.requests]
    assert bodies[:2] == bodies[2:]
    assert without == with_gym


@pytest.mark.parametrize("how", ["stream", "astream"])
async def test_tokens_arrive_one_by_one(
    bench: Any, tools: list[BaseTool], gym: RecordingGym, how: str
) -> None:
    text = "A long answer that the stub cuts into several pieces on its way."
    _, llm = bench(say(text))
    llm.stream_usage = True
    bound = gym.wrap(llm).bind_tools(tools, tool_choice="none")

    if how == "stream":
        chunks = [str(chunk.content) for chunk in bound.stream("hello")]
    else:
        chunks = [str(chunk.content) async for chunk in bound.astream("hello")]

    assert "".join(chunks) == text
    assert len([chunk for chunk in chunks if chunk]) > 1
    assert gym.sink.spans[0].attributes[semconv.OUTPUT_TOKENS] > 0


def test_a_wrapped_model_is_still_the_model(bench: Any, gym: RecordingGym) -> None:
    _, llm = bench()
    wrapped = gym.wrap(llm)

    assert isinstance(wrapped, ChatOpenAI)
    assert wrapped.model_name == "gpt-4o"
    assert type(wrapped).__name__ == "ChatOpenAI"
    assert wrapped._llm_type == llm._llm_type
    assert wrapped._identifying_params == llm._identifying_params
    assert wrapped._get_ls_params() == llm._get_ls_params()
    assert wrapped._get_llm_string() == llm._get_llm_string()
    assert wrapped.lc_id() == llm.lc_id()
    assert gym.wrap(wrapped) is wrapped


def test_a_setting_changed_on_the_wrapped_model_holds(bench: Any, gym: RecordingGym) -> None:
    server, llm = bench(say("a"), say("b"))
    wrapped = gym.wrap(llm)

    wrapped.model_copy(update={"temperature": 0.25}).invoke("hello")
    wrapped.temperature = 0.5
    wrapped.invoke("hello")

    assert [request.body["temperature"] for request in server.requests] == [0.25, 0.5]


class Verdict(BaseModel):
    """The answer's shape."""

    ok: bool


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_structured_output_is_left_alone(bench: Any, gym: RecordingGym, method: Any) -> None:
    reply = call("Verdict", {"ok": True}) if method == "function_calling" else say('{"ok": true}')
    server, llm = bench(reply, reply)

    plain = llm.with_structured_output(Verdict, method=method).invoke("good?")
    wrapped = gym.wrap(llm).with_structured_output(Verdict, method=method).invoke("good?")

    assert plain == wrapped == Verdict(ok=True)
    assert server.requests[0].body_bytes == server.requests[1].body_bytes
    assert gym.sink.steps == []


async def test_a_model_called_outside_any_agent_is_a_run_of_its_own(
    bench: Any, tools: list[BaseTool], gym: RecordingGym, check_tree: Any
) -> None:
    _, llm = bench(*SCRIPT, say("x"))
    bound = gym.wrap(llm).bind_tools(tools)

    bound.invoke("one")
    await bound.ainvoke("two")
    gym.reward(1.0)

    assert [s.name for s in check_tree(gym)] == ["chat gpt-4o", "invoke_agent desk"] * 2
    assert gym.sink.rewards[0].trajectory_id == gym.sink.ended[1]


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream", "astream"])
async def test_a_lone_call_that_fails_leaves_nothing_open(
    bench: Any, gym: RecordingGym, check_tree: Any, how: str
) -> None:
    def fail(request: ChatRequest) -> ChatReply:
        raise ApiError(500, "down", retry=False)

    _, llm = bench(fail)
    wrapped = gym.wrap(llm)

    async def ask() -> None:
        match how:
            case "invoke":
                wrapped.invoke("hello")
            case "ainvoke":
                await wrapped.ainvoke("hello")
            case "stream":
                list(wrapped.stream("hello"))
            case _:
                [chunk async for chunk in wrapped.astream("hello")]

    with pytest.raises(Exception, match="down"):
        await ask()

    assert len({span.error for span in check_tree(gym)} - {""}) == 1


def test_a_lone_stream_closed_early_is_cancelled(
    bench: Any, gym: RecordingGym, check_tree: Any
) -> None:
    _, llm = bench(say("A long answer that the stub cuts into several pieces on its way."))
    stream = gym.wrap(llm).stream("hello")
    next(stream)

    stream.close()

    assert {span.error for span in check_tree(gym)} == {"cancelled"}


@pytest.mark.parametrize("inside_chain", [False, True])
def test_a_model_called_inside_a_tool_belongs_to_the_call(
    bench: Any, make_gym: Any, check_tree: Any, inside_chain: bool
) -> None:
    gym = make_gym("shadow")
    _, llm = bench(call("summarise", {"query": "1"}), say("short"), say("done"))
    wrapped = gym.wrap(llm)
    chain = RunnableLambda(str) | wrapped if inside_chain else wrapped

    @tool
    def summarise(query: str) -> str:
        """Asks the model once more."""
        return str(chain.invoke(query).content)

    prebuilt(wrapped, [summarise]).invoke({"messages": [("user", "go")]})

    spans = check_tree(gym)
    call_span = next(s for s in spans if s.name == "execute_tool summarise")
    inner = next(span for span in spans if span.name == "invoke_agent desk")
    assert inner.parent_id == call_span.span_id
    assert len(gym.sink.ended) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_tool_that_raises_is_a_visible_error(
    bench: Any, make_gym: Any, check_tree: Any, kind: Any
) -> None:
    @tool
    def broken(query: str) -> str:
        """Always fails."""
        raise ValueError("no")

    _, llm = bench(call("broken", {"query": "1"}))
    gym = make_gym("shadow")

    with pytest.raises(ValueError, match="no"):
        await run(kind(gym.wrap(llm), [broken]), "ainvoke")

    errors = {span.name: span.error for span in check_tree(gym)}
    assert errors["execute_tool broken"] == "ValueError"
    assert errors["invoke_agent desk"] == "ValueError"


def test_a_tool_that_does_not_exist_is_a_failed_call(
    bench: Any, tools: list[BaseTool], make_gym: Any, check_tree: Any
) -> None:
    _, llm = bench(call("teleport", {"query": "1"}), say("sorry"))
    gym = make_gym("shadow")

    executor(gym.wrap(llm), tools).invoke({"input": "go"})

    failed = [span for span in check_tree(gym) if span.error]
    assert [(span.name, span.error) for span in failed] == [
        ("execute_tool teleport", "invalid_tool")
    ]


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelling_in_a_tool_leaves_nothing_open(
    bench: Any, make_gym: Any, check_tree: Any, kind: Any
) -> None:
    started, wait = waiting_tool()
    _, llm = bench(call("wait", {"query": "1"}))
    gym = make_gym("shadow")
    task = asyncio.create_task(run(kind(gym.wrap(llm), [wait]), "ainvoke"))
    await started.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

    spans = {span.name: span for span in check_tree(gym)}
    assert spans["execute_tool wait"].attributes[semconv.INCOMPLETE] == "cancelled"


def test_wrapping_and_middleware_together_decide_once(
    bench: Any, tools: list[BaseTool], gym: RecordingGym, check_tree: Any
) -> None:
    _, llm = bench(*SCRIPT)

    create_agent(gym.wrap(llm), tools, middleware=[gym]).invoke({"messages": [("user", "go")]})

    assert len(gym.sink.steps) == 2
    assert len(check_tree(gym)) == 4


def test_a_forced_answer_is_not_cached_for_a_free_request(
    bench: Any, tools: list[BaseTool], gym: RecordingGym
) -> None:
    server, llm = bench(*SCRIPT)
    llm.cache = InMemoryCache()

    forced = gym.wrap(llm).bind_tools(tools).invoke("hello")
    free = llm.bind_tools(tools).invoke("hello")

    assert len(server.requests) == 2
    assert [c["name"] for c in forced.tool_calls] == ["refund"]
    assert free.content == "Here it is."


def test_several_prompts_at_once_pass_through(bench: Any, gym: RecordingGym) -> None:
    _, llm = bench(say("a"), say("b"))

    result = gym.wrap(llm).generate([[HumanMessage("1")], [HumanMessage("2")]])

    assert [g[0].text for g in result.generations] == ["a", "b"]
    assert gym.sink.spans == []


def test_what_holds_no_chat_model_is_refused(bench: Any, gym: RecordingGym) -> None:
    _, llm = bench()

    with pytest.raises(UnsupportedError, match="wrap the chat models inside it"):
        gym.wrap(llm.with_fallbacks([llm]))
    with pytest.raises(UnsupportedError, match="expected a LangChain"):
        gym.wrap(object())


def test_a_disabled_gym_returns_the_model_itself(bench: Any, make_gym: Any) -> None:
    _, llm = bench()

    assert make_gym(disabled=True).wrap(llm) is llm


@pytest.mark.parametrize("how", WAYS)
async def test_our_own_failure_leaves_the_agent_as_it_is(
    bench: Any,
    tools: list[BaseTool],
    make_gym: Any,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    server, llm = bench(*SCRIPT, *SCRIPT)
    gym = make_gym("steer")
    gym.guard.strict = False
    without = await run(executor(llm, tools), how)

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("ours")

    monkeypatch.setattr("agentgym.integrations.langchain.turns._applied", fail)
    with_gym = await run(executor(gym.wrap(llm), tools), how)

    bodies = [request.body_bytes for request in server.requests]
    assert bodies[:2] == bodies[2:]
    assert without == with_gym


def test_a_wrapped_model_says_why_it_cannot_be_pickled(bench: Any, gym: RecordingGym) -> None:
    _, llm = bench()

    with pytest.raises((pickle.PicklingError, TypeError)):
        pickle.dumps(gym.wrap(llm))


@pytest.mark.parametrize("how", WAYS)
async def test_a_refused_request_is_sent_as_it_was(
    bench: Any, tools: list[BaseTool], gym: RecordingGym, check_tree: Any, how: str
) -> None:
    def refuse(request: ChatRequest) -> ChatReply:
        raise ApiError(400, "no forced tools here", retry=False)

    server, llm = bench(refuse, *SCRIPT)
    gym.guard.strict = False

    assert await run(executor(gym.wrap(llm), tools), how) == "Here it is."

    choices = ["tool_choice" in request.body for request in server.requests]
    assert choices == [True, False, False]
    check_tree(gym)


async def test_a_lone_refused_request_is_sent_as_it_was(
    bench: Any, tools: list[BaseTool], gym: RecordingGym, check_tree: Any
) -> None:
    def refuse(request: ChatRequest) -> ChatReply:
        raise ApiError(400, "no forced tools here", retry=False)

    _, llm = bench(refuse, say("fine"))
    gym.guard.strict = False

    assert gym.wrap(llm.bind_tools(tools)).invoke("hello").content == "fine"

    check_tree(gym)


def test_a_refusal_that_persists_is_the_hosts(
    bench: Any, tools: list[BaseTool], gym: RecordingGym, check_tree: Any
) -> None:
    def refuse(request: ChatRequest) -> ChatReply:
        raise ApiError(400, "bad anyway", retry=False)

    _, llm = bench(refuse, refuse)
    gym.guard.strict = False

    with pytest.raises(Exception, match="bad anyway"):
        executor(gym.wrap(llm), tools).invoke({"input": "go"})

    assert len(gym.sink.ended) == 1
    check_tree(gym)


def test_a_model_that_cannot_be_forced_is_shown_one_tool(
    bench: Any, tools: list[BaseTool], gym: RecordingGym
) -> None:
    class Simple(ChatOpenAI):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            if kwargs.get("tool_choice"):
                raise NotImplementedError
            return super().bind_tools(tools)

    server, _ = bench(*SCRIPT)
    llm = Simple(model="gpt-4o", base_url=server.base_url, api_key="test", max_retries=0)

    gym.wrap(llm).bind_tools(tools).invoke("hello")

    assert [t["function"]["name"] for t in server.requests[0].body["tools"]] == ["refund"]
    assert gym.sink.steps[0].force == "soft"


def test_our_own_failure_in_a_lone_call_leaves_nothing_open(
    bench: Any,
    tools: list[BaseTool],
    gym: RecordingGym,
    check_tree: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("ours")

    server, llm = bench(say("fine"))
    gym.guard.strict = False
    monkeypatch.setattr("agentgym.integrations.langchain.turns._applied", fail)

    assert gym.wrap(llm).bind_tools(tools).invoke("hello").content == "fine"

    assert "tool_choice" not in server.requests[0].body
    check_tree(gym)
