"""The verbs of evidence: what a version would have been worth, and what policies are worth live."""

from __future__ import annotations

import argparse
import math

from rich.console import Group, RenderableType

from agentgym.cli import tables
from agentgym.cli.client import Client
from agentgym.cli.verbs import show
from agentgym.proto.v1 import evaluation_pb2

_LONG_S = 600.0
_LEAST = 20  # runs of an arm below which the daemon says nothing
_NAMES = {
    "ips": "inverse propensity",
    "snips": "self-normalised",
    "dr": "doubly robust",
}
_SHARES = frozenset(("success", "tool_reliability"))
"""Metrics that are shares: their differences are points of 100."""


def add_evaluation(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `evaluate` and `lift`."""
    help_text = "what a version would have been worth on the stored runs"
    verb = commands.add_parser("evaluate", help=help_text, description=help_text)
    verb.add_argument("version", help="for example p-000003, or an alias")
    verb.add_argument(
        "--against", default="baseline", help="another version; baseline is the agent alone"
    )
    verb.add_argument("--trajectories", type=int, default=0, help="the newest; 5,000 unless told")
    verb.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    verb.set_defaults(run=evaluate)
    help_text = "an agent's policies beside its control group, so far"
    verb = commands.add_parser("lift", help=help_text, description=help_text)
    verb.add_argument("agent", help="the agent")
    verb.add_argument(
        "--effect", type=float, default=0.0, help="the difference to be found; 0.05 unless told"
    )
    verb.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    verb.set_defaults(run=lift)


def evaluate(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym evaluate VERSION [--against VERSION|baseline]`."""
    request = evaluation_pb2.EvaluateRequest(
        version=arguments.version,
        against=arguments.against,
        trajectories=max(0, arguments.trajectories),
    )
    show(arguments, client.call(client.evaluation.Evaluate, request, _LONG_S), evaluation_table)


def lift(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym lift AGENT`."""
    request = evaluation_pb2.LiftRequest(agent=arguments.agent, effect=arguments.effect)
    show(arguments, client.call(client.evaluation.Lift, request), lift_table)


def evaluation_table(reply: evaluation_pb2.EvaluateResponse) -> RenderableType:
    """The estimates, and on what they rest."""
    other = reply.against or "the agent alone"
    made = tables.titled(
        f"{reply.version} beside {other}", ("estimator", "what", "estimate", "95 %")
    )
    for what, estimates in (("value", reply.value), ("difference", reply.difference)):
        for one in estimates:
            made.add_row(
                _NAMES.get(one.estimator, one.estimator),
                what,
                _points(one.value, signed=what == "difference"),
                _interval(one.low, one.high, signed=what == "difference"),
            )
    rests = (
        f"Rests on {reply.runs} runs ({reply.decisions} decisions) that a policy sampled and that "
        f"trained neither; they are worth {reply.effective:.0f} of its own. "
        f"{100 * reply.outside:.1f} % of its runs would do what could not have been drawn. "
        f"{reply.matched} times its own best arm was drawn where the policies differ."
    )
    if reply.control:
        rests += f" The control group gave {reply.control} runs."
    if reply.left_out:
        rests += f" {reply.left_out} runs were left out, because they trained it."
    if reply.identifiable:
        return Group(made, tables.prose(rests))
    why = f"Not identifiable: {reply.reason}. Only a canary can tell (agentgym stage)."
    return Group(tables.prose(why, style="bold"), tables.prose(rests))


def _no_interval(one: evaluation_pb2.MetricLift) -> str:
    few = min(one.policy_runs, one.control_runs) < _LEAST
    return "too few runs" if few else "all runs alike"


def lift_table(reply: evaluation_pb2.LiftResponse) -> RenderableType:
    """Policy beside control, metric by metric."""
    columns = ("metric", "policy", "control", "difference", "95 %, at any time", "p")
    made = tables.titled(f"{reply.agent}: policy beside control", columns)
    for one in reply.metrics:
        share = one.name in _SHARES
        made.add_row(
            one.name.replace("_", " "),
            f"{_amount(one.policy_mean, share)} (n {one.policy_runs})",
            f"{_amount(one.control_mean, share)} (n {one.control_runs})",
            _amount(one.effect, share, signed=True),
            f"{_amount(one.low, share, signed=True)} to {_amount(one.high, share, signed=True)}"
            if math.isfinite(one.low)
            else _no_interval(one),
            f"{one.p_value:.3f}",
        )
    needed = (
        f"With a control group of {100 * reply.control_share:.1f} %, a difference of "
        f"{100 * reply.effect:g} points of success is found within {reply.runs_needed:,} runs in "
        "four of five cases."
        if reply.runs_needed
        else "Without a control group nothing can be compared; see the setting control_share."
    )
    return Group(made, tables.prose(needed))


def _amount(value: float, share: bool, *, signed: bool = False) -> str:
    if not math.isfinite(value):
        return "-"
    if share:
        return _points(value, signed=signed)
    return f"{value:+.2f}" if signed else f"{value:.2f}"


def _points(value: float, *, signed: bool) -> str:
    return f"{100 * value:+.1f}" if signed else f"{100 * value:.1f} %"


def _interval(low: float, high: float, *, signed: bool) -> str:
    return f"{_points(low, signed=signed)} to {_points(high, signed=signed)}"
