"""The daemon is killed while agents run: they do not notice, and nothing is lost or doubled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from agentgym import AgentGym
from agentgym.testing import EchoToolBrain, LLMServer

pytestmark = pytest.mark.e2e

RETRAIN = 40
_PAUSE_S = 0.05


@tool
def look_up(query: str) -> str:
    """Looks an order up."""
    return f"order {query}"


@tool
def refund(query: str) -> str:
    """Pays money back."""
    return f"refunded {query}"


class Customers(threading.Thread):
    """Asks an agent again and again until it is told to stop; keeps what went wrong."""

    def __init__(self, gym: AgentGym, server: LLMServer) -> None:
        super().__init__()
        llm = ChatOpenAI(model="gpt-4o", base_url=server.base_url, api_key="test", max_retries=0)
        self._gym = gym
        self._agent = create_agent(llm, [refund, look_up], middleware=[gym])
        self.stopped = threading.Event()
        self.served = 0
        self.errors: list[Exception] = []

    def run(self) -> None:
        while not self.stopped.is_set():
            try:
                result = self._agent.invoke({"messages": [("user", f"order {self.served}?")]})
                self._gym.reward(float("refunded" in result["messages"][-1].content))
            except Exception as error:  # noqa: BLE001 - any error is the finding
                self.errors.append(error)
            self.served += 1
            self.stopped.wait(_PAUSE_S)


def wait_for_more(customers: list[Customers], count: int) -> None:
    """Returns when so many more were served."""
    wanted = sum(c.served for c in customers) + count
    while sum(c.served for c in customers) < wanted:
        time.sleep(0.01)


@pytest.mark.timeout(400)
def test_killed_in_the_middle_of_traffic_it_continues_with_all_that_it_acknowledged(
    make_daemon: Callable[..., Any], make_gym: Any, serve: Any
) -> None:
    # A trainer that gives way to everything gets to nothing on a machine that has no time to spare.
    flags = ["--retrain-trajectories", str(RETRAIN), "--trainer-nice", "0"]
    daemon = make_daemon(flags=flags).start()
    gym, server = make_gym(daemon, "desk"), serve(brain=EchoToolBrain())
    customers = [Customers(gym, server) for _ in range(2)]
    for customer in customers:
        customer.start()
    while not daemon.policies():
        time.sleep(0.05)
    before, known = daemon.status(), daemon.policies()

    for _ in range(2):
        daemon.kill()
        wait_for_more(customers, 10)
        daemon.start()
        wait_for_more(customers, 15)
    after = daemon.applied()
    while len(daemon.policies()) <= len(known):  # learning goes on
        time.sleep(0.05)
    for customer in customers:
        customer.stopped.set()
        customer.join()
    served = sum(customer.served for customer in customers)
    stored = daemon.stored(gym, explained_in=20)
    counters, end = gym.status()["counters"], daemon.applied()

    assert [customer.errors for customer in customers] == [[], []]
    assert {name: n for name, n in counters.items() if name.startswith(("dropped", "pend"))} == {}
    for kind in ("spans", "decisions", "features", "rewards"):
        assert counters[f"acked.{kind}"] == counters[f"produced.{kind}"]
    assert len(stored) == served
    assert sum(s.summary.spans for s in stored) == counters["produced.spans"]
    assert sum(len(s.decisions) for s in stored) == counters["produced.decisions"]
    assert [len(s.message.rewards) for s in stored] == [1] * served
    for one in stored:
        one.check()
    assert after.log_end >= before.log_end
    assert after.counters["spans"] >= before.counters["spans"]
    assert end.counters["spans"] == counters["produced.spans"]
    assert [(p.version, p.sha256) for p in known] == [
        (p.version, p.sha256) for p in daemon.policies()[: len(known)]
    ]
