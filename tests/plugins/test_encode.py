"""Items as protobuf: nothing is lost on the way, and nothing odd makes a message unsendable."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span, Status

from agentgym import semconv
from agentgym.encode import (
    export_request,
    features_entry,
    resource_attributes,
    resource_head,
    reward_entry,
    span_entry,
    step_entry,
    tool_entry,
)
from agentgym.items import RewardItem, SpanItem
from agentgym.messages import reward_message, step_message, tool_message
from agentgym.policy.features import Embedding, TextVector
from agentgym.policy.messages import features_message
from agentgym.proto.v1 import catalogue_pb2, common_pb2, decision_pb2, reward_pb2
from agentgym.testing.recording import RecordingGym
from agentgym.trajectory import Tool

PRODUCER = bytes(range(16))


def span(**changes: Any) -> SpanItem:
    fields: dict[str, Any] = {
        "trajectory_id": b"t" * 16,
        "span_id": b"s" * 8,
        "parent_id": b"p" * 8,
        "name": "execute_tool find",
        "start_ns": 10,
        "end_ns": 20,
        "attributes": {},
        "error": "",
    }
    return SpanItem(**fields | changes)


def sent(item: SpanItem) -> Span:
    [message] = ScopeSpans.FromString(span_entry(item)).spans
    return message


def attributes(message: Span) -> dict[str, Any]:
    return {a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in message.attributes}


def test_a_span_keeps_ids_times_and_typed_attributes() -> None:
    given = {"text": "a", "yes": True, "n": 3, "p": 0.25, "list": [1]}

    message = sent(span(attributes=given, error="ToolError"))

    assert (message.trace_id, message.span_id) == (b"t" * 16, b"s" * 8)
    assert message.parent_span_id == b"p" * 8
    assert (message.start_time_unix_nano, message.end_time_unix_nano) == (10, 20)
    assert attributes(message) == given | {"list": "[1]", semconv.ERROR_TYPE: "ToolError"}
    assert message.status.code == Status.STATUS_CODE_ERROR


def any_value(value: Any) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int() if -(2**63) <= value < 2**63:
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
    return AnyValue(string_value=str(value).encode("utf-8", "replace").decode())


def expected(item: SpanItem) -> Span:
    """The span as protobuf's own classes build it."""
    attributes = {**item.attributes, **({semconv.ERROR_TYPE: item.error} if item.error else {})}
    return Span(
        trace_id=item.trajectory_id,
        span_id=item.span_id,
        parent_span_id=item.parent_id,
        name=item.name.encode("utf-8", "replace").decode(),
        kind=Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=item.start_ns,
        end_time_unix_nano=item.end_ns,
        attributes=[
            KeyValue(key=key.encode("utf-8", "replace").decode(), value=any_value(value))
            for key, value in attributes.items()
        ],
        status=Status(code=Status.STATUS_CODE_ERROR) if item.error else None,
    )


texts = st.text(st.characters())  # lone surrogates too
values = st.one_of(
    texts,
    st.integers(),
    st.floats(allow_nan=False),
    st.booleans(),
    st.lists(st.integers()),
    st.sampled_from(["long " * 40, "é" * 9_000]),
)
keys = st.one_of(texts, st.sampled_from([semconv.TOOL_NAME, semconv.ARM, semconv.AGENT]))
nanoseconds = st.integers(1, 2**64 - 1)


@given(
    st.builds(
        SpanItem,
        trajectory_id=st.binary(max_size=200),
        span_id=st.binary(max_size=8),
        parent_id=st.binary(max_size=8),
        name=texts,
        start_ns=nanoseconds,
        end_ns=nanoseconds,
        attributes=st.dictionaries(keys, values, max_size=8),
        error=texts,
    )
)
def test_a_span_is_what_protobuf_would_have_written(item: SpanItem) -> None:
    for _ in ("first seen", "known"):
        message = sent(item)

        assert message == expected(item)
        assert message.SerializeToString() == expected(item).SerializeToString()


