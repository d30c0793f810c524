"""The ledger: queue, attempts, what it keeps and what it forgets."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from agentgym_daemon.learning.rollouts.ledger import KEPT_RESOURCES, Ledger
from agentgym_daemon.learning.rollouts.records import AttemptRecord, RolloutRecord


@dataclass
class Config:
    """Rules for retries, as agentlightning's RolloutConfig."""

    timeout_seconds: float | None = None
    unresponsive_seconds: float | None = None
    max_attempts: int = 1
    retry_condition: Sequence[str] = ()


@dataclass
class Span:
    """What the ledger needs of a span."""

    attempt_id: str
    sequence_id: int
    span_id: str


@dataclass
class Clock:
    """Time that the test moves."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Ended:
    """What was told of finished rollouts."""

    told: list[tuple[str, str, int]] = field(default_factory=list)

    def __call__(
        self, rollout: RolloutRecord, attempt: AttemptRecord | None, spans: Sequence[Any]
    ) -> None:
        self.told.append((rollout.status, attempt.attempt_id if attempt else "", len(spans)))


def test_the_queue_is_served_in_order_and_only_once() -> None:
    ledger = Ledger(name="t")
    queued = [ledger.enqueue(n, config=Config()).rollout_id for n in range(3)]

    taken = [ledger.dequeue("w") for _ in range(4)]

    assert [found[0].rollout_id for found in taken if found] == queued
    assert taken[3] is None
    assert queued[0] == "ro-t-00000001"


def test_what_is_returned_is_a_copy() -> None:
    ledger = Ledger()
    rollout = ledger.enqueue({}, config=Config(), metadata={"a": 1})
    rollout.status = "succeeded"

    known = ledger.rollout(rollout.rollout_id)
    assert known is not None
    assert known.status == "queuing"


def test_an_end_is_told_once_with_the_spans_of_the_last_attempt() -> None:
    ended = Ended()
    ledger = Ledger(name="t", on_finished=ended)
    config = Config(max_attempts=2, retry_condition=("failed",))
    rollout_id = ledger.enqueue({}, config=config).rollout_id
    for status, spans in (("failed", 1), ("succeeded", 2)):
        found = ledger.dequeue(None)
        assert found is not None
        attempt_id = found[1].attempt_id
        for _ in range(spans):
            number = ledger.sequence(rollout_id, attempt_id)
            ledger.add_span(rollout_id, attempt_id, Span(attempt_id, number, str(number)))
        ledger.update_attempt(rollout_id, attempt_id, {"status": status})
    ledger.update_attempt(rollout_id, "latest", {"status": "failed"})  # too late

    assert ended.told == [("succeeded", "ro-t-00000001-2", 2)]
    assert len(ledger.spans(rollout_id)) == 3
    assert len(ledger.spans(rollout_id, "latest")) == 2


def test_an_old_attempt_does_not_move_the_rollout() -> None:
    ledger = Ledger()
    first, attempt = ledger.start({}, config=Config(), worker_id="w")
    ledger.retry(first.rollout_id, "w")

    ledger.update_attempt(first.rollout_id, attempt.attempt_id, {"status": "succeeded"})

    known = ledger.rollout(first.rollout_id)
    assert known is not None
    assert known.status == "preparing"


@pytest.mark.parametrize(
    ("config", "status"),
    [(Config(timeout_seconds=10), "timeout"), (Config(unresponsive_seconds=5), "unresponsive")],
)
def test_overdue_attempts_end_when_somebody_asks(config: Config, status: str) -> None:
    clock = Clock()
    ledger = Ledger(clock=clock)
    rollout, attempt = ledger.start({}, config=config, worker_id="w")
    clock.now += 4
    ledger.add_span(rollout.rollout_id, attempt.attempt_id, Span(attempt.attempt_id, 1, "a"))
    clock.now += 4
    assert ledger.wait([rollout.rollout_id], 0) == []
    clock.now += 3

    (ended,) = ledger.wait([rollout.rollout_id], 0)

    assert (ended.status, ended.end_time) == ("failed", clock.now)
    assert ledger.attempts(rollout.rollout_id)[0].status == status
    assert ledger.workers["w"].status == "unknown"


def test_waiting_ends_with_the_last_rollout() -> None:
    ledger = Ledger()
    started = [ledger.start(n, config=Config(), worker_id=None) for n in range(2)]

    def finish() -> None:
        for rollout, attempt in started:
            ledger.update_attempt(rollout.rollout_id, attempt.attempt_id, {"status": "succeeded"})

    thread = threading.Timer(0.05, finish)
    thread.start()
    ended = ledger.wait([rollout.rollout_id for rollout, _ in started], 10)
    thread.join()

    assert [rollout.status for rollout in ended] == ["succeeded", "succeeded"]


def test_the_oldest_finished_rollouts_are_forgotten() -> None:
    ledger = Ledger(kept=2)
    ids = []
    for number in range(4):
        rollout, attempt = ledger.start(number, config=Config(), worker_id=None)
        ids.append(rollout.rollout_id)
        ledger.update_attempt(rollout.rollout_id, attempt.attempt_id, {"status": "succeeded"})

    assert [rollout.rollout_id for rollout in ledger.rollouts()] == ids[2:]
    with pytest.raises(ValueError, match="known rollout"):
        ledger.spans(ids[0])


def test_a_rollout_can_be_queued_again_and_cancelled() -> None:
    ledger = Ledger()
    rollout, _ = ledger.start({}, config=Config(), worker_id=None)
    ledger.update_rollout(rollout.rollout_id, {"status": "requeuing", "input": 7})
    found = ledger.dequeue(None)
    assert found is not None
    assert (found[0].input, found[1].sequence_id) == (7, 2)

    ledger.update_rollout(rollout.rollout_id, {"status": "cancelled"})
    ledger.update_rollout(rollout.rollout_id, {"status": "cancelled"})

    assert [r.status for r in ledger.rollouts()] == ["cancelled"]


def test_spans_of_unknown_attempts_are_refused() -> None:
    ledger = Ledger()
    rollout, _ = ledger.start({}, config=Config(), worker_id=None)

    with pytest.raises(ValueError, match="expected an attempt"):
        ledger.add_span(rollout.rollout_id, "other", Span("other", 1, "a"))
    queued = ledger.enqueue({}, config=Config())
    assert ledger.spans(queued.rollout_id, "latest") == []


def test_resources_are_kept_by_id_and_the_latest_is_known() -> None:
    ledger = Ledger(name="t")
    assert ledger.latest_resources() is None
    one = ledger.add_resources({"a": 1})
    ledger.add_resources({"a": 2})

    changed = ledger.replace_resources(one.resources_id, {"a": 3})

    latest = ledger.latest_resources()
    assert latest is not None
    assert (latest.resources_id, latest.resources, changed.version) == ("rs-t-000001", {"a": 3}, 2)
    with pytest.raises(ValueError, match="known resources"):
        ledger.replace_resources("none", {})


def test_the_oldest_resources_are_forgotten() -> None:
    ledger = Ledger(name="t")
    for number in range(KEPT_RESOURCES + 2):
        ledger.add_resources({"n": number})

    assert len(ledger.resources) == KEPT_RESOURCES
    assert next(iter(ledger.resources)) == "rs-t-000003"
