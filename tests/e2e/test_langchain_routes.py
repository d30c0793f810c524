"""LangChain, every route, from the HTTP body at the model to the row in the database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_classic.agents import (
    AgentExecutor,
    create_react_agent,
    create_structured_chat_agent,
    create_tool_calling_agent,
)
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.tools import BaseTool, ToolException, tool
from langchain_openai import ChatOpenAI
from langgraph.prebuilt import create_react_agent as create_prebuilt_agent

from agentgym import AgentGym
from agentgym.proto.v1 import common_pb2
from agentgym.testing import (
    LLMServer,
    call_tool,
    react,
    react_final,
    say,
    structured_chat,
    structured_chat_final,
)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore:create_react_agent has been moved"),
]

ASK: Any = {"messages": [("user", "order 7?")], "input": "order 7?", "chat_history": ""}
FORCED = {"type": "function", "function": {"name": "refund"}}
NATIVE = ChatPromptTemplate.from_messages(
    [("system", "Help."), ("human", "{input}"), ("placeholder", "{agent_scratchpad}")]
)
ZERO_SHOT = PromptTemplate.from_template(
    "Tools:\n\n{tools}\n\nAction: one of [{tool_names}]\n\n"
    "Question: {input}\nThought:{agent_scratchpad}"
)
CONVERSATION = PromptTemplate.from_template(
    "Tools:\n\n{tools}\n\nAction: one of [{tool_names}]\n\n"
    "Previous conversation:\n{chat_history}\n\nNew input: {input}\n{agent_scratchpad}"
)
STRUCTURED = ChatPromptTemplate.from_messages(
    [
        ("system", "Tools:\n\n{tools}\n\nAnswer with a JSON blob; action is one of {tool_names}."),
        ("human", "{input}\n\n{agent_scratchpad}"),
    ]
)


@tool
def look_up(query: str) -> str:
    """Looks an order up."""
    if query == "broken":
        raise ToolException("no such order")
    return f"order {query}"


look_up.handle_tool_error = True


@tool
def refund(query: str) -> str:
    """Pays money back."""
    return f"refunded {query}"


@tool
def escalate(query: str) -> str:
    """Hands an order to a person."""
    return f"escalated {query}"


DESK: list[BaseTool] = [look_up, refund, escalate]


def middleware(gym: AgentGym | None, llm: ChatOpenAI) -> Any:
    return create_agent(llm, DESK, middleware=[gym] if gym else [])


def prebuilt(gym: AgentGym | None, llm: ChatOpenAI) -> Any:
    return create_prebuilt_agent(gym.wrap(llm) if gym else llm, DESK)


def executor(gym: AgentGym | None, llm: ChatOpenAI) -> Any:
    agent = create_tool_calling_agent(gym.wrap(llm) if gym else llm, DESK, NATIVE)
    return AgentExecutor(agent=agent, tools=DESK)


def watched(gym: AgentGym | None, llm: ChatOpenAI) -> Any:
    agent = create_agent(llm, DESK)
    return agent.with_config(callbacks=[gym]) if gym else agent


def attached(gym: AgentGym | None, agent: AgentExecutor) -> Any:
    # Of a wrapped model's text agent only the prompt is known, not the schemas of its tools.
    return gym.attach(agent) if gym else agent


def zero_shot(gym: AgentGym | None, llm: ChatOpenAI) -> Any:
    agent = create_react_agent(llm, DESK, ZERO_SHOT)
    return attached(gym, AgentExecutor(agent=agent, tools=DESK))


def conversational(gym: AgentGym | None, llm: ChatOpenAI) -> Any:
    agent = create_react_agent(llm, DESK, CONVERSATION)
    return attached(gym, AgentExecutor(agent=agent, tools=DESK))


def structured(gym: AgentGym | None, llm: ChatOpenAI) -> Any:
    agent = create_structured_chat_agent(llm, DESK, STRUCTURED)
    return attached(gym, AgentExecutor(agent=agent, tools=DESK))


def calls(trouble: str, query: str) -> list[Any]:
    """The model wants to look up, then makes a call that fails, then answers."""
    return [
        call_tool("look_up", {"query": "7"}),
        call_tool(trouble, {"query": query}),
        say("Done."),
    ]


TEXT = [react("look", "look_up", "7"), react("try", "teleport", "7"), react_final("Done.")]
BLOBS = [
    structured_chat("look", "look_up", {"query": "7"}),
    structured_chat("try", "teleport", {"query": "7"}),
    structured_chat_final("Done."),
]
ACTING = {
    "middleware": (middleware, calls("look_up", "broken")),
    "prebuilt": (prebuilt, calls("look_up", "broken")),
    "executor": (executor, calls("teleport", "7")),
}
WATCHING = {
    "watched": (watched, calls("look_up", "broken")),
    "zero-shot": (zero_shot, TEXT),
    "conversational": (conversational, TEXT),
    "structured": (structured, BLOBS),
}
ALL = ACTING | WATCHING


@pytest.fixture(scope="module")
def daemon(make_daemon: Callable[..., Any], forcing: Any) -> Any:
    """A daemon with a live policy for the agent of every test."""
    agents = [*ALL, *(f"shadowed-{route}" for route in ALL)]
    return make_daemon(*map(forcing, agents)).start()


def ask(agent: Any) -> str:
    """The agent's answer to one request."""
    result = agent.invoke(ASK)
    return str(result["output"] if "output" in result else result["messages"][-1].content)


