"""Hostile values are brought into bounds and named; the span and its siblings are kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from agentgym import semconv
from agentgym_daemon.ingest import clamp
from agentgym_daemon.ingest.otlp import count_spans, decode_traces
from agentgym_daemon.store.rows import SpanRow

NOW = 1_790_000_000_000_000_000
SECOND = 10**9
YEAR = 365 * clamp.DAY_NS


def text(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


def decoded(received_ns: int = NOW, **fields: Any) -> tuple[SpanRow, dict[str, Any]]:
    """The row of one span, and its stored attributes."""
    known: dict[str, Any] = {
        "trace_id": b"t" * 16,
        "span_id": b"s" * 8,
        "name": "span",
        "start_time_unix_nano": NOW - SECOND,
        "end_time_unix_nano": NOW,
    }
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.append(Span(**known | fields))
    data = request.SerializeToString()
    found = decode_traces(data, received_ns)
    assert found.rejected == 0
    assert count_spans(data) == (1, 0)
    return found.spans[0], json.loads(found.spans[0].attributes)


def test_what_is_in_bounds_is_neither_changed_nor_flagged() -> None:
    row, attributes = decoded(attributes=[text("a", "x" * (clamp.MAX_TEXT - 200))])

    assert (row.start_ns, row.end_ns) == (NOW - SECOND, NOW)
    assert semconv.CLAMPED not in attributes


@pytest.mark.parametrize("start_ns", [NOW - 10 * YEAR, NOW + 10 * YEAR, 1, NOW + 2 * clamp.DAY_NS])
def test_a_clock_that_cannot_be_right_becomes_the_time_of_receipt(start_ns: int) -> None:
    row, attributes = decoded(
        start_time_unix_nano=start_ns, end_time_unix_nano=start_ns + 3 * SECOND
    )

    assert (row.start_ns, row.end_ns) == (NOW, NOW + 3 * SECOND)
    assert attributes[semconv.CLAMPED] == ["start", "end"]


@pytest.mark.parametrize("end_ns", [NOW - 2 * SECOND, NOW + 10 * YEAR])
def test_an_end_before_the_start_or_far_ahead_becomes_the_start(end_ns: int) -> None:
    row, attributes = decoded(end_time_unix_nano=end_ns)

    assert row.start_ns == row.end_ns == NOW - SECOND
    assert attributes[semconv.CLAMPED] == ["end"]


def test_a_span_that_has_not_ended_is_not_flagged() -> None:
    row, attributes = decoded(end_time_unix_nano=0)

    assert row.end_ns == row.start_ns
    assert attributes == {}


def test_a_spool_of_months_and_an_import_of_years_keep_their_times() -> None:
    months = NOW - 100 * clamp.DAY_NS
    late, _ = decoded(start_time_unix_nano=months, end_time_unix_nano=months + SECOND)
    years = NOW - 5 * YEAR
    imported, _ = decoded(
        start_time_unix_nano=years,
        end_time_unix_nano=years + SECOND,
        attributes=[text(semconv.IMPORTED, "langfuse:0")],
    )

    assert (late.start_ns, imported.start_ns) == (months, years)


def test_a_text_of_a_megabyte_is_cut_in_the_attributes_and_in_its_column() -> None:
    row, attributes = decoded(
        attributes=[text(semconv.TOOL_NAME, "t" * 2**20), text("small", "kept")],
        name="n" * 2**20,
        status={"message": "m" * 2**20},
    )

    assert len(row.tool or "") == len(row.name) == clamp.MAX_TEXT
    assert len(attributes["otel.status_message"]) == clamp.MAX_TEXT
    assert attributes["small"] == "kept"
    assert attributes[semconv.CLAMPED] == ["name", semconv.TOOL_NAME, "otel.status_message"]


def test_texts_inside_lists_and_maps_are_cut_too_and_long_lists_end() -> None:
    long = AnyValue(string_value="x" * 2**20)
    nested = KeyValueList(values=[KeyValue(key="inner", value=long), text("ok", "ok")])
    numbers = ArrayValue(values=[AnyValue(int_value=n) for n in range(20_000)])
    _, attributes = decoded(
        attributes=[
            KeyValue(key="map", value=AnyValue(kvlist_value=nested)),
            KeyValue(key="list", value=AnyValue(array_value=numbers)),
        ]
    )

    assert len(attributes["map"]["inner"]) == clamp.MAX_TEXT
    assert attributes["map"]["ok"] == "ok"
    assert attributes["list"] == list(range(clamp.MAX_ATTRIBUTES))
    assert attributes[semconv.CLAMPED] == ["map", "list"]


def test_of_ten_thousand_attributes_the_first_are_kept() -> None:
    _, attributes = decoded(attributes=[text(f"key-{n}", "v") for n in range(10_000)])

    assert attributes.pop(semconv.CLAMPED) == ["attributes"]
    assert list(attributes) == [f"key-{n}" for n in range(clamp.MAX_ATTRIBUTES)]


def test_of_ten_thousand_events_the_first_are_kept() -> None:
    _, attributes = decoded(events=[Span.Event(name="e") for _ in range(10_000)])

    assert len(attributes["otel.events"]) == clamp.MAX_ATTRIBUTES
    assert attributes[semconv.CLAMPED] == ["otel.events"]


def test_a_key_of_a_megabyte_is_cut() -> None:
    _, attributes = decoded(attributes=[text("k" * 2**20, "v")])

    assert attributes["k" * clamp.MAX_TEXT] == "v"


def test_a_sender_cannot_flag_its_own_spans() -> None:
    _, attributes = decoded(attributes=[text(semconv.CLAMPED, "start")])

    assert attributes == {}


def test_nul_is_kept_as_it_is() -> None:
    row, attributes = decoded(attributes=[text(semconv.TOOL_NAME, "a\0b")], name="\0")

    assert (row.name, row.tool) == ("\0", "a\0b")
    assert attributes[semconv.TOOL_NAME] == "a\0b"
