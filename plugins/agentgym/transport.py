"""What the sender thread does on the wire: facts out (at least once, in order), policies in.

A batch is encoded once, as calls of at most about `CHUNK_BYTES`, and kept until the daemon acked
it; a retry repeats its sequence number, so the daemon can tell it from new facts.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from agentgym import semconv
from agentgym.buffer import Buffer, kind_of
from agentgym.config import Config
from agentgym.connection import credentials, open_channel, read_token, status_name
from agentgym.encode import (
    features_message,
    resource_attributes,
    reward_message,
    span_message,
    spans_request,
    step_message,
    tool_message,
)
from agentgym.errors import DaemonError
from agentgym.items import Item, RewardItem, SpanItem, StepItem, TaskItem
from agentgym.live import LivePolicies
from agentgym.policy.features import Featuriser
from agentgym.policy.subscriber import Subscriber
from agentgym.proto.v1 import catalogue_pb2, decision_pb2, reward_pb2
from agentgym.proto.v1.catalogue_pb2_grpc import CatalogueServiceStub
from agentgym.proto.v1.decision_pb2_grpc import DecisionServiceStub
from agentgym.proto.v1.reward_pb2_grpc import RewardServiceStub

logger = logging.getLogger(__name__)

DEADLINE_S = 10.0
CHUNK_BYTES = 2**20
"""Servers refuse messages above 4 MiB unless told otherwise."""
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
_REMEMBERED_TOOLS = 10_000


@dataclass(frozen=True, slots=True)
class _Message:
    """One encoded call with the items that it carries."""

    send: Callable[..., Any]
    request: Any
    sequence: int
    items: tuple[Item, ...]


class Transport:
    """Owned by the sender thread; `close` and `wait_connected` may come from another one."""

    def __init__(self, config: Config, live: LivePolicies, buffer: Buffer) -> None:
        self.config = config
        self.live = live
        self.buffer = buffer
        self.producer_id = os.urandom(16)
        self.channel = open_channel(config.endpoint)
        self._traces = TraceServiceStub(self.channel)
        self._decisions = DecisionServiceStub(self.channel)
        self._catalogue = CatalogueServiceStub(self.channel)
        self._rewards = RewardServiceStub(self.channel)
        self._resource = resource_attributes(config.agent, self.producer_id)
        self._token = ""
        self._sequence = 0
        self._queue: deque[_Message] = deque()
        self._known_tools: set[bytes] = set()
        self._said: set[str] = set()
        self.subscriber = Subscriber(config, live, self.channel, self.producer_id)

    def start(self, stop: threading.Event, *, on_ready: Callable[[], None]) -> None:
        """Starts following the policies."""
        self.subscriber.start(stop, on_ready=on_ready, on_reconnect=self._known_tools.clear)

    def wait_connected(self, timeout_s: float) -> bool:
        """Waits for the handshake; before it nothing is encoded, for features need its key."""
        return self.subscriber.connected.wait(timeout_s)

    def close(self) -> None:
        """Ends the channel and everything waiting on it."""
        self.channel.close()

    def abandon(self, reason: str) -> None:
        """Gives up what was not acked."""
        for message in self._queue:
            self._drop(message.items, reason)
        self._queue.clear()

    @property
    def pending(self) -> bool:
        """True while encoded messages wait for their ack."""
        return bool(self._queue)

    # ---- encoding

    def load(self, items: Sequence[Item]) -> None:
        """Encodes a batch: catalogue first, then features, decisions, spans and rewards."""
        steps = [i for i in items if isinstance(i, StepItem)]
        self._load_tools(steps)
        for taken, features in self._encode(items, TaskItem, self._features):
            self._add(self._decisions.Record, decision_pb2.RecordRequest(features=features), taken)
        for taken, decisions in self._encode(items, StepItem, self._step):
            self._add(
                self._decisions.Record, decision_pb2.RecordRequest(decisions=decisions), taken
            )
        for taken, spans in self._encode(items, SpanItem, span_message):
            self._add(self._traces.Export, spans_request(spans, self._resource), taken)
        for taken, rewards in self._encode(items, RewardItem, reward_message):
            self._add(self._rewards.Report, reward_pb2.ReportRequest(rewards=rewards), taken)

    def _load_tools(self, steps: Iterable[StepItem]) -> None:
        if len(self._known_tools) > _REMEMBERED_TOOLS:
            self._known_tools.clear()
        encoded = []
        for tool in {tool.fingerprint: tool for step in steps for tool in step.offered}.values():
            if tool.fingerprint not in self._known_tools:
                self._known_tools.add(tool.fingerprint)
                if (message := self._made(tool, tool_message)) is not None:
                    encoded.append((tool, message))
        for chunk in _chunks(encoded):
            tools = [message for _, message in chunk]
            request = catalogue_pb2.PutRequest(agent=self.config.agent, tools=tools)
            self._add(self._catalogue.Put, request, ())

    def _encode(
        self, items: Sequence[Item], kind: type[Any], message: Callable[[Any], Any]
    ) -> Iterator[tuple[list[Item], list[Any]]]:
        encoded = []
        for item in items:
            if not isinstance(item, kind):
                continue
            made = self._made(item, message)
            if made is None:
                self._drop([item], "unencodable")
            else:
                encoded.append((item, made))
        for chunk in _chunks(encoded):
            yield [item for item, _ in chunk], [made for _, made in chunk]

    def _made(self, thing: Any, message: Callable[[Any], Any]) -> Any:
        # One thing that cannot be encoded must not take its siblings with it.
        try:
            return message(thing)
        except (
            ValueError,
            TypeError,
            AttributeError,
            LookupError,
            ArithmeticError,
            RuntimeError,  # no thread for the encoder, at the interpreter's end
        ):
            kind = type(thing).__name__
            self._say(f"unencodable {kind}", f"a {kind} could not be encoded", exc_info=True)
            return None

    def _features(self, item: TaskItem) -> decision_pb2.TaskFeatures:
        vector, schema = item.vector, item.feature_schema
        if vector is None:
            features = self._featuriser()
            vector, schema = features(item.text), features.schema
        return features_message(item.trajectory_id, item.features_id, vector, schema)

    def _step(self, item: StepItem) -> decision_pb2.DecisionRecord:
        return step_message(item, item.feature_schema or self._featuriser().schema)

    def _featuriser(self) -> Featuriser:
        policies = self.live.current
        if policies is None:
            raise LookupError("the key of the features is not known before the handshake")
        return policies.features

    def _add(self, send: Callable[..., Any], request: Any, items: Sequence[Item]) -> None:
        self._sequence += 1
        self._queue.append(_Message(send, request, self._sequence, tuple(items)))

    # ---- delivery

    def deliver(self) -> bool:
        """Sends the queue in order; False when the daemon could not take the next message now."""
        while self._queue:
            message = self._queue[0]
            try:
                response = message.send(
                    message.request, timeout=DEADLINE_S, metadata=self._metadata(message)
                )
            except DaemonError as error:
                self._say(error.code, str(error))
                return False
            except (grpc.RpcError, ValueError) as error:
                if not self._refused(message, error):
                    return False
            else:
                self._acked(message, response)
            self._queue.popleft()
        return True

    def _metadata(self, message: _Message) -> tuple[tuple[str, str | bytes], ...]:
        if not self._token:
            self._token = read_token(self.config.token_file)
        return (
            *credentials(self._token),
            (semconv.METADATA_PRODUCER, self.producer_id),
            (semconv.METADATA_SEQUENCE, str(message.sequence)),
        )

    def _refused(self, message: _Message, error: Exception) -> bool:
        """True if the message is given up; False if it is kept for another try."""
        if not isinstance(error, grpc.RpcError):
            return False  # the channel was closed under us
        code = status_name(error)
        details = (error.details() if hasattr(error, "details") else None) or ""
        if code in RETRYABLE and "larger than max" not in details:
            return False
        if code in OPERATOR:
            self._token = ""  # read it again: it may have been renewed
            self._say(code, f"the daemon at {self.config.endpoint} refused: {details}")
            return False
        self._say(code, f"the daemon dropped a message: {details}")
        self._drop(message.items, code.lower())
        return True

    def _acked(self, message: _Message, response: Any) -> None:
        self.live.touch()
        self._said.clear()
        refusals = _refusals(response, len(message.items))
        for code, text in sorted(set(refusals)):
            if code:
                kind = kind_of(message.items[0])
                logger.warning("AgentGym: the daemon refused %s (%s): %s", kind, code, text)
        for item, (code, _) in zip(message.items, refusals, strict=True):
            if code:
                self._drop([item], code)
            else:
                self.buffer.count("acked", item)

    def _drop(self, items: Iterable[Item], reason: str) -> None:
        for item in items:
            self.buffer.count("dropped", item, reason)

    def _say(self, code: str, text: str, *, exc_info: bool = False) -> None:
        if code not in self._said:
            self._said.add(code)
            logger.warning("AgentGym: %s (%s)", text, code, exc_info=exc_info)


def _chunks(encoded: Iterable[tuple[Any, Any]]) -> Iterator[list[tuple[Any, Any]]]:
    """Pairs of (item, its message), cut where the messages of a call reach CHUNK_BYTES."""
    chunk: list[tuple[Any, Any]] = []
    size = 0
    for item, message in encoded:
        chunk.append((item, message))
        size += message.ByteSize()
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _refusals(response: Any, n: int) -> list[tuple[str, str]]:
    """Code and text for each of the n items of an acked call; empty for those that were taken."""
    if hasattr(response, "results"):
        refused = [(r.code.lower() or "rejected", r.error) if r.error else ("", "")
                   for r in response.results]  # fmt: skip
    elif hasattr(response, "partial_success"):
        partial = response.partial_success
        refused = [("rejected", partial.error_message)] * partial.rejected_spans
    else:
        refused = [("rejected", getattr(response, "message", ""))] * getattr(
            response, "rejected", 0
        )
    return (refused + [("", "")] * n)[:n]
