"""OTLP trace requests as rows, span by span: a bad span is counted and its siblings live.

Spans of our plugin carry `agentgym.*`; any other sender's become a trajectory per trace, under the
agent name `service.name`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from agentgym import semconv
from agentgym.proto.v1 import common_pb2
from agentgym_daemon.ingest import lightning
from agentgym_daemon.ingest.wire import salvage
from agentgym_daemon.store.rows import MAX_BIGINT, DecodedTraces, Evaluation, SpanRow

SERVICE_NAME = "service.name"
EVENTS = "otel.events"
"""Key under which a span's events lie among its stored attributes."""
STATUS_MESSAGE = "otel.status_message"
UNKNOWN_AGENT = "unknown"

_MODES: dict[str | None, int] = {
    name.removeprefix("MODE_").lower(): number for name, number in common_pb2.Mode.items()
}
_ASSIGNMENTS: dict[str | None, int] = {
    name.removeprefix("ASSIGNMENT_").lower(): number
    for name, number in common_pb2.Assignment.items()
}


def decode_traces(request: bytes) -> DecodedTraces:
    """Rows of one ExportTraceServiceRequest; whatever cannot be read is counted, never raised."""
    decoded = DecodedTraces([], [], 0)
    try:
        parsed = ExportTraceServiceRequest.FromString(request)
    except DecodeError:
        rejected = sum(
            lost + _read_spans(decoded, resource, spans)
            for resource, spans, lost in salvage(request)
        )
        if not decoded.spans and not rejected:
            rejected = 1  # nothing of it can be understood: the request itself is the loss
        return decoded._replace(rejected=rejected)
    rejected = sum(
        _read_spans(decoded, resource_spans.resource, scope_spans.spans)
        for resource_spans in parsed.resource_spans
        for scope_spans in resource_spans.scope_spans
    )
    return decoded._replace(rejected=rejected)


def count_spans(request: bytes) -> tuple[int, int]:
    """How many spans `decode_traces` will give and how many it will refuse, at a tenth of its cost.

    Refused evaluation events are not counted: their spans are taken.
    """
    try:
        parsed = ExportTraceServiceRequest.FromString(request)
    except DecodeError:
        return _count_salvaged(request)
    verdicts = [
        _plausible(span)
        for resource_spans in parsed.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]
    return sum(verdicts), len(verdicts) - sum(verdicts)


def _count_salvaged(request: bytes) -> tuple[int, int]:
    taken = refused = 0
    for _, spans, lost in salvage(request):
        good = sum(map(_plausible, spans))
        taken += good
        refused += len(spans) - good + lost
    return taken, refused if taken or refused else 1


def _read_spans(into: DecodedTraces, resource: Resource, spans: Iterable[Span]) -> int:
    service = _text(_attributes(resource.attributes).get(SERVICE_NAME)) or UNKNOWN_AGENT
    rejected = 0
    for span in spans:
        if not _plausible(span):
            rejected += 1
            continue
        attributes = _attributes(span.attributes)
        if span.events:
            rejected += _read_events(into.evaluations, span, attributes)
        if lightning.is_annotation(span.name):
            reward, refused = lightning.read_reward(span, attributes)
            rejected += refused
            if reward is not None:
                into.evaluations.append(reward)
        into.spans.append(_row(span, attributes, service))
    return rejected


def _plausible(span: Span) -> bool:
    return (
        len(span.trace_id) == 16
        and len(span.span_id) == 8
        and any(span.trace_id)
        and any(span.span_id)
        and len(span.parent_span_id) in (0, 8)
        and 0 < span.start_time_unix_nano <= MAX_BIGINT
        and span.end_time_unix_nano <= MAX_BIGINT
    )


def _row(span: Span, attributes: dict[str, Any], service: str) -> SpanRow:
    get = attributes.get
    agent = _text(get(semconv.AGENT))
    parent = span.parent_span_id or None
    if span.status.message:
        attributes[STATUS_MESSAGE] = span.status.message
    return SpanRow(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_span_id=parent,
        name=span.name,
        operation=_text(get(semconv.OPERATION_NAME)),
        start_ns=span.start_time_unix_nano,
        end_ns=max(span.end_time_unix_nano, span.start_time_unix_nano),
        error_type=_text(get(semconv.ERROR_TYPE)),
        status=span.status.code,
        agent=agent or service,
        agent_name=_text(get(semconv.AGENT_NAME)),
        agent_path=_text(get(semconv.AGENT_PATH)),
        tool=_text(get(semconv.TOOL_NAME)),
        call_id=_text(get(semconv.TOOL_CALL_ID)),
        model=_text(get(semconv.RESPONSE_MODEL) or get(semconv.REQUEST_MODEL)),
        input_tokens=_count(get(semconv.INPUT_TOKENS)),
        output_tokens=_count(get(semconv.OUTPUT_TOKENS)),
        decision_id=_identifier(get(semconv.DECISION_ID)),
        incomplete=_text(get(semconv.INCOMPLETE)),
        is_root=get(semconv.TRAJECTORY_ROOT) is True if agent else parent is None,
        framework=_text(get(semconv.FRAMEWORK)),
        attributes=json.dumps(attributes, separators=(",", ":"), ensure_ascii=False),
        key=_text(get(semconv.TRAJECTORY_KEY) or get(semconv.CONVERSATION_ID)),
        mode=_MODES.get(_text(get(semconv.MODE)), 0),
        assignment=_ASSIGNMENTS.get(_text(get(semconv.ASSIGNMENT)), 0),
        policy_version=_text(get(semconv.POLICY_VERSION)),
    )


def _read_events(into: list[Evaluation], span: Span, attributes: dict[str, Any]) -> int:
    rejected = 0
    events: list[dict[str, Any]] = []
    for number, event in enumerate(span.events):
        values = _attributes(event.attributes)
        events.append(
            {"name": event.name, "time_unix_nano": event.time_unix_nano, "attributes": values}
        )
        if event.name != semconv.EVALUATION_EVENT:
            continue
        score = values.get(semconv.EVALUATION_SCORE)
        if not isinstance(score, int | float) or not 0.0 <= score <= 1.0:
            rejected += 1
            continue
        into.append(
            Evaluation(
                trace_id=span.trace_id,
                span_id=span.span_id,
                number=number,
                value=float(score),
                name=_text(values.get(semconv.EVALUATION_NAME)) or "evaluation",
                time_ns=min(event.time_unix_nano or span.start_time_unix_nano, MAX_BIGINT),
            )
        )
    attributes[EVENTS] = events
    return rejected


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        value = pair.value
        kind = value.WhichOneof("value")
        if kind == "string_value":  # by far the most frequent
            found[pair.key] = value.string_value
        else:
            found[pair.key] = _value(value, kind)
    return found


def _value(value: AnyValue, kind: str | None) -> Any:
    match kind:
        case "string_value" | "int_value" | "bool_value":
            return getattr(value, kind)
        case "double_value":
            number = value.double_value
            return number if math.isfinite(number) else str(number)
        case "bytes_value":
            return value.bytes_value.hex()
        case "array_value":
            return [_value(item, item.WhichOneof("value")) for item in value.array_value.values]
        case "kvlist_value":
            return _attributes(value.kvlist_value.values)
    return None


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    return json.dumps(value)


def _count(value: Any) -> int | None:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value <= MAX_BIGINT else None


def _identifier(value: Any) -> bytes | None:
    if not isinstance(value, str) or len(value) != 16:
        return None
    try:
        return bytes.fromhex(value)
    except ValueError:
        return None
