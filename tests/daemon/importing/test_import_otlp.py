"""OTLP JSON in the dialects that agents are traced with; opentelemetry.io/docs/specs/otel/protocol/
file-exporter for the file, the conventions' own pages for the attributes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from google.protobuf.json_format import MessageToJson
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from agentgym import semconv
from agentgym.config import Mode
from agentgym.trajectory import Assignment, Fallback, Tool

OFFERED = ["look_up", "refund", "escalate"]


def test_a_run_by_the_genai_conventions(
    make: Callable[..., Any], shapes: Any, outline: Any
) -> None:
    good, bad = make(shapes.both()).trajectories

    assert good.id.hex() == shapes.good
    assert (good.agent, good.scopes) == ("desk", {"clerk"})
    seen = outline(good)
    assert seen.rewards == [1.0]
    assert seen.steps == [
        ("clerk", OFFERED, ["look_up"], []),
        ("clerk", OFFERED, [], [False]),
    ]
    assert seen.calls == [("look_up", "")]
    assert seen.tasks == ["Where is order 7?"]
    failed = outline(bad)
    assert failed.rewards == [0.0]
    assert failed.calls == [("look_up", "TimeoutError")]
    assert failed.steps[1][3] == [True]


def test_nothing_was_randomised_and_the_records_say_so(
    make: Callable[..., Any], shapes: Any
) -> None:
    for trajectory in make(shapes.both()).trajectories:
        for step in trajectory.steps:
            assert (step.mode, step.assignment) == (Mode.OBSERVE, Assignment.NONE)
            assert (step.fallback, step.policy_version) == (Fallback.NONE, "")
            assert step.decision is None
            assert step.completed


def test_every_span_says_where_it_came_from_and_none_what_was_said(
    make: Callable[..., Any], shapes: Any
) -> None:
    plan = make(shapes.both())

    spans = [span for trajectory in plan.trajectories for span in trajectory.spans]
    marks = {span.attributes[semconv.IMPORTED] for span in spans}
    assert len(marks) == 1
    assert marks.pop().startswith("otlp:")
    written = json.dumps([dict(span.attributes) for span in spans])
    assert "order 7" not in written
    assert "done" not in written


def test_the_root_comes_last_and_closes_the_trajectory(
    make: Callable[..., Any], shapes: Any
) -> None:
    (first, *_) = make(shapes.both()).trajectories

    *below, root = first.spans
    assert root.attributes[semconv.TRAJECTORY_ROOT] is True
    assert root.attributes[semconv.FRAMEWORK] == "import/otlp"
    assert root.attributes[semconv.TRAJECTORY_KEY] == "ticket-a"
    assert semconv.INCOMPLETE not in root.attributes
    assert all(span.parent_id for span in below)
    decisions = {step.span_id.hex() for step in first.steps}
    call = next(span for span in below if span.name.startswith("execute_tool"))
    assert call.attributes[semconv.DECISION_ID] in decisions
    assert call.parent_id.hex() == call.attributes[semconv.DECISION_ID]


def test_a_recorded_definition_makes_the_same_tool_as_the_live_agent_offers(
    make: Callable[..., Any], shapes: Any
) -> None:
    (first, *_) = make(shapes.both()).trajectories

    live = [
        Tool(f["name"], f["description"], f["parameters"])
        for f in (tool["function"] for tool in shapes.tools)
    ]
    assert [tool.fingerprint for tool in first.steps[0].offered] == [t.fingerprint for t in live]


def test_openllmetry_and_older_names_read_alike(
    make: Callable[..., Any], shapes: Any, outline: Any
) -> None:
    """`traceloop.*`, `gen_ai.prompt.N`, `llm.request.functions.N` of OpenLLMetry."""
    functions = {
        f"llm.request.functions.{i}.{part}": (
            json.dumps(tool["function"][part]) if part == "parameters" else tool["function"][part]
        )
        for i, tool in enumerate(shapes.tools)
        for part in ("name", "description", "parameters")
    }
    chat = {
        "llm.request.type": "chat",
        "gen_ai.system": "OpenAI",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.usage.prompt_tokens": 12,
        "gen_ai.prompt.0.role": "system",
        "gen_ai.prompt.0.content": "You are a clerk.",
        "gen_ai.prompt.1.role": "user",
        "gen_ai.prompt.1.content": "Where is order 7?",
        **functions,
    }
    asked = {
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.finish_reason": "tool_calls",
        "gen_ai.completion.0.tool_calls.0.id": "call_1",
        "gen_ai.completion.0.tool_calls.0.name": "look_up",
    }
    said = {"gen_ai.completion.0.role": "assistant", "gen_ai.completion.0.content": "done"}
    tool = {"traceloop.span.kind": "tool", "traceloop.entity.name": "look_up"}
    workflow = {"traceloop.span.kind": "workflow", "traceloop.entity.name": "clerk"}
    spans = [
        shapes.span(shapes.good, 1, "clerk.workflow", workflow),
        shapes.span(shapes.good, 2, "openai.chat", {**chat, **asked}),
        shapes.span(shapes.good, 3, "look_up.tool", tool),
        shapes.span(shapes.good, 4, "openai.chat", {**chat, **said}),
    ]

    (trajectory,) = make(shapes.line(spans)).trajectories

    seen = outline(trajectory)
    assert seen.steps == [("clerk", OFFERED, ["look_up"], []), ("clerk", OFFERED, [], [False])]
    assert seen.tasks == ["Where is order 7?"]
    chats = [s for s in trajectory.spans if s.name.startswith("chat")]
    assert [s.attributes[semconv.INPUT_TOKENS] for s in chats] == [12, 12]


def test_without_content_the_calls_say_what_was_asked_for(
    make: Callable[..., Any], shapes: Any, outline: Any
) -> None:
    """Content capture is off by default in OpenTelemetry: no messages, no definitions."""
    chat = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o"}
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "clerk"}
    spans = [
        shapes.span(shapes.good, 1, "invoke_agent clerk", agent),
        shapes.span(shapes.good, 2, "chat", chat),
        shapes.span(
            shapes.good,
            3,
            "execute_tool refund",
            {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "refund"},
        ),
        shapes.span(
            shapes.good,
            4,
            "execute_tool look_up",
            {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "look_up"},
        ),
        shapes.span(shapes.good, 5, "chat", chat),
    ]

    plan = make(shapes.line(spans))

    (trajectory,) = plan.trajectories
    tools = ["look_up", "refund"]
    assert outline(trajectory).steps == [
        ("clerk", tools, ["refund", "look_up"], []),
        ("clerk", tools, [], [False, False]),
    ]
    assert trajectory.inferred == 2
    assert plan.undefined == ("look_up", "refund")
    assert all(step.features_id == b"" for step in trajectory.steps)


def test_where_only_calls_were_recorded_each_is_a_step(
    make: Callable[..., Any], shapes: Any, outline: Any
) -> None:
    spans = [
        shapes.span(
            shapes.good, 1, "run", {"openinference.span.kind": "AGENT", "input.value": "go"}
        ),
        *(
            shapes.span(
                shapes.good, i, name, {"openinference.span.kind": "TOOL", "tool.name": name}, **more
            )
            for i, name, more in (
                (2, "refund", {"status": {"code": "STATUS_CODE_ERROR"}}),
                (3, "look_up", {}),
            )
        ),
    ]

    (trajectory,) = make(shapes.line(spans)).trajectories

    tools = ["look_up", "refund"]
    assert outline(trajectory).steps == [
        ("desk", tools, ["refund"], []),
        ("desk", tools, ["look_up"], [True]),
    ]
    assert [step.step for step in trajectory.steps] == [0, 1]
    spans_of = {span.span_id for span in trajectory.spans}
    assert not {step.span_id for step in trajectory.steps} & spans_of


def test_a_call_of_which_only_the_result_was_recorded_is_made_and_marked(
    make: Callable[..., Any], shapes: Any, outline: Any
) -> None:
    """Instrumentations of a model's client record no tools, but the next turn reads the result."""
    (agent, first, _, last) = shapes.run(shapes.good, task="Where is order 7?", tool="look_up")
    answer = {"role": "tool", "parts": [{"type": "tool_call_response", "id": "call_1"}]}
    attributes = [a for a in last["attributes"] if a["key"] != "gen_ai.input.messages"]
    shown = {"key": "gen_ai.input.messages", "value": {"stringValue": json.dumps([answer])}}
    last = {**last, "attributes": [*attributes, shown]}

    (trajectory,) = make(shapes.line([agent, first, last])).trajectories

    assert outline(trajectory).calls == [("look_up", "")]
    call = next(span for span in trajectory.spans if span.name.startswith("execute_tool"))
    assert call.attributes[semconv.INFERRED] == "call"
    assert outline(trajectory).steps[1][3] == [False]


