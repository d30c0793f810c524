"""`agentgym-daemon bench learn`: the referee's table for our learner.

A referee ("arena") drives a learner and a simulated agent over real queries and tools. This command
plays its sets with our learner, with Vowpal Wabbit on the same vectors of texts, and with a
classifier that is told the labels, and sets them side by side.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from agentgym.errors import EncoderError
from agentgym_daemon.bench.frame import machine
from agentgym_daemon.bench.learn import figures, picture, plan, results, table
from agentgym_daemon.bench.learn.jobs import JobError, Run
from agentgym_daemon.bench.learn.plan import Plan
from agentgym_daemon.bench.learn.sets import ABLATIONS, STANDARD
from agentgym_daemon.encoders import SCHEMAS
from agentgym_daemon.errors import ConfigError

HELP = "the referee's table: how fast and how safely the learner learns"
NOT_MEASURED = (
    "a real agent: the referee's is simulated, so only what is forced counts",
    "the time to encode a text (`bench decision` measures it): all runs of a set share vectors",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    names = ", ".join(setting.name for setting in STANDARD)
    option = parser.add_argument
    option("--arena", type=Path, required=True, metavar="DIR", help="the referee: arena.py")
    option("--data", type=Path, required=True, metavar="DIR", help="its sets: NAME.jsonl")
    option("--seeds", default="0,1,2,3,4", help="comma-separated; default 0,1,2,3,4")
    option("--sets", default="", metavar="NAMES", help=f"comma-separated; default all: {names}")
    option("--encoder", default="default", choices=tuple(SCHEMAS), help="which text encoder")
    option("--encoder-dir", type=Path, metavar="DIR", help="directory with all-MiniLM-L6-v2")
    option("--peer", action="store_true", help="also Vowpal Wabbit, on the same vectors")
    option("--peer-python", default=sys.executable, metavar="PATH", help="interpreter that has it")
    option("--ceiling", action="store_true", help="also a classifier that is told the labels")
    option("--ablations", action="store_true", help="also each part of the default switched off")
    option("--settings", default="", metavar="NAME=VALUE,...", help="other learning settings")
    option("--episodes", type=int, metavar="N", help="at most so many per set, for a quick look")
    option("--test", type=int, default=2000, metavar="N", help="unseen queries; default 2,000")
    option("--jobs", type=int, default=1, metavar="N", help="processes at a time; default 1")
    option("--cache", type=Path, metavar="DIR", help="keep vectors of texts there between calls")
    option("--json", type=Path, metavar="FILE", help="write every run and figure here")
    option("--resume", type=Path, metavar="FILE", help="use the runs in it, and write there")
    option("--picture", type=Path, metavar="FILE", help="draw the curves; .png or .svg")


def main(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Measures, prints, writes; 1 if a run failed, 2 if it cannot be started."""
    try:
        picture.check(options.picture)
        with tempfile.TemporaryDirectory(prefix="agentgym-bench-") as directory:
            return _run(options, arguments, Path(directory))
    except (ConfigError, EncoderError) as error:
        return _fail(str(error), 2)


def _run(options: argparse.Namespace, arguments: Sequence[str], work: Path) -> int:
    made = plan.make(options, work)
    earlier = results.read(options.resume) if options.resume and options.resume.exists() else ()
    resumed = results.resume(earlier, made.jobs)
    if earlier:
        sys.stderr.write(f"{len(resumed.done)} of {len(made.jobs)} runs are there already\n")
    target = options.json or options.resume
    about = {
        "command": shlex.join(["agentgym-daemon", "bench", "learn", *arguments]),
        "machine": machine(),
        **made.about,
    }
    runs, failed = list(resumed.done), []
    done = {run.place for run in runs}
    wanted = [job for job in made.jobs if job.place not in done]
    if new := made.unencoded(wanted):
        sys.stderr.write(f"encoding the texts of {', '.join(job.setting.data for job in new)}\n")
    for job, result in made.perform(wanted, options.jobs):
        if isinstance(result, JobError):
            failed.append(f"{job.label}: {result}")
            sys.stderr.write(f"failed: {job.label}\n")
            continue
        runs.append(result)
        sys.stderr.write(f"[{len(runs)}/{len(made.jobs)}] {job.label} ({result.wall_s:.0f} s)\n")
        if target:
            results.write(target, about, runs, resumed.others)
    runs.sort(key=lambda run: run.place)
    summary = _summary(made, runs)
    if target:
        results.write(target, {**about, "failed": failed, **summary}, runs, resumed.others)
    if options.picture and runs:
        picture.draw(made.settings, runs, options.picture)
    return _fail("\n".join([f"{len(failed)} runs failed", *failed]), 1) if failed else 0


def _summary(made: Plan, runs: Sequence[Run]) -> dict[str, Any]:
    """Prints the tables; returns them as JSON values."""
    tables = []
    summary: dict[str, Any] = {"figures": {}, "ablations": {}}
    for setting in made.settings:
        if rows := figures.rows(setting, runs):
            tables.append(table.of_setting(setting, rows, peer=made.no_peer))
            summary["figures"][setting.name] = [row.plain() for row in rows]
    for setting in made.ablated:
        if arms := figures.ablated(setting, ABLATIONS, runs):
            tables.append(table.of_ablations(setting, arms))
            summary["ablations"][setting.name] = [arm.plain() for arm in arms]
    console = Console()
    table.printed(console, tables)
    for what in NOT_MEASURED:
        console.print(f"not measured: {what}", soft_wrap=True)
    return summary | {"not_measured": list(NOT_MEASURED)}


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"bench learn: {message}\n")
    return code
