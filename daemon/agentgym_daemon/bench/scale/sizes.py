"""`bench scale`: what a span, a lookup and a dashboard query cost in a small and a large store.

It builds a history of each size through the writer that the daemon uses, one on top of the other,
and measures at each: CPU time per span of the last spans, lookups by id and key, the queries of a
dashboard, late rewards, memory, the opening, the file. Ten million spans take about a quarter of an
hour of CPU time and some gigabytes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from agentgym_daemon.bench.frame import Report
from agentgym_daemon.bench.scale.measure import Growing, units_of

SIZES = (1_000_000, 10_000_000)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument(
        "--spans",
        type=int,
        nargs="+",
        default=SIZES,
        metavar="COUNT",
        help="sizes to measure at, ascending (default: 1000000 10000000)",
    )
    parser.add_argument(
        "--directory",
        type=Path,
        metavar="DIR",
        help="where the store is built (default: temporary)",
    )


def run(arguments: argparse.Namespace) -> Report:
    """Measures at every size; `--rounds` is how often each query is timed, times ten."""
    sizes = sorted(arguments.spans)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        growing = Growing(Path(directory), sizes[-1], repeats=10 * arguments.rounds)
        try:
            measured = {size: growing.measure(size) for size in sizes}
        finally:
            growing.close()
    figures = {
        f"{name}_{_label(size)}": value for size in sizes for name, value in measured[size].items()
    }
    units = {f"{name}_{_label(size)}": unit for size in sizes for name, unit in units_of().items()}
    goals = {name: _goal(name) for name in units if _goal(name)}
    if len(sizes) > 1:
        first, last = measured[sizes[0]], measured[sizes[-1]]
        figures["ingest_ratio"] = last["ingest_cpu"] / first["ingest_cpu"]
        units["ingest_ratio"], goals["ingest_ratio"] = "x", "<= 1.2"
    return Report(
        name="scale",
        units=units,
        runs=[figures],
        goals=goals,
        not_measured=[
            "gRPC and the segment log (bench ingest), and reading the log",
            "waiting for other processes: times are CPU times of all threads of the process",
            "queries while batches are written",
            "prompts and results: spans have eight small attributes",
        ],
    )


def _label(spans: int) -> str:
    return f"{spans / 1e6:g}M"


def _goal(name: str) -> str:
    if name.startswith("lookup_"):
        return "<= 5"
    if name.startswith("rollup_"):
        return "<= 20"
    return "<= 200" if name.startswith("query_") else ""
