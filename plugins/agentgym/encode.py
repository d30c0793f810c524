"""Recorder items as bytes on the wire: OTLP spans, decisions, features, rewards, tools.

Each `*_entry` is one tagged, length-delimited field of the request that carries it, so requests are
put together by joining bytes. Spans, nine tenths of all items, are written by hand; the rest goes
through protobuf's own classes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from agentgym import semconv
from agentgym.items import RewardItem, SpanItem, StepItem
from agentgym.messages import reward_message, step_message, tool_message
from agentgym.policy.messages import features_message
from agentgym.trajectory import Tool
from agentgym.version import VERSION
from agentgym.wire import BYTES, FIXED64, VARINT, entry, tag, text, varint

if TYPE_CHECKING:
    from agentgym.policy.features import TextVector

_INT64 = 2**63


def resource_attributes(
    agent: str, producer_id: bytes, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Labels of the sending process; the two OTel resource variables are read, nothing else is."""
    environ = os.environ if environ is None else environ
    labels = {}
    for pair in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        name, separator, value = pair.partition("=")
        if separator and name.strip():
            labels[name.strip()] = value.strip()
    labels["service.name"] = environ.get("OTEL_SERVICE_NAME") or labels.get("service.name") or agent
    labels[semconv.PRODUCER_ID] = producer_id.hex()
    labels[semconv.PLUGIN_VERSION] = VERSION
    return labels


# ---- spans: opentelemetry/proto/trace/v1/trace.proto and common.proto

_RESOURCE_SPANS = tag(1, BYTES)  # of ExportTraceServiceRequest
_SCOPE_SPANS = tag(2, BYTES)  # of ResourceSpans
_SCHEMA_URL = entry(tag(3, BYTES), text(semconv.SCHEMA_URL))  # of ResourceSpans and ScopeSpans
_SCOPE = entry(
    tag(1, BYTES),
    entry(tag(1, BYTES), text(semconv.SCOPE_NAME)) + entry(tag(2, BYTES), text(VERSION)),
)
_SPAN = tag(2, BYTES)  # of ScopeSpans
_TRACE_ID, _SPAN_ID, _PARENT_ID, _NAME = (tag(field, BYTES) for field in (1, 2, 4, 5))
# kind = SPAN_KIND_INTERNAL, then start and end
_TIMES = struct.Struct("<2scQcQ")
_KIND, _START, _END = tag(6, VARINT) + b"\x01", tag(7, FIXED64), tag(8, FIXED64)
_ATTRIBUTE = tag(9, BYTES)
_ERROR = entry(tag(15, BYTES), tag(3, VARINT) + b"\x02")  # status.code = STATUS_CODE_ERROR
_KEY, _VALUE = tag(1, BYTES), tag(2, BYTES)  # of KeyValue
_STRING, _BOOL, _INT = tag(1, BYTES), tag(2, VARINT), tag(3, VARINT)  # of AnyValue
_DOUBLE = struct.Struct("<cd")
_DOUBLE_TAG = tag(4, FIXED64)

_keys: dict[str, bytes] = {}
_repeated: dict[tuple[str, str], bytes] = {}
_REPEATED = frozenset(
    (
        semconv.OPERATION_NAME,
        semconv.PROVIDER_NAME,
        semconv.AGENT_NAME,
        semconv.REQUEST_MODEL,
        semconv.RESPONSE_MODEL,
        semconv.TOOL_NAME,
        semconv.ERROR_TYPE,
        semconv.AGENT,
        semconv.AGENT_PATH,
        semconv.FRAMEWORK,
        semconv.MODE,
        semconv.ASSIGNMENT,
        semconv.POLICY_VERSION,
        semconv.ARM,
        semconv.EXPERIMENT,
        semconv.EXPERIMENT_ARM,
        semconv.EXPERIMENT_TREATMENT,
        semconv.FALLBACK_REASON,
        semconv.INCOMPLETE,
    )
)
"""Attributes whose values come again and again: they are encoded once."""
_MOST_KEPT = 4096


