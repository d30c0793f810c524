"""The user's OpenTelemetry is the user's: neither side sees, bends or names the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentgym import semconv
from agentgym.testing.daemon import FakeDaemon

RUNS, SPANS_OF_A_RUN = 5, 3
HOSTILE = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9",
    "OTEL_EXPORTER_OTLP_HEADERS": "x-users-secret=users-secret",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-users-secret=users-secret",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "nonsense",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "-1",
    "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
    "OTEL_TRACES_EXPORTER": "nonsense",
    "OTEL_TRACES_SAMPLER": "always_off",
    "OTEL_PROPAGATORS": "tracecontext,baggage",
    "OTEL_BSP_MAX_QUEUE_SIZE": "1",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1",
    "OTEL_BSP_SCHEDULE_DELAY": "3600000",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "0",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "1",
    "OTEL_ATTRIBUTE_COUNT_LIMIT": "0",
    "OTEL_CONFIG_FILE": "/nowhere",
}
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "plain": {},
    "switched off": {"OTEL_SDK_DISABLED": "true"},
    "hostile": HOSTILE,
}
PROVIDERS = ["absent", "sdk", "sampled off"]

HOST = """
import contextlib, json, random, sys
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

kind, home, runs = sys.argv[1], sys.argv[2], int(sys.argv[3])
rng = random.Random(1)

class Seeded(IdGenerator):
    def generate_span_id(self):
        return rng.getrandbits(63) + 1
    def generate_trace_id(self):
        return rng.getrandbits(127) + 1

exporter = InMemorySpanExporter()
if kind != "absent":
    sampler = ALWAYS_OFF if kind == "sampled off" else ALWAYS_ON
    provider = TracerProvider(sampler=sampler, id_generator=Seeded())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
before = trace.get_tracer_provider(), propagate.get_global_textmap(), context.get_current()
ours = contextlib.nullcontext
if home:
    from agentgym import AgentGym
    from agentgym.trajectory import Tool
    gym = AgentGym("agent", home=home)
    tools = (Tool("find", "Finds."), Tool("pay", "Pays."))
    def work(number):
        run = gym.recorder.start_run("agent", framework="test", task=f"task {number}")
        turn = run.turn(tools, model="stub")
        with tracer.start_as_current_span("inside the turn"):
            turn.finish([("find", "call-1")])
        run.call("find", call_id="call-1").finish()
        run.finish()
else:
    def work(number):
        with tracer.start_as_current_span("inside the turn"):
            pass
tracer = trace.get_tracer("users")
context.attach(baggage.set_baggage("user", "users-secret"))
for number in range(runs):
    with tracer.start_as_current_span("users request"):
        work(number)
delivered = gym.flush(20) if home else True
print(json.dumps({
    "delivered": delivered,
    "errors": gym.status()["errors"] if home else {},
    "provider": type(trace.get_tracer_provider()).__name__,
    "same": (trace.get_tracer_provider(), propagate.get_global_textmap()) == before[:2],
    "spans": [(s.name, s.context.trace_id, s.context.span_id, s.parent and s.parent.span_id)
              for s in exporter.get_finished_spans()],
}))
"""


def run_host(kind: str, home: str, environ: dict[str, str]) -> dict[str, Any]:
    """The user's program, with AgentGym if it gets a home; what it says of its telemetry."""
    done = subprocess.run(
        [sys.executable, "-c", HOST, kind, home, str(RUNS)],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.mark.parametrize("kind", PROVIDERS)
@pytest.mark.parametrize("environ", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_the_users_telemetry_is_as_without_us_and_ours_is_whole(
    home: Path, kind: str, environ: dict[str, str]
) -> None:
    alone = run_host(kind, "", environ)
    with FakeDaemon(home) as daemon:
        both = run_host(kind, str(home), environ)
        received = list(daemon.received)

    assert both["same"]
    assert both["provider"] == alone["provider"]
    assert both["spans"] == alone["spans"]  # names, ids, parents and count
    records = kind == "sdk" and "OTEL_SDK_DISABLED" not in environ
    assert len(alone["spans"]) == (2 * RUNS if records else 0)

    assert both["delivered"]
    assert both["errors"] == {}
    spans = [
        span
        for call in received
        if call.method == "Export" and not call.refused
        for resource in call.request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert len(spans) == len({span.span_id for span in spans}) == RUNS * SPANS_OF_A_RUN
    users = {span_id.to_bytes(8, "big") for _, _, span_id, _ in both["spans"]}
    assert not users & {span.span_id for span in spans}
    assert not users & {span.parent_span_id for span in spans}
    assert all(span.attributes for span in spans)


def test_nothing_of_the_users_travels_with_our_calls(home: Path) -> None:
    own = {
        *("user-agent", "grpc-accept-encoding", "accept-encoding"),
        semconv.METADATA_PRODUCER,
        semconv.METADATA_SEQUENCE,
        semconv.METADATA_TOKEN,
        semconv.METADATA_CONTRACT,
    }
    with FakeDaemon(home) as daemon:
        run_host("sdk", str(home), HOSTILE)
        received = list(daemon.received)

    assert {"Export", "Record"} <= {call.method for call in received}
    for call in received:
        assert set(call.metadata) <= own
        assert "users-secret" not in repr(call.metadata)
        assert b"users-secret" not in call.request.SerializeToString()
