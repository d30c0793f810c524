"""A long history as log records, made by filling templates: a week of it costs minutes.

Ten spans a trajectory, as our plugin makes them; a third of the trajectories have decisions, half
of them get a reward, some minutes later.
"""

from __future__ import annotations

import random
import struct
from collections import deque
from collections.abc import Iterator

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from agentgym import semconv
from agentgym.proto.v1 import common_pb2, decision_pb2, log_pb2, reward_pb2

AGENT = "desk"
TOOLS = tuple(f"tool_{number:02}" for number in range(25))
SPANS = 10
"""Of a trajectory: the run, four turns of the model, five tool calls."""
START_NS = 1_790_000_000_000_000_000
EVERY_NS = 600_000_000
"""From one trajectory to the next: a million of them are a week."""
_PER_REQUEST = 6
_REWARD_AFTER = 500
_VARIANTS = 40
_TRACE = bytes.fromhex("a1b2c3d4e5f60718a1b2c3d4e5f60718")
_DECISION = bytes.fromhex("0f1e2d3c4b5a")
_FRAME_BYTES = 8
_MARK_OF_ROOT = f"invoke_agent {AGENT}".encode()
_TIME = struct.Struct("<Q")
_SCOPE = common_pb2.Scope(agent=AGENT, agent_name="helper", feature_schema=1)

Entry = tuple[int, bytes]


def trajectory_id(number: int) -> bytes:
    """The id of a trajectory of the history, spread as random ids are."""
    return random.Random(number).randbytes(16)


def decision_id(number: int, step: int) -> bytes:
    """The id of a decision of a trajectory that has decisions."""
    return random.Random(number).randbytes(22)[16:] + bytes([0, step])


def has_decisions(number: int) -> bool:
    """Whether a trajectory was decided by us."""
    return number % 3 == 0


def is_rewarded(number: int) -> bool:
    """Whether a trajectory gets a reward."""
    return number % 2 == 0


def reward_key(number: int) -> str:
    """Idempotency key of a trajectory's reward."""
    return f"outcome-{number}"


def entries(trajectories: int) -> Iterator[Entry]:
    """The log's entries (end offset, payload) of so many trajectories."""
    end = 0
    for payload in _payloads(trajectories):
        end += len(payload) + _FRAME_BYTES
        yield end, payload


def _payloads(trajectories: int) -> Iterator[bytes]:
    templates = [_Template(variant) for variant in range(_VARIANTS)]
    decided = _decisions().SerializeToString()
    waiting: deque[int] = deque()
    for first in range(0, trajectories, _PER_REQUEST):
        numbers = range(first, min(first + _PER_REQUEST, trajectories))
        at = START_NS + numbers[-1] * EVERY_NS
        requests = [_fill(decided, number) for number in numbers if has_decisions(number)]
        if requests:
            yield _record(at, decisions=b"".join(requests))
        spans = [templates[n % _VARIANTS].fill(n, START_NS + n * EVERY_NS) for n in numbers]
        yield _record(at + EVERY_NS, otlp_traces=b"".join(spans))
        waiting.extend(filter(is_rewarded, numbers))
        while waiting and (
            waiting[0] < first - _REWARD_AFTER or first + _PER_REQUEST >= trajectories
        ):
            yield _reward(waiting.popleft(), at)


def reward(number: int, key: str, value: float, at: int) -> bytes:
    """The record of a reward."""
    given = reward_pb2.Reward(
        trajectory_id=trajectory_id(number),
        value=value,
        name="outcome",
        source="user",
        idempotency_key=key,
        time_unix_nano=at,
    )
    return _record(at, reward=log_pb2.RewardFact(reward_id=f"r-{key}", reward=given))


def _reward(number: int, at: int) -> bytes:
    return reward(number, reward_key(number), float(number % 5 < 3), at)


def _record(at: int, **fact: object) -> bytes:
    return log_pb2.LogRecord(received_unix_nano=at, **fact).SerializeToString()  # type: ignore[arg-type]


def _fill(template: bytes, number: int) -> bytes:
    identifier = random.Random(number).randbytes(22)
    return template.replace(_TRACE, identifier[:16]).replace(_DECISION, identifier[16:])


