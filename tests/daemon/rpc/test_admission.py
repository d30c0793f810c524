"""Who may add facts, and what a refusal says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc import aio

from agentgym import semconv
from agentgym_daemon.clock import ManualClock
from agentgym_daemon.errors import NotReadyError, QuotaError
from agentgym_daemon.rpc.admission import Admission, Disk, Limits

LIMITS = Limits(min_free_bytes=1000, max_backlog_bytes=500, quota_bytes_per_s=100.0)


class FakeDisk:
    """A disk with as much space as a test says."""

    def __init__(self) -> None:
        self.bytes, self.wal = 10_000, 0

    def free(self) -> int:
        return self.bytes

    def needed(self, min_free_bytes: int) -> int:
        return max(min_free_bytes, 2 * self.wal)


class Door:
    """An admission whose surroundings a test changes."""

    def __init__(self) -> None:
        self.disk, self.clock, self.counts = FakeDisk(), ManualClock(), Counter[str]()
        self.broken, self.backlog = "", 0
        self.admission = Admission(
            LIMITS,
            disk=self.disk,  # type: ignore[arg-type]
            broken=lambda: self.broken,
            backlog=lambda: self.backlog,
            clock=self.clock,
            count=lambda name: self.counts.update([name]),
        )

    def refusal(self, size: int = 1, source: str = "a") -> Any:
        return self.admission.refusal(source, size)


@pytest.fixture
def door() -> Door:
    return Door()


def test_a_healthy_daemon_takes_what_comes(door: Door) -> None:
    assert door.refusal() is None
    assert door.admission.not_ready() == door.admission.overloaded() == ""


def test_a_failed_log_a_full_disk_and_a_big_wal_make_it_not_ready(door: Door) -> None:
    door.broken = "the log failed"
    failed = door.refusal()
    door.broken, door.disk.bytes = "", 999
    full = door.refusal()
    door.disk.bytes, door.disk.wal = 3000, 1501
    wal = door.refusal()

    assert [type(refusal) for refusal in (failed, full, wal)] == [NotReadyError] * 3
    assert "the log failed" in str(failed)
    assert "999 bytes free, expected at least 1000" in str(full)
    assert "3000 bytes free, expected at least 3002" in str(wal)
    assert door.counts["refused_not_ready"] == 3


def test_a_database_far_behind_and_a_slow_disk_are_overload(door: Door) -> None:
    door.backlog = 501
    behind = door.refusal()
    door.backlog, door.admission.waiting_bytes = 0, 2**26 + 1
    slow = door.refusal()

    assert "the database is 501 bytes behind the log" in str(behind)
    assert "bytes wait for the disk" in str(slow)
    assert door.counts["refused_overload"] == 2


def test_one_sender_over_its_quota_does_not_cost_the_others(door: Door) -> None:
    taken = [door.refusal(50, "greedy") for _ in range(5)]
    others = [door.refusal(50, f"normal {i}") for i in range(9)]

    assert [refusal is None for refusal in taken] == [True] * 4 + [False]
    assert isinstance(taken[-1], QuotaError)
    assert others == [None] * 9


def test_the_delay_of_a_quota_is_when_there_is_some_again(door: Door) -> None:
    door.refusal(500)
    refused = door.refusal(1)
    door.clock.advance(refused.retry_after_s - 0.1)
    early = door.refusal(1)
    door.clock.advance(0.2)

    assert refused.retry_after_s == pytest.approx(3.01)
    assert early is not None
    assert door.refusal(1) is None


def test_limits_of_zero_are_none(door: Door) -> None:
    door.admission.limits = Limits(
        min_free_bytes=0, max_backlog_bytes=0, quota_bytes_per_s=0.0, max_waiting_bytes=0
    )
    door.backlog, door.admission.waiting_bytes = 2**60, 2**60

    assert door.refusal(2**60) is None


def test_the_disk_is_looked_at_a_few_times_a_second(tmp_path: Path) -> None:
    clock, wal = ManualClock(), tmp_path / "wal"
    disk = Disk(tmp_path, wal, clock)
    before = disk.needed(1)
    wal.write_bytes(b"x" * 100)
    cached = disk.needed(1)
    clock.advance(1)

    assert (before, cached, disk.needed(1)) == (1, 1, 200)
    assert disk.needed(0) == 0
    assert disk.free() > 0


async def refused(call: Any) -> tuple[grpc.StatusCode, float]:
    """The code of a refused call and the delay that it names in both places."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    trailing = dict(caught.value.trailing_metadata() or ())
    delay = RetryInfo.FromString(trailing["google.rpc.retryinfo-bin"]).retry_delay
    status, detail = Status.FromString(trailing["grpc-status-details-bin"]), RetryInfo()
    assert status.code == caught.value.code().value[0]
    assert status.details[0].Unpack(detail)
    assert detail.retry_delay == delay
    return caught.value.code(), delay.ToMilliseconds() / 1000


async def test_a_refused_call_names_the_delay_and_reading_goes_on(
    open_desk: Any, spans_of: Any
) -> None:
    async with open_desk(min_free_bytes=2**62) as desk:
        code, delay_s = await refused(desk.client.call(desk.client.traces.Export, spans_of(1)))
        status = await desk.client.status()

        assert code == grpc.StatusCode.UNAVAILABLE
        assert delay_s > 0
        assert not status.ready
        assert "bytes free" in status.not_ready
        assert status.counters["refused_not_ready"] == 1
        assert status.log_end == desk.began


async def test_quotas_are_per_producer(open_desk: Any, spans_of: Any) -> None:
    async with open_desk(quota_bytes_per_s=1) as desk:
        greedy = desk.another(desk.token, (semconv.METADATA_PRODUCER, b"g" * 16))
        other = desk.another(desk.token, (semconv.METADATA_PRODUCER, b"o" * 16))
        await greedy.call(greedy.traces.Export, spans_of(1))

        code, delay_s = await refused(greedy.call(greedy.traces.Export, spans_of(2)))
        await other.call(other.traces.Export, spans_of(3))

        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert delay_s > 1
        await greedy.channel.close()
        await other.channel.close()
