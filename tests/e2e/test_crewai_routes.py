"""CrewAI, every route, from the HTTP body at the model to the row in the database."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool

from agentgym import AgentGym
from agentgym.proto.v1 import common_pb2
from agentgym.testing import (
    ChatReply,
    ChatRequest,
    LLMServer,
    call_tool,
    react,
    react_final,
    say,
)

pytestmark = [
    pytest.mark.e2e,
    # CrewAI reads deprecated fields of its own whenever an agent is made.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

NAMES = ["look_up", "refund", "escalate"]


def first_shown(request: ChatRequest) -> ChatReply:
    """Calls the first tool that the model is shown."""
    return call_tool(request.tools[0].name, {"query": "7"})


NATIVE = (
    first_shown,
    call_tool("look_up", {"query": "broken"}),
    say("Done."),
)
TEXT = (
    react("look", "look_up", '{"query": "7"}'),
    react("look", "look_up", '{"query": "broken"}'),
    react_final("Done."),
)


@tool("look_up")
def look_up(query: str) -> str:
    """Looks an order up."""
    if query == "broken":
        raise LookupError("no such order")
    return f"order {query}"


@tool("refund")
def refund(query: str) -> str:
    """Pays money back."""
    return f"refunded {query}"


@tool("escalate")
def escalate(query: str) -> str:
    """Hands an order to a person."""
    return f"escalated {query}"


class TextModel(type(LLM(model="openai/gpt-4o", api_key="none"))):  # type: ignore[misc]
    """A model that cannot call tools natively."""

    def supports_function_calling(self) -> bool:
        return False


def model(server: LLMServer) -> LLM:
    return LLM(model="openai/gpt-4o", base_url=server.base_url, api_key="none")


def agent(llm: Any, role: str = "Clerk", **options: Any) -> Agent:
    settings = {"tools": [look_up, refund, escalate], "max_retry_limit": 0, **options}
    return Agent(role=role, goal="help", backstory="kind", llm=llm, **settings)


def crew_of(*agents: Agent) -> Crew:
    """A crew whose first agent has a task about an order."""
    task = Task(description="Order {order} is late", expected_output="a text", agent=agents[0])
    return Crew(agents=list(agents), tasks=[task])


def native(server: LLMServer) -> Crew:
    return crew_of(agent(model(server)))


def text(server: LLMServer) -> Crew:
    llm = TextModel(model="gpt-4o", base_url=server.base_url, api_key="none")
    return crew_of(agent(llm))


@pytest.fixture(scope="module")
def daemon(make_daemon: Callable[..., Any], forcing: Any) -> Any:
    """A daemon with a live policy for the clerk of every test."""
    agents = ("crew", "delegation", "text", "shadowed-crew", "shadowed-text")
    return make_daemon(*(forcing(name, agent_name="clerk") for name in agents)).start()


def kick_off(gym: AgentGym | None, crew: Crew) -> str:
    """The crew's answer about one order."""
    attached = gym.attach(crew) if gym else crew
    return str(attached.kickoff({"order": "7"}))


def test_a_crew_is_steered_and_stored_whole(
    daemon: Any, make_gym: Any, serve: Any, shown: Any
) -> None:
    server, gym = serve(*NATIVE), make_gym(daemon, "crew")

    assert kick_off(gym, native(server)) == "Done."
    gym.reward(1.0)

    assert shown(server) == [["refund"], NAMES, NAMES]
    first_body = server.requests[0].body
    assert "Use the tool refund" in first_body["messages"][-1]["content"]
    assert "Use the tool" not in json.dumps(server.requests[1].body["messages"])
    (stored,) = daemon.stored(gym)
    stored.check()
    assert stored.outline() == [
        [
            "invoke_workflow crew",
            [
                "invoke_agent Clerk",
                ["chat gpt-4o", ["execute_tool refund"]],
                ["chat gpt-4o", ["execute_tool look_up"]],
                ["chat gpt-4o"],
            ],
        ]
    ]
    assert [call.error_type for call in stored.calls] == ["", "ToolError"]
    assert stored.arms() == ["force refund", "defer", "defer"]
    first = stored.decisions[0]
    assert first.assignment == common_pb2.ASSIGNMENT_POLICY
    assert (first.force, list(first.called)) == ("soft", ["refund"])
    assert [stored.names[first.offered[i]] for i in first.shown] == ["refund"]
    assert first.arm_propensity > 0.9
    assert [past.error for past in stored.decisions[2].history] == [False, True]
    assert (stored.summary.framework, stored.summary.reward) == ("crewai", 1.0)


