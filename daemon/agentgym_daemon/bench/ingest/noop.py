"""The floor: a gRPC server of the same library that throws every request away.

What it costs depends on the machine alone, so the daemon's cost over it can be compared between
machines, which spans per CPU second cannot.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from agentgym_daemon.bench.ingest.load import Generators, Load
from agentgym_daemon.bench.ingest.server import ServerProcess

SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
_SOCKET = "noop.sock"


def measure(load: Load) -> float:
    """CPU seconds that taking the load costs it."""
    with tempfile.TemporaryDirectory(prefix="agentgym-bench-") as name:
        socket = Path(name) / _SOCKET
        process = ServerProcess(
            [sys.executable, "-m", __name__, str(socket)],
            directory=Path(name),
            environ=os.environ,
            with_children=False,
        )
        try:
            process.wait_until(socket.exists, "the start of the server that does nothing")
            generators = Generators(load, protocol="grpc", target=f"unix:{socket}")
            before_s = process.cpu_s()
            generators.run()
            return process.cpu_s() - before_s
        finally:
            process.stop()


async def serve(socket: str) -> None:
    """Answers every trace request with nothing, for ever."""

    async def export(request: bytes, context: Any) -> bytes:
        return b""

    method = grpc.unary_unary_rpc_method_handler(export)
    server = aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"Export": method}),)
    )
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
