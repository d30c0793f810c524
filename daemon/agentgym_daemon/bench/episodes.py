"""Synthetic episodes of a steered agent, as the log records that a real one would leave.

A task joins requests of the support desk, each of which needs one tool (the hidden rule); the agent
alone takes a wrong one a third of the time; arms and propensities are those of a real policy.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import cycle, islice

import numpy as np
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from agentgym import semconv
from agentgym.policy.arms import Exploration, decide, force_arms
from agentgym.policy.evaluate import Catalogue, Scorer
from agentgym.policy.features import Featuriser, TextVector, embedding
from agentgym.policy.messages import features_message
from agentgym.policy.snapshot import digest
from agentgym.proto.v1 import (
    catalogue_pb2,
    common_pb2,
    decision_pb2,
    log_pb2,
    policy_pb2,
    reward_pb2,
)
from agentgym.trajectory import ArmKind, Decision, PastCall, Tool
from agentgym_daemon.bench.placing import snapshot_file, untaught
from agentgym_daemon.scenarios.support_desk import requests
from agentgym_daemon.scenarios.support_desk.tools import TOOLS as DESK

AGENT, NAME = "bench", "clerk"
PARENT = "p-000001"
DECISIONS = 5  # of an episode: four calls and the answer
_START_NS = 1_790_000_000_000_000_000
_EPISODE_NS, _STEP_NS = 1_000_000_000, 100_000_000
_CONTROL_SHARE, _RIGHT_ALONE, _VISIBLE, _LIE = 0.15, 0.65, 0.6, 0.025
_OTHER = "partner shop"


@dataclass(frozen=True, slots=True)
class _Wish:
    text: str
    tool: int  # position of the right one


def tools_of(count: int) -> tuple[Tool, ...]:
    """The desk's tools, and the same for other shops until there are enough."""
    made: list[Tool] = []
    for shop in range(count):
        suffix = f"_{_OTHER.replace(' ', '_')}_{shop}" if shop else ""
        about = f" For an order in the {_OTHER} {_letter(shop)}." if shop else ""
        made += [Tool(t.name + suffix, t.description + about, t.schema) for t in DESK]
        if len(made) >= count:
            break
    return tuple(made[:count])


def _letter(shop: int) -> str:
    return chr(ord("a") + shop % 26)


