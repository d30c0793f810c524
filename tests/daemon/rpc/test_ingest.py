"""Ingest over gRPC: acknowledged means durable, and one bad item does not cost its siblings."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1 import trace_pb2

from agentgym import semconv
from agentgym.proto.v1 import catalogue_pb2, common_pb2, decision_pb2, log_pb2, trajectory_pb2
from agentgym_daemon.clock import SystemClock
from agentgym_daemon.errors import InvalidRequestError, StorageError
from agentgym_daemon.ingest.log import SegmentLog
from agentgym_daemon.rpc.ingest import MAX_TRACES_BYTES, accept_traces

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


def logged(home: Path) -> list[log_pb2.LogRecord]:
    """What senders put into a directory that no daemon holds: all facts but the daemon's own."""
    log = SegmentLog(home / "log", clock=SystemClock())
    try:
        records = [log_pb2.LogRecord.FromString(payload) for _, payload in log.replay(0)]
    finally:
        log.close()
    return [record for record in records if record.WhichOneof("fact") != "change"]


async def export_raw(desk: Any, request: bytes) -> ExportTraceServiceResponse:
    """Sends bytes as they are."""
    method = desk.client.channel.unary_unary(
        EXPORT, response_deserializer=ExportTraceServiceResponse.FromString
    )
    response: ExportTraceServiceResponse = await method(
        request, metadata=desk.client.metadata, timeout=20
    )
    return response


async def stored(desk: Any, number: int) -> trajectory_pb2.Trajectory:
    """A trajectory as the daemon shows it."""
    await desk.client.applied()
    response: trajectory_pb2.Trajectory = await desk.client.call(
        desk.client.trajectories.Get,
        trajectory_pb2.GetTrajectoryRequest(trajectory_id=number.to_bytes(16, "big")),
    )
    return response


async def test_an_acknowledged_run_is_stored_and_closed(desk: Any) -> None:
    await desk.client.send_run(7, key="ticket-7")

    trajectory = await stored(desk, 7)

    assert trajectory.summary.state == "closed"
    assert trajectory.summary.key == "ticket-7"
    assert [span.operation for span in trajectory.spans] == ["invoke_agent", "execute_tool"]


async def test_our_sender_is_named_in_the_log_and_a_foreign_one_is_not(
    open_desk: Any, home: Path
) -> None:
    producer = bytes(range(16))
    async with open_desk() as desk:
        ours = desk.another(
            desk.token, (semconv.METADATA_PRODUCER, producer), (semconv.METADATA_SEQUENCE, "5")
        )
        await ours.send_run(1)
        await ours.channel.close()
        await desk.client.send_run(2)

    assert [(r.producer_id, r.sequence) for r in logged(home)] == [(producer, 5), (b"", 0)]


@pytest.mark.parametrize(("producer", "sequence"), [(b"short", "1"), (bytes(range(16)), "first")])
async def test_odd_metadata_make_a_foreign_sender(
    open_desk: Any, home: Path, producer: bytes, sequence: str
) -> None:
    async with open_desk() as desk:
        odd = desk.another(
            desk.token,
            (semconv.METADATA_PRODUCER, producer),
            (semconv.METADATA_SEQUENCE, sequence),
        )
        await odd.send_run(1)
        await odd.channel.close()

    assert [(r.producer_id, r.sequence) for r in logged(home)] == [(b"", 0)]


async def test_a_run_that_is_sent_twice_counts_once(desk: Any) -> None:
    await desk.client.send_run(3)
    await desk.client.send_run(3)

    assert (await stored(desk, 3)).summary.spans == 2


async def test_one_bad_span_is_counted_and_its_siblings_live(desk: Any, spans_of: Any) -> None:
    request = spans_of(4)
    request.resource_spans[0].scope_spans[0].spans.add(trace_id=b"short", span_id=b"12345678")

    response = await desk.client.call(desk.client.traces.Export, request)

    assert response.partial_success.rejected_spans == 1
    assert "are not kept; the others are" in response.partial_success.error_message
    assert (await stored(desk, 4)).summary.spans == 2
    assert (await desk.client.status()).counters["spans_rejected"] == 1