class _Template:
    """A request of one trajectory, with places for its id and its times."""

    def __init__(self, variant: int) -> None:
        request, self._times = _request(variant)
        self._bytes = request.SerializeToString()
        self._places = [
            (self._bytes.index(_TIME.pack(_mark(position))), offset_ns)
            for position, offset_ns in enumerate(self._times)
        ]

    def fill(self, number: int, start_ns: int) -> bytes:
        """The request of this trajectory."""
        identifier = random.Random(number).randbytes(16)
        data = bytearray(self._bytes.replace(_TRACE, identifier))
        key = f"{number:012}".encode()
        data = data.replace(b"k" * 12, key)
        for place, offset_ns in self._places:
            _TIME.pack_into(data, place, start_ns + offset_ns)
        return bytes(data)


def _mark(position: int) -> int:
    return 0x7A5C_3E1F_0000_0000 + position


def _request(variant: int) -> tuple[ExportTraceServiceRequest, list[int]]:
    rng = random.Random(variant)
    request = ExportTraceServiceRequest()
    scope_spans = request.resource_spans.add().scope_spans.add()
    times: list[int] = []
    group = {
        semconv.MODE: "steer",
        semconv.ASSIGNMENT: "control" if variant % 5 == 0 else "policy",
        semconv.POLICY_VERSION: "" if variant % 5 == 0 else f"p-{1 + variant % 3:06}",
    }
    at = 0
    for number in range(SPANS):
        duration = int(rng.lognormvariate(0, 1) * 2e8)
        mine: dict[str, bool | int | str]
        common = {semconv.AGENT: AGENT, semconv.FRAMEWORK: "langchain"}
        span = scope_spans.spans.add(trace_id=_TRACE, span_id=(number + 1).to_bytes(8, "big"))
        if number == SPANS - 1:
            span.name = f"invoke_agent {AGENT}"
            mine = {
                semconv.OPERATION_NAME: semconv.INVOKE_AGENT,
                semconv.TRAJECTORY_ROOT: True,
                semconv.TRAJECTORY_KEY: "k" * 12,
                **group,
            }
            times += [0, at]
        else:
            span.parent_span_id = SPANS.to_bytes(8, "big")
            mine = _step(number, rng)
            span.name = " ".join(str(value) for value in list(mine.values())[:2])
            times += [at, at + duration]
            at += duration
        for key, value in {**common, **mine}.items():
            pair = span.attributes.add(key=key)
            kind = {bool: "bool_value", int: "int_value", str: "string_value"}[type(value)]
            setattr(pair.value, kind, value)
        span.start_time_unix_nano = _mark(2 * number)
        span.end_time_unix_nano = _mark(2 * number + 1)
    return request, times


def _step(number: int, rng: random.Random) -> dict[str, bool | int | str]:
    if number % 2:
        return {
            semconv.OPERATION_NAME: semconv.CHAT,
            "gen_ai.request.model": "model-large",
            semconv.INPUT_TOKENS: rng.randrange(200, 4000),
            semconv.OUTPUT_TOKENS: rng.randrange(20, 400),
            "gen_ai.response.finish_reasons": "tool_calls",
        }
    failed = {semconv.ERROR_TYPE: "Timeout"} if rng.random() < 0.1 else {}
    return {
        semconv.OPERATION_NAME: semconv.EXECUTE_TOOL,
        semconv.TOOL_NAME: rng.choice(TOOLS),
        "gen_ai.tool.call.id": f"call_{rng.randrange(10**9):09}",
        "agentgym.arguments.bytes": rng.randrange(2000),
        **failed,
    }


def _decisions() -> decision_pb2.RecordRequest:
    request = decision_pb2.RecordRequest()
    request.features.add(
        features_id=b"features",
        trajectory_id=_TRACE,
        feature_schema=1,
        index=range(0, 400, 8),
        quantised=bytes(range(50)),
        scale=2.0,
    )
    for step in range(3):
        request.decisions.add(
            decision_id=_DECISION + bytes([0, step]),
            trajectory_id=_TRACE,
            scope=_SCOPE,
            step=step,
            mode=common_pb2.MODE_STEER,
            assignment=common_pb2.ASSIGNMENT_POLICY,
            policy_version="p-000001",
            offered=[tool.encode() for tool in TOOLS],
            support=[
                decision_pb2.Arm(kind=decision_pb2.Arm.KIND_DEFER, probability=0.25),
                decision_pb2.Arm(kind=decision_pb2.Arm.KIND_FORCE, tools=[0], probability=0.75),
            ],
            arm=1,
            arm_propensity=0.75,
            called=[TOOLS[0]],
            features_id=b"features",
        )
    return request


def spans_in(payload: bytes) -> int:
    """How many spans a record of the history holds."""
    record = log_pb2.LogRecord.FromString(payload)
    return record.otlp_traces.count(_MARK_OF_ROOT) * SPANS
