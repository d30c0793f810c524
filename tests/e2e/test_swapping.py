"""Policies that change while an agent runs, and policy files that were changed by somebody else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, tool
from langchain_openai import ChatOpenAI

from agentgym import AgentGym
from agentgym.errors import DaemonError
from agentgym.proto.v1 import common_pb2, policy_pb2
from agentgym.testing import EchoToolBrain, LLMServer

pytestmark = pytest.mark.e2e


@tool
def look_up(query: str) -> str:
    """Looks an order up."""
    return f"order {query}"


@tool
def escalate(query: str) -> str:
    """Hands an order to a person."""
    return f"escalated {query}"


def refunding(during: Callable[[], None]) -> BaseTool:
    """A tool during whose call something else happens."""

    @tool
    def refund(query: str) -> str:
        """Pays money back."""
        during()
        return f"refunded {query}"

    return refund


def desk(gym: AgentGym, server: LLMServer, during: Callable[[], None] = lambda: None) -> Any:
    llm = ChatOpenAI(model="gpt-4o", base_url=server.base_url, api_key="test", max_retries=0)
    return create_agent(llm, [look_up, refunding(during), escalate], middleware=[gym])


def ask(agent: Any) -> str:
    """What the agent did about an order."""
    return str(agent.invoke({"messages": [("user", "7")]})["messages"][-1].content)


def until(condition: Callable[[], bool]) -> None:
    """Returns when a condition holds; the test's own time limit ends the wait."""
    while not condition():
        time.sleep(0.01)


def wait_for(gym: AgentGym, version: str) -> None:
    """Returns when the agent's process follows a version."""
    until(lambda: gym.status()["policies"].get(gym.config.agent, "") == version)


@pytest.fixture
def daemon(make_daemon: Callable[..., Any], forcing: Any) -> Any:
    """A daemon with a live version that refunds and a candidate that escalates."""
    made = make_daemon(forcing("desk"), forcing("desk", "escalate", live=False)).start()
    yield made
    made.stop()


def change(daemon: Any, verb: str, **fields: Any) -> policy_pb2.ChangeResponse:
    """Changes what is live."""
    return daemon.change(verb, getattr(policy_pb2, f"{verb}Request")(**fields))


def test_what_is_live_changes_at_the_next_trajectory_of_a_running_agent(
    daemon: Any, make_gym: Any, serve: Any
) -> None:
    gym, server = make_gym(daemon, "desk", explore=False), serve(brain=EchoToolBrain())
    scope = common_pb2.Scope(agent="desk")
    changes: list[Callable[[], None]] = []
    agent = desk(gym, server, lambda: changes.pop()() if changes else None)

    def promote() -> None:
        change(daemon, "Promote", version="p-000002")
        wait_for(gym, "p-000002")

    changes.append(promote)  # in the middle of the first run
    answers = [ask(agent), ask(agent)]
    change(daemon, "Rollback", scope=scope)
    wait_for(gym, "p-000001")
    answers.append(ask(agent))
    change(daemon, "Pin", version="p-000002")
    wait_for(gym, "p-000002")
    answers.append(ask(agent))
    with pytest.raises(DaemonError, match="pinned to p-000002"):
        change(daemon, "Promote", version="p-000001")
    change(daemon, "Pin", scope=scope, unpin=True)
    change(daemon, "Promote", version="p-000001")
    wait_for(gym, "p-000001")
    answers.append(ask(agent))

    refunded, escalated = "7 -> refunded 7", "7 -> escalated 7"
    assert answers == [refunded, escalated, refunded, escalated, refunded]
    versions = [[d.policy_version for d in stored.decisions] for stored in daemon.stored(gym)]
    first, second = ["p-000001"] * 2, ["p-000002"] * 2
    assert versions == [first, second, first, second, first]
    assert gym.status()["applied"] == ["p-000001", "p-000002"] * 2 + ["p-000001"]


def test_an_agent_follows_a_restarted_daemon_and_keeps_its_policy_meanwhile(
    daemon: Any, make_gym: Any, serve: Any
) -> None:
    gym, server = make_gym(daemon, "desk", explore=False), serve(brain=EchoToolBrain())
    agent = desk(gym, server)
    change(daemon, "Promote", version="p-000002")
    wait_for(gym, "p-000002")

    daemon.kill()
    alone = ask(agent)
    daemon.start()
    again = ask(agent)
    change(daemon, "Rollback", scope=common_pb2.Scope(agent="desk"))
    wait_for(gym, "p-000001")

    assert alone == again == "7 -> escalated 7"
    assert ask(agent) == "7 -> refunded 7"
    assert len(daemon.stored(gym)) == 3
    assert [p.status for p in daemon.policies("desk")] == ["live", "retired"]


@pytest.mark.parametrize("place", [400, -1], ids=["manifest", "weights"])
def test_a_policy_file_with_one_byte_changed_is_loaded_by_nobody(
    daemon: Any, make_gym: Any, serve: Any, place: int
) -> None:
    server = serve(brain=EchoToolBrain())
    running = make_gym(daemon, "desk", explore=False)
    path = daemon.home / "policies" / "p-000001.safetensors"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)

    told = make_gym(daemon, "desk", explore=False)  # the daemon that runs does not hand it out
    before = ask(desk(running, server)), ask(desk(told, server))
    assert running.flush(30)
    assert told.flush(30)
    daemon.stop()
    daemon.start()  # nor does a daemon take it up
    late = make_gym(daemon, "desk", explore=False)

    # Whoever verified it before keeps it; for everybody else there is none.
    assert before == ("7 -> refunded 7", "7 -> order 7")
    assert ask(desk(late, server)) == "7 -> order 7"
    until(lambda: running.live.silent_s == 0)
    assert ask(desk(running, server)) == "7 -> refunded 7"
    assert [gym.status()["policies"] for gym in (told, late)] == [{}, {}]
    assert "p-000001 is not served" in daemon.log
    with pytest.raises(DaemonError, match="cannot be used"):
        change(daemon, "Pin", version="p-000001")
    assert late.flush(30)
    fallbacks = [stored.decisions[0].fallback for stored in daemon.stored(running)]
    none, no_policy = common_pb2.FALLBACK_NONE, common_pb2.FALLBACK_NO_POLICY
    assert fallbacks == [none, no_policy, no_policy, none]