async def test_undecodable_bytes_are_refused_and_leave_no_trace(desk: Any) -> None:
    with pytest.raises(aio.AioRpcError, match="nothing of this request can be read") as caught:
        await export_raw(desk, b"\xff\xff not protobuf")

    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    status = await desk.client.status()
    assert status.counters["spans_rejected"] == 1
    assert status.log_end == desk.began


@pytest.mark.parametrize(
    "method", ["DecisionService/Record", "RewardService/Report", "PolicyService/Subscribe"]
)
async def test_a_request_that_cannot_be_parsed_is_refused_for_good(desk: Any, method: str) -> None:
    call = desk.client.channel.unary_unary(f"/agentgym.v1.{method}")

    with pytest.raises(aio.AioRpcError, match="the request cannot be parsed") as caught:
        await call(b"\xff\xff", metadata=desk.client.metadata, timeout=20)

    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_an_empty_export_is_accepted_without_a_fact(desk: Any) -> None:
    await desk.client.call(desk.client.traces.Export, ExportTraceServiceRequest())

    assert (await desk.client.status()).log_end == desk.began


async def test_a_failed_log_refuses_instead_of_acknowledging(desk: Any) -> None:
    desk.daemon._log.failed = StorageError("disk is full")

    with pytest.raises(aio.AioRpcError, match="disk is full") as caught:
        await desk.client.send_run(1)

    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    desk.daemon._log.failed = None


def decision(number: int = 1, **changes: Any) -> decision_pb2.DecisionRecord:
    """A decision that is in order, unless `changes` say otherwise."""
    fields: dict[str, Any] = {
        "decision_id": number.to_bytes(8, "big"),
        "trajectory_id": number.to_bytes(16, "big"),
        "scope": common_pb2.Scope(agent="support-desk", agent_name="clerk", feature_schema=1),
        "offered": [b"\x01" * 8, b"\x02" * 8],
        "support": [
            decision_pb2.Arm(kind="KIND_DEFER", score=0.5, probability=0.25),
            decision_pb2.Arm(kind="KIND_FORCE", tools=[1], score=0.9, probability=0.75),
        ],
        "arm": 1,
        "arm_propensity": 0.75,
        "temperature": 0.05,
        "floor": 0.02,
        "defer_floor": 0.02,
        "policy_version": "p-000001",
    }
    return decision_pb2.DecisionRecord(**fields | changes)


