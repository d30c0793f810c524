"""What plugins say of themselves."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from grpc import aio

from agentgym.proto.v1 import producer_pb2, producer_pb2_grpc
from agentgym_daemon.clock import ManualClock
from agentgym_daemon.rpc.producers import FORGET_S, MAX_PRODUCERS, Producers


def report(number: int, **counters: int) -> producer_pb2.ProducerReport:
    dotted = {name.replace("_", ".", 1): count for name, count in counters.items()}
    return producer_pb2.ProducerReport(
        producer_id=number.to_bytes(16, "big"), agent="desk", counters=dotted
    )


def test_the_latest_report_of_a_producer_counts() -> None:
    producers = Producers(ManualClock())
    producers.take(report(1, produced_spans=5))
    producers.take(report(2, produced_spans=1))
    producers.take(report(1, produced_spans=7, dropped_spans=1))

    assert producers.sums() == {"produced.spans": 8, "dropped.spans": 1}
    assert [s.report.producer_id[-1] for s in producers.newest()] == [1, 2]


def test_who_is_silent_for_a_day_is_forgotten_but_not_what_it_made() -> None:
    clock = ManualClock()
    producers = Producers(clock)
    producers.take(report(1, produced_spans=5, pending_spans=2))
    clock.advance(FORGET_S + 1)

    assert producers.newest() == []
    assert producers.sums() == {"produced.spans": 5}


def test_only_so_many_are_kept() -> None:
    producers = Producers(ManualClock())
    for number in range(1, MAX_PRODUCERS + 11):
        producers.take(report(number, produced_spans=1))

    assert len(producers.newest()) == MAX_PRODUCERS
    assert producers.sums() == {"produced.spans": MAX_PRODUCERS + 10}


async def test_a_report_is_shown_in_the_status(desk: Any) -> None:
    stub = producer_pb2_grpc.ProducerServiceStub(desk.client.channel)
    message = report(1, produced_spans=5)
    message.counters["no name; at all"] = 1

    await desk.client.call(stub.Report, message)
    status = await desk.client.status()

    (known,) = status.producers
    assert known.report.agent == "desk"
    assert known.received_unix_nano > 0
    assert dict(status.produced) == {"produced.spans": 5}
    assert status.counters["producer_counters_rejected"] == 1


@pytest.mark.parametrize(
    "bad",
    [
        producer_pb2.ProducerReport(producer_id=b"short"),
        producer_pb2.ProducerReport(producer_id=b"p" * 16, agent="a" * 201),
        producer_pb2.ProducerReport(
            producer_id=b"p" * 16, counters={f"produced.{i}": 1 for i in range(257)}
        ),
    ],
    ids=["id", "agent", "counters"],
)
async def test_a_report_that_is_none_is_refused(desk: Any, bad: Any) -> None:
    stub = producer_pb2_grpc.ProducerServiceStub(desk.client.channel)

    with pytest.raises(aio.AioRpcError) as caught:
        await desk.client.call(stub.Report, bad)

    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
