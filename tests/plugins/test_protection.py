"""Protected tools: never chosen, and after one was called the model decides alone."""

from __future__ import annotations

import pytest

from agentgym.recorder import active
from agentgym.testing.recording import RecordingGym
from agentgym.trajectory import Fallback, Tool

TASK = "pay me back"


@pytest.fixture
def gym(tools: tuple[Tool, ...]) -> RecordingGym:
    """A gym whose policy is certain of `refund_order`; cancelling cannot be taken back."""
    gym = RecordingGym(protected=["cancel_order"], explore="false")
    gym.force(tools, "refund_order", "agent", "billing")
    return gym


@pytest.mark.parametrize("seen_by", ["call", "answer"])
def test_after_a_protected_call_every_step_of_the_run_falls_back(
    seen_by: str, gym: RecordingGym, tools: tuple[Tool, ...]
) -> None:
    run = gym.recorder.start_run("agent", framework="test", task=TASK)
    before = run.turn(tools)
    before.finish([("cancel_order", "1")] if seen_by == "answer" else [])
    if seen_by == "call":
        run.call("cancel_order", call_id="1").finish()

    after = [run.turn(tools) for _ in range(2)]

    assert before.forced is tools[1]
    assert [turn.fallback for turn in after] == [Fallback.PROTECTED] * 2
    assert all(turn.forced is None and turn.decision is None for turn in after)


def test_it_holds_for_every_agent_of_the_trajectory_and_no_other(
    gym: RecordingGym, tools: tuple[Tool, ...]
) -> None:
    run = gym.recorder.start_run("agent", framework="test", task=TASK)
    with active(run):
        nested = gym.recorder.start_run("billing", framework="test", task=TASK)
    nested.call("cancel_order", call_id="1").finish("timeout")  # it may have happened all the same

    assert run.turn(tools).fallback is Fallback.PROTECTED
    fresh = gym.recorder.start_run("agent", framework="test", task=TASK)
    assert fresh.turn(tools).forced is tools[1]


def test_other_calls_and_blocked_ones_change_nothing(tools: tuple[Tool, ...]) -> None:
    gym = RecordingGym(protected=["cancel_order"], block_hidden="true", explore="false")
    gym.force(tools, "refund_order", "agent")
    run = gym.recorder.start_run("agent", framework="test", task=TASK)
    run.turn(tools).finish()
    call = run.call("cancel_order", call_id="1")
    assert call.blocked
    call.veto("not now")
    run.call("find_order", call_id="2").finish("not found")

    assert run.turn(tools).fallback is Fallback.NONE


def test_what_is_found_to_be_destructive_is_protected_from_the_next_step(
    gym: RecordingGym, tools: tuple[Tool, ...]
) -> None:
    run = gym.recorder.start_run("agent", framework="test", task=TASK)
    assert run.turn(tools).forced is tools[1]

    gym.recorder.protect(["refund_order"])

    turn = run.turn(tools)
    assert turn.allowed == (True, False, False, True)
    assert turn.decision is not None
    assert all(1 not in arm.tools for arm in turn.decision.support)
