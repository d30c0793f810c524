"""The daemon as a process: killed, ended, refused, restarted; the trainer is the real one."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from agentgym import semconv
from agentgym.policy.features import TextHasher
from agentgym.proto.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    catalogue_pb2,
    catalogue_pb2_grpc,
    common_pb2,
    decision_pb2,
    decision_pb2_grpc,
    reward_pb2,
    reward_pb2_grpc,
)
from agentgym.trajectory import Tool

pytestmark = pytest.mark.e2e


class Process:
    """`agentgym-daemon serve` on one directory."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.home = home
        self.lines: list[str] = []
        self._ready = threading.Event()
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "agentgym_daemon.cli", "serve", "--home", str(home), *arguments],
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.lines.append(line)
            if " is ready on " in line:
                self._ready.set()
        self._ready.set()

    def ready(self) -> Process:
        assert self._ready.wait(60)
        assert self.popen.poll() is None, "".join(self.lines)
        return self

    def end(self, number: int) -> int:
        """Sends a signal and returns the exit code."""
        self.popen.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        code = self.popen.wait(30)
        self._reader.join()
        assert self.popen.stderr is not None
        self.popen.stderr.close()
        return code

    @property
    def channel(self) -> grpc.Channel:
        return grpc.insecure_channel(f"unix:{self.home / 'daemon.sock'}")

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        token = (self.home / "token").read_text().strip()
        return ((semconv.METADATA_TOKEN, f"Bearer {token}"),)

    def status(self) -> admin_pb2.StatusResponse:
        with self.channel as channel:
            response: admin_pb2.StatusResponse = admin_pb2_grpc.AdminServiceStub(channel).Status(
                admin_pb2.StatusRequest(), metadata=self.metadata, timeout=20, wait_for_ready=True
            )
            return response

    def applied(self) -> admin_pb2.StatusResponse:
        """The status once everything durable is in the database."""
        while (status := self.status()).log_applied < status.log_end:
            time.sleep(0.02)
        return status


@pytest.fixture
def start(home: Path) -> Iterator[Callable[..., Process]]:
    """Starts daemons on one directory and ends those that still run."""
    started: list[Process] = []

    def start(*arguments: str) -> Process:
        started.append(Process(home, *arguments))
        return started[-1]

    yield start
    for process in started:
        if process.popen.poll() is None:
            process.end(signal.SIGKILL)


class Load(threading.Thread):
    """Sends one span per call until it is stopped; repeats a call that was not acknowledged."""

    def __init__(self, process: Process, first: int) -> None:
        super().__init__()
        self._process = process
        self._first = first
        self.acked: list[int] = []
        self.stopped = threading.Event()

    def run(self) -> None:
        number = self._first
        with self._process.channel as channel:
            export = TraceServiceStub(channel).Export
            while not self.stopped.is_set():
                try:
                    export(span(number), metadata=self._process.metadata, timeout=5)
                except grpc.RpcError:
                    self.stopped.wait(0.05)
                    continue
                self.acked.append(number)
                number += 1


def span(number: int) -> ExportTraceServiceRequest:
    """A request with one parentless span."""
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(
        trace_id=number.to_bytes(16, "big"),
        span_id=number.to_bytes(8, "big"),
        name="run",
        start_time_unix_nano=1_700_000_000_000_000_000 + number,
        end_time_unix_nano=1_700_000_000_000_000_001 + number,
    )
    return request


def until(condition: Callable[[], Any]) -> None:
    """Returns when a condition holds; the test's own time limit ends the wait."""
    while not condition():
        time.sleep(0.01)


