"""Past trajectories on their way into a running daemon, by the services that the plugin uses.

Ids are the source's, so whatever is sent twice counts once. A run is asked for before it is sent:
one that is there already is left alone, one that live traffic brought is never touched.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import methodcaller
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from agentgym import semconv
from agentgym.config import Config
from agentgym.connection import credentials, open_channel, read_token, status_name
from agentgym.encode import export_request, resource_head, span_entry
from agentgym.errors import DaemonError
from agentgym.items import RewardItem, TaskItem
from agentgym.live import LivePolicies
from agentgym.messages import reward_message, step_message, tool_message
from agentgym.policy.features import Featuriser
from agentgym.policy.messages import features_message
from agentgym.policy.subscriber import Subscriber
from agentgym.proto.v1 import (
    admin_pb2,
    catalogue_pb2,
    common_pb2,
    decision_pb2,
    reward_pb2,
    trajectory_pb2,
)
from agentgym.proto.v1.admin_pb2_grpc import AdminServiceStub
from agentgym.proto.v1.catalogue_pb2_grpc import CatalogueServiceStub
from agentgym.proto.v1.decision_pb2_grpc import DecisionServiceStub
from agentgym.proto.v1.reward_pb2_grpc import RewardServiceStub
from agentgym.proto.v1.trajectory_pb2_grpc import TrajectoryServiceStub
from agentgym.trajectory import Tool
from agentgym.version import VERSION
from agentgym_daemon.importing.model import Problems
from agentgym_daemon.importing.plan import Plan
from agentgym_daemon.importing.records import PastTrajectory, unique_tools

DEADLINE_S = 60.0
CHUNK_BYTES = 2**20
BATCH_RUNS = 200
_LOOK_S = 0.05
_PAGE = 1000
_MARGIN_NS = 24 * 3600 * 10**9
"""A run may have come in by another way, whose first span began a little earlier or later."""
_RECENT = 20
"""How many of an agent's latest trajectories are looked through for its tools."""
_T = TypeVar("_T")


def task_features(item: TaskItem, features: Featuriser) -> decision_pb2.TaskFeatures:
    """The features of a past task, exactly as the plugin would have made them."""
    return features_message(
        item.trajectory_id, item.features_id, features(item.text), features.schema
    )


