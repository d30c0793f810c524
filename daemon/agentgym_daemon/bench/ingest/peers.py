"""Peers under the same load: Arize Phoenix, MLflow and Agent Lightning's store in memory.

Each runs in an interpreter of its own, in its default configuration, with a SQLite file where it
has one. CPU is that of its whole process tree until everything it acked is stored.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agentgym_daemon.bench.ingest.load import Generators, Load, LoadError
from agentgym_daemon.bench.ingest.server import ServerProcess

_BATCH = 64
_SETTLED_S = 2.0
_STORE_S = 600.0


@dataclass(frozen=True, slots=True)
class Peer:
    """How a peer is started and asked."""

    about: str
    spans: int
    command: Callable[[Path, Path, int], list[str]]
    target: Callable[[int], tuple[str, str]]
    environ: Callable[[Path, int], dict[str, str]]
    stored: Callable[[Path], int | None]
    headers: Callable[[], dict[str, str]] = dict


def measure(name: str, python: Path, *, templates: int, seed: int) -> float:
    """Spans per CPU second of the peer."""
    peer = PEERS[name]
    load = Load(spans_per_request=_BATCH, spans=peer.spans, templates=templates, seed=seed)
    with tempfile.TemporaryDirectory(prefix=f"agentgym-bench-{name}-") as directory_name:
        directory, port = Path(directory_name), _free_port()
        process = ServerProcess(
            peer.command(python, directory, port),
            directory=directory,
            environ=_environment() | peer.environ(directory, port),
            with_children=True,
        )
        try:
            process.wait_until(lambda: _listens(port), f"the start of {name}")
            time.sleep(_SETTLED_S)
            protocol, target = peer.target(port)
            generators = Generators(load, protocol=protocol, target=target, headers=peer.headers())
            before_s = process.cpu_s()
            sent, _ = generators.run()
            if sent.acked_spans != load.total_spans:
                raise LoadError(f"{name} refused {sent.rejected_spans} spans")
            process.wait_until(
                lambda: peer.stored(directory) in (None, load.total_spans),
                f"storing of {load.total_spans} spans by {name}",
                _STORE_S,
            )
            return load.total_spans / (process.cpu_s() - before_s)
        finally:
            process.stop()


def _environment() -> dict[str, str]:
    host = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    return {**host, "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}


def _phoenix_environ(directory: Path, port: int) -> dict[str, str]:
    return {
        "PHOENIX_WORKING_DIR": str(directory),
        "PHOENIX_PORT": str(_free_port()),
        "PHOENIX_GRPC_PORT": str(port),
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_TELEMETRY_ENABLED": "false",
    }


def _mlflow_command(python: Path, directory: Path, port: int) -> list[str]:
    return [
        *(str(python), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--backend-store-uri", f"sqlite:///{directory / 'mlflow.db'}"),
        *("--default-artifact-root", str(directory / "artifacts")),
    ]


_LIGHTNING = """
import asyncio, sys
from agentlightning.store.client_server import LightningStoreServer
from agentlightning.store.memory import InMemoryLightningStore
async def main():
    server = LightningStoreServer(InMemoryLightningStore(), "127.0.0.1", int(sys.argv[1]))
    await server.start()
    await asyncio.Event().wait()
asyncio.run(main())
"""


def _rows(pattern: str) -> Callable[[Path], int | None]:
    def count(directory: Path) -> int:
        found = 0
        for path in directory.glob(pattern):
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10) as connection:
                found += connection.execute("SELECT count(*) FROM spans").fetchone()[0]
            connection.close()
        return found

    return count


PEERS = {
    "phoenix": Peer(
        about="arize-phoenix (gRPC, SQLite)",
        spans=5_120,
        command=lambda python, directory, port: [str(python), "-m", "phoenix.server.main", "serve"],
        target=lambda port: ("grpc", f"127.0.0.1:{port}"),
        environ=_phoenix_environ,
        stored=_rows("phoenix.db"),
    ),
    "mlflow": Peer(
        about="mlflow (HTTP, SQLite, one worker)",
        spans=5_120,
        command=_mlflow_command,
        target=lambda port: ("http", f"http://127.0.0.1:{port}/v1/traces"),
        environ=lambda directory, port: {},
        stored=_rows("mlflow.db"),
        headers=lambda: {"x-mlflow-experiment-id": "0"},
    ),
    "lightning": Peer(
        about="agentlightning 0.3 (HTTP, in memory, not durable)",
        spans=25_600,
        command=lambda python, directory, port: [str(python), "-c", _LIGHTNING, str(port)],
        target=lambda port: ("http", f"http://127.0.0.1:{port}/v1/traces"),
        environ=lambda directory, port: {"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        stored=lambda directory: None,
    ),
}


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as one:
        one.settimeout(1.0)
        return one.connect_ex(("127.0.0.1", port)) == 0
