"""Row C1: OTLP as the specification has it, on both sides, and other languages' exporters."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

from agentgym import AgentGym
from agentgym.errors import DaemonError
from agentgym.testing import FakeDaemon
from agentgym_daemon.rpc.server import MAX_MESSAGE_BYTES

GOLDEN = Path(__file__).parent / "golden"
UNKNOWN_FIELD = b"\x9a\x3f\x03abc"  # number 1011, length-delimited
SENT_AGAIN = (
    "CANCELLED",
    "DEADLINE_EXCEEDED",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNAVAILABLE",
    "DATA_LOSS",
)
GIVEN_UP = ("INTERNAL", "UNKNOWN", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS")
KEPT_FOR_THE_OPERATOR = (
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "FAILED_PRECONDITION",
    "UNIMPLEMENTED",
)
"""Here the plugin keeps what OTLP lets it drop: a person can put the token or the version right."""


@pytest.fixture
def daemon(shared_daemon: Any) -> Any:
    """One for all: every test sends trajectories of its own."""
    return shared_daemon


# ---- the server's side


def test_an_empty_request_is_a_success(daemon: Any, otlp: Any) -> None:
    answer = otlp(daemon.home).export(b"")

    assert not answer.HasField("partial_success")


def test_a_full_success_has_no_partial_success_and_is_small(
    daemon: Any, otlp: Any, traces: Any, span: Any
) -> None:
    answer = otlp(daemon.home).export(traces([span(n) for n in range(512)]))

    assert not answer.HasField("partial_success")
    assert answer.ByteSize() < 4 * 2**20


def test_a_request_that_was_acknowledged_may_be_sent_again(
    daemon: Any, otlp: Any, traces: Any, span: Any
) -> None:
    sender, request = otlp(daemon.home), traces([span(n) for n in range(2000, 2008)])

    for _ in range(3):
        assert not sender.export(request).HasField("partial_success")

    assert len(daemon.trajectory(span(2000).trace_id).spans) == 8


def test_bad_spans_are_counted_in_a_partial_success_and_their_siblings_stored(
    daemon: Any, otlp: Any, traces: Any, span: Any
) -> None:
    bad = span(3001)
    bad.trace_id = b"short"

    answer = otlp(daemon.home).export(traces([span(3000), bad, span(3002)]))

    assert answer.partial_success.rejected_spans == 1
    assert answer.partial_success.error_message
    assert len(daemon.trajectory(span(3000).trace_id).spans) == 2


@pytest.mark.parametrize("garbage", [b"\xff" * 40, b"\x0a\x7f", bytes(range(256))])
def test_a_request_of_which_nothing_can_be_read_must_not_be_sent_again(
    daemon: Any, otlp: Any, garbage: bytes
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        otlp(daemon.home).export(garbage)

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_compressed_request_is_taken(daemon: Any, otlp: Any, traces: Any, span: Any) -> None:
    otlp(daemon.home).export(traces([span(4000)]), compression=grpc.Compression.Gzip)

    assert len(daemon.trajectory(span(4000).trace_id).spans) == 1


def test_fields_that_nobody_knows_yet_do_no_harm(
    daemon: Any, otlp: Any, traces: Any, span: Any
) -> None:
    known = span(5000)
    known.MergeFromString(UNKNOWN_FIELD)
    request = traces([known])
    request.resource_spans[0].MergeFromString(UNKNOWN_FIELD)

    answer = otlp(daemon.home).export(request.SerializeToString() + UNKNOWN_FIELD)

    assert not answer.HasField("partial_success")
    assert len(daemon.trajectory(known.trace_id).spans) == 1


def test_without_the_token_nothing_is_taken(
    daemon: Any, otlp: Any, traces: Any, span: Any, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("f" * 64)
    stranger = otlp(tmp_path, f"unix:{daemon.home / 'daemon.sock'}")

    with pytest.raises(grpc.RpcError) as refused:
        stranger.export(traces([span(6000)]))

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(DaemonError, match="NOT_FOUND"):
        daemon.trajectory(span(6000).trace_id)


def test_a_request_above_the_limit_is_refused_and_the_daemon_goes_on(
    daemon: Any, otlp: Any, traces: Any, span: Any
) -> None:
    sender = otlp(daemon.home)
    with pytest.raises(grpc.RpcError) as refused:
        sender.export(b"\x0a" + bytes(MAX_MESSAGE_BYTES))

    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not sender.export(traces([span(7000)])).HasField("partial_success")


# ---- the plugin's side


def record(gym: AgentGym) -> None:
    """One trajectory of two spans."""
    run = gym.recorder.start_run("desk", framework="test")
    run.call("look_up", call_id="1").finish()
    run.finish()


@pytest.fixture
def gym(home: Path) -> Iterator[tuple[AgentGym, FakeDaemon]]:
    """A gym and the scripted daemon that it talks to."""
    with FakeDaemon(home) as fake:
        made = AgentGym("conformance", home=home)
        assert made.ready(30)
        yield made, fake
        made.close(5.0)


@pytest.mark.parametrize("code", [*SENT_AGAIN, "RESOURCE_EXHAUSTED", *KEPT_FOR_THE_OPERATOR])
def test_after_a_retryable_status_the_plugin_sends_again(
    gym: tuple[AgentGym, FakeDaemon], code: str
) -> None:
    one, fake = gym
    fake.refuse("Export", grpc.StatusCode[code], times=2)

    record(one)
    assert one.flush(30)

    counters = one.status()["counters"]
    assert counters["acked.spans"] == counters["produced.spans"] == len(fake.spans) == 2


@pytest.mark.parametrize("code", GIVEN_UP)
def test_after_any_other_status_the_plugin_drops_and_counts(
    gym: tuple[AgentGym, FakeDaemon], code: str
) -> None:
    one, fake = gym
    fake.refuse("Export", grpc.StatusCode[code])

    record(one)
    assert one.flush(30)
    record(one)
    assert one.flush(30)

    counters = one.status()["counters"]
    dropped = sum(n for name, n in counters.items() if name.startswith("dropped.spans"))
    assert (counters["produced.spans"], dropped, len(fake.spans)) == (4, 2, 2)


# ---- other people's exporters


def test_the_unmodified_python_exporter_delivers_everything(
    daemon: Any, load: Callable[..., int], report: Any
) -> None:
    """Every span of the stock OpenTelemetry SDK and exporter arrives once."""
    runs, sent = load(2000), []
    endpoint = next(one for one in daemon.status().listeners if not one.startswith("unix:"))
    token = (daemon.home / "token").read_text().strip()
    exporter = OTLPSpanExporter(
        endpoint=endpoint, insecure=True, headers=(("authorization", f"Bearer {token}"),)
    )
    provider = TracerProvider(resource=Resource.create({"service.name": "py-desk"}))
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=10 * runs))
    tracer = provider.get_tracer("example", "1.0")
    for number in range(runs):
        with tracer.start_as_current_span("invoke_agent desk", kind=SpanKind.SERVER) as root:
            sent.append(root.get_span_context().trace_id.to_bytes(16, "big"))
            with tracer.start_as_current_span("execute_tool look_up") as call:
                call.set_attributes({"gen_ai.operation.name": "execute_tool", "n": number})
                call.set_attribute("list", ["a", "b"])
                call.add_event("tried", {"times": 1})
                call.set_status(Status(StatusCode.ERROR, "no such order"))
    provider.shutdown()

    stored = [daemon.trajectory(one) for one in sent]
    report.load["spans"] = 2 * runs
    report.figures["stored"] = sum(len(one.spans) for one in stored)
    assert [one.summary.state for one in stored] == ["closed"] * runs
    assert [[span.tool for span in one.spans] for one in stored] == [["", ""]] * runs
    assert [len({span.span_id for span in one.spans}) for one in stored] == [2] * runs


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.glob("*.bin")))
def test_what_other_languages_send_is_stored_as_they_sent_it(
    daemon: Any, otlp: Any, name: str
) -> None:
    data = (GOLDEN / name).read_bytes()

    answer = otlp(daemon.home).export(data)

    assert not answer.HasField("partial_success")
    request = ExportTraceServiceRequest.FromString(data)
    sent = [s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans]
    found = daemon.trajectory(sent[0].trace_id)
    stored = {one.span_id: one for one in found.spans}
    assert found.summary.agent == f"{name[:2]}-desk"
    assert set(stored) == {one.span_id for one in sent}
    for one in sent:
        kept = stored[one.span_id]
        assert (kept.name, kept.parent_span_id) == (one.name, one.parent_span_id)
        assert (kept.start_unix_nano, kept.end_unix_nano) == (
            one.start_time_unix_nano,
            one.end_time_unix_nano,
        )
        attributes = json.loads(kept.attributes_json)
        assert {pair.key for pair in one.attributes} <= set(attributes)
        if one.events:
            assert one.events[0].name in kept.attributes_json
    assert {one.tool for one in found.spans} == {"", "look_up"}
    assert found.summary.input_tokens == 321