def test_a_coworker_is_decided_and_stored_below_the_call_that_delegated_to_it(
    daemon: Any, make_gym: Any, serve: Any
) -> None:
    work = {"task": "refund order 7", "context": "late", "coworker": "Clerk"}
    delegate = call_tool("delegate_work_to_coworker", work)
    server = serve(delegate, NATIVE[0], say("Refunded."), say("All done."))
    gym = make_gym(daemon, "delegation")
    boss = agent(model(server), "Boss", tools=[], allow_delegation=True)

    assert kick_off(gym, crew_of(boss, agent(model(server)))) == "All done."

    (stored,) = daemon.stored(gym)
    stored.check()
    assert stored.outline() == [
        [
            "invoke_workflow delegation",
            [
                "invoke_agent Boss",
                [
                    "chat gpt-4o",
                    [
                        "execute_tool delegate_work_to_coworker",
                        [
                            "invoke_agent Clerk",
                            ["chat gpt-4o", ["execute_tool refund"]],
                            ["chat gpt-4o"],
                        ],
                    ],
                ],
                ["chat gpt-4o"],
            ],
        ]
    ]
    assert stored.arms() == ["", "force refund", "defer", ""]
    names = [d.scope.agent_name for d in stored.decisions]
    assert names == ["boss", "clerk", "clerk", "boss"]


def test_a_text_crew_is_shadowed_and_stored_whole(
    daemon: Any, make_gym: Any, serve: Any, shown: Any
) -> None:
    server, gym = serve(*TEXT), make_gym(daemon, "text")

    assert kick_off(gym, text(server)) == "Done."

    assert shown(server) == [[], [], []]
    (stored,) = daemon.stored(gym)
    stored.check()
    calls = [(call.tool, call.error_type != "") for call in stored.calls]
    assert calls == [("look_up", False), ("look_up", True)]
    assert stored.arms()[0] == "force refund"  # what it would have done
    assert {d.assignment for d in stored.decisions} == {common_pb2.ASSIGNMENT_SHADOW}
    assert [list(d.called) for d in stored.decisions] == [["look_up"], ["look_up"], []]


ROUTES = {"crew": (native, NATIVE), "text": (text, TEXT)}


@pytest.mark.parametrize("route", ROUTES)
def test_in_shadow_the_bodies_are_those_of_the_crew_without_us(
    daemon: Any, make_gym: Any, serve: Any, route: str
) -> None:
    build, script = ROUTES[route]
    plain, seen = serve(*script), serve(*script)
    gym = make_gym(daemon, f"shadowed-{route}", mode="shadow")

    answers = kick_off(None, build(plain)), kick_off(gym, build(seen))

    assert answers == ("Done.", "Done.")
    assert [r.body_bytes for r in seen.requests] == [r.body_bytes for r in plain.requests]
    (stored,) = daemon.stored(gym)
    assert stored.check().arms()[0] == "force refund"


@pytest.mark.parametrize("route", ROUTES)
def test_without_a_daemon_bodies_and_answers_are_those_of_the_crew_without_us(
    idle_gym: AgentGym, serve: Any, route: str
) -> None:
    build, script = ROUTES[route]
    plain, seen = serve(*script), serve(*script)

    answers = kick_off(None, build(plain)), kick_off(idle_gym, build(seen))
    idle_gym.reward(1.0)

    assert answers == ("Done.", "Done.")
    assert [r.body_bytes for r in seen.requests] == [r.body_bytes for r in plain.requests]
