"""Senders without a plugin: plain OTLP, numbered spans, a pump that keeps its acknowledgements."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from agentgym.connection import credentials, read_token
from agentgym.errors import DaemonError

NOW_NS = 1_700_000_000_000_000_000


class Otlp:
    """A sender of spans that knows nothing but OTLP and the token."""

    def __init__(self, home: Path, endpoint: str = "", options: Sequence[Any] = ()) -> None:
        self.home = home
        self.channel = grpc.insecure_channel(
            endpoint or f"unix:{home / 'daemon.sock'}",
            options=[
                ("grpc.initial_reconnect_backoff_ms", 20),
                ("grpc.min_reconnect_backoff_ms", 5000),  # what one attempt may take
                ("grpc.max_reconnect_backoff_ms", 100),
                ("grpc.max_send_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),
                *options,
            ],
        )
        path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
        self._export = self.channel.unary_unary(
            path, response_deserializer=ExportTraceServiceResponse.FromString
        )

    def export(self, request: Any, timeout_s: float = 20.0, **options: Any) -> Any:
        """One call with a message or with raw bytes; raises grpc.RpcError."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        return self._export(data, metadata=self.metadata, timeout=timeout_s, **options)

    @property
    def metadata(self) -> Any:
        """The token, read anew."""
        return credentials(read_token(self.home / "token"))

    def close(self) -> None:
        """Ends the channel."""
        self.channel.close()


def request_of(spans: Sequence[Span], service: str = "faults") -> ExportTraceServiceRequest:
    """A request with these spans, of one resource."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = service
    resource.scope_spans.add().spans.extend(spans)
    return request


def numbered(number: int, *, run: int = 8, name: str = "step") -> Span:
    """The span with this number; every `run` of them are a trajectory whose root is its first."""
    first = number - number % run
    return Span(
        trace_id=b"trace   " + first.to_bytes(8, "big"),
        span_id=(number + 1).to_bytes(8, "big"),
        parent_span_id=b"" if number == first else (first + 1).to_bytes(8, "big"),
        name=name,
        start_time_unix_nano=NOW_NS + number,
        end_time_unix_nano=NOW_NS + number + 1000,
    )


class Pump(threading.Thread):
    """Sends numbered spans at a rate; a batch that was not acknowledged is sent again."""

    def __init__(self, home: Path, *, first: int, rate: float, batch: int = 64) -> None:
        super().__init__(daemon=True)
        self._home, self._batch, self._pause_s = home, batch, batch / rate
        self._next = first
        self._first = first
        self._ended = threading.Event()
        self.acks: list[float] = []
        """When each batch was acknowledged, by time.monotonic."""
        self.repeated = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        """Sends until it is told to end."""
        otlp = Otlp(self._home)
        try:
            while not self._ended.is_set():
                began = time.monotonic()
                self._send(otlp)
                self._ended.wait(max(0.0, self._pause_s - (time.monotonic() - began)))
        except BaseException as error:  # noqa: BLE001 - shown by `end`, in the test's thread
            self.error = error
        finally:
            otlp.close()

    def _send(self, otlp: Otlp) -> None:
        spans = [numbered(number) for number in range(self._next, self._next + self._batch)]
        data = request_of(spans).SerializeToString()
        while not self._ended.is_set():
            try:
                answer = otlp.export(data, timeout_s=5.0)
            except (grpc.RpcError, DaemonError):
                self.repeated += 1
                self._ended.wait(0.02)
                continue
            assert not answer.partial_success.rejected_spans, answer
            self.acks.append(time.monotonic())
            self._next += self._batch
            return

    @property
    def acked(self) -> int:
        """Spans that were acknowledged."""
        return self._next - self._first

    @property
    def ids(self) -> set[bytes]:
        """Span ids of what was acknowledged."""
        return {(number + 1).to_bytes(8, "big") for number in range(self._first, self._next)}

    def end(self) -> None:
        """Stops after the call that is under way."""
        self._ended.set()
        self.join(30)
        if self.error is not None:
            raise self.error


@pytest.fixture
def pump(home: Path) -> Iterator[Callable[..., Pump]]:
    """Senders of numbered spans; each of them has numbers of its own."""
    made: list[Pump] = []

    def start(*, rate: float = 5000.0, batch: int = 64, to: Path | None = None) -> Pump:
        made.append(Pump(to or home, first=len(made) * 10**9, rate=rate, batch=batch))
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        one.end()


@pytest.fixture(scope="session")
def span() -> Callable[..., Span]:
    """The span with a number; eight of them are a trajectory."""
    return numbered


@pytest.fixture(scope="session")
def traces() -> Callable[..., ExportTraceServiceRequest]:
    """A request with spans, of one resource."""
    return request_of


@pytest.fixture
def otlp() -> Iterator[Callable[..., Otlp]]:
    """Plain OTLP clients of a daemon's directory."""
    made: list[Otlp] = []

    def connect(home: Path, endpoint: str = "", options: Sequence[Any] = ()) -> Otlp:
        made.append(Otlp(home, endpoint, options))
        return made[-1]

    yield connect
    for one in made:
        one.close()
