"""`create_agent(model, tools, middleware=[gym])`: what reaches the model and what is recorded."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool
from langgraph.checkpoint.memory import InMemorySaver

from agentgym import semconv
from agentgym.testing import EchoToolBrain
from agentgym.testing.recording import RecordingGym
from agentgym.trajectory import Assignment
from tests.plugins.integrations.langchain.asking import ASK, SCRIPT, WAYS, run


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


def test_a_gym_is_a_middleware_and_a_handler_to_langchain(gym: RecordingGym) -> None:
    assert isinstance(gym, AgentMiddleware)
    assert isinstance(gym, BaseCallbackHandler)
    assert isinstance(gym, RecordingGym)
    assert type(gym) is RecordingGym
    with pytest.raises(AttributeError, match="teleport"):
        gym.teleport  # noqa: B018
