"""`bench ingest`: durable spans per CPU second of the daemon, its memory and disk, and peers."""

from __future__ import annotations

import argparse
from pathlib import Path

from agentgym_daemon.bench.frame import Report, interpreter
from agentgym_daemon.bench.ingest import daemon, noop, peers
from agentgym_daemon.bench.ingest.load import Load
from agentgym_daemon.bench.ingest.payload import TEMPLATE_SPANS

BATCHES = (64, 1, 512)
_UNITS = {
    "spans_per_cpu_s": "spans/s",
    "spans_per_cpu_s_before_last_checkpoint": "spans/s",
    "acked_spans_per_s": "spans/s",
    "peak_rss_mb": "MB",
    "wire_bytes_per_span": "B",
    "duckdb_bytes_per_span": "B",
    "sealed_log_bytes_per_span": "B",
}
GOALS = {
    "batch_64.spans_per_cpu_s": ">= 15000, aim 30000",
    "batch_1.spans_per_cpu_s": ">= 2000, aim 3500",
    "batch_64.peak_rss_mb": "<= 512, aim 256",
    "batch_64.duckdb_bytes_per_span": "<= 700, aim 450",
    "batch_64.sealed_log_bytes_per_span": "<= 700, aim 450",
    "times_phoenix": ">= 50, aim 120",
    "times_mlflow": ">= 12, aim 25",
    "times_lightning": ">= 1.5, aim 3",
}
_NOT_MEASURED = (
    "disks that are slow to sync: the time of fdatasync is no CPU time",
    "gRPC over TCP; the load comes through the unix socket",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of its own."""
    parser.add_argument(
        "--spans", type=int, default=200_000, help="spans per measurement with 64 a request"
    )
    parser.add_argument(
        "--single-spans", type=int, default=10_000, help="spans per measurement with one a request"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES), metavar="N")
    parser.add_argument("--templates", type=int, default=TEMPLATE_SPANS, help="distinct texts")
    for name, peer in peers.PEERS.items():
        parser.add_argument(
            f"--{name}-python",
            type=interpreter,
            metavar="PATH",
            help=f"interpreter that has {peer.about}",
        )


def run(arguments: argparse.Namespace) -> Report:
    """Rounds of every batch size and every peer, one after the other."""
    pythons = {name: getattr(arguments, f"{name}_python") for name in peers.PEERS}
    present = {name: python for name, python in pythons.items() if python is not None}
    runs = [_round(arguments, present, number) for number in range(arguments.rounds)]
    measured = {name for figures in runs for name in figures}
    return Report(
        name="ingest",
        units={name: _unit(name) for name in sorted(measured)},
        runs=runs,
        goals={name: goal for name, goal in GOALS.items() if name in measured},
        not_measured=[
            *(f"{peers.PEERS[n].about}: give --{n}-python" for n in pythons if n not in present),
            *_NOT_MEASURED,
        ],
    )


def _round(
    arguments: argparse.Namespace, present: dict[str, Path], number: int
) -> dict[str, float]:
    figures: dict[str, float] = {}
    for batch in arguments.batches:
        load = Load(
            spans_per_request=batch,
            spans=arguments.single_spans if batch == 1 else arguments.spans,
            templates=arguments.templates,
            seed=number,
        )
        measured = daemon.measure(load)
        measured["times_noop_cpu"] = (
            load.total_spans / measured["spans_per_cpu_s"] / noop.measure(load)
        )
        figures |= {f"batch_{batch}.{name}": value for name, value in measured.items()}
    for name, python in present.items():
        rate = peers.measure(name, python, templates=arguments.templates, seed=number)
        figures[f"{name}.spans_per_cpu_s"] = rate
        ours = figures.get("batch_64.spans_per_cpu_s")
        if ours is not None:
            figures[f"times_{name}"] = ours / rate
    return figures


def _unit(metric: str) -> str:
    name = metric.rpartition(".")[2]
    return "x" if name.startswith("times_") else _UNITS[name]