async def test_decisions_features_and_tools_are_stored_with_their_trajectory(desk: Any) -> None:
    features = decision_pb2.TaskFeatures(
        features_id=b"f" * 8,
        trajectory_id=(1).to_bytes(16, "big"),
        feature_schema=1,
        index=[1, 5],
        quantised=b"\x10\xff",
        scale=0.5,
        embedding=b"\x81\x7f",
        embedding_scale=0.25,
    )
    tools = [common_pb2.Tool(fingerprint=b"\x01" * 8, name="find_order")]

    recorded = await desk.client.call(
        desk.client.decisions.Record,
        decision_pb2.RecordRequest(decisions=[decision(features_id=b"f" * 8)], features=[features]),
    )
    put = await desk.client.call(
        desk.client.catalogue.Put, catalogue_pb2.PutRequest(agent="support-desk", tools=tools)
    )

    assert (recorded.accepted, recorded.rejected, recorded.message) == (2, 0, "")
    assert put.accepted == 1
    trajectory = await stored(desk, 1)
    assert list(trajectory.decisions) == [decision(features_id=b"f" * 8)]
    assert list(trajectory.features) == [features]
    assert [tool.name for tool in trajectory.tools] == ["find_order"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"decision_id": b"x"}, "decision_id: expected 8 bytes"),
        ({"trajectory_id": bytes(16)}, "trajectory_id: expected 16 bytes, not all zero"),
        ({"features_id": b"x"}, "features_id: expected 8 bytes"),
        ({"scope": common_pb2.Scope()}, "scope.agent: expected a name"),
        ({"called": ["x" * 5000]}, "expected texts of at most"),
        ({"offered": [b"x", b"y"]}, "offered: expected fingerprints of 8 bytes"),
        ({"allowed": [True]}, "allowed: expected none or 2 entries, got 1"),
        ({"shown": [2]}, "shown: expected indices below 2"),
        ({"down": [0, 2]}, "down: expected indices below 2, got [0, 2]"),
        ({"assignment_probability": float("nan")}, "assignment_probability: expected a prob"),
        ({"floor": 1.5}, "floor: expected a probability in [0, 1], got 1.5"),
        ({"temperature": float("inf")}, "temperature: expected a finite number"),
        ({"arm": 2}, "arm: expected -1 or an index below 2, got 2"),
        ({"arm": -2}, "arm: expected -1 or an index below 2, got -2"),
        ({"support": [], "arm": 0}, "arm: expected -1 or an index below 0, got 0"),
        ({"arm_propensity": 0.5}, "arm_propensity: expected that of support[1], got 0.5"),
        (
            {"support": [decision_pb2.Arm(probability=0.4)], "arm": -1},
            "support: expected probabilities that sum to 1, got 0.4",
        ),
        (
            {"support": [decision_pb2.Arm(probability=2)], "arm": -1},
            "support[0].probability: expected a probability",
        ),
        (
            {"support": [decision_pb2.Arm(probability=1, score=float("nan"))], "arm": -1},
            "support[0].score: expected a finite number",
        ),
        (
            {"support": [decision_pb2.Arm(probability=1, tools=[7])], "arm": -1},
            "support[0].tools: expected indices below 2",
        ),
    ],
)
async def test_a_bad_decision_is_named_and_its_sibling_is_kept(
    desk: Any, changes: dict[str, Any], fault: str
) -> None:
    request = decision_pb2.RecordRequest(decisions=[decision(**changes), decision(2)])

    response = await desk.client.call(desk.client.decisions.Record, request)

    assert (response.accepted, response.rejected) == (1, 1)
    assert response.message.startswith("decisions[0].")
    assert fault in response.message
    assert len((await stored(desk, 2)).decisions) == 1
    assert (await desk.client.status()).counters["decisions_rejected"] == 1


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"features_id": b""}, "features_id: expected 8 bytes"),
        ({"trajectory_id": b"x"}, "trajectory_id: expected 16 bytes"),
        ({"quantised": b"x"}, "quantised: expected 2 bytes, got 1"),
        ({"index": [5, 5]}, "index: expected ascending"),
        ({"scale": float("nan")}, "scale: expected a finite number"),
        ({"embedding": bytes(8193)}, "embedding: expected at most 8192 bytes, got 8193"),
        ({"embedding_scale": -1.0}, "embedding_scale: expected a finite number"),
        ({"embedding_scale": float("inf")}, "embedding_scale: expected a finite number"),
    ],
)
async def test_bad_features_are_named_and_nothing_is_written(
    desk: Any, changes: dict[str, Any], fault: str
) -> None:
    fields: dict[str, Any] = {
        "features_id": b"f" * 8,
        "trajectory_id": b"t" * 16,
        "index": [1, 5],
        "quantised": b"\x01\x02",
        "scale": 1.0,
    }
    features = decision_pb2.TaskFeatures(**fields | changes)

    response = await desk.client.call(
        desk.client.decisions.Record, decision_pb2.RecordRequest(features=[features])
    )

    assert (response.accepted, response.rejected) == (0, 1)
    assert response.message.startswith(f"features[0].{fault}")
    assert (await desk.client.status()).log_end == desk.began


async def test_an_undecided_step_is_taken_as_it_is(desk: Any) -> None:
    undecided = decision(support=[], arm=-1, arm_propensity=0, policy_version="")

    response = await desk.client.call(
        desk.client.decisions.Record, decision_pb2.RecordRequest(decisions=[undecided])
    )

    assert (response.accepted, response.rejected) == (1, 0)


@pytest.mark.parametrize(
    ("tool", "fault"),
    [
        (common_pb2.Tool(fingerprint=b"x", name="a"), "fingerprint: expected 8 bytes, got 1"),
        (common_pb2.Tool(fingerprint=b"12345678"), "name: expected 1 to 4096 characters"),
        (
            common_pb2.Tool(fingerprint=b"12345678", name="a", description="x" * 300_000),
            "description and parameters: expected at most",
        ),
    ],
)
async def test_a_bad_tool_is_left_out_and_alone_it_is_refused(
    desk: Any, tool: common_pb2.Tool, fault: str
) -> None:
    good = common_pb2.Tool(fingerprint=b"abcdefgh", name="good")

    put = await desk.client.call(
        desk.client.catalogue.Put, catalogue_pb2.PutRequest(agent="a", tools=[tool, good])
    )
    with pytest.raises(aio.AioRpcError, match="tools") as caught:
        await desk.client.call(
            desk.client.catalogue.Put, catalogue_pb2.PutRequest(agent="a", tools=[tool])
        )

    assert put.accepted == 1
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert fault in str(caught.value.details())


