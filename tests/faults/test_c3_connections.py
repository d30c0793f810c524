"""Row C3: connections that are opened and not used as they are meant to."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
# HEADERS of stream 1 that never end: END_HEADERS is not set.
HALF_HEADERS = b"\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82"
LEFT = {
    "idle": b"",
    "half a preface": PREFACE[:10],
    "a preface without settings": PREFACE,
    "headers that never end": PREFACE + SETTINGS + HALF_HEADERS,
}
REFUSED = "RST_STREAM with error code 7"
HANDSHAKE_S = 10.0


@contextlib.contextmanager
def connections(path: str, count: int, said: bytes) -> Iterator[list[socket.socket]]:
    """Connections that have said something and now are silent."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            one = stack.enter_context(socket.socket(socket.AF_UNIX))
            one.connect(path)
            one.sendall(said)
            made.append(one)
        yield made


@pytest.mark.parametrize("kind", list(LEFT))
def test_others_are_served_beside_connections_that_say_nothing(
    load: Callable[..., int],
    report: Any,
    daemon: Any,
    otlp: Any,
    traces: Any,
    span: Any,
    percentile: Any,
    kind: str,
) -> None:
    """Another sender is served at once; the daemon lives, and gives the descriptors back."""
    count, calls = load(5000, least=200), 100
    client = otlp(daemon.home)
    client.export(traces([span(0)]))
    before = daemon.descriptors()
    took_ms = []

    with connections(str(daemon.home / "daemon.sock"), count, LEFT[kind]):
        held = daemon.descriptors()
        for number in range(1, calls + 1):
            began = time.monotonic()
            client.export(traces([span(number)]))
            took_ms.append(1000 * (time.monotonic() - began))
    deadline = time.monotonic() + 3 * HANDSHAKE_S
    while (after := daemon.descriptors()) > before + 20 and time.monotonic() < deadline:
        time.sleep(0.1)
    stored = daemon.stored_spans()

    report.load |= {"connections": count, "kind": kind}
    report.figures |= {
        "descriptors_before": before,
        "descriptors_held": held,
        "descriptors_after": after,
        "other_p99_ms": round(percentile(took_ms, 0.99), 1),
    }
    assert len(stored) == calls + 1
    assert after <= before + 20


def test_half_a_handshake_is_given_up(daemon: Any, load: Callable[..., int], report: Any) -> None:
    """Who does not end the handshake is cut off, so that descriptors do not run out."""
    count = load(1000, least=50)
    before = daemon.descriptors()

    with connections(str(daemon.home / "daemon.sock"), count, PREFACE[:10]):
        began = time.monotonic()
        while daemon.descriptors() > before + 5:
            time.sleep(0.1)
            assert time.monotonic() - began < 4 * HANDSHAKE_S, daemon.descriptors()

    report.load |= {"connections": count}
    report.figures |= {"given_up_after_s": round(time.monotonic() - began, 1)}
    assert daemon.status().pid == daemon.pid


def test_a_body_that_trickles_keeps_nobody_waiting(
    daemon: Any, otlp: Any, traces: Any, span: Any
) -> None:
    """A call whose body comes byte by byte is its sender's own affair."""
    slow = socket.socket(socket.AF_UNIX)
    slow.connect(str(daemon.home / "daemon.sock"))
    slow.sendall(PREFACE + SETTINGS)
    # DATA of a stream that was never opened, a byte at a time.
    frame = b"\x00\x10\x00\x00\x00\x00\x00\x00\x01"
    client = otlp(daemon.home)

    for number, byte in enumerate(frame * 3):
        with contextlib.suppress(OSError):  # it may be cut off for it
            slow.sendall(bytes([byte]))
        client.export(traces([span(number)]))
    slow.close()

    assert len(daemon.stored_spans()) == 27


def test_many_streams_on_one_connection_are_all_answered(
    load: Callable[..., int], daemon: Any, otlp: Any, traces: Any, span: Any, report: Any
) -> None:
    """More calls at once than streams may be open: the others wait their turn, none is lost."""
    calls = load(3000, least=1500)
    client = otlp(daemon.home)
    requests = [traces([span(number)]).SerializeToString() for number in range(calls)]
    send = partial(client._export.future, metadata=client.metadata, timeout=60, wait_for_ready=True)
    futures = [send(request) for request in requests]
    # Before it knows how many may be open a client opens more; HTTP/2 refuses those to be retried.
    refused = [r for r, f in zip(requests, futures, strict=True) if REFUSED in str(f.exception())]
    futures = [f for f in futures if REFUSED not in str(f.exception())]
    futures += [send(request) for request in refused]
    failed = [str(future.exception()) for future in futures if future.exception() is not None]
    stored = daemon.stored_spans()

    report.load |= {"calls_at_once": calls}
    report.figures |= {"failed": len(failed), "stored": len(stored)}
    assert failed[:1] == []
    assert len(stored) == calls
