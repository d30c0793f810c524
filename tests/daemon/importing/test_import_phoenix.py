"""Phoenix: spans of its REST API and of its dataframe, and annotations.

src/phoenix/server/api/routers/v1/{spans,annotations}.py and phoenix/trace/trace_dataset.py of
Arize-ai/phoenix; the attributes are OpenInference's, spec/{semantic_conventions,tool_calling}.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from agentgym_daemon.importing.model import ImportFileError

OFFERED = ["look_up", "refund", "escalate"]


def openinference(shapes: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """(name, kind, flat attributes) of the spans of a run."""
    chat = {
        "llm.model_name": "gpt-4o",
        "llm.token_count.prompt": 12,
        "llm.token_count.completion": 3,
        "llm.input_messages.0.message.role": "system",
        "llm.input_messages.0.message.content": "You are a clerk.",
        "llm.input_messages.1.message.role": "user",
        "llm.input_messages.1.message.content": "Where is order 7?",
        **{
            f"llm.tools.{i}.tool.json_schema": json.dumps(tool)
            for i, tool in enumerate(shapes.tools)
        },
    }
    call = "llm.output_messages.0.message.tool_calls.0.tool_call"
    asked = {
        "llm.output_messages.0.message.role": "assistant",
        f"{call}.id": "call_1",
        f"{call}.function.name": "look_up",
        f"{call}.function.arguments": "{}",
    }
    said = {
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.content": "It is on its way.",
    }
    return [
        ("clerk", "AGENT", {"agent.name": "Clerk", "input.value": "Where is order 7?"}),
        ("ChatOpenAI", "LLM", {**chat, **asked}),
        ("look_up", "TOOL", {"tool.name": "look_up", "output.value": "order 7"}),
        ("ChatOpenAI", "LLM", {**chat, **said}),
    ]


def spans(shapes: Any) -> list[dict[str, Any]]:
    """The run as the REST API lists it, newest first."""
    listed = [
        {
            "id": f"U3Bhbjo{i}",
            "name": name,
            "context": {"trace_id": shapes.good, "span_id": f"{i + 1:016x}"},
            "span_kind": kind,
            "parent_id": f"{1:016x}" if i else None,
            "start_time": shapes.iso(i),
            "end_time": shapes.iso(9 if i == 0 else i + 0.5),
            "status_code": "OK",
            "status_message": "",
            "attributes": attributes,
            "events": [],
        }
        for i, (name, kind, attributes) in enumerate(openinference(shapes))
    ]
    return listed[::-1]


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Attributes as Phoenix stores them."""
    root: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        here = root
        for part in path:
            here = here.setdefault(part, {})
        here[last] = value
    return _listed(root)


def _listed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value and all(key.isdecimal() for key in value):
        return [_listed(value[key]) for key in sorted(value, key=int)]
    return {key: _listed(below) for key, below in value.items()}


def rows(shapes: Any) -> list[dict[str, Any]]:
    """The run as rows of the dataframe: lists keep their entries' names flat, times are ms."""
    frame = []
    for span in spans(shapes):
        attributes = nested(span["attributes"])
        columns: dict[str, Any] = {"attributes.llm.tools": None}
        for name, value in span["attributes"].items():
            if ".0." not in name and ".1." not in name and ".2." not in name:
                columns[f"attributes.{name}"] = value
        for name in ("input_messages", "output_messages", "tools"):
            if name in attributes.get("llm", {}):
                columns[f"attributes.llm.{name}"] = [
                    {
                        f"{outer}.{inner}": value
                        for outer, below in entry.items()
                        for inner, value in below.items()
                    }
                    for entry in attributes["llm"][name]
                ]
        frame.append(
            {
                "name": span["name"],
                "span_kind": span["span_kind"],
                "parent_id": span["parent_id"],
                "start_time": shapes.t0 // 10**6 + 1000 * (4 - len(frame)),
                "end_time": shapes.t0 // 10**6 + 1000 * (4 - len(frame)) + 500,
                "status_code": "OK",
                "status_message": "",
                "context.span_id": span["context"]["span_id"],
                "context.trace_id": span["context"]["trace_id"],
                **columns,
            }
        )
    return frame


def by_column(frame: list[dict[str, Any]]) -> dict[str, Any]:
    """What DataFrame.to_json writes unless told otherwise; the span id is the index."""
    names = {name for row in frame for name in row} - {"context.span_id"}
    return {name: {row["context.span_id"]: row.get(name) for row in frame} for name in names}


