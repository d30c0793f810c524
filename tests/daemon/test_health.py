"""/livez, /readyz and /metrics, as a watcher sees them."""

from __future__ import annotations

import asyncio
import http.client
import socket
from typing import Any

import pytest

from agentgym.proto.v1 import producer_pb2, producer_pb2_grpc
from agentgym_daemon.errors import ListenError
from agentgym_daemon.health import HealthServer, verdict
from agentgym_daemon.metrics import Figures, Meters


def request(address: str, path: str, *, method: str = "GET", host: str = "") -> tuple[int, str]:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request(method, path, headers={"Host": host} if host else {})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


async def get(desk: Any, path: str, **options: Any) -> tuple[int, str]:
    return await asyncio.to_thread(request, desk.daemon.metrics_address, path, **options)


async def test_a_daemon_that_takes_facts_is_live_and_ready(open_desk: Any) -> None:
    async with open_desk(metrics="127.0.0.1:0") as desk:
        assert await get(desk, "/livez") == (200, "ok\n")
        assert await get(desk, "/readyz") == (200, "ok\n")
        assert (await get(desk, "/other"))[0] == 404


async def test_a_full_disk_is_live_but_not_ready_and_says_why(open_desk: Any) -> None:
    async with open_desk(metrics="127.0.0.1:0", min_free_bytes=2**62) as desk:
        status, reason = await get(desk, "/readyz")

        assert status == 503
        assert "bytes free, expected at least" in reason
        assert (await get(desk, "/livez"))[0] == 200


async def test_metrics_are_what_was_done(open_desk: Any, spans_of: Any) -> None:
    async with open_desk(metrics="127.0.0.1:0") as desk:
        await desk.client.call(desk.client.traces.Export, spans_of(1))
        await desk.client.applied()
        stub = producer_pb2_grpc.ProducerServiceStub(desk.client.channel)
        counters = {"produced.spans": 3, "dropped.spans.cap": 1, "pending.spans": 2}
        report = producer_pb2.ProducerReport(producer_id=b"p" * 16, counters=counters)
        await desk.client.call(stub.Report, report)

        status, text = await get(desk, "/metrics")

    lines = text.splitlines()
    assert status == 200
    assert 'agentgym_spans_total{result="accepted"} 2.0' in lines
    assert "agentgym_ready 1.0" in lines
    assert "agentgym_ack_seconds_count 1.0" in lines
    assert "agentgym_producers 1.0" in lines
    row = 'agentgym_producer_items_total{kind="spans",reason="cap",state="dropped"} 1.0'
    assert row in lines
    assert any(line.startswith("process_resident_memory_bytes") for line in lines)
    assert any(line.startswith("process_open_fds") for line in lines)
    assert 'agentgym_trainer{state="idle"} 1.0' in lines


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
async def test_only_get_is_answered(open_desk: Any, method: str) -> None:
    async with open_desk(metrics="127.0.0.1:0") as desk:
        assert (await get(desk, "/metrics", method=method))[0] == 501


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "evil.example:4320"])
async def test_a_rebound_name_learns_nothing(open_desk: Any, host: str) -> None:
    async with open_desk(metrics="127.0.0.1:0") as desk:
        assert (await get(desk, "/metrics", host=host))[0] == 403
        assert (await get(desk, "/livez", host="LOCALHOST:1"))[0] == 200


async def test_by_default_nothing_is_served(desk: Any) -> None:
    assert desk.daemon.metrics_address == ""


def test_silent_connections_do_not_keep_others_out_for_long() -> None:
    server = HealthServer("127.0.0.1:0", {"/livez": lambda: verdict("")})
    server.start()
    host, _, port = server.address.rpartition(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(6)]

    answer = request(server.address, "/livez")

    assert answer == (200, "ok\n")
    for connection in silent:
        connection.close()
    server.close()


def test_a_taken_address_is_named() -> None:
    server = HealthServer("127.0.0.1:0", {})
    with pytest.raises(ListenError, match="choose another: --metrics"):
        HealthServer(server.address, {})
    server.close()


def test_live_policies_and_the_trainers_state_are_labels() -> None:
    figures = Figures(
        live=[("desk", "clerk", "p-000001")],
        trainer="failed: no memory",
        counters={"adopted_spans": 4, "refused_quota": 2, "trajectories_open": 1, "records": 9},
    )

    lines = Meters().text(figures).decode().splitlines()

    row = 'agentgym_policy_live{agent="desk",agent_name="clerk",version="p-000001"} 1.0'
    assert row in lines
    assert 'agentgym_trainer{state="failed"} 1.0' in lines
    assert 'agentgym_adopted_total{kind="spans"} 4.0' in lines
    assert 'agentgym_refused_total{reason="quota"} 2.0' in lines
    assert 'agentgym_trajectories{state="open"} 1.0' in lines
    assert 'agentgym_events_total{event="records"} 9.0' in lines
