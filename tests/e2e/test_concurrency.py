"""Many runs at once, runs inside runs, and runs that are cancelled: nothing mixes or stays open."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_core import CancellationToken
from autogen_ext.models.openai import OpenAIChatCompletionClient
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from agentgym import AgentGym
from agentgym.testing import ChatReply, ChatRequest, EchoToolBrain, LLMServer, call_tool, say

pytestmark = pytest.mark.e2e

RUNS = 32


@tool
def look_up(query: str) -> str:
    """Looks an order up."""
    return f"order {query}"


@tool
def refund(query: str) -> str:
    """Pays money back."""
    return f"refunded {query}"


@tool
def escalate(query: str) -> str:
    """Hands an order to a person."""
    return f"escalated {query}"


DESK = [look_up, refund, escalate]


class Silent:
    """A model that never answers, and says who was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def reply(self, request: ChatRequest) -> ChatReply:
        self.asked.append(request.user_text)
        return ChatReply(text="late", delay_s=600)


@pytest.fixture(scope="module")
def daemon(make_daemon: Callable[..., Any], forcing: Any) -> Any:
    """A daemon with a live policy for the agent of every test."""
    agents = ("threads", "tasks", "nested", "cancelled")
    return make_daemon(*map(forcing, agents)).start()


def model(server: LLMServer) -> ChatOpenAI:
    return ChatOpenAI(model="gpt-4o", base_url=server.base_url, api_key="test", max_retries=0)


def case(number: int) -> tuple[Any, Any]:
    """The input of one run, and a configuration that gives its trajectory a key."""
    request = {"messages": [("user", f"order n{number:02}?")]}
    return request, {"configurable": {"thread_id": f"case-{number}"}}


def check_unmixed(daemon: Any, gym: AgentGym, answers: list[str]) -> None:
    """Every run has its own answer, key, reward and arguments, in a trajectory of its own."""
    trajectories = {stored.summary.key: stored.check() for stored in daemon.stored(gym)}
    assert sorted(trajectories) == sorted(f"case-{number}" for number in range(RUNS))
    for number, answer in enumerate(answers):
        stored = trajectories[f"case-{number}"]
        assert stored.summary.reward == number / RUNS
        assert len(stored.calls) == 1
        arguments = json.loads(stored.calls[0].attributes_json)["gen_ai.tool.call.arguments"]
        assert f"order n{number:02}?" in arguments
        assert answer.startswith(f"order n{number:02}?")
        assert [list(d.called) for d in stored.decisions] == [[stored.calls[0].tool], []]


def test_32_runs_in_threads_do_not_mix(daemon: Any, make_gym: Any, serve: Any) -> None:
    gym = make_gym(daemon, "threads", explore=False, capture_content="true")
    agent = create_agent(model(serve(brain=EchoToolBrain())), DESK, middleware=[gym])

    def run(number: int) -> str:
        result = agent.invoke(*case(number))
        gym.reward(number / RUNS)
        return str(result["messages"][-1].content)

    with ThreadPoolExecutor(RUNS) as threads:
        answers = list(threads.map(run, range(RUNS)))

    check_unmixed(daemon, gym, answers)


async def test_32_runs_in_one_event_loop_do_not_mix(daemon: Any, make_gym: Any, serve: Any) -> None:
    gym = make_gym(daemon, "tasks", explore=False, capture_content="true")
    agent = create_agent(model(serve(brain=EchoToolBrain())), DESK, middleware=[gym])

    async def run(number: int) -> str:
        result = await agent.ainvoke(*case(number))
        gym.reward(number / RUNS)
        return str(result["messages"][-1].content)

    answers = await asyncio.gather(*map(run, range(RUNS)))

    await asyncio.to_thread(check_unmixed, daemon, gym, answers)


def test_an_agent_inside_a_tool_is_part_of_the_outer_trajectory(
    daemon: Any, make_gym: Any, serve: Any
) -> None:
    gym = make_gym(daemon, "nested")
    inner_server = serve(call_tool("look_up", {"query": "7"}), say("Refunded."))
    inner = create_agent(model(inner_server), DESK, middleware=[gym], name="clerk")

    @tool
    def ask_clerk(query: str) -> str:
        """Asks the clerk."""
        return str(inner.invoke({"messages": [("user", query)]})["messages"][-1].content)

    outer_server = serve(call_tool("ask_clerk", {"query": "order 7?"}), say("Done."))
    outer = create_agent(model(outer_server), [ask_clerk], middleware=[gym], name="boss")
    outer.invoke({"messages": [("user", "Help with order 7.")]})
    gym.reward(1.0)

    (stored,) = daemon.stored(gym)
    stored.check()
    below = ["invoke_agent clerk", ["chat gpt-4o", ["execute_tool look_up"]], ["chat gpt-4o"]]
    assert stored.outline() == [
        ["invoke_agent boss", ["chat gpt-4o", ["execute_tool ask_clerk", below]], ["chat gpt-4o"]]
    ]
    paths = [list(decision.agent_path) for decision in stored.decisions]
    assert paths == [["boss"], ["boss", "clerk"], ["boss", "clerk"], ["boss"]]
    assert [decision.step for decision in stored.decisions] == [0, 1, 2, 3]
    assert stored.summary.reward == 1.0


async def test_cancelled_runs_are_closed_and_say_so(daemon: Any, make_gym: Any, serve: Any) -> None:
    gym, silent = make_gym(daemon, "cancelled"), Silent()
    server = serve(brain=silent)
    agent = create_agent(model(server), DESK, middleware=[gym])
    client = OpenAIChatCompletionClient(model="gpt-4o", base_url=server.base_url, api_key="none")
    assistant = gym.attach(AssistantAgent("assistant", model_client=client, tools=[]))
    token = CancellationToken()
    runs = [asyncio.create_task(agent.ainvoke(*case(number))) for number in range(8)]
    runs.append(asyncio.create_task(assistant.run(task="order 8?", cancellation_token=token)))
    while len(silent.asked) < len(runs):
        await asyncio.sleep(0.01)

    token.cancel()
    for run in runs:
        run.cancel()
    ended = await asyncio.gather(*runs, return_exceptions=True)
    await client.close()

    assert {type(end) for end in ended} == {asyncio.CancelledError}
    trajectories = await asyncio.to_thread(daemon.stored, gym)
    assert len(trajectories) == len(runs)
    for stored in trajectories:
        assert stored.summary.state != "open"
        (root,) = [span for span in stored.spans() if not span.parent_span_id]
        assert json.loads(root.attributes_json)["agentgym.incomplete"] == "cancelled"
        assert all(span.end_unix_nano for span in stored.spans())
        assert not any(decision.completed for decision in stored.decisions)
