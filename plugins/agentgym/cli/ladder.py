"""The verbs of the ladder and of the kill switch: `stage`, `kill`, `revive`.

A kill must not need a daemon: where none does it, the file of the home is written instead.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from agentgym.cli import tables
from agentgym.cli.client import Client
from agentgym.cli.verbs import print_json, say, show
from agentgym.config import Config
from agentgym.errors import AgentGymError, DaemonError
from agentgym.kill import FILE_NAME, names_in
from agentgym.proto.v1 import policy_pb2

STAGES = ("observe", "shadow", "canary", "live")
_STEPS = {"up": 1, "down": -1}
_EVALUATION_S = 120.0  # a step to live is looked at before it is taken
_REFUSALS = frozenset(
    ("INVALID_ARGUMENT", "FAILED_PRECONDITION", "PERMISSION_DENIED", "UNAUTHENTICATED")
)
"""Answers of a daemon that could do it and will not; after any other one the file is written."""


def add_ladder(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The parsers of the three verbs."""
    stage = commands.add_parser("stage", help="show or change how far an agent's policies may go")
    stage.add_argument("agent", nargs="?", default="", help="the agent; none shows all")
    stage.add_argument("to", nargs="?", default="", choices=["", *STAGES, *_STEPS], metavar="STAGE",
                       help="observe, shadow, canary or live; up or down for one step")  # fmt: skip
    stage.add_argument("--share", type=float, help="at canary: share of the units, such as .1")
    stage.add_argument("--new", action="store_true", help="for an agent that is still to come")
    stage.add_argument("--if-proven", action="store_true",
                       help="from canary to live only if the evidence is there")  # fmt: skip
    _add_common(stage)
    stage.set_defaults(run=show_or_set)
    kill = commands.add_parser("kill", help="stop an agent's policies at once, or everyone's")
    kill.add_argument("agent", nargs="?", default="", help="the agent; none stops all")
    _add_common(kill)
    kill.set_defaults(alone=stop)
    revive = commands.add_parser("revive", help="end a kill")
    revive.add_argument("agent", nargs="?", default="", help="the agent; none ends the kill of all")
    _add_common(revive)
    revive.set_defaults(alone=end)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", default="", help="a note for the record")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def show_or_set(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym stage [AGENT [STAGE]]`."""
    if not arguments.to:
        if arguments.share is not None:
            raise AgentGymError("expected a stage with --share: agentgym stage AGENT canary")
        request = policy_pb2.ListStagesRequest(agent=arguments.agent)
        show(arguments, client.call(client.policies.ListStages, request), tables.stages)
        return
    if arguments.share is not None and not 0.0 < arguments.share < 1.0:
        raise AgentGymError(
            f"--share: expected a number between 0 and 1, got {arguments.share:g}; "
            "1 is the stage live, 0 is the stage shadow"
        )
    reply = client.call(
        client.policies.SetStage,
        policy_pb2.SetStageRequest(
            agent=arguments.agent,
            stage=f"STAGE_{arguments.to.upper()}" if arguments.to in STAGES else None,
            step=_STEPS.get(arguments.to, 0),
            canary_share=arguments.share or 0.0,
            reason=arguments.reason,
            unseen=arguments.new,
            if_proven=arguments.if_proven,
        ),
        _EVALUATION_S,
    )
    stopped = "; killed: nothing is applied until it is revived" if reply.now.killed else ""
    before, now = tables.rung(reply.before), tables.rung(reply.now)
    found = "proven" if reply.proven else "unproven"
    evidence = f" ({found}: {reply.evidence})" if reply.evidence else ""
    say(arguments, reply, f"{arguments.agent}: {before} -> {now}{stopped}{evidence}")


def _ask(config: Config, arguments: argparse.Namespace, *, revive: bool = False) -> Any:
    with Client(config) as client:
        request = policy_pb2.KillRequest(
            agent=arguments.agent, revive=revive, reason=arguments.reason
        )
        return client.call(client.policies.Kill, request)


def stop(config: Config, arguments: argparse.Namespace) -> None:
    """`agentgym kill [AGENT]`."""
    agent = arguments.agent
    try:
        reply = _ask(config, arguments)
    except DaemonError as error:
        if error.code in _REFUSALS:
            raise
        path = _lay(config.home, agent)
        _say_file(
            arguments,
            path,
            f"the daemon did not do it ({error}); {path} was written instead: "
            f"{_whom(agent)} of this home fall back now, and nothing is recorded. "
            f"End it with: agentgym revive{' ' + agent if agent else ''}",
        )
        return
    if not reply.seen:
        sys.stderr.write(
            f"agentgym: nothing was ever heard of an agent {agent!r}; is that its name? "
            "agentgym stage lists them\n"
        )
    say(arguments, reply, f"killed: {_whom(agent)}")


def end(config: Config, arguments: argparse.Namespace) -> None:
    """`agentgym revive [AGENT]`: what the log says, and what the file says."""
    agent = arguments.agent
    path = _lift(config.home, agent)
    if path is not None:
        sys.stderr.write(f"agentgym: {path} no longer stops {_whom(agent)}\n")
    try:
        reply = _ask(config, arguments, revive=True)
    except DaemonError as error:
        if path is None or error.code not in ("FAILED_PRECONDITION", "UNAVAILABLE"):
            raise
        unknown = error.code == "UNAVAILABLE"
        left = "; no daemon answers, so what it has recorded stays" if unknown else ""
        _say_file(arguments, path, f"revived: {_whom(agent)}{left}")
        return
    named = ", ".join(reply.killed)
    left = f"; still killed by name: {named}" if named else ""
    say(arguments, reply, f"revived: {_whom(agent)}{left}")


def _whom(agent: str) -> str:
    return f"agent {agent}" if agent else "all agents"


def _say_file(arguments: argparse.Namespace, path: Path, text: str) -> None:
    if arguments.json:
        print_json({"file": str(path), "agent": arguments.agent, "exists": path.exists()})
    else:
        sys.stdout.write(text + "\n")


# ---------------------------------------------------------------- the file


def _lay(home: Path, agent: str) -> Path:
    """Writes the kill file; a file that stops all goes on doing so."""
    path = home / FILE_NAME
    known = _names(path)
    all_stop = not agent or known == set()
    _write(path, set() if all_stop else (known or set()) | {agent})
    return path


def _lift(home: Path, agent: str) -> Path | None:
    """Takes an agent, or all, out of the file; None if it did not stop them."""
    path = home / FILE_NAME
    known = _names(path)
    if known is None:
        return None
    if agent and not known:
        raise AgentGymError(
            f"{path} stops all agents; end that without a name (agentgym revive), or write into "
            "it the names of those that are to stay stopped"
        )
    if agent and agent not in known:
        return None
    left = known - {agent} if agent else set()
    if left:
        _write(path, left)
    else:
        path.unlink(missing_ok=True)
    return path


def _names(path: Path) -> set[str] | None:
    try:
        return set(names_in(path.read_text("utf-8", "replace")))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AgentGymError(f"{path} cannot be read ({error.strerror})") from error


def _write(path: Path, names: set[str]) -> None:
    if any(name != " ".join(name.split()) for name in names):
        raise AgentGymError(
            "a name with line breaks or outer spaces does not fit into the file; stop all agents"
        )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_text("".join(f"{name}\n" for name in sorted(names)), "utf-8")
        part.replace(path)
    except OSError as error:
        raise AgentGymError(f"{path} cannot be written ({error.strerror})") from error
