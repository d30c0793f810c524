"""OTLP trace requests as rows, span by span: a bad span is counted and its siblings live.

Spans of our plugin carry `agentgym.*`; any other sender's become a trajectory per trace, under the
agent name `service.name`. What a span's values may be, `clamp` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from agentgym import semconv
from agentgym.proto.v1 import common_pb2
from agentgym_daemon.ingest import clamp, lightning
from agentgym_daemon.ingest.values import attributes_of, count_of, identifier_of, text_of, to_json
from agentgym_daemon.ingest.wire import salvage
from agentgym_daemon.store.rows import MAX_BIGINT, DecodedTraces, Evaluation, SpanRow

SERVICE_NAME = "service.name"
EVENTS = "otel.events"
"""Key under which a span's events lie among its stored attributes."""
STATUS_MESSAGE = "otel.status_message"
UNKNOWN_AGENT = "unknown"
_MAX_REASON = 1000

_MODES: dict[str | None, int] = {
    name.removeprefix("MODE_").lower(): number for name, number in common_pb2.Mode.items()
}
_ASSIGNMENTS: dict[str | None, int] = {
    name.removeprefix("ASSIGNMENT_").lower(): number
    for name, number in common_pb2.Assignment.items()
}
_TEXTS = (
    semconv.OPERATION_NAME,
    semconv.ERROR_TYPE,
    semconv.AGENT,
    semconv.AGENT_NAME,
    semconv.AGENT_PATH,
    semconv.TOOL_NAME,
    semconv.TOOL_CALL_ID,
    semconv.RESPONSE_MODEL,
    semconv.REQUEST_MODEL,
    semconv.INCOMPLETE,
    semconv.FRAMEWORK,
    semconv.TRAJECTORY_KEY,
    semconv.CONVERSATION_ID,
    semconv.MODE,
    semconv.ASSIGNMENT,
    semconv.POLICY_VERSION,
    semconv.EXPERIMENT,
    semconv.EXPERIMENT_ARM,
    semconv.EXPERIMENT_TREATMENT,
    semconv.UNIT,
)
"""Attributes that become columns of text, or numbers that stand for texts."""
_PLAIN = frozenset((str, type(None)))


def decode_traces(request: bytes, received_ns: int = 0) -> DecodedTraces:
    """Rows of one ExportTraceServiceRequest; whatever cannot be read is counted, never raised.

    Clocks are held against the time of receipt, if it is given.
    """
    decoded = DecodedTraces([], [], 0)
    try:
        parsed = ExportTraceServiceRequest.FromString(request)
    except DecodeError:
        rejected = sum(
            lost + _read_spans(decoded, resource, spans, received_ns)
            for resource, spans, lost in salvage(request)
        )
        if not decoded.spans and not rejected:
            rejected = 1  # nothing of it can be understood: the request itself is the loss
        return decoded._replace(rejected=rejected)
    rejected = sum(
        _read_spans(decoded, resource_spans.resource, scope_spans.spans, received_ns)
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


def _read_spans(
    into: DecodedTraces, resource: Resource, spans: Iterable[Span], received_ns: int
) -> int:
    service = text_of(attributes_of(resource.attributes).get(SERVICE_NAME)) or UNKNOWN_AGENT
    rejected = 0
    for span in spans:
        if not _plausible(span):
            rejected += 1
            continue
        attributes = attributes_of(span.attributes)
        if span.events:
            rejected += _read_events(into.evaluations, span, attributes)
        name = span.name
        if lightning.is_annotation(name):
            reward, refused = lightning.read_reward(span, attributes)
            rejected += refused
            if reward is not None:
                into.evaluations.append(reward)
        into.spans.append(_row(span, name, attributes, clamp.text(service), received_ns))
    return rejected


_NO_TRACE, _NO_SPAN = bytes(16), bytes(8)  # ids that OTLP calls invalid


def _plausible(span: Span) -> bool:
    return (
        len(span.trace_id) == 16
        and len(span.span_id) == 8
        and span.trace_id != _NO_TRACE
        and span.span_id != _NO_SPAN
        and len(span.parent_span_id) in (0, 8)
        and 0 < span.start_time_unix_nano <= MAX_BIGINT
        and span.end_time_unix_nano <= MAX_BIGINT
    )


def _row(
    span: Span, name: str, attributes: dict[str, Any], service: str, received_ns: int
) -> SpanRow:
    status = span.status
    if status.message:
        attributes[STATUS_MESSAGE] = status.message
    # Past runs that are imported may be as old as they like.
    window_ns = 0 if semconv.IMPORTED in attributes else received_ns
    start_ns, end_ns, clamped = clamp.times(
        span.start_time_unix_nano, span.end_time_unix_nano, received_ns=window_ns
    )
    if len(name) > clamp.MAX_TEXT:
        name, clamped = clamp.text(name), (*clamped, clamp.NAME)
    if len(span.events) > clamp.MAX_ATTRIBUTES:
        clamped = (*clamped, EVENTS)
    # Only we may say that something was changed.
    attributes.pop(semconv.CLAMPED, None)
    if clamped:
        attributes[semconv.CLAMPED] = list(clamped)
    json = to_json(attributes)
    if len(json) > clamp.MAX_TEXT or len(attributes) > clamp.MAX_ATTRIBUTES:
        attributes = clamp.attributes(attributes)
        json = to_json(attributes)
    get = attributes.get
    texts: Sequence[Any] = list(map(get, _TEXTS))
    if not _PLAIN.issuperset(map(type, texts)):
        texts = list(map(text_of, texts))
    (operation, error_type, agent, agent_name, agent_path, tool, call_id) = texts[:7]
    (response_model, request_model, incomplete, framework, key, conversation) = texts[7:13]
    (mode, assignment, policy_version, experiment, arm, treatment, unit) = texts[13:]
    parent = span.parent_span_id or None
    return SpanRow(
        span.trace_id,
        span.span_id,
        parent,
        name,
        operation or None,
        start_ns,
        end_ns,
        error_type or None,
        status.code,
        agent or service,
        agent_name or None,
        agent_path or None,
        tool or None,
        call_id or None,
        response_model or request_model or None,
        count_of(get(semconv.INPUT_TOKENS)),
        count_of(get(semconv.OUTPUT_TOKENS)),
        identifier_of(get(semconv.DECISION_ID)),
        incomplete or None,
        get(semconv.TRAJECTORY_ROOT) is True if agent else parent is None,
        framework or None,
        json.decode(),
        key or conversation or None,
        _MODES.get(mode, 0),
        _ASSIGNMENTS.get(assignment, 0),
        policy_version or None,
        experiment or None,
        arm or None,
        treatment or None,
        _probability(get(semconv.EXPERIMENT_SHARE)) if arm else None,
        unit or None,
    )


def _probability(value: Any) -> float | None:
    return value if isinstance(value, float) and 0.0 < value <= 1.0 else None


def _read_events(into: list[Evaluation], span: Span, attributes: dict[str, Any]) -> int:
    rejected = 0
    events: list[dict[str, Any]] = []
    for number, event in enumerate(span.events[: clamp.MAX_ATTRIBUTES]):
        values = attributes_of(event.attributes)
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
                name=text_of(values.get(semconv.EVALUATION_NAME)) or "evaluation",
                time_ns=min(event.time_unix_nano or span.start_time_unix_nano, MAX_BIGINT),
                reason=(text_of(values.get(semconv.EVALUATION_EXPLANATION)) or "")[:_MAX_REASON],
            )
        )
    attributes[EVENTS] = events
    return rejected
