"""What only a process of its own can show: forks, foreign settings, memory, exit."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentgym import semconv
from agentgym.testing import spools
from agentgym.testing.daemon import FakeDaemon

MEMORY_BUDGET_MB = 48.0  # 6.5 of them are what verifies signatures

PRELUDE = """
import json, os, sys, time
from agentgym import AgentGym
from agentgym.trajectory import Tool

TOOLS = (Tool("find_order", "Finds an order."), Tool("refund_order", "Pays an order back."))

def run_once(gym):
    run = gym.recorder.start_run("agent", framework="test", task="where is my order")
    turn = run.turn(TOOLS, model="stub")
    turn.finish([("find_order", "c1")])
    run.call("find_order", call_id="c1").finish()
    run.finish()
    return turn
"""

CHILD_OF_A_CHANNEL = """
gym = AgentGym(home=sys.argv[1])
assert gym.ready()
run_once(gym)
assert gym.flush()
for number in range(6):
    child = os.fork()
    if not child:
        turn = run_once(gym)
        late = AgentGym(home=sys.argv[1])
        run_once(late)
        report = [gym.status()["delivery"]["way"], late.status()["delivery"]["way"]]
        report.append(gym.status()["counters"])
        print(json.dumps(report), flush=True)
        if number % 2:
            os._exit(0)  # without a word, as workers are ended
        sys.exit(0)
    run_once(gym)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert gym.flush()
"""

POOL = """
import multiprocessing

gym = AgentGym(home=sys.argv[1])

def work(_):
    run_once(gym)

if __name__ == "__main__":
    assert gym.ready()
    with multiprocessing.get_context(sys.argv[2]).Pool(3) as pool:
        pool.map(work, range(12))
        if sys.argv[2] != "fork":  # they have channels of their own, and are not to be killed
            pool.close()
            pool.join()
    run_once(gym)
    gym.close(10.0)
"""

FOLLOWING_CHILD = """
gym = AgentGym(home=sys.argv[1])
assert gym.ready()
assert gym.status()["policies"] == {"agent": "p-000001"}
child = os.fork()
if not child:
    run_once(gym)
    inherited = gym.status()["policies"]
    print(json.dumps(inherited), flush=True)
    end = time.time() + 20
    while gym.status()["policies"] != {"agent": "p-000002"} and time.time() < end:
        time.sleep(0.01)
    print(json.dumps(gym.status()["policies"]), flush=True)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""

CHILD_BEFORE_ANY_CHANNEL = """
gym = AgentGym(home=sys.argv[1])
for _ in range(2):
    child = os.fork()
    if not child:
        assert gym.ready()
        run_once(gym)
        print(json.dumps([gym.flush(), gym.status()["counters"]]), flush=True)
        sys.exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert gym.ready()
run_once(gym)
assert gym.flush()
"""

HOSTILE = """
from opentelemetry import trace
before = trace.get_tracer_provider()
gym = AgentGym(home=sys.argv[1], capture_content=True)
assert gym.ready()
run = gym.recorder.start_run("agent", framework="test", task="where is my order")
run.turn(TOOLS, model="a-model-with-a-long-name").finish([("find_order", "c1")])
run.call("find_order", call_id="c1", arguments="x" * 3000).finish()
run.finish()
assert gym.flush()
assert trace.get_tracer_provider() is before
print(json.dumps(gym.status()["counters"]))
"""

NOBODY_THERE = """
gym = AgentGym(home=sys.argv[1], endpoint=sys.argv[2])
for _ in range(3):
    run_once(gym)
gym.reward(1.0)
sys.stdout.write(str(time.time()))
"""

# The baseline is an interpreter that can call a model at all: with asyncio, TLS, HTTP and logging.
RESIDENT = """
import asyncio, dataclasses, http.client, inspect, json, logging, pathlib, ssl, sys, typing

def resident_mb():
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024

before = resident_mb()
from agentgym import AgentGym
from agentgym.trajectory import Tool

gym = AgentGym(home=sys.argv[1])
assert gym.ready()
assert gym.status()["policies"] == {"agent": "p-000001"}
run = gym.recorder.start_run("agent", framework="test", task="where is my order")
run.turn((Tool("find_order", "Finds an order by its number."),)).finish()
run.finish()
assert gym.flush()
sys.stdout.write(str(resident_mb() - before))
"""


def environment(**more: str) -> dict[str, str]:
    foreign = ("COV", "PYTEST", "OTEL_", "AGENTGYM_", "GRPC_")
    return {k: v for k, v in os.environ.items() if not k.startswith(foreign)} | more