async def test_an_empty_catalogue_is_accepted_without_a_fact(desk: Any) -> None:
    put = await desk.client.call(desk.client.catalogue.Put, catalogue_pb2.PutRequest(agent="a"))

    assert put.accepted == 0
    assert (await desk.client.status()).log_end == desk.began


def spans_request(*spans: trace_pb2.Span) -> bytes:
    """An OTLP request of these spans."""
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.extend(spans)
    return request.SerializeToString()


def plain_span(number: int = 1, **fields: Any) -> trace_pb2.Span:
    """A span of now."""
    known: dict[str, Any] = {
        "trace_id": number.to_bytes(16, "big"),
        "span_id": number.to_bytes(8, "big"),
        "name": "span",
        "start_time_unix_nano": time.time_ns(),
        "end_time_unix_nano": time.time_ns(),
    }
    return trace_pb2.Span(**known | fields)


async def test_hostile_spans_are_stored_clamped_beside_their_siblings(desk: Any) -> None:
    hostile = plain_span(1, start_time_unix_nano=1, end_time_unix_nano=2, name="a\0b")
    pair = hostile.attributes.add(key="long")
    pair.value.string_value = "x" * 2**20

    response = await export_raw(desk, spans_request(hostile, plain_span(2)))

    assert response == ExportTraceServiceResponse()
    (span,) = (await stored(desk, 1)).spans
    assert span.name == "a\0b"
    assert json.loads(span.attributes_json)[semconv.CLAMPED] == ["start", "end", "long"]
    assert len((await stored(desk, 2)).spans) == 1


async def test_of_two_spans_with_one_id_the_first_is_kept_and_the_other_counted(desk: Any) -> None:
    await export_raw(desk, spans_request(plain_span(1, name="first"), plain_span(1, name="second")))
    await export_raw(desk, spans_request(plain_span(1, name="third")))

    assert [span.name for span in (await stored(desk, 1)).spans] == ["first"]
    assert (await desk.client.status()).counters["spans_duplicate"] == 2


@pytest.mark.parametrize("spare", [-1, 0, 1])
async def test_a_request_of_four_mebibytes_is_the_largest(desk: Any, spare: int) -> None:
    empty = len(spans_request(plain_span(name="x" * (4 * 2**20 - 1000))))
    name = "x" * (4 * 2**20 - 1000 + MAX_TRACES_BYTES - empty + spare)
    request = spans_request(plain_span(name=name))
    assert len(request) == MAX_TRACES_BYTES + spare

    if spare <= 0:
        await export_raw(desk, request)
        assert len((await stored(desk, 1)).spans) == 1
        return
    with pytest.raises(aio.AioRpcError, match="expected at most 4194304") as caught:
        await export_raw(desk, request)

    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (await desk.client.status()).log_end == desk.began


async def test_a_gzip_bomb_unfolds_no_further_than_a_message_may_be(desk: Any) -> None:
    method = desk.client.channel.unary_unary(EXPORT)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(aio.AioRpcError) as caught:
        await method(
            bytes(100 * 2**20),
            metadata=desk.client.metadata,
            timeout=60,
            compression=grpc.Compression.Gzip,
        )

    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024
    await desk.client.send_run(1)
    assert (await stored(desk, 1)).summary.state == "closed"


def test_what_could_be_kept_is_known_without_keeping_it() -> None:
    bad = plain_span(2, trace_id=b"short")

    assert accept_traces(b"") == (0, 0, "")
    assert accept_traces(spans_request(plain_span())) == (1, 0, "")
    assert accept_traces(spans_request(plain_span(), bad))[:2] == (1, 1)
    with pytest.raises(InvalidRequestError, match="nothing of this request can be read"):
        accept_traces(spans_request(bad))
