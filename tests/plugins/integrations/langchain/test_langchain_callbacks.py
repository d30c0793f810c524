"""`agent.with_config(callbacks=[gym])` and `gym.attach(agent)`: watches, and says so."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_classic.agents import AgentExecutor, create_tool_calling_agent
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import BaseTool
from langchain_openai import ChatOpenAI

from agentgym import semconv
from agentgym.errors import UnsupportedError
from agentgym.testing import ApiError, ChatReply, ChatRequest, EchoToolBrain
from agentgym.testing.recording import RecordingGym
from agentgym.trajectory import Assignment
from tests.plugins.integrations.langchain.asking import SCRIPT

ASK: Any = {"messages": [("user", "order 7?")], "input": "order 7?"}
PROMPT = ChatPromptTemplate.from_messages(
    [("human", "{input}"), ("placeholder", "{agent_scratchpad}")]
)


def graph(llm: Any, tools: list[BaseTool]) -> Any:
    return create_agent(llm, tools)


def executor(llm: Any, tools: list[BaseTool]) -> Any:
    return AgentExecutor(agent=create_tool_calling_agent(llm, tools, PROMPT), tools=tools)


async def run(agent: Any, how: str) -> None:
    match how:
        case "invoke":
            await asyncio.to_thread(agent.invoke, ASK)
        case "ainvoke":
            await agent.ainvoke(ASK)
        case "stream":
            list(agent.stream(ASK))
        case _:
            [part async for part in agent.astream(ASK)]


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream", "astream"])
@pytest.mark.parametrize("kind", [graph, executor])
async def test_a_watched_agent_sends_the_same_bytes_and_is_recorded_in_shadow(
    bench: Any,
    tools: list[BaseTool],
    gym: RecordingGym,
    check_tree: Any,
    kind: Any,
    how: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server, llm = bench(*SCRIPT, *SCRIPT)

    await run(kind(llm, tools), how)
    await run(kind(llm, tools).with_config(callbacks=[gym]), how)

    bodies = [request.body_bytes for request in server.requests]
    assert bodies[:2] == bodies[2:]
    assert [(s.called, s.assignment) for s in gym.sink.steps] == [
        (("look_up",), Assignment.SHADOW),
        ((), Assignment.SHADOW),
    ]
    assert gym.sink.steps[0].decision is not None
    chat, execute, _, root = check_tree(gym)
    assert (execute.name, execute.parent_id) == ("execute_tool look_up", chat.span_id)
    assert root.attributes[semconv.MODE] == "shadow"
    assert {task.text for task in gym.sink.tasks} == {"order 7?"}
    assert len([r for r in caplog.records if "can only watch" in r.message]) == 1


def test_an_observing_gym_does_not_warn(
    bench: Any, tools: list[BaseTool], make_gym: Any, caplog: pytest.LogCaptureFixture
) -> None:
    _, llm = bench(*SCRIPT)

    graph(llm, tools).with_config(callbacks=[make_gym("observe")]).invoke(ASK)

    assert [r for r in caplog.records if "can only watch" in r.message] == []


@pytest.mark.parametrize("kind", [graph, executor])
def test_attach_watches_an_agent(
    bench: Any, tools: list[BaseTool], gym: RecordingGym, check_tree: Any, kind: Any
) -> None:
    _, llm = bench(*SCRIPT)

    gym.attach(kind(llm, tools)).invoke(ASK)
    gym.reward(1.0)

    assert len(check_tree(gym)) == 4
    assert gym.sink.rewards[0].trajectory_id == gym.sink.ended[0]


def test_attach_wraps_a_chat_model(bench: Any, tools: list[BaseTool], gym: RecordingGym) -> None:
    server, llm = bench(*SCRIPT)
    attached = gym.attach(llm)

    attached.bind_tools(tools).invoke("go")

    assert isinstance(attached, ChatOpenAI)
    assert "tool_choice" in server.requests[0].body


def test_attach_refuses_what_is_no_agent(gym: RecordingGym) -> None:
    from langchain_core.messages import HumanMessage

    with pytest.raises(UnsupportedError, match="agent or chat model"):
        gym.attach(HumanMessage("hello"))


def test_two_watchers_of_one_gym_record_once(
    bench: Any, tools: list[BaseTool], gym: RecordingGym, check_tree: Any
) -> None:
    _, llm = bench(*SCRIPT)

    gym.attach(graph(llm, tools).with_config(callbacks=[gym])).invoke(ASK, {"callbacks": [gym]})

    assert len(check_tree(gym)) == 4


@pytest.mark.parametrize("attached", ["middleware", "wrap"])
def test_watching_what_also_acts_records_once(
    bench: Any, tools: list[BaseTool], gym: RecordingGym, check_tree: Any, attached: str
) -> None:
    server, llm = bench(*SCRIPT)
    agent = (
        create_agent(llm, tools, middleware=[gym])
        if attached == "middleware"
        else create_agent(gym.wrap(llm), tools)
    )

    agent.invoke(ASK, {"callbacks": [gym]})

    assert "tool_choice" in server.requests[0].body
    assert len(check_tree(gym)) == 4


def test_a_failing_model_ends_everything(
    bench: Any, tools: list[BaseTool], gym: RecordingGym, check_tree: Any
) -> None:
    def fail(request: ChatRequest) -> ChatReply:
        raise ApiError(500, "down", retry=False)

    _, llm = bench(fail)

    with pytest.raises(Exception, match="down"):
        gym.attach(graph(llm, tools)).invoke(ASK)

    assert "" not in {span.error for span in check_tree(gym)}


async def test_concurrent_watched_runs_do_not_mix(
    bench: Any, tools: list[BaseTool], gym: RecordingGym, check_tree: Any
) -> None:
    _, llm = bench(brain=EchoToolBrain())
    agent = graph(llm, tools).with_config(callbacks=[gym])

    await asyncio.gather(
        *(agent.ainvoke({"messages": [("user", f"order {n}")]}) for n in range(16))
    )

    assert len(check_tree(gym)) == 64
    assert len(gym.sink.ended) == 16


def test_a_gym_that_is_off_watches_nothing(
    bench: Any, tools: list[BaseTool], make_gym: Any
) -> None:
    _, llm = bench(*SCRIPT, *SCRIPT)
    gym = make_gym(disabled=True)

    graph(llm, tools).with_config(callbacks=[gym]).invoke(ASK)
    assert gym.attach(llm) is llm

    assert gym.sink.items == []
