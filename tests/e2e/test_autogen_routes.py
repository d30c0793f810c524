"""AutoGen, every route, from the HTTP body at the model to the row in the database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent, UserProxyAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_agentchat.tools import AgentTool

from agentgym import AgentGym
from agentgym.proto.v1 import common_pb2
from agentgym.testing import LLMServer, call_tool, say
from tests.autogen_model import model

pytestmark = pytest.mark.e2e

FORCED = {"type": "function", "function": {"name": "refund"}}
NAMES = ["look_up", "refund", "escalate"]
SCRIPT = (call_tool("look_up", {"query": "7"}), call_tool("look_up", {"query": "broken"}))
DONE = say("Done.")


def look_up(query: str) -> str:
    """Looks an order up."""
    if query == "broken":
        raise LookupError("no such order")
    return f"order {query}"


def refund(query: str) -> str:
    """Pays money back."""
    return f"refunded {query}"


async def escalate(query: str) -> str:
    """Hands an order to a person."""
    return f"escalated {query}"


def assistant(client: Any, name: str = "clerk", **options: Any) -> AssistantAgent:
    settings = {"tools": [look_up, refund, escalate], "max_tool_iterations": 3, **options}
    return AssistantAgent(name, model_client=client, description=f"The {name}.", **settings)


def wrapped(gym: AgentGym | None, client: Any) -> Any:
    return assistant(gym.wrap(client) if gym else client)


def attached(gym: AgentGym | None, client: Any) -> Any:
    agent = assistant(client)
    return gym.attach(agent) if gym else agent


def team(gym: AgentGym | None, client: Any) -> Any:
    group = RoundRobinGroupChat(
        [assistant(client), UserProxyAgent("person", input_func=lambda _: "Thanks.")],
        termination_condition=MaxMessageTermination(3),
    )
    return gym.attach(group) if gym else group


ROUTES = {"wrapped": wrapped, "attached": attached, "team": team}


@pytest.fixture(scope="module")
def daemon(make_daemon: Callable[..., Any], forcing: Any) -> Any:
    """A daemon with a live policy for the clerk of every test."""
    agents = [*ROUTES, *(f"shadowed-{route}" for route in ROUTES), "nested"]
    return make_daemon(*(forcing(agent, agent_name="clerk") for agent in agents)).start()


async def run(build: Any, gym: AgentGym | None, server: LLMServer) -> list[str]:
    """What was said in one run, from the request on."""
    async with model(server) as client:
        result = await build(gym, client).run(task="order 7?")
    return [message.to_text() for message in result.messages]


@pytest.mark.parametrize("route", ROUTES)
async def test_a_route_is_steered_and_stored_whole(
    daemon: Any, make_gym: Any, serve: Any, shown: Any, route: str
) -> None:
    server, gym = serve(*SCRIPT, DONE), make_gym(daemon, route)

    said = await run(ROUTES[route], gym, server)
    gym.reward(1.0)

    assert said[-1] == ("Thanks." if route == "team" else "Done.")
    assert shown(server) == [NAMES] * 3
    assert [r.body.get("tool_choice") for r in server.requests] == [FORCED, "auto", "auto"]
    (stored,) = daemon.stored(gym)
    stored.check()
    clerk = [
        "invoke_agent clerk",
        ["chat gpt-4o", ["execute_tool refund"]],
        ["chat gpt-4o", ["execute_tool look_up"]],
        ["chat gpt-4o"],
    ]
    group = ["invoke_workflow team", clerk, ["invoke_agent person"]]
    assert stored.outline() == [group if route == "team" else clerk]
    assert [call.error_type for call in stored.calls] == ["", "tool_error"]
    assert stored.arms() == ["force refund", "defer", "defer"]
    first = stored.decisions[0]
    assert first.assignment == common_pb2.ASSIGNMENT_POLICY
    assert (first.force, list(first.called)) == ("hard", ["refund"])
    assert first.scope.agent_name == "clerk"
    assert first.arm_propensity > 0.9
    assert [past.error for past in stored.decisions[2].history] == [False, True]
    assert (stored.summary.framework, stored.summary.reward) == ("autogen", 1.0)


@pytest.mark.parametrize("route", ROUTES)
async def test_in_shadow_the_bodies_are_those_of_the_agent_without_us(
    daemon: Any, make_gym: Any, serve: Any, route: str
) -> None:
    plain, seen = serve(*SCRIPT, DONE), serve(*SCRIPT, DONE)
    gym = make_gym(daemon, f"shadowed-{route}", mode="shadow")

    without = await run(ROUTES[route], None, plain)
    watched = await run(ROUTES[route], gym, seen)

    assert watched == without
    assert [r.body_bytes for r in seen.requests] == [r.body_bytes for r in plain.requests]
    (stored,) = daemon.stored(gym)
    assert stored.check().arms()[0] == "force refund"


async def test_an_agent_below_another_is_decided_and_stored_in_one_trajectory(
    daemon: Any, make_gym: Any, serve: Any, shown: Any
) -> None:
    gym = make_gym(daemon, "nested")
    server = serve(call_tool("clerk", {"task": "order 7?"}), SCRIPT[0], DONE, say("All done."))

    async with model(server) as client:
        clerk = AgentTool(assistant(gym.wrap(client)))
        boss = gym.attach(assistant(client, "boss", tools=[clerk]))
        result = await boss.run(task="Help with order 7.")
    gym.reward(1.0)

    assert result.messages[-1].to_text() == "All done."
    assert [r.body.get("tool_choice") for r in server.requests] == ["auto", FORCED, "auto", "auto"]
    (stored,) = daemon.stored(gym)
    stored.check()
    assert stored.outline() == [
        [
            "invoke_agent boss",
            [
                "chat gpt-4o",
                [
                    "execute_tool clerk",
                    [
                        "invoke_agent clerk",
                        ["chat gpt-4o", ["execute_tool refund"]],
                        ["chat gpt-4o"],
                    ],
                ],
            ],
            ["chat gpt-4o"],
        ]
    ]
    assert [list(d.agent_path) for d in stored.decisions] == [
        ["boss"],
        ["boss", "clerk"],
        ["boss", "clerk"],
        ["boss"],
    ]
    # The boss has no policy of its own; its steps say so.
    fallbacks = [d.fallback for d in stored.decisions]
    assert fallbacks == [common_pb2.FALLBACK_NO_POLICY, 0, 0, common_pb2.FALLBACK_NO_POLICY]


@pytest.mark.parametrize("route", ROUTES)
async def test_without_a_daemon_bodies_and_answers_are_those_of_the_agent_without_us(
    idle_gym: AgentGym, serve: Any, route: str
) -> None:
    plain, seen = serve(*SCRIPT, DONE), serve(*SCRIPT, DONE)

    without = await run(ROUTES[route], None, plain)
    instrumented = await run(ROUTES[route], idle_gym, seen)
    idle_gym.reward(1.0)

    assert instrumented == without
    assert [r.body_bytes for r in seen.requests] == [r.body_bytes for r in plain.requests]
