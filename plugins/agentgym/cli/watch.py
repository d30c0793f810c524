"""The verb `watch`: how live policies have done lately, and what people were alerted to."""

from __future__ import annotations

import argparse
import math

from rich.console import Group, RenderableType

from agentgym.cli import tables
from agentgym.cli.client import Client
from agentgym.cli.verbs import show
from agentgym.proto.v1 import watch_pb2

_MODES = {
    "act": "A policy that gets worse is rolled back.",
    "tell": "A policy that gets worse is reported, not rolled back (watch = tell).",
    "off": "Nobody watches (watch = off).",
}
_DRIFTS = {"inputs": "what it is asked", "tools": "what it calls by itself", "rewards": "rewards"}
_SHOWN = 10


def add_watch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `watch`."""
    help_text = "how live policies have done lately, and the newest alerts"
    verb = commands.add_parser("watch", help=help_text, description=help_text)
    verb.add_argument("agent", nargs="?", default="", help="the agent; none shows all")
    verb.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    verb.set_defaults(run=watch)


def watch(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym watch [AGENT]`."""
    request = watch_pb2.ShowWatchRequest(agent=arguments.agent)
    show(arguments, client.call(client.watch.Show, request), watch_table)


def watch_table(reply: watch_pb2.ShowWatchResponse) -> RenderableType:
    """A row per scope, then what is odd, then the alerts."""
    columns = ("agent", "live", "n", "usual", "last 100", "fall", "policy - control", "watch")
    made = tables.titled("Live policies, as the watch sees them", columns)
    for one in reply.scopes:
        made.add_row(
            _name(one),
            one.live,
            str(one.runs),
            _share(one.reference),
            _share(one.recent),
            f"{_closeness(one):.0%}",
            _lift(one),
            one.act or "-",
        )
    parts: list[RenderableType] = [made] if reply.scopes else []
    if not reply.scopes:
        parts.append(tables.prose("No live policy was looked at yet."))
    for one in reply.scopes:
        parts.extend(tables.prose(line) for line in _odd(one))
    for alert in reply.alerts[-_SHOWN:]:
        when = tables.time_text(alert.time_unix_nano)
        parts.append(tables.prose(f"{when} {alert.kind} of {alert.agent}: {alert.text}"))
    parts.append(tables.prose(_MODES.get(reply.mode, reply.mode)))
    return Group(*parts)


def _name(one: watch_pb2.ScopeWatch) -> str:
    """The agent; with the part of it that the policy is for, if that has a name of its own."""
    agent, name = one.scope.agent, one.scope.agent_name
    return agent if name in ("", agent) else f"{agent}/{name}"


def _closeness(one: watch_pb2.ScopeWatch) -> float:
    """How far the evidence has come towards a fall: 0 none, 1 seen."""
    return math.log(max(1.0, one.evidence)) / math.log(one.enough)


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"


def _lift(one: watch_pb2.ScopeWatch) -> str:
    if math.isnan(one.lift_low):
        return "too few runs"
    return f"{one.lift:+.1%} ({one.lift_low:+.1%} to {one.lift_high:+.1%})"


def _odd(one: watch_pb2.ScopeWatch) -> list[str]:
    name = _name(one)
    said = [f"{name}: {one.reason}"] if one.reason else []
    drifts = [_DRIFTS.get(d.what, d.what) for d in one.drifts if d.alarming]
    if drifts:
        said.append(f"{name}: changed lately: {', '.join(drifts)}")
    if one.tools_down:
        said.append(f"{name}: tools that fail: {', '.join(one.tools_down)}")
    return said
