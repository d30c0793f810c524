"""Records of the log as the daemon receives them, and a store that applies them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from agentgym import semconv
from agentgym.proto.v1 import (
    catalogue_pb2,
    common_pb2,
    decision_pb2,
    log_pb2,
    policy_pb2,
    reward_pb2,
)
from agentgym_daemon.ingest.otlp import decode_traces
from agentgym_daemon.store.batch import AppliedBatch, BatchWriter
from agentgym_daemon.store.database import Store

T0 = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
SCOPE = common_pb2.Scope(agent="desk", agent_name="helper", feature_schema=1)
TOOLS = [
    common_pb2.Tool(
        fingerprint=name.encode() * 2, name=name, description=f"does {name}", parameters_json="{}"
    )
    for name in ("find", "mail", "save")
]


class Records:
    """Builds payloads of the log; times are seconds after a fixed start."""

    scope = SCOPE
    tools = TOOLS

    def trace(self, number: int) -> bytes:
        """A trajectory id."""
        return number.to_bytes(16, "big")

    def span_id(self, number: int) -> bytes:
        """A span id."""
        return number.to_bytes(8, "big")

    def record(
        self, *, at: float = 0.0, producer: bytes = b"", sequence: int = 0, **fact: Any
    ) -> bytes:
        """One log record."""
        return log_pb2.LogRecord(
            received_unix_nano=T0 + int(at * SECOND),
            producer_id=producer,
            sequence=sequence,
            **fact,
        ).SerializeToString()

    def spans(self, *spans: dict[str, Any], service: str = "shop", **record: Any) -> bytes:
        """A trace request; see `fill` for the keys of a span."""
        request = ExportTraceServiceRequest()
        resource_spans = request.resource_spans.add()
        _set(resource_spans.resource.attributes.add(), "service.name", service)
        scope_spans = resource_spans.scope_spans.add()
        for span in spans:
            self.fill(scope_spans.spans.add(), **span)
        return self.record(otlp_traces=request.SerializeToString(), **record)

    def fill(
        self,
        span: Any,
        *,
        trace: int,
        span_id: int,
        parent: int = 0,
        start: float = 0.0,
        end: float = 1.0,
        name: str = "span",
        status: int = 0,
        attributes: dict[str, Any] | None = None,
        scores: Sequence[float] = (),
    ) -> None:
        """Fills one OTLP span."""
        span.trace_id = self.trace(trace)
        span.span_id = self.span_id(span_id)
        span.parent_span_id = self.span_id(parent) if parent else b""
        span.name = name
        span.start_time_unix_nano = T0 + int(start * SECOND)
        span.end_time_unix_nano = T0 + int(end * SECOND)
        span.status.code = status
        for key, value in (attributes or {}).items():
            _set(span.attributes.add(), key, value)
        for score in scores:
            event = span.events.add(name=semconv.EVALUATION_EVENT)
            _set(event.attributes.add(), semconv.EVALUATION_SCORE, score)

    def ours(self, trace: int, span_id: int, operation: str, **more: Any) -> dict[str, Any]:
        """A span as our plugin makes it; further attributes under `attributes`."""
        attributes = {
            semconv.AGENT: "desk",
            semconv.OPERATION_NAME: operation,
            semconv.FRAMEWORK: "langchain",
            **more.pop("attributes", {}),
        }
        return {"trace": trace, "span_id": span_id, "attributes": attributes, **more}

    def root(self, trace: int, span_id: int = 1, **attributes: Any) -> dict[str, Any]:
        """The root span of a trajectory."""
        return self.ours(
            trace,
            span_id,
            semconv.INVOKE_AGENT,
            attributes={semconv.TRAJECTORY_ROOT: True, **attributes},
            end=9.0,
        )

    def call(self, trace: int, span_id: int, tool: str, **more: Any) -> dict[str, Any]:
        """The span of a tool call."""
        extra = {semconv.TOOL_NAME: tool, **more.pop("attributes", {})}
        return self.ours(trace, span_id, semconv.EXECUTE_TOOL, attributes=extra, parent=1, **more)

    def decision(self, trace: int, number: int, **fields: Any) -> decision_pb2.DecisionRecord:
        """A steered decision that forced the first tool."""
        known: dict[str, Any] = {
            "decision_id": self.span_id(number),
            "trajectory_id": self.trace(trace),
            "scope": SCOPE,
            "time_unix_nano": T0 + number,
            "mode": common_pb2.MODE_STEER,
            "assignment": common_pb2.ASSIGNMENT_POLICY,
            "policy_version": "p-1",
            "offered": [tool.fingerprint for tool in TOOLS],
            "support": [
                decision_pb2.Arm(kind=decision_pb2.Arm.KIND_DEFER, probability=0.25),
                decision_pb2.Arm(kind=decision_pb2.Arm.KIND_FORCE, tools=[0], probability=0.75),
            ],
            "arm": 1,
            "arm_propensity": 0.75,
            "called": ["find"],
            "features_id": b"features",
        }
        return decision_pb2.DecisionRecord(**{**known, **fields})

    def features(self, trace: int) -> decision_pb2.TaskFeatures:
        """Task features of a trajectory."""
        return decision_pb2.TaskFeatures(
            features_id=b"features",
            trajectory_id=self.trace(trace),
            feature_schema=1,
            index=[3, 5],
            quantised=b"\x01\xff",
            scale=2.0,
        )

    def decisions(
        self, *decisions: decision_pb2.DecisionRecord, features: Sequence[Any] = (), **record: Any
    ) -> bytes:
        """A record of decisions."""
        request = decision_pb2.RecordRequest(decisions=decisions, features=features)
        return self.record(decisions=request.SerializeToString(), **record)

    def catalogue(self, *, agent: str = "desk", **record: Any) -> bytes:
        """A record of tools."""
        return self.record(catalogue=catalogue_pb2.PutRequest(agent=agent, tools=TOOLS), **record)

    def reward(
        self, trace: int, value: float, *, reward_id: str, at: float = 0.0, **fields: Any
    ) -> bytes:
        """A record of a resolved reward."""
        known: dict[str, Any] = {
            "trajectory_id": self.trace(trace),
            "value": value,
            "name": "outcome",
            "source": "user",
            "idempotency_key": f"key-{reward_id}",
            "time_unix_nano": T0 + int(at * SECOND),
        }
        reward = reward_pb2.Reward(**{**known, **fields})
        return self.record(reward=log_pb2.RewardFact(reward_id=reward_id, reward=reward), at=at)

    def revocation(self, reward_id: str, *, reason: str = "mistake") -> bytes:
        """A record that takes a reward back."""
        return self.record(revocation=log_pb2.Revocation(reward_id=reward_id, reason=reason))

    def closure(self, trace: int, *, at: float = 0.0) -> bytes:
        """A record that ends an idle trajectory."""
        closure = log_pb2.Closure(trajectory_id=self.trace(trace), reason="idle")
        return self.record(closure=closure, at=at)

    def policy(self, version: str, **fields: Any) -> bytes:
        """A record of a policy version."""
        return self.record(policy=policy_pb2.PolicyVersion(scope=SCOPE, version=version, **fields))

    def change(self, kind: str, version: str, **fields: Any) -> bytes:
        """A record of a promotion, rollback, pin or unpin."""
        number = log_pb2.PolicyChange.Kind.Value(f"KIND_{kind}")
        return self.record(
            change=log_pb2.PolicyChange(kind=number, scope=SCOPE, version=version, **fields)
        )

    def training(self, trajectories: int, *, at: float = 0.0, **fields: Any) -> bytes:
        """A record of a run of the trainer."""
        run = log_pb2.TrainingRun(scope=SCOPE, trajectories=trajectories, **fields)
        return self.record(training=run, at=at)

    def episode(self, trace: int, *, reward: float | None = None) -> list[bytes]:
        """Everything about one short trajectory, in order of arrival."""
        tool = self.call(trace, trace * 10 + 2, "find", start=2.0, end=3.0)
        records = [
            self.decisions(self.decision(trace, trace * 10), features=[self.features(trace)]),
            self.spans(tool, self.root(trace, trace * 10 + 1)),
        ]
        if reward is not None:
            records.append(self.reward(trace, reward, reward_id=f"r{trace}"))
        return records

    def history(self, seed: int, *, trajectories: int = 6) -> list[bytes]:
        """A jumble of every kind of record, with repeats, late spans and garbage."""
        rng = random.Random(seed)
        records = [self.catalogue(), self.policy("p-1"), b"\xff\xff garbage"]
        for trace in range(1, trajectories + 1):
            records += self.episode(trace, reward=rng.choice([None, 0.0, 0.25, 1.0]))
            records.append(self.spans(self.call(trace, 900 + trace, "mail", status=2, start=5.0)))
            records.append(self.closure(trace))
            records.append(self.reward(trace, rng.random(), reward_id=f"x{trace}", at=trace))
            records.append(self.revocation(rng.choice([f"r{trace}", f"x{trace}", "none"])))
            records.append(self.spans({"trace": 100 + trace, "span_id": 7, "scores": [0.5, 7.0]}))
        records += [
            self.change("PROMOTE", "p-1"),
            self.policy("p-2", parent="p-1"),
            self.change("PIN", "p-2"),
            self.change("UNPIN", ""),
            self.training(3, verdict="promoted"),
        ]
        records += rng.choices(records, k=len(records) // 2)
        rng.shuffle(records)
        return [
            _stamped(record, at=number, producer=rng.randrange(3), sequence=number)
            for number, record in enumerate(records, start=1)
        ]


def _stamped(payload: bytes, *, at: int, producer: int, sequence: int) -> bytes:
    if payload.startswith(b"\xff"):
        return payload
    record = log_pb2.LogRecord.FromString(payload)
    record.received_unix_nano = T0 + at * SECOND
    if producer:
        record.producer_id, record.sequence = bytes([producer] * 16), sequence
    return record.SerializeToString()


def _set(pair: Any, key: str, value: Any) -> None:
    pair.key = key
    kinds = {bool: "bool_value", int: "int_value", float: "double_value", str: "string_value"}
    setattr(pair.value, kinds[type(value)], value)


class Bench:
    """A store without a log: applies payloads in batches of a chosen size."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.store = Store.open(path, **options)
        self.writer = BatchWriter(self.store, decode_traces)
        self._end = self.store.applied_offset()

    def apply(self, *payloads: bytes) -> AppliedBatch:
        """Applies the payloads as one batch."""
        entries = []
        for payload in payloads:
            self._end += len(payload)
            entries.append((self._end, payload))
        return self.writer.apply(entries)


@pytest.fixture(scope="session")
def records() -> Records:
    """Builds payloads."""
    return Records()


@pytest.fixture
def open_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Opens stores that are closed at the end."""
    opened: list[Bench] = []

    def open_one(name: str = "a.duckdb", **options: Any) -> Bench:
        opened.append(Bench(tmp_path / name, **options))
        return opened[-1]

    yield open_one
    for bench in opened:
        bench.store.close()


@pytest.fixture
def bench(open_bench: Callable[..., Bench]) -> Bench:
    """An empty store."""
    return open_bench()
