"""The verbs of experiments: `experiment start`, `list`, `show` and `stop`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from rich.console import Group, RenderableType

from agentgym.cli import tables
from agentgym.cli.client import Client
from agentgym.cli.verbs import show
from agentgym.config import Mode
from agentgym.errors import AgentGymError
from agentgym.proto.v1 import experiment_pb2
from agentgym.proto.v1.experiment_pb2 import ExperimentArm, ExperimentGuard, Verdict

METRICS = ("success", "tool_reliability", "tokens", "tool_calls", "seconds")
_SHARES = frozenset(METRICS[:2])
"""Metrics that are shares: their differences are points of 100."""
_KINDS = {
    "live": ExperimentArm.KIND_LIVE,
    "none": ExperimentArm.KIND_NONE,
    "label": ExperimentArm.KIND_LABEL,
}
_MODES = {mode.value: number for number, mode in enumerate(Mode, start=1)}
_WORDS = {
    Verdict.VERDICT_RUNNING: "running",
    Verdict.VERDICT_WON: "won",
    Verdict.VERDICT_LOST: "lost",
    Verdict.VERDICT_NO_DIFFERENCE: "no difference as large as the effect",
    Verdict.VERDICT_GUARDRAIL: "guardrail broken",
    Verdict.VERDICT_OUT_OF_RUNS: "out of runs",
    Verdict.VERDICT_STOPPED: "stopped",
}
_SHORT = {Verdict.VERDICT_WON: "better", Verdict.VERDICT_LOST: "worse"}


def add_experiments(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `experiment` with its actions."""
    help_text = "compare ways to run an agent: start, list, show and stop experiments"
    verb = commands.add_parser("experiment", help=help_text, description=help_text)
    actions = verb.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, run: Callable[..., None], text: str) -> argparse.ArgumentParser:
        parser = actions.add_parser(name, help=text, description=text)
        parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        parser.set_defaults(run=run)
        return parser

    _add_start(action("start", start, "share an agent's runs out to arms, and compare them"))
    listing = action("list", listed, "all experiments, newest first")
    listing.add_argument("--agent", default="", help="only this agent's")
    showing = action("show", shown, "what an experiment has come to")
    showing.add_argument("name", help="the experiment")
    stopping = action("stop", stop, "end an experiment; its figures stay")
    stopping.add_argument("name", help="the experiment")
    stopping.add_argument("--reason", default="", help="a note for the record")


def _add_start(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="a name that was not used before")
    parser.add_argument("--agent", required=True, help="whose runs are shared out")
    parser.add_argument(
        "--arm",
        action="append",
        required=True,
        type=_arm,
        metavar="NAME=WHAT",
        help="WHAT: a policy version or alias, live, none, label, mode:MODE; the first is "
        "the reference",
    )
    parser.add_argument(
        "--share",
        action="append",
        default=[],
        type=_share,
        metavar="NAME=SHARE",
        help="of the units; arms without one get equal parts of what is left",
    )
    parser.add_argument("--metric", choices=METRICS, default="success", help="what is compared")
    parser.add_argument(
        "--effect",
        type=float,
        default=0.05,
        help="the least difference that matters; .05 is 5 points, of amounts 5 %% of their mean",
    )
    parser.add_argument(
        "--guard",
        action="append",
        default=[],
        type=_guard,
        metavar="METRIC:BOUND",
        help="stop if an arm is proven worse than this, such as tokens:+10%% or success:-.02",
    )
    parser.add_argument("--max-runs", type=_count, default=0, help="stop after so many closed runs")
    parser.add_argument("--new", action="store_true", help="for an agent that is still to come")
    parser.add_argument("--reason", default="", help="a note for the record")


# ---- what is asked for