class Episodes:
    """A scope's history: `records()` are payloads of the log, in the order of their arrival."""

    def __init__(self, features: Featuriser, *, tools: int, seed: int = 0) -> None:
        self.features, self.tools = features, tools_of(tools)
        self.scope = common_pb2.Scope(agent=AGENT, agent_name=NAME, feature_schema=features.schema)
        ordered = sorted(self.tools, key=lambda tool: tool.fingerprint)
        self.policy = untaught(ordered, features)
        self.file = snapshot_file(self.policy, PARENT, self.scope)
        self._rng = random.Random(seed)
        self._catalogue = Catalogue(self.tools, features.exactly)
        self._scorer = Scorer(self.policy, self._catalogue)
        self._exploration = Exploration()
        self._wishes = _wishes(self.tools)
        self._encoded = lru_cache(maxsize=None)(features)

    def records(self, count: int) -> Iterator[bytes]:
        """The catalogue, the live policy, then `count` episodes of three records each."""
        put = catalogue_pb2.PutRequest(agent=AGENT, tools=[_message(t) for t in self.tools])
        yield _record(0, catalogue=put)
        version = policy_pb2.PolicyVersion(
            scope=self.scope,
            version=PARENT,
            sha256=digest(self.file),
            size=len(self.file),
            manifest_json="{}",
            receipt_json="{}",
            status="candidate",
        )
        yield _record(0, policy=version)
        promoted = log_pb2.PolicyChange(
            kind=log_pb2.PolicyChange.KIND_PROMOTE, scope=self.scope, version=PARENT
        )
        yield _record(0, change=promoted)
        for number in range(count):
            yield from self._episode(number)

    def _task(self, wishes: Sequence[_Wish]) -> TextVector:
        """n-grams of the whole text; its embedding is the mean of the sentences', to save time."""
        parts = [self._encoded(wish.text) for wish in wishes]
        vector = self.features.hasher(" ".join(wish.text for wish in wishes))
        known = [part.embedding.values() for part in parts if part.embedding is not None]
        if not known:
            return vector
        mean = np.mean(known, axis=0)
        return replace(vector, embedding=embedding(mean / np.linalg.norm(mean)))

    def _episode(self, number: int) -> Iterator[bytes]:
        began, identifier = _START_NS + number * _EPISODE_NS, self._rng.randbytes(16)
        wishes = self._rng.sample(self._wishes, DECISIONS - 1)
        x = self._task(wishes)
        run = _Run(identifier, number, began)
        policy = self._rng.random() >= _CONTROL_SHARE
        for wanted in (wish.tool for wish in wishes):
            decision = self._decide(x, run.history) if policy else None
            tool = self._taken(decision, wanted)
            error = tool != wanted and self._rng.random() < _VISIBLE
            self._step(run, decision, called=tool, error=error)
            run.right = run.right and tool == wanted
            run.history.append(PastCall(self.tools[tool].fingerprint, error=error))
        self._step(run, self._decide(x, run.history) if policy else None, called=None, error=False)
        right = run.right != (self._rng.random() < _LIE)
        request = decision_pb2.RecordRequest(
            decisions=run.decisions,
            features=[features_message(identifier, _FEATURES, x, self.features.schema)],
        )
        yield _record(number, decisions=request.SerializeToString())
        yield _record(number, otlp_traces=run.request().SerializeToString())
        reward = reward_pb2.Reward(
            trajectory_id=identifier,
            value=float(right),
            name="outcome",
            source="bench",
            idempotency_key=f"key-{number}",
            time_unix_nano=began + _EPISODE_NS,
        )
        yield _record(number, reward=log_pb2.RewardFact(reward_id=f"r-{number}", reward=reward))

    def _decide(self, x: TextVector, history: Sequence[PastCall]) -> Decision:
        evaluation = self._scorer(x, history)
        arms = force_arms(evaluation, [True] * len(self.tools), self._exploration.top_k)
        return decide(arms, self._exploration, self._rng)

    def _taken(self, decision: Decision | None, wanted: int) -> int:
        if decision is not None and decision.taken.kind is ArmKind.FORCE:
            return decision.taken.tools[0]
        if self._rng.random() < _RIGHT_ALONE:
            return wanted
        return (wanted + self._rng.randrange(1, len(self.tools))) % len(self.tools)

    def _step(
        self, run: _Run, decision: Decision | None, *, called: int | None, error: bool
    ) -> None:
        if called is None and decision is not None and decision.taken.kind is ArmKind.FORCE:
            called = decision.taken.tools[0]  # one call too many
        identifier = run.next_id()
        names = [] if called is None else [self.tools[called].name]
        run.decisions.append(self._record(run, identifier, decision, names))
        run.chat(identifier)
        if called is not None:
            run.call(identifier, names[0], error=error)

    def _record(
        self, run: _Run, identifier: bytes, decision: Decision | None, called: Sequence[str]
    ) -> decision_pb2.DecisionRecord:
        record = decision_pb2.DecisionRecord(
            decision_id=identifier,
            trajectory_id=run.trajectory_id,
            step=len(run.decisions),
            scope=self.scope,
            agent_path=[NAME],
            time_unix_nano=run.now_ns,
            mode=common_pb2.MODE_STEER,
            assignment=common_pb2.ASSIGNMENT_CONTROL
            if decision is None
            else common_pb2.ASSIGNMENT_POLICY,
            assignment_probability=_CONTROL_SHARE if decision is None else 1 - _CONTROL_SHARE,
            policy_version=PARENT,
            offered=self._catalogue.fingerprints,
            allowed=[True] * len(self.tools),
            shown=range(len(self.tools)),
            arm=-1,
            history=[decision_pb2.PastCall(tool=c.tool, error=c.error) for c in run.history],
            features_id=_FEATURES,
            called=called,
            completed=True,
        )
        if decision is not None:
            _fill(record, decision)
        return record


_FEATURES = b"features"


