"""Endpoints that do not do what they should: absent, refusing, black holes, hung, slow, full."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceResponse,
)


class BlackHole(threading.Thread):
    """Accepts connections on a unix socket and never says or reads anything."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(64)
        self._taken: list[socket.socket] = []

    def run(self) -> None:
        """Takes whoever comes."""
        with contextlib.suppress(OSError):
            while True:
                self._taken.append(self._socket.accept()[0])

    def close(self) -> None:
        """Ends all of it; a second call does nothing."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.join(5)
        for one in self._taken:
            one.close()


@pytest.fixture
def faulty(home: Path) -> Iterator[Callable[[str], Callable[[], None]]]:
    """Puts something in the daemon's place on `home`; gives what clears the place again.

    "absent", "refused" (a socket that nobody listens on), "blackholed", "hung" (every fact waits
    for ever), "slow" (each takes 5 s), "full" (every fact is put off with UNAVAILABLE).
    """
    from agentgym.testing import FakeDaemon

    with contextlib.ExitStack() as stack:
        path = home / "daemon.sock"

        def fake(change: Callable[[FakeDaemon], object]) -> None:
            daemon = stack.enter_context(FakeDaemon(home))
            change(daemon)

        def clear() -> None:
            stack.close()
            path.unlink(missing_ok=True)
            (home / "token").unlink(missing_ok=True)

        def make(kind: str) -> Callable[[], None]:
            (home / "token").write_text("f" * 64)
            match kind:
                case "absent":
                    pass
                case "refused":
                    with socket.socket(socket.AF_UNIX) as closed:
                        closed.bind(str(path))
                case "blackholed":
                    hole = BlackHole(path)
                    hole.start()
                    stack.callback(hole.close)
                case "hung":
                    fake(FakeDaemon.hang)
                case "slow":
                    fake(lambda daemon: daemon.reply("Export", _slowly))
                case "full":
                    fake(_always_full)
                case _:
                    raise ValueError(f"nothing is faulty in this way: {kind!r}")
            return clear

        yield make


def _always_full(daemon: Any) -> None:
    for method in ("Export", "Record", "Put", "Report"):
        daemon.refuse(method, grpc.StatusCode.UNAVAILABLE, times=100_000)


def _slowly(_request: Any) -> ExportTraceServiceResponse:
    time.sleep(5.0)
    return ExportTraceServiceResponse()