def model(server: LLMServer) -> ChatOpenAI:
    # An executor streams, and only on request the provider then says what it used.
    return ChatOpenAI(
        model="gpt-4o",
        base_url=server.base_url,
        api_key="test",
        max_retries=0,
        stream_usage=True,
    )


@pytest.mark.parametrize("route", ACTING)
def test_a_route_that_acts_is_steered_and_stored_whole(
    daemon: Any, make_gym: Any, serve: Any, shown: Any, route: str
) -> None:
    build, script = ACTING[route]
    server, gym = serve(*script), make_gym(daemon, route)

    assert ask(build(gym, model(server))) == "Done."
    gym.reward(1.0)

    assert shown(server) == [["look_up", "refund", "escalate"]] * 3
    assert [r.body.get("tool_choice") for r in server.requests] == [FORCED, None, None]
    (stored,) = daemon.stored(gym)
    stored.check()
    failed = script[1].tool_calls[0].name
    assert stored.outline() == [
        [
            f"invoke_agent {route}",
            ["chat gpt-4o", ["execute_tool refund"]],
            ["chat gpt-4o", [f"execute_tool {failed}"]],
            ["chat gpt-4o"],
        ]
    ]
    assert [call.error_type != "" for call in stored.calls] == [False, True]
    assert stored.arms() == ["force refund", "defer", "defer"]
    first = stored.decisions[0]
    assert first.assignment == common_pb2.ASSIGNMENT_POLICY
    assert first.mode == common_pb2.MODE_STEER
    assert (first.force, list(first.called)) == ("hard", ["refund"])
    assert first.arm_propensity > 0.9
    assert [past.error for past in stored.decisions[2].history] == [False, True]
    assert (stored.summary.framework, stored.summary.reward) == ("langchain", 1.0)


@pytest.mark.parametrize("route", WATCHING)
def test_a_route_that_watches_is_shadowed_and_stored_whole(
    daemon: Any, make_gym: Any, serve: Any, route: str
) -> None:
    build, script = WATCHING[route]
    server, gym = serve(*script), make_gym(daemon, route)

    assert ask(build(gym, model(server))) == "Done."
    gym.reward(0.0)

    assert [r.body.get("tool_choice") for r in server.requests] == [None] * 3
    (stored,) = daemon.stored(gym)
    stored.check()
    failed = "look_up" if route == "watched" else "teleport"
    assert [[call.tool, call.error_type != ""] for call in stored.calls] == [
        ["look_up", False],
        [failed, True],
    ]
    assert stored.arms()[0] == "force refund"  # what it would have done
    assert {d.assignment for d in stored.decisions} == {common_pb2.ASSIGNMENT_SHADOW}
    assert {d.mode for d in stored.decisions} == {common_pb2.MODE_SHADOW}
    assert [list(d.called) for d in stored.decisions] == [["look_up"], [failed], []]
    assert stored.summary.reward == 0.0


@pytest.mark.parametrize("route", ALL)
def test_in_shadow_the_bodies_are_those_of_the_agent_without_us(
    daemon: Any, make_gym: Any, serve: Any, route: str
) -> None:
    build, script = ALL[route]
    plain, seen = serve(*script), serve(*script)
    gym = make_gym(daemon, f"shadowed-{route}", mode="shadow")

    answers = ask(build(None, model(plain))), ask(build(gym, model(seen)))

    assert answers == ("Done.", "Done.")
    assert [r.body_bytes for r in seen.requests] == [r.body_bytes for r in plain.requests]
    (stored,) = daemon.stored(gym)
    assert stored.check().arms()[0] == "force refund"


@pytest.mark.parametrize("route", ALL)
def test_without_a_daemon_bodies_and_answers_are_those_of_the_agent_without_us(
    idle_gym: AgentGym, serve: Any, route: str
) -> None:
    build, script = ALL[route]
    plain, seen = serve(*script), serve(*script)

    answers = ask(build(None, model(plain))), ask(build(idle_gym, model(seen)))
    idle_gym.reward(1.0)

    assert answers == ("Done.", "Done.")
    assert [r.body_bytes for r in seen.requests] == [r.body_bytes for r in plain.requests]