def test_a_turn_that_does_not_say_what_it_asked_for_is_no_step(
    make: Callable[..., Any], shapes: Any
) -> None:
    (agent, _, _, last) = shapes.run(shapes.good, task="Where?", tool="look_up")
    silent = [a for a in last["attributes"] if a["key"] != "gen_ai.output.messages"]

    plan = make(shapes.line([agent, {**last, "attributes": silent}]))

    assert plan.trajectories[0].steps == ()
    assert plan.problems.counts["turns that do not say what they asked for: no step"] == 1


def test_the_same_turn_recorded_by_framework_and_client_is_one(
    make: Callable[..., Any], shapes: Any, outline: Any
) -> None:
    (agent, first, call, last) = shapes.run(shapes.good, task="Where is order 7?", tool="look_up")
    wrapper = shapes.span(shapes.good, 2, "ChatOpenAI", {"openinference.span.kind": "LLM"})
    inner = {**first, "spanId": "aa" * 8, "parentSpanId": wrapper["spanId"]}

    (trajectory,) = make(shapes.line([agent, wrapper, inner, call, last])).trajectories

    assert outline(trajectory).steps[0] == ("clerk", OFFERED, ["look_up"], [])
    assert len([s for s in trajectory.spans if s.name.startswith("chat")]) == 2


