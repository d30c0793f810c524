"""The tree of a trajectory: parents, ends, abandoned children, contexts."""

from __future__ import annotations

import contextvars
import threading

import pytest

from agentgym import semconv
from agentgym.recorder import active, current, reserve
from agentgym.testing.recording import RecordingGym
from agentgym.trajectory import PastCall, Tool
from agentgym.tree import latest


@pytest.fixture
def gym() -> RecordingGym:
    return RecordingGym(mode="observe")


def test_spans_hang_together_as_the_run_went(gym: RecordingGym, tools: tuple[Tool, ...]) -> None:
    run = gym.recorder.start_run("Desk", framework="test", task="t")
    turn = run.turn(tools, model="gpt", provider="openai")
    turn.finish([("find_order", "c1")], input_tokens=5, output_tokens=2, response_model="gpt-1")
    call = run.call("find_order", call_id="c1")
    nested = gym.recorder.start_run("Helper", framework="test", parent=call)
    nested.turn((), model="gpt").finish()
    nested.finish()
    call.finish()
    run.finish()

    spans = {span.name: span for span in gym.sink.spans}
    root = spans["invoke_agent Desk"]
    helper = spans["invoke_agent Helper"]
    assert root.parent_id == b""
    assert spans["execute_tool find_order"].parent_id == turn.span_id
    assert helper.parent_id == call.span_id
    assert {span.trajectory_id for span in gym.sink.spans} == {run.trajectory.id}
    assert helper.attributes[semconv.AGENT_PATH] == "desk/helper"
    assert semconv.TRAJECTORY_ROOT not in helper.attributes
    chat = next(s for s in gym.sink.spans if s.span_id == turn.span_id)
    assert chat.attributes[semconv.INPUT_TOKENS] == 5
    assert chat.attributes[semconv.RESPONSE_MODEL] == "gpt-1"
    assert spans["execute_tool find_order"].attributes[semconv.DECISION_ID] == turn.span_id.hex()
    assert gym.sink.ended == [run.trajectory.id]


def test_a_call_belongs_to_the_turn_that_asked_for_it(
    gym: RecordingGym, tools: tuple[Tool, ...]
) -> None:
    run = gym.recorder.start_run("agent", framework="test")
    first = run.turn(tools)
    first.finish([("find_order", "c1")])
    second = run.turn(tools)
    second.finish([("refund_order", "c2")])

    late = run.call("find_order", call_id="c1")
    unknown = run.call("open_ticket", call_id="never announced")

    assert late.parent is first
    assert unknown.parent is second
    assert run.call("x", turn=first).parent is first


def test_history_is_what_the_run_saw_before_the_turn(
    gym: RecordingGym, tools: tuple[Tool, ...]
) -> None:
    run = gym.recorder.start_run("agent", framework="test")
    run.turn(tools).finish()
    run.call("find_order").finish()
    run.call("refund_order").finish(error="ToolError")
    run.call("made_up").finish()
    run.turn(tools).finish()

    before, after = gym.sink.steps

    assert before.history == ()
    assert after.history == (
        PastCall(tools[0].fingerprint, error=False),
        PastCall(tools[1].fingerprint, error=True),
        PastCall(b"", error=False),
    )
    assert [step.step for step in gym.sink.steps] == [0, 1]


def test_a_root_that_ends_ends_everything_below(gym: RecordingGym, tools: tuple[Tool, ...]) -> None:
    run = gym.recorder.start_run("agent", framework="test")
    turn = run.turn(tools)
    run.call("find_order")
    nested = gym.recorder.start_run("helper", framework="test", parent=run)
    nested.turn(tools)

    run.finish()

    assert len(gym.sink.spans) == 5
    below = [span for span in gym.sink.spans if span.parent_id]
    assert {span.error for span in below} == {"abandoned"}
    assert all(span.attributes[semconv.INCOMPLETE] == "abandoned" for span in below)
    assert gym.sink.spans[-1].span_id == run.span_id
    assert [step.completed for step in gym.sink.steps] == [False, False]
    assert run.history == []
    turn.finish()
    assert len(gym.sink.spans) == 5


def test_a_cancelled_run_says_so_everywhere(gym: RecordingGym, tools: tuple[Tool, ...]) -> None:
    run = gym.recorder.start_run("agent", framework="test")
    run.turn(tools)

    run.abandon("cancelled")

    assert {span.error for span in gym.sink.spans} == {"cancelled"}
    assert gym.sink.ended == [run.trajectory.id]