def run_python(code: str, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment(**more),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


@pytest.fixture
def vendor() -> Iterator[tuple[str, list[bytes]]]:
    """A TCP server that keeps whatever reaches it."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                heard.append(b"connected")
                connection.close()

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", heard
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5.0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("support", ["", "0", "1"])
def test_a_child_of_a_process_with_a_channel_loses_nothing_without_grpc(
    support: str, daemon: FakeDaemon
) -> None:
    more = {"GRPC_ENABLE_FORK_SUPPORT": support} if support else {}
    done = run_python(PRELUDE + CHILD_OF_A_CHANNEL, daemon.home, **more)

    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(reports) == 6
    for way, late_way, counters in reports:
        assert way == late_way == "files"
        assert counters["produced.spans"] == counters["spooled.spans"] == 3
    adopted = spools.Spooled()
    spools.adopt(daemon.home, adopted)
    assert len(daemon.spans) == 21  # of the parent, before and beside its children
    assert len({call.producer for call in daemon.taken("Export")}) == 1
    assert len(adopted.spans) == len({span.span_id for span in adopted.spans}) == 36
    assert len(adopted.decisions) == len(adopted.features) == 12
    assert len({header.producer_id for header in adopted.headers}) == 12
    assert spools.directories(daemon.home) == []


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_multiprocessing_lose_nothing(method: str, daemon: FakeDaemon) -> None:
    script = daemon.home / "pool.py"
    script.write_text(PRELUDE + POOL)
    subprocess.run(
        [sys.executable, script, daemon.home, method],
        env=environment(),
        check=True,
        timeout=60,
    )

    adopted = spools.Spooled()
    spools.adopt(daemon.home, adopted)
    ids = [span.span_id for span in [*daemon.spans, *adopted.spans]]
    assert len(set(ids)) == 39
    assert len(ids) == 39 or method != "fork"  # at least once, where a worker was killed in a call


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_keeps_its_policy_and_follows_the_next(
    daemon: FakeDaemon, make_snapshot: Callable[..., bytes]
) -> None:
    daemon.push(daemon.publish(make_snapshot(), version="p-000001", agent="agent"))
    with subprocess.Popen(
        [sys.executable, "-c", PRELUDE + FOLLOWING_CHILD, str(daemon.home)],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"agent": "p-000001"}
        data = make_snapshot("p-000002", 2)
        daemon.push(daemon.publish(data, version="p-000002", agent="agent"))
        assert json.loads(process.stdout.readline()) == {"agent": "p-000002"}
    assert process.returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_a_process_without_a_channel_works_by_itself(daemon: FakeDaemon) -> None:
    done = run_python(PRELUDE + CHILD_BEFORE_ANY_CHANNEL, daemon.home)

    for line in done.stdout.splitlines():
        flushed, counters = json.loads(line)
        assert flushed
        assert counters["acked.spans"] == 3
    assert len(daemon.spans) == 9
    assert len({call.producer for call in daemon.taken("Export")}) == 3


def test_a_hostile_otel_environment_changes_nothing_of_ours(
    daemon: FakeDaemon, vendor: tuple[str, list[bytes]]
) -> None:
    endpoint, heard = vendor
    hostile = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-vendor-key=secret",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_TRACES_SAMPLER": "always_off",
        "OTEL_SDK_DISABLED": "true",
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "1",
        "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "5",
        "OTEL_ATTRIBUTE_COUNT_LIMIT": "1",
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "1",
        "OTEL_BSP_MAX_QUEUE_SIZE": "1",
        "OTEL_PROPAGATORS": "none",
        "OTEL_SERVICE_NAME": "the-hosts-service",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=prod,service.name=other",
    }

    done = run_python(PRELUDE + HOSTILE, daemon.home, **hostile)

    assert json.loads(done.stdout)["acked.spans"] == 3
    spans = {
        span.name: {a.key: a.value.string_value for a in span.attributes} for span in daemon.spans
    }
    assert set(spans) == {
        "invoke_agent agent",
        "chat a-model-with-a-long-name",
        "execute_tool find_order",
    }
    assert spans["execute_tool find_order"][semconv.TOOL_CALL_ARGUMENTS] == "x" * 3000
    assert len(spans["invoke_agent agent"]) >= 8
    export = daemon.taken("Export")[0]
    resource = export.request.resource_spans[0].resource
    labels = {a.key: a.value.string_value for a in resource.attributes}
    assert labels["service.name"] == "the-hosts-service"
    assert labels["deployment.environment"] == "prod"
    assert not [key for key in export.metadata if "vendor" in key]
    assert heard == []


def test_with_nobody_there_the_exit_is_prompt(home: Path) -> None:
    (home / "token").write_text("token")
    with socket.create_server(("127.0.0.1", 0)) as black_hole:
        address = f"127.0.0.1:{black_hole.getsockname()[1]}"
        done = run_python(PRELUDE + NOBODY_THERE, home, address)
        delay_s = time.time() - float(done.stdout)

    # .5 s of it are the setting; the rest is the interpreter's own end on a busy machine.
    assert delay_s < 5.0
    assert "Traceback" not in done.stderr
    left = spools.read_all(home)
    assert len(left.spans) == 9
    assert len(left.decisions) == 3
    assert len(left.rewards) == 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_attached_and_ready_the_plugin_stays_within_its_memory(
    daemon: FakeDaemon,
    make_snapshot: Callable[..., bytes],
    record_property: Callable[[str, Any], None],
) -> None:
    daemon.push(daemon.publish(make_snapshot(), version="p-000001", agent="agent"))

    added_mb = min(float(run_python(RESIDENT, daemon.home).stdout) for _ in range(2))

    record_property("added_mb", added_mb)
    assert added_mb <= MEMORY_BUDGET_MB