def test_a_model_that_a_tool_asks_is_no_step_of_the_agent(
    make: Callable[..., Any], shapes: Any, outline: Any
) -> None:
    (agent, first, call, last) = shapes.run(shapes.good, task="Where is order 7?", tool="look_up")
    inner = {**last, "spanId": "aa" * 8, "parentSpanId": call["spanId"]}

    (trajectory,) = make(shapes.line([agent, first, call, inner, last])).trajectories

    assert len(outline(trajectory).steps) == 2


def test_nested_agents_are_scopes_of_their_own(make: Callable[..., Any], shapes: Any) -> None:
    (agent, first, call, last) = shapes.run(shapes.good, task="Where is order 7?", tool="look_up")
    attributes = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "Helper"}
    helper = {
        **shapes.span(shapes.good, 5, "invoke_agent Helper", attributes),
        "parentSpanId": call["spanId"],
    }
    turn = {**last, "spanId": "aa" * 8, "parentSpanId": helper["spanId"]}

    (trajectory,) = make(shapes.line([agent, first, call, helper, turn, last])).trajectories

    assert trajectory.scopes == {"clerk", "helper"}
    (inner,) = [step for step in trajectory.steps if step.agent_name == "helper"]
    assert inner.agent_path == ("clerk", "helper")


def test_a_run_without_a_span_of_its_own_gets_a_marked_root(
    make: Callable[..., Any], shapes: Any
) -> None:
    (_, *parts) = shapes.run(shapes.good, task="Where is order 7?", tool="look_up")

    (trajectory,) = make(shapes.line(parts)).trajectories

    root = trajectory.spans[-1]
    assert root.attributes[semconv.INFERRED] == "root"
    assert root.start_ns == min(span.start_ns for span in trajectory.spans)
    assert len(trajectory.steps) == 2


