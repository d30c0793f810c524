"""Tools that stop working are found from what the applier stores, and are back once they work."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from agentgym import semconv
from agentgym.proto.v1 import catalogue_pb2, common_pb2, decision_pb2, log_pb2, reward_pb2
from agentgym_daemon.ingest.otlp import decode_traces
from agentgym_daemon.store.batch import AppliedBatch, BatchWriter
from agentgym_daemon.store.database import Store
from agentgym_daemon.store.rows import Scope
from agentgym_daemon.watching import ToolWatch

SCHEMA = 2
SCOPE = Scope("desk", "clerk", SCHEMA)
NAMES = ("find", "mail", "save")
FINGERPRINTS = {name: name.encode() * 2 for name in NAMES}
SURE: Mapping[str, float] = {"find": 0.95}
T0 = 1_700_000_000_000_000_000


class Desk:
    """Writes runs of one agent as the applier does, and has them watched."""

    def __init__(self, path: Path) -> None:
        self.store = Store.open(path)
        self.writer = BatchWriter(self.store, decode_traces)
        self.watch = ToolWatch(self.store, feature_schema=SCHEMA)
        self.runs = 0
        self._end = 0
        tools = [
            common_pb2.Tool(fingerprint=f, name=name, description=name, parameters_json="{}")
            for name, f in FINGERPRINTS.items()
        ]
        self.apply(log_pb2.LogRecord(catalogue=catalogue_pb2.PutRequest(agent="desk", tools=tools)))

    def apply(self, *records: log_pb2.LogRecord) -> AppliedBatch:
        """Applies records as one batch."""
        entries = []
        for record in records:
            record.received_unix_nano = T0
            payload = record.SerializeToString()
            self._end += len(payload)
            entries.append((self._end, payload))
        return self.writer.apply(entries)

    def run(
        self, *steps: tuple[str, bool], reward: float | None = None, **options: Any
    ) -> set[str]:
        """A run with one call (tool, failed) per step; the agents whose tools changed."""
        records = self.records(*steps, **options)
        if reward is not None:
            records.append(self.reward(self.runs, reward))
        return self.watch.take(self.apply(*records))

    def records(
        self,
        *steps: tuple[str, bool],
        scores: Mapping[str, float] = SURE,
        schema: int = SCHEMA,
        at_once: int = 1,
        lost: Sequence[int] = (),
    ) -> list[log_pb2.LogRecord]:
        """What a run leaves: decisions and spans; each call `at_once` times, `lost` undecided."""
        self.runs += 1
        trace = self.runs.to_bytes(16, "big")
        request = ExportTraceServiceRequest()
        spans = request.resource_spans.add().scope_spans.add().spans
        decisions = decision_pb2.RecordRequest()
        for number, (tool, failed) in enumerate(steps):
            decision = (100 + number).to_bytes(8, "big")
            if number not in lost:
                decisions.decisions.append(_decision(trace, decision, number, scores, schema))
            for copy in range(at_once):
                attributes = {
                    semconv.OPERATION_NAME: semconv.EXECUTE_TOOL,
                    semconv.TOOL_NAME: tool,
                    semconv.DECISION_ID: decision.hex(),
                }
                span = spans.add(trace_id=trace, span_id=bytes([2, copy, number]).rjust(8, b"\0"))
                span.parent_span_id = b"root".rjust(8, b"\0")
                _fill(span, attributes, start=T0 + number + copy)
                span.status.code = 2 if failed else 0
        root = spans.add(trace_id=trace, span_id=b"root".rjust(8, b"\0"))
        _fill(root, {semconv.OPERATION_NAME: semconv.INVOKE_AGENT}, start=T0)
        root.attributes.add(key=semconv.TRAJECTORY_ROOT, value=AnyValue(bool_value=True))
        return [
            log_pb2.LogRecord(decisions=decisions.SerializeToString()),
            log_pb2.LogRecord(otlp_traces=request.SerializeToString()),
        ]

    def reward(self, number: int, value: float) -> log_pb2.LogRecord:
        """A reward of a run."""
        reward = reward_pb2.Reward(
            trajectory_id=number.to_bytes(16, "big"),
            value=value,
            name="outcome",
            source="user",
            idempotency_key=f"{number} {value}",
            time_unix_nano=T0,
        )
        fact = log_pb2.RewardFact(reward_id=f"r{number}", reward=reward)
        return log_pb2.LogRecord(reward=fact)

    def worked(self, times: int = 30) -> None:
        """Runs of `find` that went right."""
        for _ in range(times):
            assert self.run(("find", False), reward=1.0) == set()

    def break_down(self, failed: bool = True, **options: Any) -> int:
        """Runs of `find` alone until it is down; returns how many."""
        times = 1
        while not (changed := self.run(("find", failed), **options)):
            assert times < 20
            times += 1
        assert changed == {"desk"}
        return times

    @property
    def down(self) -> list[bytes]:
        return self.watch.down("desk")


def _decision(
    trace: bytes, decision_id: bytes, number: int, scores: Mapping[str, float], schema: int
) -> decision_pb2.DecisionRecord:
    arm = decision_pb2.Arm
    return decision_pb2.DecisionRecord(
        decision_id=decision_id,
        trajectory_id=trace,
        step=number,
        scope=common_pb2.Scope(agent="desk", agent_name="clerk", feature_schema=schema),
        time_unix_nano=T0 + number,
        offered=list(FINGERPRINTS.values()),
        support=[
            arm(kind=arm.KIND_DEFER, score=0.5),
            *(arm(kind=arm.KIND_FORCE, tools=[NAMES.index(t)], score=p) for t, p in scores.items()),
        ],
        arm=-1,
    )


def _fill(span: Any, attributes: Mapping[str, str], *, start: int) -> None:
    span.start_time_unix_nano, span.end_time_unix_nano = start, start + 1000
    for key, value in {semconv.AGENT: "desk", **attributes}.items():
        span.attributes.append(KeyValue(key=key, value=AnyValue(string_value=value)))


@pytest.fixture
def open_desk(tmp_path: Path) -> Iterator[Callable[[], Desk]]:
    """Desks on databases of their own."""
    opened: list[Desk] = []

    def make() -> Desk:
        opened.append(Desk(tmp_path / f"{len(opened)}.duckdb"))
        return opened[-1]

    yield make
    for desk in opened:
        desk.store.close()


@pytest.fixture
def desk(open_desk: Callable[[], Desk]) -> Desk:
    """An agent whose tool `find` has worked so far."""
    desk = open_desk()
    desk.worked()
    return desk


def test_a_tool_that_worked_goes_down_after_a_few_visible_failures(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert 2 <= desk.break_down() <= 6

    assert desk.down == [FINGERPRINTS["find"]]
    assert desk.watch.names_down(SCOPE) == ["find"]
    assert "tools of clerk that are down: find" in caplog.text
    assert desk.watch.down("other") == []
    assert desk.run(("find", True)) == set()  # nothing new


def test_a_tool_that_failed_at_times_needs_more_failures(
    open_desk: Callable[[], Desk], desk: Desk
) -> None:
    other = open_desk()
    for _ in range(10):
        other.worked(3)
        other.run(("find", True))
    other.worked(1)

    assert other.break_down() > desk.break_down()


@pytest.mark.parametrize("scores", [{}, {"mail": 0.95}, {"find": 0.02}])
def test_wrong_choices_of_the_agent_say_nothing_of_the_tool(
    desk: Desk, scores: Mapping[str, float]
) -> None:
    for _ in range(30):
        assert desk.run(("find", True), scores=scores) == set()
        assert desk.run(("find", False), reward=0.0, scores=scores) == set()

    assert desk.down == []


@pytest.mark.parametrize(
    "options",
    [{"failed": False, "reward": 0.0}, {"at_once": 3}],
    ids=["blamed", "parallel calls"],
)
def test_other_failures_that_count_as_one_visible_one(
    options: dict[str, Any], open_desk: Callable[[], Desk], desk: Desk
) -> None:
    visibly = open_desk()
    visibly.worked()

    assert desk.break_down(**options) == visibly.break_down()


@pytest.mark.parametrize("lost", [(), (1,)])
def test_a_failed_run_of_several_calls_blames_none(desk: Desk, lost: Sequence[int]) -> None:
    for _ in range(10):
        desk.run(("find", False), ("save", False), reward=0.0, lost=lost)

    assert desk.down == []


def test_a_run_counts_once_although_it_ends_before_its_reward_comes(
    open_desk: Callable[[], Desk], desk: Desk
) -> None:
    simple = open_desk()
    simple.worked()
    assert desk.run(("find", True)) == set()

    for value in (0.0, 0.25, 0.1, 0.2, 0.3, 0.4):
        late = desk.apply(desk.reward(desk.runs, value))
        assert late.rewarded
        assert desk.watch.take(late) == set()

    assert desk.down == []
    assert 1 + desk.break_down() == simple.break_down()


def test_a_reward_that_comes_late_counts_where_nothing_was_known_before(desk: Desk) -> None:
    late = []
    for _ in range(8):
        assert desk.run(("find", False)) == set()
        late.append(desk.reward(desk.runs, 0.0))

    assert desk.watch.take(desk.apply(*late)) == {"desk"}


@pytest.mark.parametrize("scores", [SURE, {}])
def test_a_success_brings_a_tool_back_whoever_chose_it(
    desk: Desk, scores: Mapping[str, float]
) -> None:
    desk.break_down(failed=False, reward=0.0)

    assert desk.run(("find", False)) == set()  # it is not known yet how that went
    assert desk.down != []
    assert desk.run(("find", False), reward=1.0, scores=scores) == {"desk"}

    assert desk.down == []
    assert desk.watch.names_down(SCOPE) == []


def test_without_rewards_a_call_without_an_error_brings_a_tool_back(desk: Desk) -> None:
    desk.break_down()

    assert desk.run(("find", False)) == {"desk"}
    assert desk.down == []


def test_a_late_reward_tells_how_the_calls_without_an_error_went(desk: Desk) -> None:
    """The error counted when the run ended; the reward of the run speaks for the other call."""
    desk.break_down(failed=False, reward=0.0)
    assert desk.run(("find", False), ("save", True)) == set()

    late = desk.apply(desk.reward(desk.runs, 1.0))
    assert desk.watch.take(late) == {"desk"}
    again = desk.apply(desk.reward(desk.runs, 0.9))
    assert desk.watch.take(again) == set()


def test_a_restart_finds_the_same(desk: Desk) -> None:
    def restarted() -> ToolWatch:
        watch = ToolWatch(desk.store, feature_schema=SCHEMA)
        watch.load()
        return watch

    assert restarted().down("desk") == []
    desk.break_down(failed=False, reward=0.0)
    desk.run(("find", False), ("mail", True), reward=0.0)
    again = restarted()
    assert again.down("desk") == desk.down == [FINGERPRINTS["find"]]

    late = desk.apply(desk.reward(desk.runs - 1, 1.0))  # of a run that it has looked at
    assert again.take(late) == set()
    assert again.down("desk") == desk.down

    desk.run(("find", False), reward=1.0)
    assert restarted().down("desk") == desk.down == []


def test_runs_of_another_feature_schema_are_ignored(desk: Desk) -> None:
    for _ in range(5):
        assert desk.run(("find", True), schema=1) == set()
    assert desk.down == []

    other = ToolWatch(desk.store, feature_schema=3)
    other.load()
    assert other.down("desk") == []


def test_a_tool_that_no_step_offered_says_nothing(desk: Desk) -> None:
    for _ in range(5):
        assert desk.run(("elsewhere", True)) == set()

    assert desk.down == []


def test_a_batch_that_ends_nothing_is_not_looked_at(desk: Desk) -> None:
    assert desk.watch.take(desk.apply(*desk.records(("find", True))[:1])) == set()
