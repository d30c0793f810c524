"""The load generator, a process of its own: sends requests, a few at a time, until all are acked.

Reads a JSON job from stdin, says when it is warm, and begins at the next line of stdin.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from agentgym.connection import retry_delay_s
from agentgym_daemon.bench.ingest.payload import Requests

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_TIMEOUT_S = 120.0
_AHEAD = 32
"""Requests made before the clock runs; the others while it does, on the generator's CPU."""

Send = Callable[[bytes], int]
"""Sends one request; returns how many of its spans were refused."""


@dataclass(frozen=True, slots=True)
class Job:
    """What one generator sends, and where to."""

    protocol: str  # grpc, http
    target: str
    spans_per_request: int
    requests: int
    concurrency: int
    seed: int
    templates: int
    headers: dict[str, str]

    def as_json(self) -> str:
        """The job as a line for the generator's stdin."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of it."""

    acked_spans: int
    rejected_spans: int
    began: float  # time.monotonic(), which processes of one machine share
    ended: float
    bytes_per_span: float


def _senders(job: Job) -> list[Send]:
    if job.protocol == "http":
        return [_http(job) for _ in range(job.concurrency)]
    return [_grpc(job) for _ in range(job.concurrency)]


def _grpc(job: Job) -> Send:
    # A connection of its own for each, as processes of agents have; gRPC would share them.
    channel = grpc.insecure_channel(job.target, options=[("grpc.use_local_subchannel_pool", 1)])
    call = channel.unary_unary(
        EXPORT,
        request_serializer=None,  # bytes as they are
        response_deserializer=ExportTraceServiceResponse.FromString,
    )
    metadata = tuple(job.headers.items())

    def send(request: bytes) -> int:
        while True:
            try:
                response = call(request, metadata=metadata, timeout=_TIMEOUT_S, wait_for_ready=True)
            except grpc.RpcError as error:
                delay_s = retry_delay_s(error)  # as exporters do that are told to wait
                if delay_s is None:
                    raise
                time.sleep(delay_s)
            else:
                return int(response.partial_success.rejected_spans)

    return send


def _http(job: Job) -> Send:
    url = urlsplit(job.target)
    connection = http.client.HTTPConnection(
        url.hostname or "localhost", url.port, timeout=_TIMEOUT_S
    )
    headers = {"Content-Type": "application/x-protobuf", **job.headers}

    def send(request: bytes) -> int:
        connection.request("POST", url.path, body=request, headers=headers)
        response = connection.getresponse()
        body = response.read()
        if response.status // 100 != 2:
            raise RuntimeError(f"{job.target} answered {response.status}: {body[:300]!r}")
        return 0

    return send


class _Supply:
    """Hands out a fixed number of requests to several threads."""

    def __init__(self, requests: Iterator[bytes], count: int) -> None:
        self._requests, self._left = requests, count
        self._lock = threading.Lock()
        self._ready = [next(requests) for _ in range(min(_AHEAD, count))]

    def take(self) -> bytes | None:
        """The next request; None when all were handed out."""
        with self._lock:
            if not self._left:
                return None
            self._left -= 1
            return self._ready.pop() if self._ready else next(self._requests)


def run(job: Job, begin: Callable[[], object]) -> Sent:
    """Sends everything; `begin` returns when the clock shall run."""
    made = Requests(job.spans_per_request, seed=job.seed, templates=job.templates)
    supply = _Supply(iter(made), job.requests)
    senders = _senders(job)

    def work(send: Send) -> int:
        rejected = 0
        while (request := supply.take()) is not None:
            rejected += send(request)
        return rejected

    with ThreadPoolExecutor(len(senders)) as threads:
        begin()
        began = time.monotonic()
        rejected = sum(threads.map(work, senders))
    return Sent(
        acked_spans=job.spans_per_request * job.requests - rejected,
        rejected_spans=rejected,
        began=began,
        ended=time.monotonic(),
        bytes_per_span=made.bytes_per_span,
    )


def main() -> int:
    """One generator."""
    job = Job(**json.loads(sys.stdin.readline()))

    def begin() -> None:
        sys.stdout.write("warm\n")
        sys.stdout.flush()
        sys.stdin.readline()

    sys.stdout.write(json.dumps(asdict(run(job, begin))) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
