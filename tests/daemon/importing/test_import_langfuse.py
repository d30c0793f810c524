"""Langfuse by its API (fern/apis/server/definition/commons.yml: TraceWithFullDetails, Score) and by
its blob storage export ("Blob Storage Export Field Reference" of its documentation)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from agentgym_daemon.importing.model import ImportFileError

OFFERED = ["look_up", "refund", "escalate"]
UNMAPPED = "scores that are not mapped: left out, not 0"


def generation(shapes: Any, number: int, output: Any, **more: Any) -> dict[str, Any]:
    """A generation as langfuse.openai records it: tools stand beside the messages in the input."""
    return {
        "id": f"gen-{number}",
        "type": "GENERATION",
        "name": "OpenAI-generation",
        "startTime": shapes.iso(number),
        "endTime": shapes.iso(number + 0.5),
        "model": "gpt-4o",
        "modelParameters": {"temperature": 0},
        "input": {
            "tools": shapes.tools,
            "messages": [
                {"role": "system", "content": "You are a clerk."},
                {"role": "user", "content": "Where is order 7?"},
            ],
        },
        "output": output,
        "usageDetails": {"input": 12, "output": 3, "total": 15},
        "level": "DEFAULT",
        "statusMessage": None,
        "parentObservationId": None,
        **more,
    }


def asked(tool: str) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": tool, "arguments": "{}"}}
        ],
    }


def api_trace(shapes: Any, *scores: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A trace with everything in it."""
    tool = {
        "id": "tool-1",
        "type": "TOOL",
        "name": "look_up",
        "startTime": shapes.iso(3),
        "endTime": shapes.iso(3.2),
        "level": "DEFAULT",
        "input": {"query": "7"},
        "output": "order 7",
        "parentObservationId": None,
    }
    return {
        "id": "trace-of-mine",
        "timestamp": shapes.iso(1),
        "name": "desk",
        "input": {"question": "Where is order 7?"},
        "sessionId": "ticket-7",
        "observations": [
            generation(shapes, 2, asked("look_up")),
            tool,
            generation(shapes, 4, {"role": "assistant", "content": "It is on its way."}),
        ],
        "scores": [
            {
                "id": f"score-{i}",
                "timestamp": shapes.iso(9 + i),
                "source": "API",
                "observationId": None,
                **score,
            }
            for i, score in enumerate(scores)
        ],
        **more,
    }


def numeric(name: str, value: float, **more: Any) -> dict[str, Any]:
    return {"name": name, "value": value, "dataType": "NUMERIC", **more}


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: [t], lambda t: {"data": [t], "meta": {}}])
def test_a_trace_of_the_api(
    make: Callable[..., Any], shapes: Any, outline: Any, wrap: Callable[[Any], Any]
) -> None:
    trace = api_trace(shapes, {"name": "success", "value": 1, "dataType": "BOOLEAN"})

    (trajectory,) = make(wrap(trace), agent="support").trajectories

    seen = outline(trajectory)
    assert seen.steps == [("support", OFFERED, ["look_up"], []), ("support", OFFERED, [], [False])]
    assert seen.calls == [("look_up", "")]
    assert seen.tasks == ["Where is order 7?"]
    assert seen.rewards == [1.0]
    assert trajectory.rewards[0].reason == "imported, by API"


def test_ids_that_are_no_trace_ids_become_some_and_stay_the_same(
    make: Callable[..., Any], shapes: Any
) -> None:
    first, again = (make(api_trace(shapes)).trajectories[0] for _ in range(2))

    assert len(first.id) == 16
    assert first.id == again.id
    assert [s.span_id for s in first.spans] == [s.span_id for s in again.spans]
    assert len({s.span_id for s in first.spans}) == len(first.spans)


def test_an_observation_at_level_error_is_a_visible_error(
    make: Callable[..., Any], shapes: Any, outline: Any
) -> None:
    trace = api_trace(shapes)
    trace["observations"][1] |= {"level": "ERROR", "statusMessage": "order 7 of Jane: timeout"}

    (trajectory,) = make(trace).trajectories

    assert outline(trajectory).calls == [("look_up", "error")]
    assert outline(trajectory).steps[1][3] == [True]
    assert "Jane" not in repr(trajectory)


def test_a_span_that_bears_the_name_of_an_asked_tool_is_its_call(
    make: Callable[..., Any], shapes: Any, outline: Any
) -> None:
    """SDKs before 3 record tools as type SPAN."""
    trace = api_trace(shapes)
    trace["observations"][1]["type"] = "SPAN"

    (trajectory,) = make(trace).trajectories

    assert outline(trajectory).calls == [("look_up", "")]


def test_langchain_messages_read_like_openais(
    make: Callable[..., Any], shapes: Any, outline: Any
) -> None:
    """langfuse.langchain records tools as messages of the role tool, and calls on the output."""
    tools = [{"role": "tool", "content": tool} for tool in shapes.tools]
    trace = api_trace(shapes)
    for observation in trace["observations"][::2]:
        observation["input"] = [{"role": "user", "content": "Where is order 7?"}, *tools]
    trace["observations"][0]["output"] = {
        "role": "assistant",
        "content": "",
        "additional_kwargs": {},
        "tool_calls": [{"name": "look_up", "args": {}, "id": "call_1", "type": "tool_call"}],
    }

    (trajectory,) = make(trace, agent="support").trajectories

    assert outline(trajectory).steps[0][2] == ["look_up"]
    assert outline(trajectory).tasks == ["Where is order 7?"]


