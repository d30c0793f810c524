"""Row C4: one sender asks for far more than its share."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
from google.rpc.error_details_pb2 import RetryInfo

from agentgym.config import resolve
from agentgym.connection import credentials, read_token

QUOTA = 20_000  # bytes per second
NORMAL = 9
GREED = 20
BATCH = 32


class Sender(threading.Thread):
    """Sends batches at a rate of its own, and never again what was refused."""

    def __init__(self, home: Any, number: int, request: bytes, pause_s: float, metadata: Any):
        super().__init__(daemon=True)
        config = resolve({"home": home}, {})
        self._channel = grpc.insecure_channel(config.endpoint)
        self._raw = self._channel.unary_unary(
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
        )
        self._metadata = credentials(read_token(config.token_file)) + metadata
        self._request, self._pause_s = request, pause_s
        self._ended = threading.Event()
        self.took_s: list[float] = []
        self.refused: list[tuple[grpc.StatusCode, float]] = []

    def run(self) -> None:
        """Sends until it is told to end."""
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                self._raw(self._request, metadata=self._metadata, timeout=20)
                self.took_s.append(time.monotonic() - began)
            except grpc.RpcError as error:
                trailing = dict(error.trailing_metadata() or ())
                info = RetryInfo.FromString(trailing.get("google.rpc.retryinfo-bin", b""))
                self.refused.append((error.code(), info.retry_delay.ToMilliseconds() / 1000))
            self._ended.wait(max(0.0, self._pause_s - (time.monotonic() - began)))

    def end(self) -> None:
        """Stops after the call that is under way."""
        self._ended.set()
        self.join(30)
        with contextlib.suppress(ValueError):
            self._channel.close()


def test_one_greedy_sender_costs_the_others_nothing(
    load: Callable[..., int],
    report: Any,
    make_daemon: Callable[..., Any],
    traces: Any,
    span: Any,
    percentile: Any,
    producer_metadata: Any,
    home: Any,
) -> None:
    """Nine senders within their quota lose nothing beside one that asks for twenty times it."""
    seconds = load(30, least=5)
    daemon = make_daemon("--quota-bytes-per-s", str(QUOTA), "--encoder", "none", home=home).start()
    request = traces([span(number) for number in range(BATCH)]).SerializeToString()
    fair_s = 2 * len(request) / QUOTA

    def run(kinds: list[float]) -> list[Sender]:
        senders = [
            Sender(home, i, request, pause_s, producer_metadata(bytes([i + 1]) * 16, 1))
            for i, pause_s in enumerate(kinds)
        ]
        for one in senders:
            one.start()
        time.sleep(seconds)
        for one in senders:
            one.end()
        return senders

    alone = run([fair_s] * NORMAL)
    together = run([fair_s] * NORMAL + [fair_s / 2 / GREED])
    normal, greedy = together[:NORMAL], together[NORMAL]
    daemon.stop()

    def p99_ms(senders: list[Sender]) -> float:
        return round(1000 * percentile([s for one in senders for s in one.took_s], 0.99), 1)

    report.load |= {"seconds": seconds, "normal": NORMAL, "greed": GREED, "quota_bytes": QUOTA}
    report.figures |= {
        "normal_calls": sum(len(one.took_s) for one in normal),
        "normal_refused": sum(len(one.refused) for one in normal),
        "normal_p99_ms": p99_ms(normal),
        "normal_alone_p99_ms": p99_ms(alone),
        "greedy_taken": len(greedy.took_s),
        "greedy_refused": len(greedy.refused),
    }
    assert report.figures["normal_refused"] == 0
    assert report.figures["normal_calls"] >= NORMAL * seconds / fair_s / 2
    assert len(greedy.refused) > len(greedy.took_s)
    assert {code for code, _ in greedy.refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert all(delay_s > 0 for _, delay_s in greedy.refused)
    # No more than its share, with what it may save up and one request of debt.
    share = QUOTA * (seconds + 2) + len(request)
    assert len(greedy.took_s) * len(request) <= share * 1.2
