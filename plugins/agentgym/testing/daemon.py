"""A daemon that remembers instead of learning: a real gRPC server that tests can script."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    add_TraceServiceServicer_to_server,
)

from agentgym import semconv
from agentgym.policy.arms import Exploration
from agentgym.policy.features import GRAMS_ONLY
from agentgym.proto.v1 import (
    admin_pb2,
    artifact_pb2,
    catalogue_pb2,
    common_pb2,
    decision_pb2,
    experiment_pb2,
    policy_pb2,
    producer_pb2,
    registry_pb2,
    reward_pb2,
    trajectory_pb2,
)
from agentgym.proto.v1.admin_pb2_grpc import add_AdminServiceServicer_to_server
from agentgym.proto.v1.artifact_pb2_grpc import add_ArtifactServiceServicer_to_server
from agentgym.proto.v1.catalogue_pb2_grpc import add_CatalogueServiceServicer_to_server
from agentgym.proto.v1.decision_pb2_grpc import add_DecisionServiceServicer_to_server
from agentgym.proto.v1.experiment_pb2_grpc import add_ExperimentServiceServicer_to_server
from agentgym.proto.v1.policy_pb2_grpc import add_PolicyServiceServicer_to_server
from agentgym.proto.v1.producer_pb2_grpc import add_ProducerServiceServicer_to_server
from agentgym.proto.v1.registry_pb2_grpc import add_RegistryServiceServicer_to_server
from agentgym.proto.v1.reward_pb2_grpc import add_RewardServiceServicer_to_server
from agentgym.proto.v1.trajectory_pb2_grpc import add_TrajectoryServiceServicer_to_server
from agentgym.testing.signing import SigningKey
from agentgym.wire import BYTES, entry, tag

FACTS = ("Export", "Record", "Put", "Report")
"""The calls that carry facts and therefore a sequence number."""
_CHUNK_BYTES = 2**16
_UNIX_ROOM = 64


@dataclass(frozen=True, slots=True)
class Received:
    """One call as it came in; `refused` is the status it was answered with, "" if it was taken."""

    method: str
    request: Any
    metadata: dict[str, str | bytes]
    refused: str

    @property
    def producer(self) -> bytes:
        """The sender's 16 bytes."""
        return bytes(self.metadata.get(semconv.METADATA_PRODUCER, b""))  # type: ignore[arg-type]

    @property
    def sequence(self) -> int:
        """The sender's number of this call; 0 if it has none."""
        return int(self.metadata.get(semconv.METADATA_SEQUENCE, 0))


@dataclass
class Script:
    """What the fake answers: replies of the reading verbs, refusals, hanging."""

    refusals: dict[str, deque[tuple[grpc.StatusCode, str, float | None]]] = field(
        default_factory=dict
    )
    hanging: threading.Event = field(default_factory=threading.Event)
    replies: dict[str, Any] = field(default_factory=dict)


