"""OTLP requests become rows; what is bad is counted and costs its siblings nothing."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from agentgym import semconv
from agentgym.proto.v1 import common_pb2
from agentgym_daemon.ingest.otlp import count_spans, decode_traces
from agentgym_daemon.store.rows import SpanRow

START = 1_700_000_000_000_000_000


def pair(key: str, value: Any) -> KeyValue:
    if isinstance(value, AnyValue):
        return KeyValue(key=key, value=value)
    kinds = {
        bool: "bool_value",
        int: "int_value",
        float: "double_value",
        str: "string_value",
        bytes: "bytes_value",
    }
    return KeyValue(key=key, value=AnyValue(**{kinds[type(value)]: value}))


def span(number: int = 1, **fields: Any) -> Span:
    known: dict[str, Any] = {
        "trace_id": b"t" * 16,
        "span_id": number.to_bytes(8, "big"),
        "name": "span",
        "start_time_unix_nano": START,
        "end_time_unix_nano": START + 5,
    }
    return Span(**{**known, **fields})


def with_attributes(**attributes: Any) -> Span:
    names = {name.replace("__", "."): value for name, value in attributes.items()}
    return span(attributes=[pair(name, value) for name, value in names.items()])


def request(*spans: Span, service: str = "shop") -> ExportTraceServiceRequest:
    message = ExportTraceServiceRequest()
    resource_spans = message.resource_spans.add()
    resource_spans.resource.attributes.append(pair("service.name", service))
    resource_spans.scope_spans.add().spans.extend(spans)
    return message


def row_of(one: Span) -> SpanRow:
    decoded = decode_traces(request(one).SerializeToString())
    assert decoded.rejected == 0
    (row,) = decoded.spans
    return row


def field(number: int, data: bytes) -> bytes:
    """A length-delimited field of fewer than 2^14 bytes."""
    return bytes([number << 3 | 2, len(data) & 0x7F | 0x80, len(data) >> 7]) + data


def broken_request(*raw_spans: bytes, resource: bytes = b"") -> bytes:
    scope_spans = b"".join(field(2, raw) for raw in raw_spans)
    return field(1, field(1, resource) + field(2, scope_spans))


def test_our_span_fills_the_typed_columns() -> None:
    row = row_of(
        span(
            parent_span_id=b"p" * 8,
            status={"code": 2, "message": "it broke"},
            attributes=[
                pair(semconv.AGENT, "desk"),
                pair(semconv.AGENT_NAME, "Helper"),
                pair(semconv.AGENT_PATH, "Boss/Helper"),
                pair(semconv.OPERATION_NAME, "execute_tool"),
                pair(semconv.TOOL_NAME, "find"),
                pair(semconv.TOOL_CALL_ID, "call-1"),
                pair(semconv.REQUEST_MODEL, "asked"),
                pair(semconv.RESPONSE_MODEL, "answered"),
                pair(semconv.INPUT_TOKENS, 12),
                pair(semconv.OUTPUT_TOKENS, 3.0),
                pair(semconv.DECISION_ID, "00000000000000ff"),
                pair(semconv.INCOMPLETE, "cancelled"),
                pair(semconv.FRAMEWORK, "crewai"),
                pair(semconv.ERROR_TYPE, "Timeout"),
                pair(semconv.TRAJECTORY_KEY, "ticket"),
                pair(semconv.MODE, "shadow"),
                pair(semconv.ASSIGNMENT, "shadow"),
                pair(semconv.POLICY_VERSION, "p-1"),
            ],
        )
    )

    assert (row.trace_id, row.span_id, row.parent_span_id) == (
        b"t" * 16,
        bytes(7) + b"\1",
        b"p" * 8,
    )
    assert (row.start_ns, row.end_ns, row.status) == (START, START + 5, 2)
    assert (row.agent, row.agent_name, row.agent_path) == ("desk", "Helper", "Boss/Helper")
    assert (row.operation, row.tool, row.call_id) == ("execute_tool", "find", "call-1")
    assert (row.model, row.input_tokens, row.output_tokens) == ("answered", 12, 3)
    assert row.decision_id == bytes(7) + b"\xff"
    assert (row.incomplete, row.framework, row.error_type) == ("cancelled", "crewai", "Timeout")
    assert (row.key, row.policy_version, row.is_root) == ("ticket", "p-1", False)
    assert row.mode == common_pb2.MODE_SHADOW
    assert row.assignment == common_pb2.ASSIGNMENT_SHADOW
    assert json.loads(row.attributes)["otel.status_message"] == "it broke"


def test_only_the_marked_span_of_ours_is_a_root() -> None:
    ours = {"agentgym__agent": "desk"}

    assert row_of(with_attributes(**ours, agentgym__trajectory__root=True)).is_root
    assert not row_of(with_attributes(**ours)).is_root
    assert row_of(span()).is_root
    assert not row_of(span(parent_span_id=b"p" * 8)).is_root


def test_a_foreign_span_belongs_to_its_service() -> None:
    assert row_of(span()).agent == "shop"
    (row,) = decode_traces(request(span(), service="").SerializeToString()).spans
    assert row.agent == "unknown"


def test_attributes_of_every_kind_become_json() -> None:
    nested = AnyValue(kvlist_value=KeyValueList(values=[pair("inner", 1), pair("text", "a")]))
    several = AnyValue(array_value=ArrayValue(values=[AnyValue(string_value="é"), AnyValue()]))
    row = row_of(
        with_attributes(
            text="ü", number=2, real=0.5, odd=math.nan, flag=True, raw=b"\xff", n=nested, a=several
        )
    )

    assert json.loads(row.attributes) == {
        "text": "ü",
        "number": 2,
        "real": 0.5,
        "odd": "nan",
        "flag": True,
        "raw": "ff",
        "n": {"inner": 1, "text": "a"},
        "a": ["é", None],
    }


def test_odd_values_do_not_reach_typed_columns() -> None:
    row = row_of(
        with_attributes(
            gen_ai__usage__input_tokens=True,
            gen_ai__usage__output_tokens=-1,
            gen_ai__tool__name=7,
            gen_ai__agent__name="",
            agentgym__decision__id="no hexadecimal!!",
            agentgym__mode="unheard of",
        )
    )

    assert (row.input_tokens, row.output_tokens) == (None, None)
    assert (row.tool, row.agent_name, row.decision_id, row.mode) == ("7", None, None, 0)
    assert row_of(with_attributes(agentgym__decision__id="00")).decision_id is None


def test_a_span_that_ends_before_it_starts_has_no_duration() -> None:
    row = row_of(span(end_time_unix_nano=1))

    assert row.end_ns == row.start_ns


@pytest.mark.parametrize(
    "wrong",
    [
        {"trace_id": b""},
        {"trace_id": bytes(16)},
        {"span_id": b"123"},
        {"span_id": bytes(8)},
        {"parent_span_id": b"123"},
        {"start_time_unix_nano": 0},
        {"start_time_unix_nano": 2**63},
        {"end_time_unix_nano": 2**64 - 1},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_an_impossible_span_is_rejected_and_its_sibling_lives(wrong: dict[str, Any]) -> None:
    decoded = decode_traces(request(span(1, **wrong), span(2)).SerializeToString())

    assert [row.span_id[-1] for row in decoded.spans] == [2]
    assert decoded.rejected == 1


def test_evaluation_events_are_reward_candidates() -> None:
    def event(name: str, *attributes: KeyValue, at: int = 0) -> Span.Event:
        return Span.Event(name=name, attributes=attributes, time_unix_nano=at)

    score = semconv.EVALUATION_SCORE
    good = event(
        semconv.EVALUATION_EVENT,
        pair(score, 1),
        pair(semconv.EVALUATION_NAME, "helpful"),
        at=START + 1,
    )
    events = [
        event("something else"),
        good,
        event(semconv.EVALUATION_EVENT, pair(score, 0.5)),
        event(semconv.EVALUATION_EVENT),
        event(semconv.EVALUATION_EVENT, pair(score, math.nan)),
        event(semconv.EVALUATION_EVENT, pair(score, "good")),
    ]

    decoded = decode_traces(request(span(events=events)).SerializeToString())

    assert decoded.rejected == 3
    assert [(e.number, e.value, e.name, e.time_ns) for e in decoded.evaluations] == [
        (1, 1.0, "helpful", START + 1),
        (2, 0.5, "evaluation", START),
    ]
    stored = json.loads(decoded.spans[0].attributes)["otel.events"]
    assert stored[1]["attributes"]["gen_ai.evaluation.name"] == "helpful"


def test_an_empty_request_is_fine() -> None:
    assert decode_traces(b"") == ([], [], 0)


def test_a_span_with_invalid_text_costs_only_itself() -> None:
    bad = span(1).SerializeToString() + field(5, b"\xff\xfe name")
    data = broken_request(span(2).SerializeToString(), bad, span(3).SerializeToString())
    with pytest.raises(DecodeError):
        ExportTraceServiceRequest.FromString(data)

    decoded = decode_traces(data)

    assert [row.span_id[-1] for row in decoded.spans] == [2, 3]
    assert decoded.rejected == 1


def test_a_resource_with_invalid_text_costs_only_itself() -> None:
    data = broken_request(span().SerializeToString(), resource=field(1, field(1, b"\xff")))

    decoded = decode_traces(data)

    assert [row.agent for row in decoded.spans] == ["unknown"]
    assert decoded.rejected == 0


def test_a_too_deeply_nested_attribute_costs_only_its_span() -> None:
    value = AnyValue(string_value="deep").SerializeToString()
    for _ in range(80):
        value = field(5, field(1, value))
    attribute = field(9, field(2, value))
    deep = span(1).SerializeToString() + attribute

    decoded = decode_traces(broken_request(deep, span(2).SerializeToString()))

    assert [row.span_id[-1] for row in decoded.spans] == [2]
    assert decoded.rejected == 1


def test_fields_of_other_kinds_are_passed_over() -> None:
    bad = field(5, b"\xff")
    scope_spans = (
        b"\x18\x96\x01"  # a varint
        + b"\x21" + bytes(8)  # a fixed64
        + b"\x2d" + bytes(4)  # a fixed32
        + field(2, bad)
        + field(2, span(2).SerializeToString())
    )  # fmt: skip

    decoded = decode_traces(field(1, field(2, scope_spans)))

    assert (len(decoded.spans), decoded.rejected) == (1, 1)


@pytest.mark.parametrize(
    "garbage",
    [b"\xff", b"\x0a", b"\x0a\x05ab", b"\x0b", b"\xff" * 20, b"\x0f", b"\x80" * 12 + b"\x01"],
)
def test_a_request_of_which_nothing_can_be_read_counts_as_one(garbage: bytes) -> None:
    assert decode_traces(garbage) == ([], [], 1)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_damage_ever_raises(data: st.DataObject) -> None:
    good = bytearray(request(span(1), span(2), with_attributes(a="b")).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(good) - 1))
        good[position] = data.draw(st.integers(0, 255))

    damaged = bytes(good[: data.draw(st.integers(0, len(good)))])

    decoded = decode_traces(damaged)

    assert count_spans(damaged) == (len(decoded.spans), decoded.rejected)


def test_counting_agrees_with_decoding() -> None:
    bad_text = span(1).SerializeToString() + field(5, b"\xff")
    impossible = span(2, trace_id=b"")

    assert count_spans(request(span(1), impossible, span(3)).SerializeToString()) == (2, 1)
    assert count_spans(broken_request(bad_text, span(2).SerializeToString())) == (1, 1)
    assert count_spans(broken_request(bad_text, impossible.SerializeToString())) == (0, 2)
    assert count_spans(b"\xff") == (0, 1)
    assert count_spans(b"") == (0, 0)
