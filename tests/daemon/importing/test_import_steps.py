"""Which turn asked for which call, and the tree that it is read from, on plain neutral spans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentgym.trajectory import Tool
from agentgym_daemon.importing import plan
from agentgym_daemon.importing.messages import task
from agentgym_daemon.importing.model import Asked, Loaded, SourceSpan
from agentgym_daemon.importing.records import PastTrajectory
from agentgym_daemon.ingest.foreign import Kind

TOOLS = (Tool("look_up", "Looks up."), Tool("refund", "Pays back."))
S = 10**9


def span(kind: Kind, number: int, **fields: Any) -> SourceSpan:
    """A span that begins `number` seconds into the run, below its root."""
    start = (1_700_000_000 + number) * S
    values = {
        "run": "r",
        "id": f"{number:016x}",
        "parent": f"{1:016x}" if number > 1 else "",
        "name": "",
        "start_ns": start,
        "end_ns": start + S // 2,
        "origin": "test:0",
        **fields,
    }
    return SourceSpan(kind=kind, **values)


def agent(**fields: Any) -> SourceSpan:
    return span(Kind.AGENT, 1, **{"name": "desk", **fields})


def turn(number: int, *asked: tuple[str, str], **fields: Any) -> SourceSpan:
    called = tuple(Asked(*ask) for ask in asked)
    return span(Kind.LLM, number, **{"called": called, "offered": TOOLS, **fields})


def call(number: int, tool: str, **fields: Any) -> SourceSpan:
    return span(Kind.TOOL, number, tool=tool, name=tool, **fields)


def past(*spans: SourceSpan) -> PastTrajectory:
    (trajectory,) = plan.make(Loaded(spans=list(spans)), plan.Options()).trajectories
    return trajectory


def owners(trajectory: PastTrajectory) -> list[int]:
    """The turn (its number) that each call belongs to, in order of the calls; 0: none."""
    calls = [s for s in trajectory.spans if s.name.startswith("execute_tool")]
    ordered = sorted(calls, key=lambda s: s.start_ns)
    return [int(s.attributes.get("agentgym.decision.id", "0"), 16) for s in ordered]


def errors(trajectory: PastTrajectory) -> list[list[bool]]:
    return [[one.error for one in step.history] for step in trajectory.steps]


def test_the_id_of_a_call_says_who_asked() -> None:
    trajectory = past(
        agent(),
        turn(2, ("look_up", "a")),
        turn(3, ("look_up", "b")),
        call(4, "look_up", call_id="a"),
        call(5, "look_up", call_id="b"),
    )

    assert owners(trajectory) == [2, 3]


def test_a_call_below_a_turn_belongs_to_it() -> None:
    trajectory = past(
        agent(),
        turn(2, ("look_up", "")),
        turn(3, ("look_up", "")),
        call(4, "look_up", parent=f"{2:016x}"),
    )

    assert owners(trajectory) == [2]


def test_each_ask_is_answered_by_one_call() -> None:
    asks = (turn(2, ("look_up", "")), turn(3, ("look_up", "")))

    trajectory = past(agent(), *asks, call(4, "look_up"), call(5, "look_up"))

    assert sorted(owners(trajectory)) == [2, 3]


def test_a_call_that_nobody_asked_for_belongs_to_no_turn() -> None:
    trajectory = past(agent(), turn(2, ("look_up", "")), call(3, "look_up"), call(4, "audit"))

    assert owners(trajectory) == [2, 0]


def test_the_history_grows_from_turn_to_turn_by_tool_and_error() -> None:
    trajectory = past(
        agent(),
        turn(2, ("look_up", "")),
        call(3, "look_up", error="Timeout"),
        turn(4, ("refund", "")),
        call(5, "refund"),
        turn(6),
    )

    assert errors(trajectory) == [[], [True], [True, False]]
    last = trajectory.steps[-1].history
    assert [one.tool for one in last] == [tool.fingerprint for tool in TOOLS]


def test_results_make_no_calls_where_calls_were_recorded() -> None:
    trajectory = past(
        agent(),
        turn(2, ("look_up", "a"), ("refund", "b")),
        call(3, "look_up", call_id="a"),
        turn(4, answered=("a", "b")),
    )

    assert owners(trajectory) == [2]


def test_a_turn_that_was_offered_nothing_is_no_step_where_offers_are_recorded() -> None:
    trajectory = past(agent(), turn(2, ("look_up", "")), call(3, "look_up"), turn(4, offered=None))

    assert [step.called for step in trajectory.steps] == [("look_up",)]


def test_a_turn_that_failed_is_not_completed() -> None:
    trajectory = past(agent(), turn(2, error="RateLimitError"), turn(3, ("look_up", "")))

    assert [step.completed for step in trajectory.steps] == [False, True]


def test_a_chain_around_the_run_is_its_root() -> None:
    trajectory = past(
        span(Kind.OTHER, 1, name="RunnableSequence"), turn(2, ("look_up", "")), call(3, "look_up")
    )

    assert trajectory.spans[-1].name == "invoke_agent RunnableSequence"
    assert trajectory.spans[-1].attributes["gen_ai.operation.name"] == "invoke_agent"


def test_what_only_the_inner_recording_of_a_turn_knows_is_taken_over() -> None:
    outer = turn(2, called=None, offered=None)
    inner = turn(3, ("look_up", "a"), parent=outer.id)

    trajectory = past(agent(), outer, inner)

    assert [(s.called, len(s.offered)) for s in trajectory.steps] == [(("look_up",), 2)]
    assert trajectory.steps[0].span_id.hex() == outer.id


def test_the_first_recording_of_a_span_stands() -> None:
    again = turn(2, ("refund", ""))

    trajectory = past(agent(), turn(2, ("look_up", "")), again)

    assert [step.called for step in trajectory.steps] == [("look_up",)]
    assert len(trajectory.spans) == 2


def test_the_span_of_a_step_names_its_decision() -> None:
    trajectory = past(agent(), turn(2, ("look_up", "")), call(3, "look_up"))

    (chat,) = [s for s in trajectory.spans if s.name.startswith("chat")]
    assert chat.attributes["agentgym.decision.id"] == trajectory.steps[0].span_id.hex()


def conversation(*texts: Sequence[str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": text} for role, text in texts]


def test_the_task_is_what_the_user_said_last() -> None:
    said = conversation(("user", "hello"), ("assistant", "yes?"), ("user", "where is it?"))
    parts = [{"type": "text", "text": "order"}, {"type": "text", "text": "seven"}]

    assert task(said) == "where is it?"
    assert task([{"role": "user", "content": parts}]) == "order\nseven"
    assert task({"input": {"question": "why?"}}) == "why?"
    assert task("plain") == "plain"
