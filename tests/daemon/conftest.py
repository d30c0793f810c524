"""Shared by the daemon's tests: a daemon in this process, a client, and facts easy to read."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc import aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from agentgym import semconv
from agentgym.policy.parameters import initial
from agentgym.policy.snapshot import dump
from agentgym.proto.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    artifact_pb2_grpc,
    catalogue_pb2_grpc,
    common_pb2,
    decision_pb2_grpc,
    evaluation_pb2_grpc,
    experiment_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
    registry_pb2_grpc,
    reward_pb2,
    reward_pb2_grpc,
    trajectory_pb2_grpc,
)
from agentgym.trajectory import Tool
from agentgym_daemon.app import Daemon
from agentgym_daemon.config import DaemonConfig, resolve
from agentgym_daemon.learning.supervisor import TrainJob, TrainResult
from agentgym_daemon.lock import read_token
from tests.manifests import make_manifest

TOOLS = (Tool("find_order", "Finds an order by its number."), Tool("refund", "Pays an order back."))
AGENT = "support-desk"
MakeCandidate = Callable[..., bytes]


@pytest.fixture
def tools() -> tuple[Tool, ...]:
    """Two tools that an agent offers."""
    return TOOLS


@pytest.fixture
def scope() -> common_pb2.Scope:
    """The scope of the support desk."""
    return common_pb2.Scope(agent=AGENT, agent_name="clerk", feature_schema=1)


def candidate(version: str, *, parent: str = "", bias: float = 0.0) -> bytes:
    """The snapshot file of a version; `bias` makes files differ."""
    parameters = initial(
        tuple(tool.fingerprint.hex() for tool in TOOLS), tuple(tool.name for tool in TOOLS)
    )
    parameters.tensors["tool.bias"][:] = bias
    manifest = make_manifest(
        version,
        parent=parent,
        scope={"agent": AGENT, "agent_name": "clerk", "feature_schema": 1},
        lineage={"seed": 0},
    )
    return dump(parameters, manifest)


@pytest.fixture
def make_candidate() -> MakeCandidate:
    """Makes the snapshot file of a version."""
    return candidate


class StillTrainer:
    """A trainer without a process: answers jobs as it is told to, by default never."""

    def __init__(self) -> None:
        self.status = "idle"
        self.jobs: list[TrainJob] = []
        self.answer: Callable[[TrainJob], TrainResult] | None = None
        self.warmed = False

    def warm(self) -> None:
        self.warmed = True

    def train(self, job: TrainJob) -> Future[TrainResult]:
        self.jobs.append(job)
        future: Future[TrainResult] = Future()
        if self.answer is not None:
            future.set_result(self.answer(job))
        return future

    def close(self) -> None:
        self.status = "closed"


class Subscription:
    """A stream of policies; what it gives is out of its envelope, whose signature others test."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def read(self) -> Any:
        """The next update, or the end of the stream."""
        signed = await self.call.read()
        if signed is aio.EOF:
            return signed
        return policy_pb2.PolicyUpdate.FromString(signed.update)

    def cancel(self) -> None:
        """Leaves."""
        self.call.cancel()