class FakeDaemon:
    """All services of agentgym.v1 and OTLP traces, in this process.

    `with FakeDaemon(home) as daemon:` listens on `home/daemon.sock` and writes `home/token` and
    `home/signing.pub`, so that `AgentGym(home=home)` finds and trusts it; `tcp=True` listens on a
    free port of 127.0.0.1 instead. Whatever was received survives `stop` and `start`, as in the
    real daemon.
    """

    def __init__(self, home: Path, *, tcp: bool = False, token: str = "fake-token") -> None:
        self.home = home
        self.token = token
        self.tcp = tcp
        self.endpoint = "127.0.0.1:0" if tcp else f"unix:{home / 'daemon.sock'}"
        self.received: list[Received] = []
        self.artifacts: dict[str, bytes] = {}
        self.script = Script()
        self.update = policy_pb2.PolicyUpdate(
            contract_version=semconv.CONTRACT_VERSION,
            daemon_version="fake",
            feature_key=b"fake-feature-key",
            steering=steering(Exploration()),
            features=policy_pb2.FeatureSchema(number=GRAMS_ONLY),
        )
        self.key = SigningKey()
        """Signs what is pushed; another one in its place is that of a stranger."""
        self.envelope: policy_pb2.SignedUpdate | None = None
        """If set, what every subscriber gets instead of `update`, as it is."""
        self._updates = threading.Condition()
        self._version = 0
        self._born = time.time_ns()
        self._subscribers = 0
        self._server: grpc.Server | None = None
        self.write_token()

    # ---- life

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def write_token(self, token: str | None = None) -> None:
        """Writes the token file that plugins read: the right token, or the one given."""
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "token").write_text(self.token if token is None else token)
        (self.home / "signing.pub").write_text(self.key.public.hex())

    def start(self) -> None:
        """Listens; after `stop` on the same address again."""
        server = grpc.server(
            ThreadPoolExecutor(_UNIX_ROOM, thread_name_prefix="fake-daemon"),
            options=[("grpc.so_reuseport", 0)],
        )
        servicer = _Servicer(self)
        services: tuple[Callable[..., None], ...] = (
            add_TraceServiceServicer_to_server,
            add_AdminServiceServicer_to_server,
            add_ArtifactServiceServicer_to_server,
            add_CatalogueServiceServicer_to_server,
            add_DecisionServiceServicer_to_server,
            add_ExperimentServiceServicer_to_server,
            add_PolicyServiceServicer_to_server,
            add_ProducerServiceServicer_to_server,
            add_RegistryServiceServicer_to_server,
            add_RewardServiceServicer_to_server,
            add_TrajectoryServiceServicer_to_server,
        )
        for add in services:
            add(servicer, server)
        port = server.add_insecure_port(self.endpoint)
        if self.tcp:
            self.endpoint = f"127.0.0.1:{port}"
        server.start()
        self._server = server
        self.write_pointer()

    def stop(self, grace_s: float = 0.0) -> None:
        """Ends all calls and stops listening; idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        stopped = server.stop(grace_s)
        self.script.hanging.clear()
        with self._updates:
            self._updates.notify_all()
        stopped.wait(5.0)

    @property
    def running(self) -> bool:
        """True between `start` and `stop`."""
        return self._server is not None

    # ---- scripting

    def refuse(
        self,
        method: str,
        code: grpc.StatusCode,
        *,
        times: int = 1,
        details: str = "scripted",
        retry_s: float | None = None,
    ) -> None:
        """Answers the next `times` calls of a method ("Export", "Record", ...) with a status.

        `retry_s` travels with it as google.rpc.RetryInfo.
        """
        refusals = self.script.refusals.setdefault(method, deque())
        refusals.extend([(code, details, retry_s)] * times)

    def hang(self, hanging: bool = True) -> None:
        """Holds every call that carries facts until `hang(False)` or `stop`."""
        (self.script.hanging.set if hanging else self.script.hanging.clear)()

    def reply(self, method: str, message: Message | Callable[[Any], Any]) -> None:
        """Sets the answer of a reading or changing verb ("Status", "List", "Explain", ...)."""
        self.script.replies[method] = message

    def push(self, *live: policy_pb2.PolicyVersion, **changes: Any) -> None:
        """Pushes a PolicyUpdate with these live versions; `changes` are fields of Steering."""
        with self._updates:
            update = policy_pb2.PolicyUpdate()
            update.CopyFrom(self.update)
            del update.live[:]
            update.live.extend(live)
            for name, value in changes.items():
                setattr(update.steering, name, value)
            self.update, self.envelope = update, None
            self._version += 1
            self._updates.notify_all()
        self.write_pointer()

    def push_signed(self, envelope: policy_pb2.SignedUpdate) -> None:
        """Pushes exactly this to every subscriber, whoever it is for and whatever is wrong with it.

        Those that come later get it too, until the next `push`.
        """
        with self._updates:
            self.envelope = envelope
            self._version += 1
            self._updates.notify_all()

    def signed(self, agent: str, **changes: Any) -> policy_pb2.SignedUpdate:
        """The present update for an agent, signed; `changes` are fields of PolicyUpdate."""
        fields = {"agent": agent, "serial": self.serial, **changes}
        return self.key.sign(self.update, **fields)

    @property
    def serial(self) -> int:
        """Of the present update: rises with every push, also over fakes on the same home."""
        return self._born + self._version

    def write_pointer(self) -> None:
        """Writes the files by which processes without gRPC follow the policies."""
        directory = self.home / "policies" / "current"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        handshake = policy_pb2.PolicyUpdate()
        handshake.CopyFrom(self.update)
        handshake.ClearField("live")
        files = {"handshake": self.key.sign(handshake, agent="", serial=self.serial)}
        for version in self.update.live:
            agent = version.scope.agent
            files[hashlib.sha256(agent.encode()).hexdigest()] = self.signed(agent)
            path = directory.parent / f"{version.version}.safetensors"
            path.write_bytes(self.artifacts.get(version.sha256, b""))
        for path in directory.glob("*.update"):
            if path.stem not in files:
                path.unlink()
        for name, update in files.items():
            part = directory / f".{name}.part"
            part.write_bytes(update.SerializeToString(deterministic=True))
            part.replace(directory / f"{name}.update")

    def publish(
        self, data: bytes, *, version: str, agent: str, agent_name: str | None = None
    ) -> policy_pb2.PolicyVersion:
        """Keeps a snapshot for download and returns its entry for `push`."""
        sha256 = hashlib.sha256(data).hexdigest()
        self.artifacts[sha256] = data
        scope = common_pb2.Scope(
            agent=agent,
            agent_name=agent if agent_name is None else agent_name,
            feature_schema=self.update.features.number,
        )
        return policy_pb2.PolicyVersion(
            scope=scope, version=version, sha256=sha256, size=len(data), status="live"
        )

    # ---- what came in

    def taken(self, method: str) -> list[Received]:
        """Calls of a method that were acked; a retry of an acked one counts once."""
        unique: dict[tuple[bytes, int] | int, Received] = {}
        for i, call in enumerate(list(self.received)):
            if call.method == method and not call.refused:
                unique.setdefault((call.producer, call.sequence) if call.sequence else i, call)
        return list(unique.values())

    @property
    def spans(self) -> list[Any]:
        """All acked OTLP spans."""
        return [
            span
            for call in self.taken("Export")
            for resource in call.request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def decisions(self) -> list[decision_pb2.DecisionRecord]:
        """All acked decision records."""
        return [d for call in self.taken("Record") for d in call.request.decisions]

    @property
    def features(self) -> list[decision_pb2.TaskFeatures]:
        """All acked task features."""
        return [f for call in self.taken("Record") for f in call.request.features]

    @property
    def tools(self) -> list[common_pb2.Tool]:
        """All acked catalogue entries."""
        return [tool for call in self.taken("Put") for tool in call.request.tools]

    @property
    def rewards(self) -> list[reward_pb2.Reward]:
        """All acked rewards."""
        return [reward for call in self.taken("Report") for reward in call.request.rewards]

    @property
    def reports(self) -> list[producer_pb2.ProducerReport]:
        """What producers said of themselves, in order."""
        return [call.request for call in self.taken("ProducerReport")]

    @property
    def retries(self) -> Counter[tuple[bytes, int]]:
        """How often each (producer, sequence) was sent again after its first time."""
        sent = Counter((c.producer, c.sequence) for c in list(self.received) if c.sequence)
        return Counter({key: n - 1 for key, n in sent.items() if n > 1})

    @property
    def subscribers(self) -> int:
        """Streams of policies that are open now."""
        return self._subscribers

    def wait_for(self, condition: Callable[[Self], Any], timeout_s: float = 10.0) -> bool:
        """Waits until a condition on this fake holds; False on timeout."""
        deadline = time.monotonic() + timeout_s
        while not condition(self):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    # ---- the servicer's side

    def _admit(self, method: str, request: Any, context: grpc.ServicerContext) -> None:
        metadata = {key: value for key, value in context.invocation_metadata()}
        code, details, retry_s = self._verdict(method, metadata)
        refused = code.name if code else ""
        self.received.append(Received(method, request, metadata, refused))
        if code:
            if retry_s is not None:
                context.set_trailing_metadata((("google.rpc.retryinfo-bin", _retry_info(retry_s)),))
            context.abort(code, details)
        while method in FACTS and self.script.hanging.is_set() and context.is_active():
            time.sleep(0.01)

    def _verdict(
        self, method: str, metadata: dict[str, Any]
    ) -> tuple[grpc.StatusCode | None, str, float | None]:
        if metadata.get(semconv.METADATA_TOKEN) != f"Bearer {self.token}":
            return grpc.StatusCode.UNAUTHENTICATED, "wrong token", None
        queue = self.script.refusals.get(method)
        return queue.popleft() if queue else (None, "", None)

    def _answer(self, method: str, request: Any, default: Message) -> Any:
        reply = self.script.replies.get(method, default)
        return reply(request) if callable(reply) else reply

    def _follow(
        self, agent: str, context: grpc.ServicerContext
    ) -> Iterator[policy_pb2.SignedUpdate]:
        seen = -1
        with self._updates:
            self._subscribers += 1
        context.add_callback(self._unsubscribed)
        while context.is_active():
            with self._updates:
                if self._version == seen:
                    self._updates.wait(0.2)  # `push` and the end of the call notify
                if self._version == seen:
                    continue
                seen = self._version
                envelope = self.envelope or self.signed(agent)
            yield envelope

    def _unsubscribed(self) -> None:
        with self._updates:
            self._subscribers -= 1
            self._updates.notify_all()


def steering(
    exploration: Exploration, *, control_share: float = 0.0, stale_after_s: int = 86_400
) -> policy_pb2.Steering:
    """Steering as the real daemon sends it."""
    return policy_pb2.Steering(
        control_share=control_share,
        temperature=exploration.temperature,
        floor=exploration.floor,
        defer_floor=exploration.defer_floor,
        top_k=exploration.top_k,
        stale_after_s=stale_after_s,
    )


def _retry_info(delay_s: float) -> bytes:
    delay = Duration()
    delay.FromNanoseconds(int(delay_s * 1e9))
    return entry(tag(1, BYTES), delay.SerializeToString())


class _Servicer:
    """Every method of every service; gRPC looks them up by name."""

    def __init__(self, daemon: FakeDaemon) -> None:
        self._daemon = daemon

    def _unary(self, method: str, request: Any, context: Any, default: Message) -> Any:
        self._daemon._admit(method, request, context)
        return self._daemon._answer(method, request, default)

    def __getattr__(self, method: str) -> Any:
        """Verbs that answer what `reply` says, and nothing of their own."""
        if method.startswith("_"):
            raise AttributeError(method)

        def verb(request: Any, context: Any) -> Any:
            self._daemon._admit(method, request, context)
            if method not in self._daemon.script.replies:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, f"set reply({method!r}, ...) first")
            return self._daemon._answer(method, request, policy_pb2.PolicyVersion())

        return verb

    def Export(self, request: Any, context: Any) -> Any:
        """OTLP spans, or a bundle: two services have a method of this name."""
        if isinstance(request, registry_pb2.ExportRequest):
            return iter([self._unary("ExportPolicy", request, context, artifact_pb2.Chunk())])
        return self._unary("Export", request, context, ExportTraceServiceResponse())

    def Import(self, requests: Any, context: Any) -> Any:
        """A bundle, received as one request."""
        whole = registry_pb2.ImportRequest()
        for request in requests:
            request.data = whole.data + request.data
            whole.MergeFrom(request)
        return self._unary("Import", whole, context, policy_pb2.PolicyVersion())

    def Record(self, request: Any, context: Any) -> Any:
        """Decisions and features."""
        accepted = len(request.decisions) + len(request.features)
        default = decision_pb2.RecordResponse(accepted=accepted)
        return self._unary("Record", request, context, default)

    def Put(self, request: Any, context: Any) -> Any:
        """Catalogue entries."""
        default = catalogue_pb2.PutResponse(accepted=len(request.tools))
        return self._unary("Put", request, context, default)

    def Report(self, request: Any, context: Any) -> Any:
        """Rewards, or what a producer says of itself: two services have a method of this name."""
        if isinstance(request, producer_pb2.ProducerReport):
            default = producer_pb2.ProducerReportResponse()
            return self._unary("ProducerReport", request, context, default)
        results = [
            reward_pb2.ReportResult(trajectory_ids=[r.trajectory_id], reward_id=f"r-{i}")
            for i, r in enumerate(request.rewards)
        ]
        return self._unary("Report", request, context, reward_pb2.ReportResponse(results=results))

    def Revoke(self, request: Any, context: Any) -> Any:
        """Takes a reward back."""
        return self._unary("Revoke", request, context, reward_pb2.RevokeResponse())

    def Subscribe(self, request: Any, context: Any) -> Iterator[Any]:
        """Policies."""
        self._daemon._admit("Subscribe", request, context)
        if request.contract_version != semconv.CONTRACT_VERSION or not request.signed:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "wrong contract version")
        yield from self._daemon._follow(request.agent, context)

    def Get(self, request: Any, context: Any) -> Any:
        """A policy, a trajectory, or a file: three services have a method of this name."""
        if isinstance(request, artifact_pb2.GetArtifactRequest):
            return self._download(request, context)
        kind = trajectory_pb2.Trajectory
        if isinstance(request, policy_pb2.GetPolicyRequest):
            return self._unary("GetPolicy", request, context, policy_pb2.PolicyVersion())
        return self._unary("GetTrajectory", request, context, kind())

    def _download(self, request: Any, context: Any) -> Iterator[artifact_pb2.Chunk]:
        self._daemon._admit("GetArtifact", request, context)
        data = self._daemon.artifacts.get(request.sha256)
        if data is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no file {request.sha256}")
        assert data is not None  # abort raises
        for start in range(0, max(len(data), 1), _CHUNK_BYTES):
            yield artifact_pb2.Chunk(data=data[start : start + _CHUNK_BYTES], total=len(data))

    def List(self, request: Any, context: Any) -> Any:
        """Policies, experiments or trajectories."""
        if isinstance(request, policy_pb2.ListPoliciesRequest):
            default: Message = policy_pb2.ListPoliciesResponse()
            return self._unary("ListPolicies", request, context, default)
        if isinstance(request, experiment_pb2.ListExperimentsRequest):
            default = experiment_pb2.ListExperimentsResponse()
            return self._unary("ListExperiments", request, context, default)
        default = trajectory_pb2.ListTrajectoriesResponse()
        return self._unary("ListTrajectories", request, context, default)

    def Tail(self, request: Any, context: Any) -> Iterator[Any]:
        """Trajectories as they close; the scripted ones, then the end."""
        self._daemon._admit("Tail", request, context)
        replies: Iterable[Any] = self._daemon.script.replies.get("Tail", ())
        yield from replies

    def Explain(self, request: Any, context: Any) -> Any:
        """Why a decision fell as it did."""
        return self._unary("Explain", request, context, trajectory_pb2.ExplainResponse())

    def Promote(self, request: Any, context: Any) -> Any:
        """Makes a version live."""
        return self._unary("Promote", request, context, policy_pb2.ChangeResponse())

    def Rollback(self, request: Any, context: Any) -> Any:
        """Goes back."""
        return self._unary("Rollback", request, context, policy_pb2.ChangeResponse())

    def Pin(self, request: Any, context: Any) -> Any:
        """Keeps a version live."""
        return self._unary("Pin", request, context, policy_pb2.ChangeResponse())

    def SetStage(self, request: Any, context: Any) -> Any:
        """Moves an agent on the ladder."""
        return self._unary("SetStage", request, context, policy_pb2.StageResponse())

    def ListStages(self, request: Any, context: Any) -> Any:
        """Where agents stand."""
        return self._unary("ListStages", request, context, policy_pb2.ListStagesResponse())

    def Kill(self, request: Any, context: Any) -> Any:
        """Stops an agent, or revives it."""
        return self._unary("Kill", request, context, policy_pb2.StageResponse(seen=True))

    def Status(self, request: Any, context: Any) -> Any:
        """The daemon's own state."""
        return self._unary("Status", request, context, admin_pb2.StatusResponse())
