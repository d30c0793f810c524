"""`agentgym-daemon import`: past traces of other tools as experience for the policy's prior."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentgym.config import Config, resolve
from agentgym.errors import ConfigError, DaemonError
from agentgym.trajectory import Tool
from agentgym_daemon.importing import files, judging, messages, plan, send
from agentgym_daemon.importing.model import ImportFileError, Loaded

OK, FAILED, USAGE, ABSENT = 0, 1, 2, 69


def build_parser() -> argparse.ArgumentParser:
    """The parser of the verb."""
    parser = argparse.ArgumentParser(
        prog="agentgym-daemon import",
        description="Past traces of other tools as experience that is marked as imported: what "
        "came of which tool. Give the files of one export together. The daemon must run.",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="JSON or JSON lines")
    parser.add_argument(
        "--format",
        default=files.AUTO,
        choices=(files.AUTO, *files.FORMATS),
        help="what wrote the files; default: told by their content",
    )
    parser.add_argument(
        "--agent", default="", help="the name given to AgentGym(agent=NAME); default: the service's"
    )
    parser.add_argument(
        "--agent-name", default="", help="the framework's name of the agent; default: as recorded"
    )
    parser.add_argument(
        "--reward",
        action="append",
        default=[],
        metavar="MAPPING",
        help="a score that says how a run turned out: NAME, NAME=WORST:BEST, or "
        "NAME=LABEL:VALUE,LABEL:VALUE; may be repeated",
    )
    parser.add_argument(
        "--tools",
        type=Path,
        metavar="FILE",
        help="JSON with the definitions of the tools, where the traces have only their names",
    )
    parser.add_argument("--dry-run", action="store_true", help="read and report, send nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--home", metavar="DIR", help="the daemon's directory")
    parser.add_argument("--endpoint", help="the daemon's address")
    parser.add_argument("--token-file", metavar="FILE", help="file with the bearer token")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Imports files; the exit code is 69 if no daemon answers, 1 if a file cannot be read."""
    arguments = build_parser().parse_args(argv)
    try:
        mappings = tuple(map(judging.parse, arguments.reward))
        config = resolve(
            {
                "home": arguments.home,
                "endpoint": arguments.endpoint,
                "token_file": arguments.token_file,
            }
        )
    except (ConfigError, ValueError) as error:
        return _fail(str(error), USAGE)
    try:
        read = [files.read(path, arguments.format) for path in arguments.files]
        options = plan.Options(
            agent=arguments.agent,
            agent_name=arguments.agent_name,
            mappings=mappings,
            tools=_tools(arguments.tools) if arguments.tools else {},
        )
        made = plan.make(Loaded.of(one.loaded for one in read), options)
    except ImportFileError as error:
        return _fail(f"{error}. Nothing was imported.", FAILED)
    sent: Counter[str] = Counter()
    code = OK
    if not arguments.dry_run:
        code, made = _deliver(made, config, read, options, sent)
    _report(arguments, read, made, sent)
    return code


def _tools(path: Path) -> dict[str, Tool]:
    try:
        found = messages.tools(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ImportFileError(f"{path}: expected JSON with tool definitions; {error}") from error
    if found is None:
        raise ImportFileError(
            f"{path}: expected a list of tool definitions, each with a name, a description and "
            'parameters, as OpenAI\'s "tools" has them; found none'
        )
    return {tool.name: tool for tool in found}


def _deliver(
    made: plan.Plan,
    config: Config,
    read: Sequence[files.Read],
    options: plan.Options,
    sent: Counter[str],
) -> tuple[int, plan.Plan]:
    try:
        with send.Daemon(config) as daemon:
            features = daemon.featuriser()
            known = {
                name: tool
                for agent in {run.agent for run in made.trajectories}
                for name, tool in (daemon.known_tools(agent) if made.undefined else {}).items()
            }
            if known.keys() & set(made.undefined):
                fuller = plan.Options(
                    options.agent, options.agent_name, options.mappings, {**known, **options.tools}
                )
                made = plan.make(Loaded.of(one.loaded for one in read), fuller)
            send.deliver(made, daemon, features, sent)
    except DaemonError as error:
        done = sent["runs"] + sent["known_runs"] + sent["live_runs"]
        text = f"{error}. {done} of {len(made.trajectories)} runs were dealt with"
        again = "; import the same files again: nothing counts twice" if done else ""
        return _fail(text + again, ABSENT if error.code == "UNAVAILABLE" else FAILED), made
    return OK, made


def _report(
    arguments: argparse.Namespace,
    read: Sequence[files.Read],
    made: plan.Plan,
    sent: Counter[str],
) -> None:
    figures = {
        "dry_run": arguments.dry_run,
        "files": [one.plain() for one in read],
        **made.plain(),
        "sent": {
            name: sent[name]
            for name in ("runs", "known_runs", "live_runs", "rewards", "known_rewards")
        },
    }
    if arguments.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for line in _lines(figures):
        sys.stdout.write(line + "\n")


def _lines(figures: dict[str, Any]) -> list[str]:
    lines = [
        f"{one['path']}: {one['format']}, {one['spans']} spans, {one['scores']} scores, "
        f"sha256 {one['sha256'][:12]}"
        for one in figures["files"]
    ]
    for one in figures["agents"]:
        names = ", ".join(one["names"]) or "none with steps"
        lines.append(
            f"agent {one['agent']!r} ({names}): {one['runs']} runs, {one['rewarded']} rewarded, "
            f"{one['steps']} steps, {one['calls']} calls; "
            f"at {one['inferred_steps']} steps the offered tools are inferred"
        )
    if figures["undefined_tools"]:
        names = ", ".join(figures["undefined_tools"][:8])
        lines.append(
            f"only the names are known of {len(figures['undefined_tools'])} tools ({names}): what "
            "is learned of them does not carry over to the live tools; give --tools FILE"
        )
    lines += [_line(problem) for problem in figures["problems"]]
    sent = figures["sent"]
    if figures["dry_run"]:
        lines.append("dry run: nothing was sent")
    else:
        lines.append(
            f"imported {sent['runs']} runs and {sent['rewards']} rewards; known before: "
            f"{sent['known_runs']} runs, {sent['known_rewards']} rewards"
        )
    return lines


def _line(problem: dict[str, Any]) -> str:
    example = f" (for example {problem['example']})" if problem["example"] else ""
    return f"left out: {problem['times']} {problem['reason']}{example}"


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"agentgym-daemon import: {message}\n")
    return code
