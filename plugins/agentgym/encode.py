"""Recorder items as protobuf messages: OTLP spans, decisions, features, rewards."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from agentgym import semconv
from agentgym.config import Mode
from agentgym.items import RewardItem, SpanItem, StepItem
from agentgym.policy.features import TextVector
from agentgym.proto.v1 import common_pb2, decision_pb2, reward_pb2
from agentgym.trajectory import Decision, Tool
from agentgym.version import VERSION

_INT64 = 2**63
_MODES = {
    Mode.OBSERVE: common_pb2.MODE_OBSERVE,
    Mode.SHADOW: common_pb2.MODE_SHADOW,
    Mode.ADVISE: common_pb2.MODE_ADVISE,
    Mode.STEER: common_pb2.MODE_STEER,
}


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


def spans_request(spans: Iterable[Span], resource: Mapping[str, str]) -> ExportTraceServiceRequest:
    """An OTLP request with all spans under one resource and scope."""
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add(schema_url=semconv.SCHEMA_URL)
    group.resource.attributes.extend(_attribute(k, v) for k, v in resource.items())
    scope = group.scope_spans.add(schema_url=semconv.SCHEMA_URL)
    scope.scope.name = semconv.SCOPE_NAME
    scope.scope.version = VERSION
    scope.spans.extend(spans)
    return request


def span_message(item: SpanItem) -> Span:
    """A span as OTLP."""
    span = Span(
        trace_id=item.trajectory_id,
        span_id=item.span_id,
        parent_span_id=item.parent_id,
        name=_clean(item.name),
        kind=Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=item.start_ns,
        end_time_unix_nano=item.end_ns,
        attributes=[_attribute(k, v) for k, v in item.attributes.items()],
    )
    if item.error:
        span.attributes.append(_attribute(semconv.ERROR_TYPE, item.error))
        span.status.code = Status.STATUS_CODE_ERROR
    return span


def _attribute(key: str, value: Any) -> KeyValue:
    return KeyValue(key=_clean(key), value=_value(value))


def _clean(text: str) -> str:
    # Lone surrogates would make the whole message unencodable.
    return text.encode("utf-8", "replace").decode()


def _value(value: Any) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int() if -_INT64 <= value < _INT64:
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case _:
            return AnyValue(string_value=_clean(str(value)))


def step_message(item: StepItem, feature_schema: int) -> decision_pb2.DecisionRecord:
    """A step as a DecisionRecord; `feature_schema` is that of a step which names none."""
    decision = item.decision
    record = decision_pb2.DecisionRecord(
        decision_id=item.span_id,
        trajectory_id=item.trajectory_id,
        step=item.step,
        scope=common_pb2.Scope(
            agent=_clean(item.agent),
            agent_name=_clean(item.agent_name),
            feature_schema=item.feature_schema or feature_schema,
        ),
        agent_path=[_clean(name) for name in item.agent_path],
        time_unix_nano=item.time_ns,
        mode=_MODES[item.mode],
        assignment=int(item.assignment),  # type: ignore[arg-type]  # IntEnum with equal values
        assignment_probability=item.assignment_probability,
        fallback=int(item.fallback),  # type: ignore[arg-type]  # IntEnum with equal values
        policy_version=item.policy_version,
        offered=[tool.fingerprint for tool in item.offered],
        allowed=item.allowed,
        shown=item.shown,
        arm=-1 if decision is None else decision.arm,
        history=[decision_pb2.PastCall(tool=c.tool, error=c.error) for c in item.history],
        features_id=item.features_id,
        called=[_clean(name) for name in item.called],
        completed=item.completed,
        force=item.force,
    )
    if decision is not None:
        _add_decision(record, decision)
    return record


def _add_decision(record: decision_pb2.DecisionRecord, decision: Decision) -> None:
    record.arm_propensity = decision.propensity
    record.down.extend(decision.down)
    record.temperature = decision.temperature
    record.floor = decision.floor
    record.defer_floor = decision.defer_floor
    record.top_k = decision.top_k
    record.greedy = decision.greedy
    record.support.extend(
        decision_pb2.Arm(
            kind=int(arm.kind),  # type: ignore[arg-type]  # IntEnum with equal values
            tools=arm.tools,
            score=arm.score,
            probability=arm.probability,
        )
        for arm in decision.support
    )


def features_message(
    trajectory_id: bytes, features_id: bytes, vector: TextVector, feature_schema: int
) -> decision_pb2.TaskFeatures:
    """A task vector as it travels."""
    embedding = vector.embedding
    return decision_pb2.TaskFeatures(
        features_id=features_id,
        trajectory_id=trajectory_id,
        feature_schema=feature_schema,
        index=vector.index.tolist(),
        quantised=vector.quantised.tobytes(),
        scale=vector.scale,
        embedding=embedding.quantised.tobytes() if embedding else b"",
        embedding_scale=embedding.scale if embedding else 0.0,
    )


def tool_message(tool: Tool) -> common_pb2.Tool:
    """A catalogue entry; an unserialisable schema travels as an empty one."""
    try:
        parameters = json.dumps(tool.parameters, sort_keys=True, default=str)
    except (TypeError, ValueError, RecursionError):
        parameters = "{}"
    return common_pb2.Tool(
        fingerprint=tool.fingerprint,
        name=_clean(tool.name),
        description=_clean(tool.description),
        parameters_json=parameters,
    )


def reward_message(item: RewardItem) -> reward_pb2.Reward:
    """A reward as it is reported."""
    return reward_pb2.Reward(
        trajectory_id=item.trajectory_id,
        key=_clean(item.key),
        agent=_clean(item.agent),
        value=item.value,
        name=_clean(item.name),
        source=_clean(item.source),
        idempotency_key=_clean(item.idempotency_key),
        reason=_clean(item.reason),
        time_unix_nano=item.time_ns,
    )