def span_entry(item: SpanItem) -> bytes:
    """A span as a field of ScopeSpans."""
    pairs = item.attributes.items()
    try:
        attributes = [_repeated.get(pair) or _attribute(*pair) for pair in pairs]
    except TypeError:  # a value without a hash
        attributes = [_attribute(*pair) for pair in pairs]
    if item.error:
        attributes.append(_attribute(semconv.ERROR_TYPE, item.error))
        attributes.append(_ERROR)
    name = text(item.name)
    span = b"".join(
        (
            _id(_TRACE_ID, item.trajectory_id),
            _id(_SPAN_ID, item.span_id),
            _id(_PARENT_ID, item.parent_id),
            _NAME,
            varint(len(name)),
            name,
            _times(item.start_ns, item.end_ns),
            *attributes,
        )
    )
    return _SPAN + varint(len(span)) + span


def _id(prefix: bytes, value: bytes) -> bytes:
    return prefix + varint(len(value)) + value if value else b""


def _times(start_ns: int, end_ns: int) -> bytes:
    try:
        return _TIMES.pack(_KIND, _START, start_ns, _END, end_ns)
    except struct.error as error:
        raise ValueError(f"expected times as 64 bits of nanoseconds: {error}") from error


def _attribute(key: str, value: Any) -> bytes:
    prefix = _keys.get(key) or _remember(_keys, key, entry(_KEY, text(key)) + _VALUE)
    encoded = _value(value)
    pair = prefix + varint(len(encoded)) + encoded
    made = _ATTRIBUTE + varint(len(pair)) + pair
    if key in _REPEATED and type(value) is str and len(made) < 256:
        _remember(_repeated, (key, value), made)
    return made


def _remember(known: dict[Any, bytes], key: Any, value: bytes) -> bytes:
    if len(known) >= _MOST_KEPT:
        known.clear()
    known[key] = value
    return value


def _value(value: Any) -> bytes:
    """An AnyValue; what OTLP has no kind for travels as text."""
    if type(value) is str:
        encoded = text(value)
        return _STRING + varint(len(encoded)) + encoded
    match value:
        case bool():
            return _BOOL + varint(value)
        case int() if -_INT64 <= value < _INT64:
            return _INT + varint(value % 2**64)
        case float():
            return _DOUBLE.pack(_DOUBLE_TAG, value)
    return entry(_STRING, text(str(value)))


def resource_head(resource: Mapping[str, str]) -> bytes:
    """What a request's spans share, for `export_request`."""
    attributes = (
        entry(tag(1, BYTES), entry(_KEY, text(k)) + entry(_VALUE, _value(v)))
        for k, v in resource.items()
    )
    return entry(tag(1, BYTES), b"".join(attributes)) + _SCHEMA_URL


def export_request(head: bytes, spans: Iterable[bytes]) -> bytes:
    """An ExportTraceServiceRequest of span entries under one resource and our scope."""
    scope = entry(_SCOPE_SPANS, b"".join((_SCOPE, _SCHEMA_URL, *spans)))
    return entry(_RESOURCE_SPANS, head + scope)


# ---- decisions, features, rewards, tools

_FIRST, _SECOND = tag(1, BYTES), tag(2, BYTES)


def step_entry(item: StepItem, feature_schema: int) -> bytes:
    """A step as a field of RecordRequest; `feature_schema` is that of a step which names none."""
    return entry(_FIRST, step_message(item, feature_schema).SerializeToString())


def features_entry(
    trajectory_id: bytes, features_id: bytes, vector: TextVector, feature_schema: int
) -> bytes:
    """A task vector as a field of RecordRequest."""
    message = features_message(trajectory_id, features_id, vector, feature_schema)
    return entry(_SECOND, message.SerializeToString())


def reward_entry(item: RewardItem) -> bytes:
    """A reward as a field of ReportRequest."""
    return entry(_FIRST, reward_message(item).SerializeToString())


def tool_entry(tool: Tool) -> bytes:
    """A catalogue entry as a field of PutRequest."""
    return entry(_SECOND, tool_message(tool).SerializeToString())