def test_a_run_that_never_ended_is_incomplete(make: Callable[..., Any], shapes: Any) -> None:
    (agent, *rest) = shapes.run(shapes.good, task="Where is order 7?", tool="look_up")
    agent = {**agent, "endTimeUnixNano": "0"}

    (trajectory,) = make(shapes.line([agent, *rest])).trajectories

    assert trajectory.spans[-1].attributes[semconv.INCOMPLETE] == "unfinished"


def test_spans_that_repeat_or_turn_in_a_circle_do_no_harm(
    make: Callable[..., Any], shapes: Any, outline: Any
) -> None:
    spans = shapes.run(shapes.good, task="Where is order 7?", tool="look_up")
    a, b = (shapes.span(shapes.good, i, "x", {}) for i in (7, 8))
    a["parentSpanId"], b["parentSpanId"] = b["spanId"], a["spanId"]

    (trajectory,) = make(shapes.line([*spans, a, b]), shapes.line(spans)).trajectories

    assert len(outline(trajectory).calls) == 1
    assert len(trajectory.steps) == 2


def test_what_agentgym_itself_recorded_is_not_imported(
    make: Callable[..., Any], shapes: Any
) -> None:
    spans = shapes.run(shapes.good, task="Where?", tool="look_up")
    ours = shapes.span(shapes.good, 9, "chat", {semconv.TRAJECTORY_ID: shapes.good})

    plan = make(shapes.line([*spans, ours]))

    assert plan.trajectories == ()
    assert plan.problems.examples == {"runs that AgentGym itself recorded": shapes.good}


def test_other_traces_in_the_file_are_left_out_and_counted(
    make: Callable[..., Any], shapes: Any
) -> None:
    http = shapes.span("cc" * 16, 1, "GET /", {"http.request.method": "GET"})
    broken = {**http, "traceId": ""}

    plan = make(shapes.both() + shapes.line([http, broken]))

    assert len(plan.trajectories) == 2
    assert plan.problems.counts == {
        "spans without trace id, span id or start time": 1,
        "traces without a turn of a model or a tool call": 1,
    }


def test_what_protobuf_itself_writes_as_json_reads_like_the_collectors(
    make: Callable[..., Any], shapes: Any, outline: Any
) -> None:
    """MessageToJson writes ids in base64, where OTLP JSON has them in hex."""
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "refund"}
    span = Span(
        trace_id=bytes.fromhex(shapes.good),
        span_id=bytes.fromhex("0102030405060708"),
        name="execute_tool refund",
        start_time_unix_nano=shapes.t0,
        end_time_unix_nano=shapes.t0 + 1000,
        attributes=[
            KeyValue(key=name, value=AnyValue(string_value=value)) for name, value in tool.items()
        ],
    )
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.append(span)

    camel = make(MessageToJson(request), agent="desk")
    snake = make(MessageToJson(request, preserving_proto_field_name=True), agent="desk")

    for plan in (camel, snake):
        (trajectory,) = plan.trajectories
        assert trajectory.id.hex() == shapes.good
        assert trajectory.spans[0].span_id.hex() == "0102030405060708"
        assert outline(trajectory).calls == [("refund", "")]


def test_an_agent_without_a_name_is_the_one_that_the_plugin_would_call_it(
    make: Callable[..., Any], shapes: Any
) -> None:
    spans = shapes.run(shapes.good, task="Where is order 7?", tool="look_up")
    for attribute in spans[0]["attributes"]:
        if attribute["key"] == "gen_ai.agent.name":
            attribute["value"] = {"stringValue": "LangGraph"}

    unnamed = make(shapes.line(spans), agent="support")
    named = make(shapes.line(spans), agent="support", agent_name="Front Desk")

    assert unnamed.trajectories[0].scopes == {"support"}
    assert named.trajectories[0].scopes == {"front-desk"}