@pytest.mark.timeout(180)
def test_killed_under_load_no_acknowledged_span_is_lost_and_none_is_doubled(
    start: Callable[..., Process],
) -> None:
    process = start("--segment-bytes", "8192").ready()
    loads = [Load(process, first) for first in (1, 1_000_001)]
    for load in loads:
        load.start()
    for kills in (1, 2):
        sent = sum(len(load.acked) for load in loads)
        until(lambda sent=sent: sum(len(load.acked) for load in loads) >= sent + 100)
        assert process.end(signal.SIGKILL) == -signal.SIGKILL, kills
        process = start("--segment-bytes", "8192").ready()
    sent = sum(len(load.acked) for load in loads)
    until(lambda: sum(len(load.acked) for load in loads) >= sent + 50)
    for load in loads:
        load.stopped.set()
        load.join()

    spans = process.applied().counters["spans"]

    acked = sum(len(load.acked) for load in loads)
    # A span may be durable although its acknowledgement was never heard: at most one per sender.
    assert acked <= spans <= acked + len(loads)
    assert process.end(signal.SIGTERM) == 0
    rebuilt = subprocess.run(
        [sys.executable, "-m", "agentgym_daemon.cli", "rebuild", "--home", str(process.home)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "changed" not in rebuilt.stdout


@pytest.mark.timeout(180)
def test_told_to_end_it_drains_exits_with_0_and_continues_later(
    start: Callable[..., Process],
) -> None:
    process = start().ready()
    load = Load(process, 1)
    load.start()
    until(lambda: len(load.acked) >= 50)

    assert process.end(signal.SIGTERM) == 0
    load.stopped.set()
    load.join()

    assert not (process.home / "daemon.sock").exists()
    again = start().ready()
    assert len(load.acked) <= again.applied().counters["spans"] <= len(load.acked) + 1
    assert again.end(signal.SIGINT) == 0


@pytest.mark.timeout(180)
def test_a_second_daemon_is_refused_with_75_and_the_first_ones_pid(
    start: Callable[..., Process],
) -> None:
    first = start().ready()

    second = start()

    assert second.wait() == 75
    assert f"pid {first.popen.pid}" in "".join(second.lines)
    assert first.status().pid == first.popen.pid
    assert first.end(signal.SIGTERM) == 0


TOOLS = (Tool("find_order", "Finds an order."), Tool("refund", "Pays an order back."))
TASKS = ("where is my order", "i want my money back")


def send_rewarded_run(process: Process, number: int) -> None:
    """One observed run: the agent mixes its two tools up in a third of the runs."""
    rng = random.Random(number)
    task = number % 2
    tool = TOOLS[task if rng.random() < 0.67 else 1 - task]
    hasher = TextHasher((process.home / "feature.key").read_bytes())
    x = hasher(f"{TASKS[task]} {rng.randrange(1000)}")
    ids = {"trajectory_id": number.to_bytes(16, "big"), "features_id": b"features"}
    decision = decision_pb2.DecisionRecord(
        **ids,
        decision_id=number.to_bytes(8, "big"),
        scope=common_pb2.Scope(agent="desk", agent_name="clerk", feature_schema=1),
        offered=[tool.fingerprint for tool in TOOLS],
        arm=-1,
        called=[tool.name],
        completed=True,
        time_unix_nano=1_700_000_000_000_000_000 + number,
    )
    features = decision_pb2.TaskFeatures(
        **ids,
        feature_schema=1,
        index=[int(i) for i in x.index],
        quantised=x.quantised.tobytes(),
        scale=x.scale,
    )
    root = span(number)
    executed = (
        root.resource_spans[0]
        .scope_spans[0]
        .spans.add(
            trace_id=number.to_bytes(16, "big"),
            span_id=b"executed",
            parent_span_id=number.to_bytes(8, "big"),
            name="execute_tool",
            start_time_unix_nano=1_700_000_000_000_000_000 + number,
        )
    )
    attributes = {
        semconv.OPERATION_NAME: semconv.EXECUTE_TOOL,
        semconv.TOOL_NAME: tool.name,
        semconv.DECISION_ID: number.to_bytes(8, "big").hex(),
    }
    for name, value in attributes.items():
        executed.attributes.add(key=name, value=AnyValue(string_value=value))
    reward = reward_pb2.Reward(
        trajectory_id=number.to_bytes(16, "big"), value=float(tool is TOOLS[task])
    )
    with process.channel as channel:
        for call, request in (
            (
                decision_pb2_grpc.DecisionServiceStub(channel).Record,
                decision_pb2.RecordRequest(decisions=[decision], features=[features]),
            ),
            (TraceServiceStub(channel).Export, root),
            (
                reward_pb2_grpc.RewardServiceStub(channel).Report,
                reward_pb2.ReportRequest(rewards=[reward]),
            ),
        ):
            call(request, metadata=process.metadata, timeout=20)


@pytest.mark.timeout(300)
def test_rewarded_runs_become_a_live_policy_that_survives_a_kill(
    start: Callable[..., Process],
) -> None:
    process = start("--retrain-trajectories", "60", "--encoder", "none").ready()
    tools = [
        common_pb2.Tool(fingerprint=t.fingerprint, name=t.name, description=t.description)
        for t in TOOLS
    ]
    with process.channel as channel:
        catalogue_pb2_grpc.CatalogueServiceStub(channel).Put(
            catalogue_pb2.PutRequest(agent="desk", tools=tools),
            metadata=process.metadata,
            timeout=20,
        )
    for number in range(1, 61):
        send_rewarded_run(process, number)

    until(lambda: process.status().scopes[0].live == "p-000001")
    process.end(signal.SIGKILL)

    again = start().ready()
    status = again.status()
    assert status.scopes[0].live == "p-000001"
    assert (status.scopes[0].rewarded, status.counters["rewards"]) == (60, 60)
    assert again.end(signal.SIGTERM) == 0


@pytest.mark.timeout(180)
def test_a_directory_that_cannot_be_written_is_refused_with_a_clear_line() -> None:
    process = Process(Path("/proc/agentgym"))  # not even root may write there

    assert process.wait() == 1
    assert "directory /proc/agentgym: it cannot be made" in "".join(process.lines)
