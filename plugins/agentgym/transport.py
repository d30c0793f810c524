"""Facts over gRPC: which calls a batch is made of, and what an answer means for it.

Requests are bytes already. A retry repeats its call with its sequence number.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from agentgym import semconv
from agentgym.config import Config
from agentgym.connection import credentials, open_channel, read_token, retry_delay_s, status_name
from agentgym.encode import export_request
from agentgym.errors import DaemonError
from agentgym.live import LivePolicies
from agentgym.outbox import Outbox
from agentgym.policy.subscriber import Subscriber
from agentgym.proto.v1 import catalogue_pb2, decision_pb2, producer_pb2, reward_pb2
from agentgym.version import VERSION

logger = logging.getLogger(__name__)

DEADLINE_S = 10.0
_REPORT_DEADLINE_S = 2.0
RETRYABLE = frozenset(
    (
        "CANCELLED",
        "DEADLINE_EXCEEDED",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNAVAILABLE",
        "DATA_LOSS",
        "RESOURCE_EXHAUSTED",
    )
)
"""Statuses after which OTLP asks to send again; everything else would only be refused again."""
OPERATOR = frozenset(
    ("UNAUTHENTICATED", "PERMISSION_DENIED", "FAILED_PRECONDITION", "UNIMPLEMENTED")
)
"""Statuses that a person can put right (token, version): said once, kept and tried again."""
_ORDER = ("catalogue", "features", "decisions", "spans", "rewards")
_METHODS: Mapping[str, tuple[str, Callable[[bytes], Any]]] = {
    "catalogue": ("/agentgym.v1.CatalogueService/Put", catalogue_pb2.PutResponse.FromString),
    "features": ("/agentgym.v1.DecisionService/Record", decision_pb2.RecordResponse.FromString),
    "decisions": ("/agentgym.v1.DecisionService/Record", decision_pb2.RecordResponse.FromString),
    "spans": (
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        ExportTraceServiceResponse.FromString,
    ),
    "rewards": ("/agentgym.v1.RewardService/Report", reward_pb2.ReportResponse.FromString),
}
_REPORT = "/agentgym.v1.ProducerService/Report"


@dataclass(frozen=True, slots=True)
class Call:
    """One request with `n` items of one kind."""

    kind: str
    body: bytes
    sequence: int
    n: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a call: done, with what was refused of it by reason; or not yet."""

    done: bool
    refused: Mapping[str, int] = field(default_factory=dict)
    retry_s: float | None = None


class Wire:
    """One channel with its stream of policies; the sender's thread makes the calls."""

    def __init__(self, config: Config, live: LivePolicies, producer_id: bytes, head: bytes) -> None:
        self.config = config
        self.live = live
        self.channel = open_channel(config.endpoint)
        self.subscriber = Subscriber(config, live, self.channel, producer_id)
        self._producer_id = producer_id
        self._head = head
        self._stubs = {
            kind: self.channel.unary_unary(
                path, request_serializer=None, response_deserializer=parse
            )
            for kind, (path, parse) in _METHODS.items()
        }
        self._report = self.channel.unary_unary(
            _REPORT,
            request_serializer=producer_pb2.ProducerReport.SerializeToString,
            response_deserializer=producer_pb2.ProducerReportResponse.FromString,
        )
        self._token = ""
        self._said: set[str] = set()

    def calls(self, outbox: Outbox) -> list[Call]:
        """The calls of the outbox's batch: the catalogue first, for others name it."""
        batch = outbox.batch
        if batch is None:
            return []
        counts, calls = batch.counts, []
        for kind in _ORDER:
            bodies = batch.body(kind)
            if bodies:
                body = export_request(self._head, bodies) if kind == "spans" else b"".join(bodies)
                calls.append(Call(kind, body, outbox.next_sequence(), counts[kind]))
        return calls

    def start(self, call: Call, on_done: Callable[[], None]) -> grpc.Future[Any] | None:
        """Sends a call; None if it cannot be sent now."""
        try:
            future = self._stubs[call.kind].future(
                call.body, timeout=DEADLINE_S, metadata=self._metadata(call.sequence)
            )
        except DaemonError as error:
            self._say(error.code, str(error))
            return None
        except ValueError:  # the channel was closed under us
            return None
        future.add_done_callback(lambda _: on_done())
        return future

    def answer(self, call: Call, future: grpc.Future[Any]) -> Answer:
        """What a finished call came to."""
        try:
            response = future.result(timeout=0)
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            return self._failed(call, error)
        self.live.touch()
        self._said.clear()
        refused: Counter[str] = Counter()
        for code, text in _refusals(response, call.n):
            if not refused[code]:
                logger.warning("AgentGym: the daemon refused %s (%s): %s", call.kind, code, text)
            refused[code] += 1
        return Answer(done=True, refused=refused)

    def _failed(self, call: Call, error: Exception) -> Answer:
        if not isinstance(error, grpc.RpcError):
            return Answer(done=False)
        code = status_name(error)
        details = (error.details() if hasattr(error, "details") else None) or ""
        if code in RETRYABLE and "larger than max" not in details:
            return Answer(done=False, retry_s=retry_delay_s(error))
        if code in OPERATOR:
            self._token = ""  # read it again: it may have been renewed
            self._say(code, f"the daemon at {self.config.endpoint} refused: {details}")
            return Answer(done=False)
        self._say(code, f"the daemon dropped a message: {details}")
        return Answer(done=True, refused={code.lower(): call.n})

    def report(self, counters: Mapping[str, int], *, on: bool, pid: int, last: bool) -> Any:
        """Says what became of everything recorded here; best effort."""
        message = producer_pb2.ProducerReport(
            producer_id=self._producer_id,
            agent=self.config.agent.encode("utf-8", "replace").decode(),
            pid=pid,
            plugin_version=VERSION,
            counters=counters,
            on=on,
            last=last,
        )
        try:
            metadata = self._metadata(0)[:-1]
            return self._report.future(message, timeout=_REPORT_DEADLINE_S, metadata=metadata)
        except (DaemonError, ValueError):
            return None

    def follow(
        self,
        stop: threading.Event,
        *,
        on_ready: Callable[[], None],
        on_reconnect: Callable[[], None],
    ) -> None:
        """Follows the policies until `stop`, in the calling thread."""
        self.subscriber.run(stop, on_ready, on_reconnect)

    @property
    def connected(self) -> bool:
        """Whether the daemon's stream is up."""
        return self.subscriber.connected.is_set()

    def close(self) -> None:
        """Ends the channel and everything waiting on it."""
        self.channel.close()

    def _metadata(self, sequence: int) -> tuple[tuple[str, str | bytes], ...]:
        if not self._token:
            self._token = read_token(self.config.token_file)
        return (
            *credentials(self._token),
            (semconv.METADATA_PRODUCER, self._producer_id),
            (semconv.METADATA_SEQUENCE, str(sequence)),
        )

    def _say(self, code: str, text: str) -> None:
        if code not in self._said:
            self._said.add(code)
            logger.warning("AgentGym: %s (%s)", text, code)


def _refusals(response: Any, n: int) -> list[tuple[str, str]]:
    """Code and text of each item of a call that was not taken; at most n."""
    if hasattr(response, "results"):
        refused = [(r.code.lower() or "rejected", r.error) for r in response.results if r.error]
    elif hasattr(response, "partial_success"):
        partial = response.partial_success
        refused = [("rejected", partial.error_message)] * min(partial.rejected_spans, n)
    else:
        rejected = min(getattr(response, "rejected", 0), n)
        refused = [("rejected", getattr(response, "message", ""))] * rejected
    return refused[:n]
