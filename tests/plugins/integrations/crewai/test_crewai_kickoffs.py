"""Every way to kick a crew or an agent off is recorded and steered alike."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

pytest.importorskip("crewai")

from crewai import Crew, Task

from agentgym.testing import ChatReply, ChatRequest, ToolCall, say
from agentgym.testing.llm_brain import is_tool_result
from tests.plugins.integrations.crewai.harness import (
    QUIET,
    TOOLS,
    Model,
    Play,
    clerk,
    crew,
    gym_for,
    shown,
    spans,
)
from tests.plugins.integrations.trees import assert_whole

pytestmark = QUIET


async def _kickoff_async(desk: Crew) -> Any:
    return await desk.kickoff_async(inputs={"order": "7"})


async def _akickoff(desk: Crew) -> Any:
    return await desk.akickoff(inputs={"order": "7"})


@pytest.mark.parametrize("kickoff", [_kickoff_async, _akickoff])
async def test_async_kickoffs_are_recorded_and_rewarded_like_the_sync_one(
    serve: Any, kickoff: Any
) -> None:
    gym = gym_for()
    gym.force(TOOLS, "escalate", "clerk")
    server = serve(Model("refund"))
    desk = gym.attach(crew(server))

    result = await kickoff(desk)
    gym.reward(1.0)

    assert "escalated 7" in str(result)
    assert shown(server)[0] == ["escalate"]
    assert_whole(gym)
    assert gym.sink.rewards[0].trajectory_id == gym.sink.ended[0]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_streamed_kickoffs_are_one_trajectory(serve: Any, asynchronous: bool) -> None:
    gym = gym_for("observe")
    desk = gym.attach(crew(serve(Model("refund")), stream=True))

    if asynchronous:
        async for _ in await desk.akickoff(inputs={"order": "7"}):
            pass
    else:
        await asyncio.to_thread(lambda: list(desk.kickoff({"order": "7"})))

    assert_whole(gym)
    assert [step.called for step in gym.sink.steps] == [("refund",), ()]


def test_kickoff_for_each_makes_one_trajectory_per_input(serve: Any) -> None:
    gym = gym_for()
    gym.force(TOOLS, "escalate", "clerk")
    server = serve(Model("refund"))

    gym.attach(crew(server)).kickoff_for_each([{"order": str(n)} for n in range(3)])

    assert_whole(gym, trajectories=3)
    assert {t.text for t in gym.sink.tasks} == {f"Order {n} is late" for n in range(3)}
    assert shown(server)[::2] == [["escalate"]] * 3


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_agent_by_itself_is_attached_and_kicked_off(
    serve: Any, asynchronous: bool
) -> None:
    gym = gym_for()
    gym.force(TOOLS, "escalate", "clerk")
    server = serve(Model("refund"))
    agent = gym.attach(clerk(server))

    if asynchronous:
        result = await agent.akickoff([{"role": "user", "content": "Order 7 is late"}])
    else:
        result = await asyncio.to_thread(agent.kickoff, "Order 7 is late")

    assert "escalated 7" in result.raw
    assert shown(server) == [["escalate"], ["lookup_order", "refund", "escalate"]]
    assert [task.text for task in gym.sink.tasks] == ["Order 7 is late"]
    assert_whole(gym)


async def test_an_agent_kicked_off_inside_a_loop_gives_the_coroutine_it_gave_before(
    serve: Any,
) -> None:
    gym = gym_for("observe")
    agent = gym.attach(clerk(serve(Model("refund"))))

    result = await agent.kickoff("Order 7 is late")

    assert "refunded 7" in result.raw
    assert_whole(gym)


def test_a_reused_crew_makes_a_new_trajectory_each_time(serve: Any) -> None:
    gym = gym_for()
    server = serve(Model("refund"))
    desk = gym.attach(crew(server))

    desk.kickoff({"order": "1"})
    gym.force(TOOLS, "escalate", "clerk")
    desk.kickoff({"order": "2"})
    gym.force(TOOLS, "lookup_order", "clerk")
    desk.kickoff({"order": "3"})

    assert_whole(gym, trajectories=3)
    assert [step.called for step in gym.sink.steps][::2] == [
        ("refund",),
        ("escalate",),
        ("lookup_order",),
    ]


def test_several_tasks_and_agents_are_runs_of_one_trajectory(serve: Any) -> None:
    gym = gym_for("observe")
    server = serve(Model("refund"))
    first, second = clerk(server), clerk(server, role="Auditor")
    tasks = [
        Task(description="Refund 7", expected_output="a text", agent=first, async_execution=True),
        Task(description="Check 7", expected_output="a text", agent=second),
    ]

    gym.attach(Crew(agents=[first], tasks=tasks)).kickoff()

    assert_whole(gym)
    assert {s.name for s in spans(gym, "invoke_agent")} == {
        "invoke_agent Clerk",
        "invoke_agent Auditor",
    }


async def test_32_concurrent_copies_do_not_mix(serve: Any) -> None:
    def reply(request: ChatRequest) -> ChatReply:
        text = next(m["content"] for m in request.messages if m["role"] == "user")
        order = text.split("Order ")[1].split(" ")[0]
        if any(is_tool_result(m) for m in request.messages):
            return say(f"done {order}")
        return ChatReply(tool_calls=(ToolCall("refund", json.dumps({"order": order})),))

    gym = gym_for("observe", capture_content="true")
    desk = gym.attach(crew(serve(Play(reply))))

    results = await desk.akickoff_for_each([{"order": f"n{i}"} for i in range(32)])

    assert sorted(map(str, results)) == sorted(f"done n{i}" for i in range(32))
    assert_whole(gym, trajectories=32)
    texts = {task.trajectory_id: task.text for task in gym.sink.tasks}
    calls = spans(gym, "execute_tool")
    assert len(calls) == 32
    for call in calls:
        order = texts[call.trajectory_id].split()[1]
        assert f"'{order}'" in call.attributes["gen_ai.tool.call.arguments"]
