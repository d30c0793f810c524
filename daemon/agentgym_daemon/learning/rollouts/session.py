"""How a rollout asks the policy for its tools, and what it leaves behind as spans.

    with lightning.tool_run(resources, rollout, task="Where is order 7?") as run:
        step = run.step(tools)
        name = step.tool or my_model(tools)     # None: the policy leaves the choice to you
        step.called(name, error=False)
        run.step(tools).answered()

One span per call (`execute_tool`), and one with the decisions, from which the algorithm and the
daemon learn. A step of which nothing came is recorded as not completed, and not learned from.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from agentgym import semconv
from agentgym.policy.messages import features_message
from agentgym.proto.v1 import catalogue_pb2, common_pb2, decision_pb2, training_pb2
from agentgym.trajectory import ArmKind, Assignment, Decision, Fallback, PastCall, Tool
from agentgym_daemon.learning.rollouts.served import Served

RECORD_SPAN = "agentgym.decisions"
RECORD, CATALOGUE = "agentgym.lightning.record", "agentgym.lightning.catalogue"
"""Attributes of that span: a RecordRequest and a PutRequest, base64."""
_ID_BYTES = 8
_MAX_TASK_STEPS = 1000


class PlainSpan(NamedTuple):
    """A span before Agent Lightning's types; times in Unix seconds."""

    name: str
    attributes: dict[str, Any]
    start_s: float
    end_s: float
    error: str = ""


class ToolStep:
    """One turn: what the policy wants done, and what was done."""

    def __init__(self, run: ToolRun, record: decision_pb2.DecisionRecord, tool: str | None) -> None:
        self._run, self._record = run, record
        self.tool = tool
        """Name of the tool to call now; None: choose yourself, a tool or the answer."""

    def called(self, name: str, *, error: bool = False) -> None:
        """Says that a tool was called in this turn, and whether it failed visibly."""
        self._run.note_call(self._record, name, error=error)

    def answered(self) -> None:
        """Says that the agent answered instead of calling a tool."""
        self._record.completed = True


@dataclass
class ToolRun:
    """One rollout; ask it before each turn of the model. Not for several threads at once."""

    served: Served
    task: str
    trajectory_id: bytes
    key: str = ""
    greedy: bool = False
    clock: Callable[[], float] = time.time
    _rng: random.Random = field(init=False)
    _request: decision_pb2.RecordRequest = field(init=False)
    _tools: dict[bytes, Tool] = field(init=False, default_factory=dict)
    _history: list[PastCall] = field(init=False, default_factory=list)
    _spans: list[PlainSpan] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        serving = self.served.serving
        # By the trajectory alone, so that a run can be repeated whatever the runners' order was.
        self._rng = random.Random(f"{serving.seed}:{self.trajectory_id.hex()}")
        self._started = self.clock()
        self._features_id = _identifier(self.trajectory_id, "task")
        self._vector = self.served.features(self.task)
        self._request = decision_pb2.RecordRequest(
            features=[
                features_message(
                    self.trajectory_id,
                    self._features_id,
                    self._vector,
                    self.served.feature_schema,
                )
            ]
        )
        self.assignment, self.assignment_probability = self._assign()

    def _assign(self) -> tuple[Assignment, float]:
        if not self.served.version:
            return Assignment.NONE, 0.0
        if self.greedy:
            return Assignment.PINNED, 1.0
        share = self.served.serving.control_share
        if self._rng.random() < share:
            return Assignment.CONTROL, share
        return Assignment.POLICY, 1.0 - share

    @property
    def controlled(self) -> bool:
        """Whether this rollout runs without the policy, for comparison."""
        return self.assignment is Assignment.CONTROL

    def step(self, tools: Sequence[Tool]) -> ToolStep:
        """Begins a turn in which the agent may use `tools`."""
        if not tools:
            raise ValueError("expected at least one tool; a turn without tools needs no policy")
        if len(self._request.decisions) >= _MAX_TASK_STEPS:
            raise RuntimeError(
                f"expected an end after {_MAX_TASK_STEPS} turns; does the agent loop?"
            )
        self._tools.update((tool.fingerprint, tool) for tool in tools)
        record = self._record(tools)
        forced = None
        if self.assignment in (Assignment.POLICY, Assignment.PINNED):
            rng = None if self.greedy else self._rng
            decision = self.served.decide(self._vector, tools, self._history, rng)
            if decision is None:
                record.fallback = common_pb2.FALLBACK_PROTECTED
            else:
                _add_decision(record, decision)
                if decision.taken.kind is ArmKind.FORCE:
                    forced = tools[decision.taken.tools[0]].name
        return ToolStep(self, record, forced)

    def _record(self, tools: Sequence[Tool]) -> decision_pb2.DecisionRecord:
        serving, number = self.served.serving, len(self._request.decisions)
        record = self._request.decisions.add(
            decision_id=_identifier(self.trajectory_id, f"step {number}"),
            trajectory_id=self.trajectory_id,
            step=number,
            scope=common_pb2.Scope(
                agent=serving.agent,
                agent_name=serving.agent_name,
                feature_schema=self.served.feature_schema,
            ),
            agent_path=[serving.agent_name or serving.agent],
            time_unix_nano=int(self.clock() * 1e9),
            mode=common_pb2.MODE_STEER,
            assignment=int(self.assignment),
            assignment_probability=self.assignment_probability,
            fallback=int(Fallback.NONE if self.served.version else Fallback.NO_POLICY),
            policy_version=self.served.version,
            offered=[tool.fingerprint for tool in tools],
            allowed=[not tool.protected for tool in tools],
            shown=range(len(tools)),
            arm=-1,
            features_id=self._features_id,
            force="hard",
        )
        for past in self._history:
            record.history.add(tool=past.tool, error=past.error)
        return record

    def note_call(self, record: decision_pb2.DecisionRecord, name: str, *, error: bool) -> None:
        """What `ToolStep.called` does."""
        offered = {self._tools[f].name: f for f in reversed(record.offered)}
        record.completed = True
        record.called.append(name)
        self._history.append(PastCall(offered.get(name, b""), error=error))
        now = self.clock()
        attributes = {
            semconv.OPERATION_NAME: semconv.EXECUTE_TOOL,
            semconv.TOOL_NAME: name,
            semconv.DECISION_ID: record.decision_id.hex(),
        }
        if error:
            attributes[semconv.ERROR_TYPE] = "tool_error"
        span_name = f"{semconv.EXECUTE_TOOL} {name}"
        self._spans.append(PlainSpan(span_name, attributes, now, now, "tool_error" * error))

    def spans(self) -> list[PlainSpan]:
        """What happened so far; the decisions come last."""
        serving = self.served.serving
        catalogue = catalogue_pb2.PutRequest(agent=serving.agent)
        catalogue.tools.extend(_tool_message(tool) for tool in self._tools.values())
        attributes = {
            RECORD: base64.b64encode(self._request.SerializeToString()).decode(),
            CATALOGUE: base64.b64encode(catalogue.SerializeToString()).decode(),
            semconv.TRAJECTORY_ID: self.trajectory_id.hex(),
            semconv.TRAJECTORY_KEY: self.key,
            semconv.POLICY_VERSION: self.served.version,
        }
        return [*self._spans, PlainSpan(RECORD_SPAN, attributes, self._started, self.clock())]