class Daemon:
    """A running daemon, as an import needs it; raises the plugin's DaemonError."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._metadata = credentials(read_token(config.token_file))
        self._channel = open_channel(config.endpoint)
        self._traces = TraceServiceStub(self._channel)
        self._decisions = DecisionServiceStub(self._channel)
        self._catalogue = CatalogueServiceStub(self._channel)
        self._rewards = RewardServiceStub(self._channel)
        self._admin = AdminServiceStub(self._channel)
        self._trajectories = TrajectoryServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def featuriser(self) -> Featuriser:
        """How this installation turns texts into features: what the plugin is told, as it is told.

        The key, and an encoder where there is one, come over the stream of policies.
        """
        self._ask(self._trajectories.List, trajectory_pb2.ListTrajectoriesRequest(limit=1))
        live, stop = LivePolicies(), threading.Event()
        subscriber = Subscriber(self._config, live, self._channel, os.urandom(16))
        subscriber.start(stop, on_ready=_nothing, on_reconnect=_nothing)
        connected = subscriber.connected.wait(DEADLINE_S)
        stop.set()
        if not connected or live.current is None:
            raise DaemonError(
                f"expected the features of this installation from {self._config.endpoint} within "
                f"{DEADLINE_S:.0f} s, got none; the token needs the scopes ingest, reward and read",
                code="FAILED_PRECONDITION",
            )
        return live.current.features

    def caught_up(self) -> None:
        """Returns when the database holds what was acknowledged so far."""
        end = None
        for _ in range(int(DEADLINE_S / _LOOK_S)):
            status = self._ask(self._admin.Status, admin_pb2.StatusRequest())
            end = status.log_end if end is None else end
            if status.log_applied >= end:
                return
            time.sleep(_LOOK_S)
        raise DaemonError(
            f"expected the database to be up to date within {DEADLINE_S:.0f} s; try again later",
            code="FAILED_PRECONDITION",
        )

    def between(self, first_ns: int, last_ns: int) -> dict[bytes, Any]:
        """Summaries of the trajectories that began in a time, by id."""
        found: dict[bytes, Any] = {}
        before = last_ns + 1
        while before > first_ns:
            request = trajectory_pb2.ListTrajectoriesRequest(limit=_PAGE, before_unix_nano=before)
            page = self._ask(self._trajectories.List, request).trajectories
            known = len(found)
            found |= {summary.trajectory_id: summary for summary in page}
            if len(page) < _PAGE:
                break
            # Some may share the last one's start, and stand on the next page.
            before = page[-1].start_unix_nano + (len(found) > known)
        return found

    def state(self, trajectory_id: bytes, summary: Any = None) -> str:
        """What is known of a run: "" (nothing), "part", "imported", or "live"."""
        if summary is not None and _is_imported(summary):
            return "imported"
        request = trajectory_pb2.GetTrajectoryRequest(trajectory_id=trajectory_id)
        try:
            found = self._ask(self._trajectories.Get, request)
        except DaemonError as error:
            if error.code == "NOT_FOUND":
                return ""
            raise
        if _is_imported(found.summary):
            return "imported"  # its root, which comes last, says so
        # An import that broke off may have left marked spans, or none, but no root.
        marked = all(semconv.IMPORTED in span.attributes_json for span in found.spans)
        return "part" if marked else "live"

    def known_tools(self, agent: str) -> dict[str, Tool]:
        """Definitions of the tools that the live agent offered lately, by name."""
        request = trajectory_pb2.ListTrajectoriesRequest(agent=agent, limit=_RECENT)
        known: dict[str, Tool] = {}
        for summary in self._ask(self._trajectories.List, request).trajectories:
            if _is_imported(summary):
                continue
            get = trajectory_pb2.GetTrajectoryRequest(trajectory_id=summary.trajectory_id)
            for tool in self._ask(self._trajectories.Get, get).tools:
                known.setdefault(tool.name, _tool(tool))
        return known

    def send(
        self, batch: Sequence[PastTrajectory], features: Featuriser, problems: Problems
    ) -> None:
        """A batch of runs: tools, features, decisions, then the spans that close them."""
        for agent, tools in unique_tools(batch):
            for some in _chunks(map(tool_message, tools)):
                self._ask(self._catalogue.Put, catalogue_pb2.PutRequest(agent=agent, tools=some))
        tasks = (task_features(task, features) for run in batch for task in run.tasks)
        for some in _chunks(tasks):
            self._record(decision_pb2.RecordRequest(features=some), problems)
        decisions = (step_message(step, features.schema) for run in batch for step in run.steps)
        for some in _chunks(decisions):
            self._record(decision_pb2.RecordRequest(decisions=some), problems)
        self._spans(batch, problems)

    def _record(self, request: decision_pb2.RecordRequest, problems: Problems) -> None:
        response = self._ask(self._decisions.Record, request)
        problems.add("steps that the daemon refused", response.message, response.rejected)

    def _spans(self, batch: Sequence[PastTrajectory], problems: Problems) -> None:
        by_agent: dict[str, list[PastTrajectory]] = {}
        for run in batch:
            by_agent.setdefault(run.agent, []).append(run)
        for agent, runs in by_agent.items():
            head = resource_head({"service.name": agent, semconv.PLUGIN_VERSION: VERSION})
            entries = (span_entry(span) for run in runs for span in run.spans)
            for some in _chunks(entries, len):
                request = ExportTraceServiceRequest.FromString(export_request(head, some))
                response = self._ask(self._traces.Export, request)
                partial = response.partial_success
                problems.add(
                    "spans that the daemon refused", partial.error_message, partial.rejected_spans
                )

    def reward(self, rewards: Iterable[RewardItem], problems: Problems) -> Counter[str]:
        """Reports rewards; how many were new, and how many were known."""
        told: Counter[str] = Counter()
        for some in _chunks(map(reward_message, rewards)):
            report = self._ask(self._rewards.Report, reward_pb2.ReportRequest(rewards=some))
            for result in report.results:
                if result.error:
                    problems.add("rewards that the daemon refused", result.error)
                else:
                    told["known" if result.duplicate else "new"] += 1
        return told

    def _ask(self, method: Callable[..., Any], request: Message) -> Any:
        try:
            return method(request, metadata=self._metadata, timeout=DEADLINE_S)
        except grpc.RpcError as error:
            raise self._error(error) from error

    def _error(self, error: grpc.RpcError) -> DaemonError:
        code = status_name(error)
        details = error.details() if hasattr(error, "details") else str(error)
        if code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
            return DaemonError(
                f"no daemon answers at {self._config.endpoint}, and past runs are imported through "
                f"it; start it: agentgym-daemon serve ({details})",
                code="UNAVAILABLE",
            )
        return DaemonError(f"{details} ({code})", code=code)


def _is_imported(summary: trajectory_pb2.TrajectorySummary) -> bool:
    return summary.framework.startswith(semconv.IMPORT_PREFIX)


def _nothing() -> None:
    return None


def _tool(message: common_pb2.Tool) -> Tool:
    try:
        parameters = json.loads(message.parameters_json or "{}")
    except ValueError:
        parameters = {}
    return Tool(message.name, message.description, parameters)


def deliver(plan: Plan, daemon: Daemon, features: Featuriser, sent: Counter[str]) -> None:
    """Sends a plan, run by run, and counts into `sent` what became of them.

    When it raises, `sent` says how far it came; the same import, started again, goes on there.
    """
    daemon.caught_up()
    starts = [run.start_ns for run in plan.trajectories]
    known = daemon.between(min(starts) - _MARGIN_NS, max(starts) + _MARGIN_NS) if starts else {}
    for batch in _batches(plan.trajectories, BATCH_RUNS):
        states = {
            run.id: daemon.state(run.id, known[run.id]) if run.id in known else "" for run in batch
        }
        fresh = [run for run in batch if states[run.id] in ("", "part")]
        if fresh:
            daemon.send(fresh, features, plan.problems)
        sent["runs"] += len(fresh)
        sent["known_runs"] += sum(state == "imported" for state in states.values())
        live = [run for run in batch if states[run.id] == "live"]
        sent["live_runs"] += len(live)
        for run in live:
            plan.problems.add("runs that live traffic brought before", run.id.hex())
        rewards = (r for run in batch if states[run.id] != "live" for r in run.rewards)
        _count(sent, daemon.reward(rewards, plan.problems))
    _count(sent, daemon.reward(_of_imported(plan, daemon), plan.problems))


def _of_imported(plan: Plan, daemon: Daemon) -> Iterator[RewardItem]:
    for reward in plan.later_rewards:
        if daemon.state(reward.trajectory_id) == "imported":
            yield reward
        else:
            plan.problems.add(
                "scores of runs that no file has and none imported before",
                reward.trajectory_id.hex(),
            )


def _count(sent: Counter[str], told: Counter[str]) -> None:
    sent["rewards"] += told["new"]
    sent["known_rewards"] += told["known"]


def _batches(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _chunks(
    messages: Iterable[Any], size_of: Callable[[Any], int] = methodcaller("ByteSize")
) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    size = 0
    for message in messages:
        chunk.append(message)
        size += size_of(message)
        if size >= CHUNK_BYTES or len(chunk) >= 5000:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
