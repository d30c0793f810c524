"""`agentgym-daemon bench NAME [--json FILE]`: runs a benchmark and prints its table."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from agentgym_daemon.bench import decision
from agentgym_daemon.bench.frame import Report

BENCHMARKS: dict[str, Callable[[int], Report]] = {"decision": decision.run}


def build_parser() -> argparse.ArgumentParser:
    """The parser of the verb."""
    parser = argparse.ArgumentParser(prog="agentgym-daemon bench", description=__doc__)
    parser.add_argument("name", choices=sorted(BENCHMARKS), help="which benchmark")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report here")
    parser.add_argument("--rounds", type=int, default=5, help="how often to measure")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one benchmark."""
    arguments = build_parser().parse_args(argv)
    if arguments.rounds < 1:
        sys.stderr.write(f"--rounds: expected at least 1, got {arguments.rounds}\n")
        return 2
    report = BENCHMARKS[arguments.name](arguments.rounds)
    command = shlex.join(["agentgym-daemon", "bench", *(sys.argv[2:] if argv is None else argv)])
    result = report.as_json(command)
    table = Table("metric", "median", "min", "max", "unit", title=f"bench {report.name}")
    for key, metric in result["metrics"].items():
        figures = (f"{metric[name]:.4g}" for name in ("median", "min", "max"))
        table.add_row(key, *figures, metric["unit"])
    console = Console()
    console.print(table)
    for what in result["not_measured"]:
        console.print(f"not measured: {what}")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0