@dataclass(frozen=True)
class ReadRun:
    """A rollout as its spans tell it."""

    trajectory_id: bytes
    record: decision_pb2.RecordRequest
    catalogue: catalogue_pb2.PutRequest
    calls: tuple[training_pb2.TrainingCall, ...]

    @property
    def controlled(self) -> bool:
        """Whether it ran without the policy, for comparison."""
        return any(d.assignment == common_pb2.ASSIGNMENT_CONTROL for d in self.record.decisions)

    def training(
        self, reward: float | None, closed_unix_nano: int
    ) -> training_pb2.TrainingTrajectory:
        """The rollout as the trainer's snapshot holds it."""
        return training_pb2.TrainingTrajectory(
            trajectory_id=self.trajectory_id,
            reward=reward,
            closed_unix_nano=closed_unix_nano,
            decisions=self.record.decisions,
            features=self.record.features,
            calls=self.calls,
        )


def read_run(spans: Iterable[tuple[str, Mapping[str, Any]]]) -> ReadRun | None:
    """Reads (name, attributes) of a rollout's spans; None if it never asked the policy."""
    record, calls = None, []
    for name, attributes in spans:
        if name == RECORD_SPAN:
            record = attributes
        elif attributes.get(semconv.OPERATION_NAME) == semconv.EXECUTE_TOOL:
            calls.append(
                training_pb2.TrainingCall(
                    decision_id=bytes.fromhex(attributes.get(semconv.DECISION_ID, "")),
                    tool=attributes.get(semconv.TOOL_NAME, ""),
                    error=semconv.ERROR_TYPE in attributes,
                )
            )
    if record is None:
        return None
    return ReadRun(
        trajectory_id=bytes.fromhex(record[semconv.TRAJECTORY_ID]),
        record=decision_pb2.RecordRequest.FromString(base64.b64decode(record[RECORD])),
        catalogue=catalogue_pb2.PutRequest.FromString(base64.b64decode(record[CATALOGUE])),
        calls=tuple(calls),
    )


def trajectory_id_of(attempt_id: str) -> bytes:
    """The trajectory of an attempt; ids of attempts are unique, so these are."""
    return hashlib.sha256(attempt_id.encode()).digest()[:16]


def _identifier(trajectory_id: bytes, what: str) -> bytes:
    return hashlib.sha256(trajectory_id + what.encode()).digest()[:_ID_BYTES]


def _tool_message(tool: Tool) -> common_pb2.Tool:
    return common_pb2.Tool(
        fingerprint=tool.fingerprint,
        name=tool.name,
        description=tool.description,
        parameters_json=json.dumps(dict(tool.parameters), sort_keys=True, default=str),
    )


def _add_decision(record: decision_pb2.DecisionRecord, decision: Decision) -> None:
    for arm in decision.support:
        record.support.add(
            kind=int(arm.kind),
            tools=arm.tools,
            score=arm.score,
            probability=arm.probability,
        )
    record.arm, record.arm_propensity = decision.arm, decision.propensity
    record.temperature, record.floor = decision.temperature, decision.floor
    record.defer_floor, record.top_k = decision.defer_floor, decision.top_k
    record.greedy = decision.greedy