class Client:
    """All stubs of one daemon on one channel."""

    def __init__(self, address: str, token: str | None, *more: tuple[str, str | bytes]) -> None:
        self.channel = aio.insecure_channel(address)
        authorization = () if token is None else ((semconv.METADATA_TOKEN, f"Bearer {token}"),)
        self.metadata: tuple[tuple[str, str | bytes], ...] = (*authorization, *more)
        self.traces = TraceServiceStub(self.channel)
        self.decisions = decision_pb2_grpc.DecisionServiceStub(self.channel)
        self.catalogue = catalogue_pb2_grpc.CatalogueServiceStub(self.channel)
        self.rewards = reward_pb2_grpc.RewardServiceStub(self.channel)
        self.policies = policy_pb2_grpc.PolicyServiceStub(self.channel)
        self.experiments = experiment_pb2_grpc.ExperimentServiceStub(self.channel)
        self.evaluation = evaluation_pb2_grpc.EvaluationServiceStub(self.channel)
        self.registry = registry_pb2_grpc.RegistryServiceStub(self.channel)
        self.artifacts = artifact_pb2_grpc.ArtifactServiceStub(self.channel)
        self.trajectories = trajectory_pb2_grpc.TrajectoryServiceStub(self.channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(self.channel)

    async def call(self, method: Any, request: Any, **options: Any) -> Any:
        """One call with the client's metadata and a deadline."""
        return await method(request, metadata=self.metadata, timeout=20, **options)

    def subscribe(self, agent: str = AGENT, **fields: Any) -> Subscription:
        """An open subscription of an agent."""
        request = policy_pb2.SubscribeRequest(
            **{"contract_version": 1, "agent": agent, "signed": True, **fields}
        )
        return Subscription(self.policies.Subscribe(request, metadata=self.metadata, timeout=60))

    async def status(self) -> admin_pb2.StatusResponse:
        """The daemon's status."""
        response: admin_pb2.StatusResponse = await self.call(
            self.admin.Status, admin_pb2.StatusRequest()
        )
        return response

    async def applied(self) -> None:
        """Waits until everything that was acknowledged is in the database."""
        while True:
            status = await self.status()
            if status.log_applied >= status.log_end:
                return

    async def send_run(self, number: int, **options: Any) -> bytes:
        """Sends a whole run; returns its trajectory id."""
        await self.call(self.traces.Export, run_spans(number, **options))
        return trajectory_id(number)

    async def reward(self, **fields: Any) -> reward_pb2.ReportResult:
        """Reports one reward."""
        report = reward_pb2.ReportRequest(rewards=[reward_pb2.Reward(**fields)])
        response = await self.call(self.rewards.Report, report)
        result: reward_pb2.ReportResult = response.results[0]
        return result


def trajectory_id(number: int) -> bytes:
    """The id of the run with a number."""
    return number.to_bytes(16, "big")


def run_spans(
    number: int, *, key: str = "", root: bool = True, agent: str = AGENT, start_ns: int = 0
) -> ExportTraceServiceRequest:
    """The spans of one run: its root (unless it is still open) and one tool call."""
    start = start_ns or 1_700_000_000_000_000_000 + number
    spans = [
        _span(
            number,
            2,
            start,
            {
                semconv.AGENT: agent,
                semconv.OPERATION_NAME: semconv.EXECUTE_TOOL,
                semconv.TOOL_NAME: "find_order",
                semconv.DECISION_ID: number.to_bytes(8, "big").hex(),
            },
            parent=1,
        )
    ]
    if root:
        attributes = {semconv.AGENT: agent, semconv.OPERATION_NAME: semconv.INVOKE_AGENT}
        if key:
            attributes[semconv.TRAJECTORY_KEY] = key
        span = _span(number, 1, start, attributes)
        span.attributes.add(key=semconv.TRAJECTORY_ROOT, value=AnyValue(bool_value=True))
        spans.append(span)
    elif key:
        spans[0].attributes.add(key=semconv.TRAJECTORY_KEY, value=AnyValue(string_value=key))
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.extend(spans)
    return request


def _span(
    number: int, span: int, start: int, attributes: dict[str, str], *, parent: int = 0
) -> Span:
    return Span(
        trace_id=trajectory_id(number),
        span_id=span.to_bytes(8, "big"),
        parent_span_id=parent.to_bytes(8, "big") if parent else b"",
        name="span",
        start_time_unix_nano=start,
        end_time_unix_nano=start + 1000,
        attributes=[
            KeyValue(key=name, value=AnyValue(string_value=value))
            for name, value in attributes.items()
        ],
    )


class Desk:
    """A running daemon with its trainer and a client that may do everything."""

    def __init__(self, daemon: Daemon, trainer: StillTrainer, client: Client) -> None:
        self.daemon, self.trainer, self.client = daemon, trainer, client
        self.home = daemon.config.home
        self.token = read_token(self.home)
        self.began = daemon._log.end
        """Where the log ended when nobody had sent anything."""

    def another(self, token: str | None, *metadata: tuple[str, str | bytes]) -> Client:
        """A client with another token or other metadata."""
        return Client(self.daemon.listeners[0], token, *metadata)


def daemon_config(home: Path, **settings: Any) -> DaemonConfig:
    """Settings that leave the environment out; n-grams only unless a test asks for more."""
    return resolve({"home": home, "encoder": "none", **settings}, {})


@asynccontextmanager
async def running(home: Path, **settings: Any) -> AsyncIterator[Desk]:
    """A daemon from start to stop."""
    trainer = StillTrainer()
    daemon = Daemon(daemon_config(home, **settings), trainer_factory=lambda _: trainer)
    await daemon.start()
    client = Client(daemon.listeners[0], read_token(home))
    try:
        yield Desk(daemon, trainer, client)
    finally:
        with contextlib.suppress(aio.UsageError):
            await client.channel.close()
        await daemon.stop()


@pytest.fixture
async def desk(home: Path) -> AsyncIterator[Desk]:
    """A daemon on a fresh directory, with default settings."""
    async with running(home) as desk:
        yield desk


@pytest.fixture
def open_desk(home: Path) -> Callable[..., AbstractAsyncContextManager[Desk]]:
    """Opens daemons on one directory, with settings of the test's own."""
    return lambda **settings: running(home, **settings)


@pytest.fixture
def spans_of() -> Callable[..., ExportTraceServiceRequest]:
    """Makes the spans of a run."""
    return run_spans