class _Run:
    """The spans and decisions of one episode, while it goes on."""

    def __init__(self, trajectory_id: bytes, number: int, began_ns: int) -> None:
        self.trajectory_id, self.began_ns = trajectory_id, began_ns
        self.now_ns = began_ns
        self.history: list[PastCall] = []
        self.decisions: list[decision_pb2.DecisionRecord] = []
        self.right = True
        self._ids = (number << 16) + 1
        self._root = self._ids.to_bytes(8, "big")
        self._spans: list[Span] = []

    def next_id(self) -> bytes:
        """A new span id."""
        self._ids += 1
        return self._ids.to_bytes(8, "big")

    def chat(self, identifier: bytes) -> None:
        """The span of a model turn."""
        more: dict[str, str | int] = {semconv.REQUEST_MODEL: "model", semconv.OUTPUT_TOKENS: 40}
        self._span(identifier, semconv.CHAT, more)

    def call(self, decision_id: bytes, tool: str, *, error: bool) -> None:
        """The span of a tool call."""
        more: dict[str, str | int] = {
            semconv.TOOL_NAME: tool,
            semconv.DECISION_ID: decision_id.hex(),
        }
        if error:
            more[semconv.ERROR_TYPE] = "ToolError"
        self._span(self.next_id(), semconv.EXECUTE_TOOL, more)

    def _span(self, identifier: bytes, operation: str, more: dict[str, str | int]) -> None:
        attributes = {
            semconv.OPERATION_NAME: operation,
            semconv.AGENT: AGENT,
            semconv.AGENT_PATH: NAME,
            semconv.FRAMEWORK: "langchain",
            semconv.POLICY_VERSION: PARENT,
            **more,
        }
        failed = semconv.ERROR_TYPE in more
        root = identifier == self._root
        self._spans.append(
            Span(
                trace_id=self.trajectory_id,
                span_id=identifier,
                parent_span_id=b"" if root else self._root,
                name=operation,
                start_time_unix_nano=self.began_ns if root else self.now_ns,
                end_time_unix_nano=self.now_ns + _STEP_NS,
                attributes=[_attribute(k, v) for k, v in attributes.items()],
                status=Status(code=Status.STATUS_CODE_ERROR) if failed else None,
            )
        )
        self.now_ns += _STEP_NS

    def request(self) -> ExportTraceServiceRequest:
        """All spans, the root last, as they are sent."""
        self._span(self._root, semconv.INVOKE_AGENT, {})
        self._spans[-1].attributes.append(_attribute(semconv.TRAJECTORY_ROOT, True))
        request = ExportTraceServiceRequest()
        group = request.resource_spans.add()
        group.resource.attributes.append(_attribute("service.name", AGENT))
        group.scope_spans.add().spans.extend(self._spans)
        return request


def _wishes(tools: Sequence[Tool]) -> list[_Wish]:
    """Sentences that need one tool each; those of another shop say so."""
    position = {tool.name: i for i, tool in enumerate(tools)}
    single = [(r.text, r.tools[0]) for r in requests.train() if len(r.tools) == 1]
    shops = range(-(-len(tools) // len(DESK)))
    wishes = []
    for shop in shops:
        suffix = tools[shop * len(DESK)].name.removeprefix(DESK[0].name)
        about = f" It is about the {_OTHER} {_letter(shop)}." if shop else ""
        wishes += [
            _Wish(text + about, position[name + suffix])
            for text, name in single
            if name + suffix in position
        ]
    return list(islice(cycle(wishes), max(len(wishes), DECISIONS)))


def _fill(record: decision_pb2.DecisionRecord, decision: Decision) -> None:
    record.arm, record.arm_propensity = decision.arm, decision.propensity
    record.temperature, record.floor = decision.temperature, decision.floor
    record.defer_floor, record.top_k = decision.defer_floor, decision.top_k
    for arm in decision.support:
        record.support.add(
            kind=int(arm.kind),
            tools=arm.tools,
            score=arm.score,
            probability=arm.probability,
        )


def _message(tool: Tool) -> common_pb2.Tool:
    return common_pb2.Tool(
        fingerprint=tool.fingerprint,
        name=tool.name,
        description=tool.description,
        parameters_json="{}",
    )


def _attribute(key: str, value: str | int | bool) -> KeyValue:
    match value:
        case bool():
            return KeyValue(key=key, value=AnyValue(bool_value=value))
        case int():
            return KeyValue(key=key, value=AnyValue(int_value=value))
        case _:
            return KeyValue(key=key, value=AnyValue(string_value=value))


def _record(number: int, **fact: object) -> bytes:
    at = _START_NS + (number + 1) * _EPISODE_NS
    record = log_pb2.LogRecord(received_unix_nano=at, **fact)  # type: ignore[arg-type]  # one fact
    return record.SerializeToString()
