"""What time brings about: idle runs close, default rewards are given, each once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from agentgym.proto.v1 import log_pb2
from agentgym_daemon.clock import ManualClock
from agentgym_daemon.rewards.housekeeping import Housekeeping

OVERDUE = (b"a" * 16, b"b" * 16)


class Pending:
    """Says what is overdue, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def idle_since(self, before_ns: int) -> Sequence[bytes]:
        self.asked.append(before_ns)
        return OVERDUE

    def unrewarded_since(self, before_ns: int) -> Sequence[bytes]:
        self.asked.append(before_ns)
        return OVERDUE


class House:
    """A housekeeping with its surroundings."""

    def __init__(self, default_reward: float | None) -> None:
        self.clock = ManualClock()
        self.pending = Pending()
        self.records: list[log_pb2.LogRecord] = []
        self.keeping = Housekeeping(
            self.pending,
            append=self._append,
            clock=self.clock,
            idle_ttl_s=300,
            default_reward=default_reward,
            default_reward_after_s=60,
        )

    async def _append(self, record: log_pb2.LogRecord) -> int:
        self.records.append(record)
        return len(self.records)


async def test_idle_runs_close_as_facts_once_the_daemon_has_been_up_long_enough() -> None:
    house = House(None)
    assert await house.keeping.close_idle() == 0

    house.clock.advance(301)

    assert await house.keeping.close_idle() == 2
    assert [record.closure.trajectory_id for record in house.records] == list(OVERDUE)
    assert {record.closure.reason for record in house.records} == {"idle"}
    assert house.pending.asked == [house.clock.now_ns() - 300 * 10**9]


async def test_without_the_setting_no_default_reward_is_given() -> None:
    house = House(None)

    assert await house.keeping.give_defaults() == 0
    assert house.pending.asked == []


@pytest.mark.parametrize("value", [0.0, 1.0])
async def test_the_default_reward_is_a_fact_that_says_so_and_repeats_itself(value: float) -> None:
    house = House(value)

    assert await house.keeping.give_defaults() == 2
    assert await house.keeping.give_defaults() == 2

    facts = [record.reward for record in house.records]
    assert {(fact.reward.value, fact.reward.source) for fact in facts} == {(value, "default")}
    assert facts[0].reward.idempotency_key == facts[2].reward.idempotency_key
    assert facts[0].reward_id != facts[1].reward_id
    assert facts[0].reward.reason == "no reward came in time"


async def test_nothing_overdue_writes_nothing() -> None:
    house = House(1.0)
    house.pending.idle_since = lambda before_ns: ()  # type: ignore[method-assign]
    house.pending.unrewarded_since = lambda before_ns: ()  # type: ignore[method-assign]
    house.clock.advance(1000)

    assert await house.keeping.close_idle() == await house.keeping.give_defaults() == 0
    assert house.records == []


async def test_a_clock_that_is_set_forward_ends_no_run_that_is_under_way() -> None:
    house = House(None)
    house.clock.advance(400)
    await house.keeping.close_idle()
    received_ns = house.clock.now_ns()

    house.clock.step(6 * 3600)
    await house.keeping.close_idle()
    assert house.pending.asked[-1] < received_ns

    house.clock.advance(301)
    await house.keeping.close_idle()
    assert house.pending.asked[-1] >= received_ns
