"""What the sender thread does on the wire: facts out (at least once, in order), policies in.

A batch is encoded once and kept until the daemon acked it; a retry repeats its sequence number, so
the daemon can tell it from new facts.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from agentgym import semconv
from agentgym.buffer import Buffer
from agentgym.config import Config
from agentgym.connection import credentials, open_channel, read_token, status_name
from agentgym.encode import (
    features_message,
    resource_attributes,
    reward_message,
    spans_request,
    step_message,
    tool_message,
)
from agentgym.errors import DaemonError
from agentgym.items import Item, RewardItem, SpanItem, StepItem, TaskItem
from agentgym.live import LivePolicies
from agentgym.policy.subscriber import Subscriber
from agentgym.proto.v1 import catalogue_pb2, decision_pb2, reward_pb2
from agentgym.proto.v1.catalogue_pb2_grpc import CatalogueServiceStub
from agentgym.proto.v1.decision_pb2_grpc import DecisionServiceStub
from agentgym.proto.v1.reward_pb2_grpc import RewardServiceStub
from agentgym.trajectory import Tool

logger = logging.getLogger(__name__)

DEADLINE_S = 10.0
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
    """Owned by the sender thread; only `close` may come from another one."""

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

    def close(self) -> None:
        """Ends the channel and everything waiting on it."""
        self.channel.close()

    @property
    def pending(self) -> bool:
        """True while encoded messages wait for their ack."""
        return bool(self._queue)

    # ---- encoding

    def load(self, items: Sequence[Item]) -> None:
        """Encodes a batch: catalogue first, then decisions, spans and rewards."""
        spans = [i for i in items if isinstance(i, SpanItem)]
        steps = [i for i in items if isinstance(i, StepItem)]
        tasks = [i for i in items if isinstance(i, TaskItem)]
        rewards = [i for i in items if isinstance(i, RewardItem)]
        self._load_tools(steps)
        if steps or tasks:
            request = decision_pb2.RecordRequest(
                decisions=self._encode(steps, step_message),
                features=self._encode(tasks, self._features),
            )
            self._add(self._decisions.Record, request, [*steps, *tasks])
        if spans:
            self._add(self._traces.Export, spans_request(spans, self._resource), spans)
        if rewards:
            report = reward_pb2.ReportRequest(rewards=self._encode(rewards, reward_message))
            self._add(self._rewards.Report, report, rewards)

    def _load_tools(self, steps: Iterable[StepItem]) -> None:
        new: dict[bytes, Tool] = {
            tool.fingerprint: tool
            for step in steps
            for tool in step.offered
            if tool.fingerprint not in self._known_tools
        }
        if not new:
            return
        if len(self._known_tools) > _REMEMBERED_TOOLS:
            self._known_tools.clear()
        self._known_tools |= new.keys()
        request = catalogue_pb2.PutRequest(
            agent=self.config.agent, tools=[tool_message(tool) for tool in new.values()]
        )
        self._add(self._catalogue.Put, request, ())

    def _encode(self, items: Iterable[Any], message: Callable[[Any], Any]) -> list[Any]:
        # One item that cannot be encoded must not take its siblings with it.
        encoded = []
        for item in items:
            try:
                if (made := message(item)) is not None:
                    encoded.append(made)
            except (ValueError, TypeError):
                logger.warning("AgentGym could not encode a %s", type(item).__name__, exc_info=True)
        return encoded

    def _features(self, item: TaskItem) -> decision_pb2.TaskFeatures | None:
        vector = item.vector
        if vector is None:
            policies = self.live.current
            if policies is None:
                return None  # the key of the installation is not known yet
            vector = policies.hasher(item.text)
        return features_message(item.trajectory_id, item.features_id, vector)

    def _add(self, send: Callable[..., Any], request: Any, items: Sequence[Item]) -> None:
        self._sequence += 1
        self._queue.append(_Message(send, request, self._sequence, tuple(items)))

    # ---- delivery

    def deliver(self) -> bool:
        """Sends the queue in order; False when the daemon could not take the next message now."""
        while self._queue:
            if not self.subscriber.connected.wait(0.2):
                return False  # features need the handshake's key; and nobody listens yet
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
        details = error.details() if hasattr(error, "details") else ""
        if code in RETRYABLE:
            return False
        if code in OPERATOR:
            self._token = ""  # read it again: it may have been renewed
            self._say(code, f"the daemon at {self.config.endpoint} refused: {details}")
            return False
        self._say(code, f"the daemon dropped a message: {details}")
        for item in message.items:
            self.buffer.count("dropped", item, code.lower())
        return True

    def _acked(self, message: _Message, response: Any) -> None:
        self.live.touch()
        self._said.clear()
        for item in message.items:
            self.buffer.count("acked", item)
        for result in getattr(response, "results", ()):
            if result.error:
                logger.warning("AgentGym: a reward was refused (%s): %s", result.code, result.error)

    def _say(self, code: str, text: str) -> None:
        if code not in self._said:
            self._said.add(code)
            logger.warning("AgentGym: %s (%s)", text, code)