def test_rows_of_the_blob_storage_export(
    make: Callable[..., Any], shapes: Any, outline: Any
) -> None:
    def row(number: int, **fields: Any) -> str:
        plain = {
            "id": f"o-{number}",
            "trace_id": shapes.good,
            "trace_name": "desk",
            "parent_observation_id": "",
            "start_time": f"2024-05-29 13:46:{10 + number:02d}.963000",
            "end_time": f"2024-05-29 13:46:{10 + number:02d}.999000",
            "level": "DEFAULT",
            "session_id": "ticket-7",
            **fields,
        }
        return json.dumps(plain)

    definitions = {
        tool["function"]["name"]: json.dumps(
            {k: v for k, v in tool["function"].items() if k != "name"}
        )
        for tool in shapes.tools
    }
    model = {
        "type": "GENERATION",
        "name": "chat",
        "provided_model_name": "gpt-4o",
        "input": json.dumps([{"role": "user", "content": "Where is order 7?"}]),
        "tool_definitions": definitions,
    }
    call = json.dumps({"id": "call_1", "name": "look_up", "arguments": "{}"})
    observations = "\n".join(
        (
            row(1, **model, output="", tool_calls=[call], tool_call_names=["look_up"]),
            row(2, type="TOOL", name="look_up"),
            row(3, **model, output="It is on its way.", tool_calls=[], tool_call_names=[]),
            row(4, type="EVENT", name="look_up", end_time=None),
        )
    )
    scores = json.dumps(
        {
            "id": "s-1",
            "timestamp": "2024-05-29 14:00:00.000000",
            "trace_id": shapes.good,
            "observation_id": None,
            "name": "success",
            "value": 1,
            "source": "ANNOTATION",
            "data_type": "BOOLEAN",
            "string_value": "True",
        }
    )

    plan = make(observations, scores)

    (trajectory,) = plan.trajectories
    assert (trajectory.id.hex(), trajectory.agent) == (shapes.good, "desk")
    seen = outline(trajectory)
    assert seen.steps == [("desk", OFFERED, ["look_up"], []), ("desk", OFFERED, [], [False])]
    assert seen.calls == [("look_up", "")]
    assert seen.rewards == [1.0]
    assert trajectory.start_ns == 1_716_990_371_963_000_000
    assert plan.problems.plain() == []


@pytest.mark.parametrize(
    ("score", "hint"),
    [
        (numeric("helpfulness", 0.9), "which end of 'helpfulness' is good?"),
        (numeric("correctness", 4), "'correctness' goes from 4 to 4"),
        (
            {"name": "verdict", "value": 2, "stringValue": "good", "dataType": "CATEGORICAL"},
            "'verdict' has labels: say --reward 'verdict=good:?'",
        ),
    ],
)
def test_a_score_whose_meaning_is_not_certain_becomes_no_reward(
    make: Callable[..., Any], shapes: Any, score: dict[str, Any], hint: str
) -> None:
    plan = make(api_trace(shapes, score))

    assert plan.trajectories[0].rewards == ()
    assert plan.problems.counts == {UNMAPPED: 1}
    assert hint in plan.problems.examples[UNMAPPED]


@pytest.mark.parametrize(
    ("score", "mapping", "reward"),
    [
        (numeric("correctness", 4), "correctness=1:5", 0.75),
        (numeric("hallucination", 0.25), "hallucination=1:0", 0.75),
        (numeric("helpfulness", 0.5), "helpfulness", 0.5),
        (
            {"name": "verdict", "value": 2, "stringValue": "Good", "dataType": "CATEGORICAL"},
            "verdict=good:1,bad:0",
            1.0,
        ),
        (numeric("helpfulness", 0.5, observationId="gen-2"), "helpfulness", 0.5),
    ],
)
def test_a_mapping_says_what_a_score_means(
    make: Callable[..., Any], shapes: Any, score: dict[str, Any], mapping: str, reward: float
) -> None:
    (trajectory,) = make(api_trace(shapes, score), rewards=[mapping]).trajectories

    assert [one.value for one in trajectory.rewards] == [reward]


def test_outside_of_its_mapping_a_score_is_left_out(make: Callable[..., Any], shapes: Any) -> None:
    scores = (numeric("correctness", 6), numeric("success", 1))

    plan = make(api_trace(shapes, *scores), rewards=["correctness=1:5"])

    assert plan.trajectories[0].rewards == ()
    assert plan.problems.counts == {
        "scores outside of their mapping: left out, not 0": 1,
        "scores that no --reward names": 1,
    }


def test_the_score_of_a_step_says_nothing_of_the_run(make: Callable[..., Any], shapes: Any) -> None:
    plan = make(api_trace(shapes, numeric("correctness", 1, observationId="gen-2")))

    assert plan.trajectories[0].rewards == ()
    assert list(plan.problems.counts) == [
        "scores of a step, not of a run: --reward NAME takes them"
    ]


def test_traces_that_only_name_their_observations_are_refused(
    make: Callable[..., Any], shapes: Any
) -> None:
    with pytest.raises(ImportFileError, match="expected observations as objects, got ids in trace"):
        make(api_trace(shapes) | {"observations": ["gen-2", "tool-1"]})


def test_scores_alone_wait_for_runs_that_were_imported_before(
    make: Callable[..., Any], shapes: Any
) -> None:
    score = numeric("success", 1, id="s", traceId=shapes.good, timestamp=shapes.iso(0))

    plan = make([score])

    assert plan.trajectories == ()
    assert [r.trajectory_id.hex() for r in plan.later_rewards] == [shapes.good]
