"""One daemon under load: CPU until everything is acked, applied and checkpointed, RSS and disk."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import grpc

from agentgym import semconv
from agentgym.proto.v1 import admin_pb2, admin_pb2_grpc
from agentgym_daemon.bench.ingest.load import Generators, Load, LoadError
from agentgym_daemon.bench.ingest.server import ServerProcess

_APPLY_S = 300.0
DATABASE, LOG = "agentgym.duckdb", "log"


def measure(load: Load) -> dict[str, float]:
    """Figures of one load on a fresh daemon with the settings that it ships with."""
    with tempfile.TemporaryDirectory(prefix="agentgym-bench-") as name:
        directory = Path(name)
        home = directory / "home"
        process = ServerProcess(
            [sys.executable, "-m", "agentgym_daemon", "serve"],
            directory=directory,
            environ=_environment(home),
            with_children=False,
        )
        try:
            process.wait_until((home / "daemon.sock").exists, "the daemon's start")
            with _Admin(home) as admin:
                process.wait_until(admin.answers, "the daemon's first answer")
                figures, idle_s, sent_bytes = _under_load(process, admin, home, load)
        finally:
            total_s = process.stop()
        figures["spans_per_cpu_s"] = load.total_spans / (total_s - idle_s)
        figures["peak_rss_mb"] = process.peak_bytes / 2**20
        return figures | _disk(home, load.total_spans, sent_bytes)


def _under_load(
    process: ServerProcess, admin: _Admin, home: Path, load: Load
) -> tuple[dict[str, float], float, float]:
    generators = Generators(
        load,
        protocol="grpc",
        target=f"unix:{home / 'daemon.sock'}",
        headers={semconv.METADATA_TOKEN: f"Bearer {admin.token}"},
    )
    idle_s = process.cpu_s()
    sent, acked_per_s = generators.run()
    process.wait_until(admin.caught_up, "applying everything", _APPLY_S)
    applied_s = process.cpu_s()
    stored = admin.status().counters.get("spans", 0)
    if (sent.acked_spans, stored) != (load.total_spans, load.total_spans):
        raise LoadError(
            f"expected {load.total_spans} spans acked and stored, got {sent.acked_spans} acked and "
            f"{stored} stored"
        )
    if process.modules("libtorch"):
        raise LoadError("the daemon's process has torch loaded")
    figures = {
        "acked_spans_per_s": acked_per_s,
        "spans_per_cpu_s_before_last_checkpoint": load.total_spans / (applied_s - idle_s),
        "wire_bytes_per_span": sent.bytes_per_span,
    }
    return figures, idle_s, sent.bytes_per_span * load.total_spans


def _disk(home: Path, spans: int, sent_bytes: float) -> dict[str, float]:
    """After the daemon's end, whose last checkpoint moves everything into the file."""
    sizes = [path.stat().st_size for path in home.glob(f"{DATABASE}*")]
    figures = {"duckdb_bytes_per_span": sum(sizes) / spans}
    segments = sorted((home / LOG).iterdir())
    sealed = [path for path in segments if path.suffix == ".zst"]
    if sealed:
        # What is sealed begins at the log's start and ends where the first open segment begins.
        held = int(segments[len(sealed)].name[4:24]) if len(sealed) < len(segments) else sent_bytes
        figures["sealed_log_bytes_per_span"] = sum(path.stat().st_size for path in sealed) / (
            spans * held / sent_bytes
        )
    return figures


def _environment(home: Path) -> dict[str, str]:
    host = {key: value for key, value in os.environ.items() if not key.startswith("AGENTGYM_")}
    return {**host, "AGENTGYM_HOME": str(home)}


class _Admin:
    """A client that asks how far the daemon is."""

    def __init__(self, home: Path) -> None:
        self.token = (home / "token").read_text().strip()
        self._channel = grpc.insecure_channel(f"unix:{home / 'daemon.sock'}")
        self._stub = admin_pb2_grpc.AdminServiceStub(self._channel)

    def __enter__(self) -> _Admin:
        return self

    def __exit__(self, *error: Sequence[object]) -> None:
        self._channel.close()

    def status(self) -> admin_pb2.StatusResponse:
        metadata = ((semconv.METADATA_TOKEN, f"Bearer {self.token}"),)
        response: admin_pb2.StatusResponse = self._stub.Status(
            admin_pb2.StatusRequest(), metadata=metadata, timeout=30
        )
        return response

    def answers(self) -> bool:
        try:
            self.status()
        except grpc.RpcError:
            return False
        return True

    def caught_up(self) -> bool:
        status = self.status()
        return bool(status.log_end and status.log_applied >= status.log_end)