FORMS: dict[str, Callable[[Any], Any]] = {
    "a page of the API": lambda shapes: {"data": spans(shapes), "next_cursor": None},
    "a list": spans,
    "nested attributes": lambda shapes: [
        {**span, "attributes": nested(span["attributes"])} for span in spans(shapes)
    ],
    "lines": lambda shapes: "\n".join(map(json.dumps, spans(shapes))),
    "records of the dataframe": rows,
    "columns of the dataframe": lambda shapes: by_column(rows(shapes)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_run_gives_the_same_steps(
    make: Callable[..., Any], shapes: Any, outline: Any, form: str
) -> None:
    (trajectory,) = make(FORMS[form](shapes), agent="desk").trajectories

    assert trajectory.id.hex() == shapes.good
    seen = outline(trajectory)
    assert seen.steps == [("clerk", OFFERED, ["look_up"], []), ("clerk", OFFERED, [], [False])]
    assert seen.calls == [("look_up", "")]
    assert seen.tasks == ["Where is order 7?"]
    assert trajectory.inferred == 0


def annotation(name: str, score: float | None, **more: Any) -> dict[str, Any]:
    return {
        "id": "U3BhbkFubm90YXRpb246MQ==",
        "created_at": "2024-01-01T12:00:00Z",
        "updated_at": "2024-01-01T12:00:00Z",
        "source": "API",
        "user_id": None,
        "name": name,
        "annotator_kind": "HUMAN",
        "result": {"label": "correct", "score": score, "explanation": None},
        "metadata": {},
        "identifier": "",
        **more,
    }


def test_annotations_in_a_file_of_their_own_find_their_run(
    make: Callable[..., Any], shapes: Any, outline: Any
) -> None:
    root = spans(shapes)[-1]["context"]["span_id"]
    good = annotation("correctness", 1.0, span_id=root)
    lost = annotation("correctness", 0.0, span_id="ff" * 8, id="2")

    plan = make(spans(shapes), {"data": [good, lost], "next_cursor": None}, agent="desk")

    assert outline(plan.trajectories[0]).rewards == [1.0]
    assert plan.trajectories[0].rewards[0].reason == "imported, by HUMAN"
    assert plan.problems.counts == {"annotations of spans that no file has": 1}


def test_a_label_needs_its_mapping(make: Callable[..., Any], shapes: Any, outline: Any) -> None:
    judged = annotation("verdict", None, trace_id=shapes.good)

    unmapped = make(spans(shapes), [judged])
    mapped = make(spans(shapes), [judged], rewards=["verdict=correct:1,incorrect:0"])

    assert outline(unmapped.trajectories[0]).rewards == []
    assert outline(mapped.trajectories[0]).rewards == [1.0]


@pytest.mark.parametrize(
    "judged",
    [
        {"evaluations.0.evaluation.name": "task_success", "evaluations.0.evaluation.score": 1},
        {"annotations.0.annotation.name": "correct", "annotations.0.annotation.score": 1.0},
        {
            "trace.annotations.0.annotation.name": "correct",
            "trace.annotations.0.annotation.score": 1.0,
        },
    ],
)
def test_judgements_among_the_attributes_of_the_root(
    make: Callable[..., Any], shapes: Any, outline: Any, judged: dict[str, Any]
) -> None:
    *others, root = spans(shapes)

    plan = make([*others, {**root, "attributes": {**root["attributes"], **judged}}])

    assert outline(plan.trajectories[0]).rewards == [1.0]


def test_columns_of_evaluations(make: Callable[..., Any], shapes: Any, outline: Any) -> None:
    frame = rows(shapes)
    frame[-1] |= {"eval.task_completion.score": 0.0, "eval.task_completion.label": "incomplete"}

    assert outline(make(frame).trajectories[0]).rewards == [0.0]


def test_a_dataframe_without_its_index_says_how_to_write_it(
    make: Callable[..., Any], shapes: Any
) -> None:
    frame = [{k: v for k, v in row.items() if k != "context.span_id"} for row in rows(shapes)]

    with pytest.raises(ImportFileError, match=r"expected a column 'context.span_id'.*reset_index"):
        make(frame)


def test_the_kind_and_the_status_of_a_row_count(
    make: Callable[..., Any], shapes: Any, outline: Any
) -> None:
    listed = spans(shapes)
    tool = next(span for span in listed if span["name"] == "look_up")
    tool |= {"attributes": {}, "status_code": "ERROR"}
    tool["events"] = [
        {
            "name": "exception",
            "timestamp": shapes.iso(3),
            "attributes": {"exception.type": "TimeoutError"},
        }
    ]

    (trajectory,) = make(listed).trajectories
    (alone,) = make([tool], agent="desk").trajectories

    assert outline(trajectory).calls == outline(alone).calls == [("look_up", "TimeoutError")]
