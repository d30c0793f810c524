"""`agentgym-daemon bench NAME [--json FILE]`: runs a benchmark and prints its table.

A benchmark is a module with `run(arguments) -> Report` and, if it has options of its own,
`add_arguments(parser)`; its docstring is its help.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from agentgym_daemon.bench.frame import Report
from agentgym_daemon.bench.learn import cli as learn

BENCHMARKS = {
    "decision": "agentgym_daemon.bench.decision",
    "ingest": "agentgym_daemon.bench.ingest.measure",
    "overhead": "agentgym_daemon.bench.overhead",
    "retrain": "agentgym_daemon.bench.retrain",
    "scale": "agentgym_daemon.bench.scale.sizes",
    "swap": "agentgym_daemon.bench.swap",
}
LEARN = "learn"
"""The one that is no `Report`: it compares learners, set by set."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the verb."""
    parser = argparse.ArgumentParser(prog="agentgym-daemon bench", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name in BENCHMARKS:
        module = _module(name)
        about = (module.__doc__ or name).strip().partition("\n\n")[0]
        verb = names.add_parser(name, help=about, description=about)
        verb.add_argument("--json", type=Path, metavar="FILE", help="also write the report here")
        verb.add_argument("--rounds", type=int, default=5, help="how often to measure")
        if hasattr(module, "add_arguments"):
            module.add_arguments(verb)
    table = names.add_parser(LEARN, help=learn.HELP, description=learn.__doc__)
    learn.add_arguments(table)
    return parser


def _module(name: str) -> Any:
    return importlib.import_module(BENCHMARKS[name])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one benchmark."""
    given = list(sys.argv[2:] if argv is None else argv)
    arguments = build_parser().parse_args(given)
    if arguments.name == LEARN:
        return learn.main(arguments, given[1:])
    if arguments.rounds < 1:
        sys.stderr.write(f"--rounds: expected at least 1, got {arguments.rounds}\n")
        return 2
    report: Report = _module(arguments.name).run(arguments)
    result = report.as_json(shlex.join(["agentgym-daemon", "bench", *given]))
    _print(report, result)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def _print(report: Report, result: dict[str, Any]) -> None:
    table = Table("metric", "median", "min", "max", "unit", "goal", title=f"bench {report.name}")
    for key, metric in result["metrics"].items():
        figures = (f"{metric[name]:.4g}" for name in ("median", "min", "max"))
        table.add_row(key, *figures, metric["unit"], report.goals.get(key, ""))
    console = Console()
    console.print(table)
    for what in result["not_measured"]:
        console.print(f"not measured: {what}")