def _arm(text: str) -> ExperimentArm:
    name, separator, what = text.partition("=")
    if not (name and separator and what):
        raise argparse.ArgumentTypeError(f"expected NAME=WHAT, such as new=p-000012, got {text!r}")
    if what in _KINDS:
        return ExperimentArm(name=name, kind=_KINDS[what])
    kind, separator, mode = what.partition(":")
    if not separator:
        return ExperimentArm(name=name, kind=ExperimentArm.KIND_VERSION, version=what)
    if kind != "mode" or mode not in _MODES:
        modes = ", ".join(f"mode:{known}" for known in _MODES)
        raise argparse.ArgumentTypeError(f"expected one of {modes}, got {what!r}")
    return ExperimentArm(name=name, kind=ExperimentArm.KIND_MODE, mode=_MODES[mode])  # type: ignore[arg-type]  # its number


def _share(text: str) -> tuple[str, float]:
    name, _, number = text.rpartition("=")
    share = _number(number)
    if not name or not 0.0 < share < 1.0:
        raise argparse.ArgumentTypeError(
            f"expected NAME=SHARE with a share between 0 and 1, such as new=.2, got {text!r}"
        )
    return name, share


def _guard(text: str) -> ExperimentGuard:
    metric, _, bound = text.partition(":")
    relative = bound.endswith("%")
    number = _number(bound.removesuffix("%"))
    if metric not in METRICS or not math.isfinite(number):
        raise argparse.ArgumentTypeError(
            f"expected METRIC:BOUND, such as tokens:+10% or success:-.02, with a metric of "
            f"{', '.join(METRICS)}; got {text!r}"
        )
    return ExperimentGuard(
        metric=metric, bound=number / 100.0 if relative else number, relative=relative
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def _shared(arms: list[ExperimentArm], shares: list[tuple[str, float]]) -> list[ExperimentArm]:
    given = dict(shares)
    strangers = sorted(given.keys() - {arm.name for arm in arms})
    if strangers or len(given) < len(shares):
        names = ", ".join(arm.name for arm in arms)
        wrong = ", ".join(strangers) or "one twice"
        raise AgentGymError(f"--share: expected each of the arms {names} once, got {wrong}")
    return [
        ExperimentArm(
            name=arm.name,
            kind=arm.kind,
            version=arm.version,
            mode=arm.mode,
            share=given.get(arm.name, 0.0),
        )
        for arm in arms
    ]


# ---- the verbs


def start(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym experiment start NAME --agent AGENT --arm NAME=WHAT --arm NAME=WHAT`."""
    request = experiment_pb2.StartExperimentRequest(
        experiment=experiment_pb2.Experiment(
            name=arguments.name,
            agent=arguments.agent,
            arms=_shared(arguments.arm, arguments.share),
            metric=arguments.metric,
            effect=arguments.effect,
            guards=arguments.guard,
            max_runs=arguments.max_runs,
            reason=arguments.reason,
        ),
        unseen=arguments.new,
    )
    show(arguments, client.call(client.experiments.Start, request), figures)


def listed(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym experiment list`."""
    request = experiment_pb2.ListExperimentsRequest(agent=arguments.agent)
    show(arguments, client.call(client.experiments.List, request), listing_table)


def shown(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym experiment show NAME`."""
    request = experiment_pb2.ShowExperimentRequest(name=arguments.name)
    show(arguments, client.call(client.experiments.Show, request), figures)


def stop(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym experiment stop NAME`."""
    request = experiment_pb2.StopExperimentRequest(name=arguments.name, reason=arguments.reason)
    show(arguments, client.call(client.experiments.Stop, request), figures)


# ---- how it looks


def listing_table(reply: experiment_pb2.ListExperimentsResponse) -> RenderableType:
    """A row per experiment, newest first."""
    columns = ("experiment", "agent", "arms", "metric", "n", "verdict", "winner", "started")
    table = tables.untitled(columns)
    for one in reply.experiments:
        experiment = one.experiment
        table.add_row(
            experiment.name,
            experiment.agent,
            ", ".join(arm.name for arm in experiment.arms),
            experiment.metric,
            str(one.runs),
            _WORDS.get(one.verdict, "-"),
            one.winner or "-",
            tables.time_text(experiment.started_unix_nano),
        )
    return table


def figures(reply: experiment_pb2.ExperimentFigures) -> RenderableType:
    """The arms beside the reference, the guards, and what follows."""
    experiment = reply.experiment
    share = experiment.metric in _SHARES
    head = f"{experiment.name}: {_WORDS.get(reply.verdict, '-')}"
    head += f" ({reply.why})" if reply.why else ""
    parts: list[RenderableType] = [tables.prose(head, style="bold"), _arms_table(reply, share)]
    if experiment.guards:
        parts.append(_guards_table(reply))
    parts.append(tables.prose(_footer(reply, share)))
    return Group(*parts)


def _arms_table(reply: experiment_pb2.ExperimentFigures, share: bool) -> RenderableType:
    experiment = reply.experiment
    metric = experiment.metric.replace("_", " ")
    columns = ("arm", "runs as", "share", "n", metric, "difference", "interval, at any time", "p")
    table = tables.titled("", (*columns, ""))
    means = {one.arm: one for one in reply.arms}
    beside = {one.arm: one for one in reply.comparisons}
    for arm in experiment.arms:
        own, other = means.get(arm.name), beside.get(arm.name)
        cells = [
            arm.name,
            what(arm),
            f"{100 * arm.share:.4g} %",
            str(own.runs) if own else "0",
            _amount(own.mean, share) if own and own.runs else "-",
        ]
        if other is None:
            cells += ["reference", "", "", ""]
        else:
            cells += [
                _amount(other.effect, share, signed=True),
                _interval(other.low, other.high, share),
                f"{other.p_value:.3f}",
                _SHORT.get(other.verdict, _WORDS.get(other.verdict, "")),
            ]
        table.add_row(*cells)
    return table


def _guards_table(reply: experiment_pb2.ExperimentFigures) -> RenderableType:
    table = tables.titled("Guardrails", ("arm", "metric", "bound", "difference", ""))
    for one in reply.comparisons:
        for guard in one.guards:
            table.add_row(
                one.arm,
                guard.metric.replace("_", " "),
                _bound(guard.bound, guard),
                _bound(guard.effect, guard),
                "BROKEN" if guard.broken else "not proven worse",
            )
    return table


def what(arm: ExperimentArm) -> str:
    """What an arm runs as, in one word."""
    names = {number: word for word, number in _MODES.items()}
    if arm.kind == ExperimentArm.KIND_MODE:
        return f"mode:{names.get(arm.mode, arm.mode)}"
    words = {number: word for word, number in _KINDS.items()}
    return arm.version or words.get(arm.kind, "?")


def _footer(reply: experiment_pb2.ExperimentFigures, share: bool) -> str:
    experiment = reply.experiment
    effect = f"{100 * experiment.effect:g} {'points' if share else '%'}"
    needed = (
        f"about {reply.runs_needed:,} runs in four of five cases"
        if reply.runs_needed
        else "a number of runs that is known once each arm has some"
    )
    lines = [
        f"{reply.runs:,} closed runs; at these shares a difference of {effect} is found within "
        f"{needed}."
    ]
    if experiment.max_runs:
        lines.append(f"It ends after {experiment.max_runs:,} runs.")
    if reply.next:
        lines.append(f"To act on it: {reply.next}")
    return "\n".join(lines)


def _amount(value: float, share: bool, *, signed: bool = False) -> str:
    if not math.isfinite(value):
        return "-"
    if share:
        return f"{100 * value:+.1f}" if signed else f"{100 * value:.1f} %"
    return f"{value:+.2f}" if signed else f"{value:.2f}"


def _interval(low: float, high: float, share: bool) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "too few runs"
    return f"{_amount(low, share, signed=True)} to {_amount(high, share, signed=True)}"


def _bound(value: float, guard: experiment_pb2.GuardFigures) -> str:
    if not math.isfinite(value):
        return "-"
    if guard.relative:
        return f"{100 * value:+.1f} %"
    return f"{100 * value:+.1f} points" if guard.metric in _SHARES else f"{value:+.2f}"
