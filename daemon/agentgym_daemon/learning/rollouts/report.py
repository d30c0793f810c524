"""Finished rollouts as OTLP, decisions and rewards, for a daemon: by gRPC, never by its files.

A thread of its own sends; whoever finishes a rollout never waits for it. A daemon that does not
answer is tried again, and what could not be sent is counted.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from agentgym import semconv
from agentgym.proto.v1 import (
    catalogue_pb2_grpc,
    common_pb2,
    decision_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
    reward_pb2,
    reward_pb2_grpc,
)
from agentgym_daemon.learning.rollouts.session import PlainSpan, ReadRun

FRAMEWORK = "agentlightning"
SOURCE = "agentlightning"
"""Source of the rewards that are reported."""
_TIMEOUT_S = 10.0
_TRIES, _PAUSE_S = 5, 0.2
_QUEUED = 10_000
_PASSING = frozenset((grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED))
_ASSIGNMENTS = {
    number: name.removeprefix("ASSIGNMENT_").lower()
    for name, number in common_pb2.Assignment.items()
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """A rollout that has ended, with what its last attempt left behind."""

    rollout_id: str
    trajectory_id: bytes
    failed: bool
    started_s: float
    ended_s: float
    run: ReadRun | None  # None: it never asked the policy
    spans: Sequence[PlainSpan]  # without the decisions and the rewards
    reward: float | None


def trace_request(finished: Finished, agent: str) -> ExportTraceServiceRequest:
    """The spans of a rollout under one root, whose end closes the trajectory."""
    root_id = _span_id(finished.trajectory_id, "root")
    attributes: dict[str, Any] = {
        semconv.OPERATION_NAME: semconv.INVOKE_AGENT,
        semconv.AGENT: agent,
        semconv.TRAJECTORY_ROOT: True,
        semconv.TRAJECTORY_ID: finished.trajectory_id.hex(),
        semconv.TRAJECTORY_KEY: finished.rollout_id,
        semconv.FRAMEWORK: FRAMEWORK,
        semconv.MODE: "steer",
    }
    if finished.run is not None and finished.run.record.decisions:
        first = finished.run.record.decisions[0]
        attributes[semconv.ASSIGNMENT] = _ASSIGNMENTS[first.assignment]
        attributes[semconv.POLICY_VERSION] = first.policy_version
        attributes[semconv.AGENT_NAME] = first.scope.agent_name
    if finished.failed:
        attributes[semconv.INCOMPLETE] = "failed"
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add(schema_url=semconv.SCHEMA_URL)
    group.resource.attributes.append(_pair("service.name", agent))
    spans = group.scope_spans.add(schema_url=semconv.SCHEMA_URL).spans
    for number, plain in enumerate(finished.spans):
        span = _span(plain, finished.trajectory_id, f"span {number}", {semconv.AGENT: agent})
        span.parent_span_id = root_id
        spans.append(span)
    whole = PlainSpan(
        f"{semconv.INVOKE_AGENT} {agent}", attributes, finished.started_s, finished.ended_s
    )
    spans.append(_span(whole, finished.trajectory_id, "root", {}))
    return request


def _span(plain: PlainSpan, trace_id: bytes, what: str, more: Mapping[str, Any]) -> Span:
    span = Span(
        trace_id=trace_id,
        span_id=_span_id(trace_id, what),
        name=plain.name,
        kind=Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=int(plain.start_s * 1e9),
        end_time_unix_nano=int(plain.end_s * 1e9),
        attributes=[_pair(key, value) for key, value in {**plain.attributes, **more}.items()],
    )
    if plain.error:
        span.status.code = Status.STATUS_CODE_ERROR
    return span


def _span_id(trace_id: bytes, what: str) -> bytes:
    return hashlib.sha256(trace_id + what.encode()).digest()[:8]


def _pair(key: str, value: Any) -> KeyValue:
    match value:
        case bool():
            return KeyValue(key=key, value=AnyValue(bool_value=value))
        case int() if abs(value) < 2**63:
            return KeyValue(key=key, value=AnyValue(int_value=value))
        case float():
            return KeyValue(key=key, value=AnyValue(double_value=value))
        case _:
            return KeyValue(key=key, value=AnyValue(string_value=str(value)))


class Reporter:
    """Sends finished rollouts to the daemon at a gRPC address; close it when done."""

    def __init__(self, address: str, *, token: str, agent: str) -> None:
        self.agent = agent
        self.counts: Counter[str] = Counter()
        """reported, failed and dropped rollouts; rewards that the daemon refused."""
        self._channel = grpc.insecure_channel(address)
        self._metadata = ((semconv.METADATA_TOKEN, f"Bearer {token}"),)
        self._traces = TraceServiceStub(self._channel)
        self._decisions = decision_pb2_grpc.DecisionServiceStub(self._channel)
        self._catalogue = catalogue_pb2_grpc.CatalogueServiceStub(self._channel)
        self._rewards = reward_pb2_grpc.RewardServiceStub(self._channel)
        self._policies = policy_pb2_grpc.PolicyServiceStub(self._channel)
        self._tools: set[bytes] = set()
        self._waiting: queue.Queue[Finished | None] = queue.Queue(_QUEUED)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agentgym-report", daemon=True)
        self._thread.start()

    def features(self) -> tuple[bytes, int]:
        """Key and schema of the daemon's features: only rollouts with both can be mixed with its.

        Raises grpc.RpcError where no daemon answers.
        """
        request = policy_pb2.SubscribeRequest(
            contract_version=semconv.CONTRACT_VERSION, agent=self.agent, signed=True
        )
        stream = self._policies.Subscribe(request, metadata=self._metadata, timeout=_TIMEOUT_S)
        try:
            # No policy is taken here, so the signature is not looked at.
            handshake = policy_pb2.PolicyUpdate.FromString(next(iter(stream)).update)
            return bytes(handshake.feature_key), handshake.features.number
        finally:
            stream.cancel()

    def put(self, finished: Finished) -> None:
        """Queues a rollout; drops and counts it where too many wait."""
        try:
            self._waiting.put_nowait(finished)
        except queue.Full:
            self.counts["dropped"] += 1

    def close(self) -> None:
        """Sends what waits, without further tries, and ends."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._waiting.put(None)
        self._thread.join()
        self._channel.close()

    def _run(self) -> None:
        while (finished := self._waiting.get()) is not None:
            try:
                self._send(finished)
                self.counts["reported"] += 1
            except grpc.RpcError as error:
                self.counts["failed"] += 1
                _log.warning("rollout %s was not reported: %s", finished.rollout_id, error)

    def _send(self, finished: Finished) -> None:
        run = finished.run
        if run is not None:
            unknown = {t.fingerprint for t in run.catalogue.tools} - self._tools
            if unknown:
                self._call(self._catalogue.Put, run.catalogue)
                self._tools |= unknown
            self._call(self._decisions.Record, run.record)
        self._call(self._traces.Export, trace_request(finished, self.agent))
        if finished.reward is not None:
            self._reward(finished, finished.reward)

    def _reward(self, finished: Finished, value: float) -> None:
        reward = reward_pb2.Reward(
            trajectory_id=finished.trajectory_id,
            agent=self.agent,
            value=value,
            source=SOURCE,
            idempotency_key=f"{SOURCE}:{finished.trajectory_id.hex()}",
        )
        answer = self._call(self._rewards.Report, reward_pb2.ReportRequest(rewards=[reward]))
        if answer.results[0].error:
            self.counts["refused"] += 1
            _log.warning("reward of %s: %s", finished.rollout_id, answer.results[0].error)

    def _call(self, method: Any, request: Any) -> Any:
        for left in reversed(range(_TRIES)):
            try:
                return method(request, metadata=self._metadata, timeout=_TIMEOUT_S)
            except grpc.RpcError as error:
                code = error.code()
                if code not in _PASSING or not left or self._closing.is_set():
                    raise
            self._closing.wait(_PAUSE_S * 2 ** (_TRIES - 1 - left))
        raise AssertionError("unreachable: the last try returns or raises")
