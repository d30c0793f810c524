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
from agentgym_daemon.bench.learn import cli as learn

BENCHMARKS: dict[str, Callable[[int], Report]] = {"decision": decision.run}
LEARN = "learn"
"""The one that is no `Report`: it compares learners, set by set."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the verb."""
    parser = argparse.ArgumentParser(prog="agentgym-daemon bench", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, run in BENCHMARKS.items():
        about = (sys.modules[run.__module__].__doc__ or name).strip()
        verb = names.add_parser(name, help=about, description=about)
        verb.add_argument("--json", type=Path, metavar="FILE", help="also write the report here")
        verb.add_argument("--rounds", type=int, default=5, help="how often to measure")
    table = names.add_parser(LEARN, help=learn.HELP, description=learn.__doc__)
    learn.add_arguments(table)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one benchmark."""
    given = list(sys.argv[2:] if argv is None else argv)
    arguments = build_parser().parse_args(given)
    if arguments.name == LEARN:
        return learn.main(arguments, given[1:])
    if arguments.rounds < 1:
        sys.stderr.write(f"--rounds: expected at least 1, got {arguments.rounds}\n")
        return 2
    report = BENCHMARKS[arguments.name](arguments.rounds)
    result = report.as_json(shlex.join(["agentgym-daemon", "bench", *given]))
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