def test_everything_ends_once(gym: RecordingGym, tools: tuple[Tool, ...]) -> None:
    run = gym.recorder.start_run("agent", framework="test")
    turn = run.turn(tools)
    turn.finish()
    call = run.call("find_order")

    for _ in range(2):
        turn.finish()
        turn.abandon("late")
        call.finish()
        call.abandon("late")
        run.finish()
        run.abandon("late")

    assert len(gym.sink.spans) == 3
    assert len(gym.sink.steps) == 1
    assert len(run.history) == 1
    assert len(gym.sink.ended) == 1


def test_ending_from_many_threads_records_once(gym: RecordingGym, tools: tuple[Tool, ...]) -> None:
    run = gym.recorder.start_run("agent", framework="test")
    turn, call = run.turn(tools), run.call("find_order")
    together = threading.Barrier(8)

    def end() -> None:
        together.wait()
        turn.finish()
        call.finish()

    threads = [threading.Thread(target=end) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(gym.sink.spans) == 2
    assert len(gym.sink.steps) == 1
    assert len(run.history) == 1


def test_hidden_tools_are_marked_and_blocked_only_on_request(tools: tuple[Tool, ...]) -> None:
    for block in (False, True):
        gym = RecordingGym(mode="steer", block_hidden=block)
        gym.force(tools, "find_order", "agent")
        run = gym.recorder.start_run("agent", framework="test", task="t")
        while run.turn(tools).forced is None:
            pass  # defer keeps .02

        wanted, hidden = run.call("find_order"), run.call("refund_order")

        assert not wanted.blocked
        assert hidden.blocked is block
        assert hidden.attributes[semconv.HIDDEN]
        if block:
            assert hidden.veto("not now") == "not now"
            assert gym.sink.spans[-1].attributes[semconv.VETOED]
            assert gym.sink.spans[-1].error == "vetoed"


def test_content_is_captured_only_on_request(tools: tuple[Tool, ...]) -> None:
    for capture in (False, True):
        gym = RecordingGym(mode="observe", capture_content=capture)
        run = gym.recorder.start_run("agent", framework="test")
        run.call("find_order", arguments={"order": "4711"}).finish(result="x" * 10_000)

        attributes = gym.sink.spans[0].attributes
        assert (semconv.TOOL_CALL_ARGUMENTS in attributes) is capture
        if capture:
            assert "4711" in attributes[semconv.TOOL_CALL_ARGUMENTS]
            assert len(attributes[semconv.TOOL_CALL_RESULT]) == 4096


def test_the_context_holds_the_innermost_open_run(gym: RecordingGym) -> None:
    assert current() is None
    outer = gym.recorder.start_run("outer", framework="test")
    with active(outer):
        inner = gym.recorder.start_run("inner", framework="test")
        with active(inner):
            assert current() is inner
            inner.finish()
            assert current() is outer
        call = inner.call("t")
        with active(call):
            assert current() is call
    assert current() is None
    assert inner.parent is outer


def test_a_context_that_outlives_its_trajectory_starts_a_new_one(gym: RecordingGym) -> None:
    first = gym.recorder.start_run("agent", framework="test")
    with active(first):
        first.finish()

        second = gym.recorder.start_run("agent", framework="test")

    assert second.parent is None
    assert second.trajectory is not first.trajectory


def test_leaving_in_another_context_does_no_harm(gym: RecordingGym) -> None:
    run = gym.recorder.start_run("agent", framework="test")
    block = active(run)
    contextvars.copy_context().run(block.__enter__)

    block.__exit__(None, None, None)

    assert current() is None


def test_a_reserved_cell_is_filled_by_a_run_in_a_copied_context(gym: RecordingGym) -> None:
    reserve()

    run = contextvars.copy_context().run(gym.recorder.start_run, "agent", framework="test")

    assert latest() is run.trajectory
    second = gym.recorder.start_run("agent", framework="test")
    assert latest() is second.trajectory


def test_a_framework_names_the_users_own_trajectory(gym: RecordingGym) -> None:
    with gym.trajectory(key="ticket-7") as run:
        gym.recorder.start_run("agent", framework="langchain").finish()

    root = gym.sink.spans[-1]
    assert root.attributes[semconv.FRAMEWORK] == "langchain"
    assert root.attributes[semconv.TRAJECTORY_KEY] == "ticket-7"
    assert root.attributes[semconv.TRAJECTORY_ROOT] is True
    assert run.trajectory_id == root.trajectory_id.hex()