def test_values_that_equal_each_other_keep_their_kinds() -> None:
    for value in ("1", 1, 1.0, True):
        [pair] = sent(span(attributes={semconv.TOOL_NAME: value})).attributes

        assert pair.value == any_value(value)


def test_what_was_encoded_before_is_forgotten_before_it_grows_without_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known: dict[Any, bytes] = {}
    monkeypatch.setattr("agentgym.encode._repeated", known)
    monkeypatch.setattr("agentgym.encode._MOST_KEPT", 10)

    for number in range(100):
        item = span(attributes={semconv.TOOL_NAME: f"tool {number}"})
        assert sent(item) == expected(item)

    assert 0 < len(known) <= 10


@pytest.mark.parametrize("times", [(-1, 5), (1, 2**64), (None, 1)])
def test_a_span_without_possible_times_is_refused(times: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        span_entry(span(start_ns=times[0], end_ns=times[1]))


@pytest.mark.parametrize("n", [0, 1, 300])
def test_a_request_names_schema_scope_and_resource(n: int) -> None:
    items = [span(span_id=bytes([n % 256, 1])) for n in range(n)]
    head = resource_head({"service.name": "desk", "odd \ud800": "x" * 300})

    request = ExportTraceServiceRequest.FromString(export_request(head, map(span_entry, items)))

    [group] = request.resource_spans
    assert group.schema_url == group.scope_spans[0].schema_url == semconv.SCHEMA_URL
    assert group.scope_spans[0].scope.name == "agentgym"
    assert {a.key: a.value.string_value for a in group.resource.attributes} == {
        "service.name": "desk",
        "odd ?": "x" * 300,
    }
    assert list(group.scope_spans[0].spans) == [expected(item) for item in items]


@pytest.mark.parametrize(
    ("environ", "service"),
    [
        ({}, "agent"),
        ({"OTEL_SERVICE_NAME": "shop"}, "shop"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=desk,team = a=b , broken"}, "desk"),
        ({"OTEL_SERVICE_NAME": "shop", "OTEL_RESOURCE_ATTRIBUTES": "service.name=x"}, "shop"),
    ],
)
def test_the_two_otel_labels_are_read(environ: dict[str, str], service: str) -> None:
    labels = resource_attributes("agent", PRODUCER, environ)

    assert labels["service.name"] == service
    assert labels[semconv.PRODUCER_ID] == PRODUCER.hex()
    assert ("team" in labels) == ("team" in environ.get("OTEL_RESOURCE_ATTRIBUTES", ""))


def test_an_observed_step_has_no_arm(tools: tuple[Tool, ...]) -> None:
    gym = RecordingGym(mode="observe")
    run = gym.recorder.start_run("The Agent", framework="test", task="t")
    run.turn(tools).finish([("find_order", ""), ("bad \ud800", "")])

    record = step_message(gym.sink.steps[0], 1)

    assert record.arm == -1
    assert not record.support
    assert list(record.called) == ["find_order", "bad ?"]
    assert record.mode == common_pb2.MODE_OBSERVE
    assert record.scope.agent_name == "the-agent"
    assert list(record.offered) == [tool.fingerprint for tool in tools]
    assert not record.allowed


def test_a_steered_step_has_its_whole_decision(tools: tuple[Tool, ...]) -> None:
    gym = RecordingGym(protected=["open_ticket"])
    gym.force(tools, "refund_order", "agent")
    run = gym.recorder.start_run("agent", framework="test", task="t")
    turn = run.turn(tools)
    turn.finish([("refund_order", "")])

    record = step_message(gym.sink.steps[0], 1)

    assert turn.decision is not None
    assert record.arm_propensity == turn.decision.propensity
    assert [arm.probability for arm in record.support] == [
        arm.probability for arm in turn.decision.support
    ]
    assert record.support[0].kind == decision_pb2.Arm.KIND_DEFER
    assert record.assignment == common_pb2.ASSIGNMENT_POLICY
    assert list(record.allowed) == [True, True, True, False]
    assert record.policy_version == "p-000001"
    assert record.completed


def test_a_step_names_its_own_feature_schema_else_the_one_in_force(
    tools: tuple[Tool, ...],
) -> None:
    gym = RecordingGym(mode="observe")
    gym.recorder.start_run("agent", framework="test", task="t").turn(tools).finish()
    step = gym.sink.steps[0]
    assert step.feature_schema == 0  # nothing is known before the handshake

    assert step_message(step, 2).scope.feature_schema == 2
    assert step_message(replace(step, feature_schema=3), 2).scope.feature_schema == 3


def test_a_decision_names_the_tools_that_it_left_out(tools: tuple[Tool, ...]) -> None:
    gym = RecordingGym()
    gym.force(tools, "refund_order", "agent")
    gym.recorder.start_run("agent", framework="test", task="t").turn(tools).finish()
    step = gym.sink.steps[0]
    assert step.decision is not None
    left_out = replace(step, decision=replace(step.decision, down=(0, 3)))

    assert list(step_message(left_out, 1).down) == [0, 3]
    assert list(step_message(step, 1).down) == []


@pytest.mark.parametrize("dim", [0, 3])
def test_features_travel_with_every_number(dim: int) -> None:
    embedding = Embedding(np.array([-127, 0, 5], np.int8), 0.5) if dim else None
    vector = TextVector(np.array([3, 9], np.uint32), np.array([1, 255], np.uint8), 0.25, embedding)

    entry = features_entry(b"t" * 16, b"f" * 8, vector, 7)

    [got] = decision_pb2.RecordRequest.FromString(entry).features
    assert got == features_message(b"t" * 16, b"f" * 8, vector, 7)
    assert (list(got.index), got.quantised, got.scale) == ([3, 9], b"\x01\xff", 0.25)
    assert (got.embedding, got.embedding_scale) == ((b"\x81\x00\x05", 0.5) if dim else (b"", 0.0))
    assert (got.trajectory_id, got.features_id, got.feature_schema) == (b"t" * 16, b"f" * 8, 7)


def test_a_schema_that_is_no_json_travels_as_an_empty_one() -> None:
    endless: dict[str, Any] = {}
    endless["self"] = endless

    assert tool_message(Tool("t", "d", endless)).parameters_json == "{}"
    assert tool_message(Tool("t\ud800", "d", {"b": 1, "a": set()})).name == "t?"


def test_a_reward_keeps_its_words() -> None:
    item = RewardItem(b"t" * 16, "key", "agent", 0.5, "name", "source", "once", "why", 9)

    message = reward_message(item)

    assert message.value == 0.5
    assert (message.key, message.name, message.source) == ("key", "name", "source")
    assert (message.idempotency_key, message.reason) == ("once", "why")
    assert message.time_unix_nano == 9


def test_entries_join_into_requests(tools: tuple[Tool, ...]) -> None:
    gym = RecordingGym()
    gym.force(tools, "refund_order", "agent")
    gym.recorder.start_run("agent", framework="test", task="t").turn(tools).finish()
    [step] = gym.sink.steps
    vector = TextVector(np.array([3], np.uint32), np.array([1], np.uint8), 0.25)
    reward = RewardItem(b"t" * 16, "", "agent", 0.5, "name", "source", "once", "why", 9)

    record = step_entry(step, 1) + features_entry(b"t" * 16, b"f" * 8, vector, 1)
    record += step_entry(step, 1)
    report = b"".join(map(reward_entry, [reward, reward]))
    put = b"".join(map(tool_entry, tools))

    decisions = decision_pb2.RecordRequest.FromString(record)
    assert list(decisions.decisions) == [step_message(step, 1)] * 2
    assert list(decisions.features) == [features_message(b"t" * 16, b"f" * 8, vector, 1)]
    assert list(reward_pb2.ReportRequest.FromString(report).rewards) == [reward_message(reward)] * 2
    assert list(catalogue_pb2.PutRequest.FromString(put).tools) == [*map(tool_message, tools)]
