"""How answers look in a terminal; Rich draws them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentgym import semconv
from agentgym.cli.escaping import MAX_CELL, MAX_PROSE, clean
from agentgym.proto.v1 import admin_pb2, common_pb2, policy_pb2, trajectory_pb2

_PIPE_WIDTH = 240
_PARTS = ("similarity", "learned", "history", "errors", "choices", "stands in")
"""Parts of a score in the order in which they are shown; unknown ones come last."""
_WHOLE = {"trajectory": 32, "id": 26, "version": 8, "live": 8}
"""Columns that are copied into other commands, with the width that they need."""


def show(content: RenderableType) -> None:
    """Prints to the terminal; a pipe has no width that would cut anything."""
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(content)


def prose(text: str, style: str = "") -> Text:
    """Lines that may hold what others wrote."""
    return Text(clean(text, limit=MAX_PROSE, lines=True), style=style)


class _Plain(Table):
    """A table whose cells mean nothing but themselves: no markup, no command to the terminal."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Adds a row of texts that anybody may have written."""
        shown = [Text(clean(c, limit=MAX_CELL)) if isinstance(c, str) else c for c in cells]
        super().add_row(*shown, **options)


def titled(title: str, columns: Iterable[str]) -> Table:
    """An empty table of these columns."""
    made = _Plain(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        right = column in (
            "given",
            "trained",
            "mean",
            "calls",
            "errors",
            "reward",
            "score",
            "probability",
            "n",
            "KB",
            *_PARTS,
        )
        made.add_column(
            Text(clean(column)),
            justify="right" if right else "left",
            no_wrap=column in _WHOLE,
            min_width=_WHOLE.get(column),
        )
    return made


def untitled(columns: Iterable[str]) -> Table:
    """An empty table of these columns, for other modules' rows."""
    return titled("", columns)


def time_text(nanoseconds: int) -> str:
    """A time as every table shows it."""
    return _time(nanoseconds)


def _time(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC).astimezone().strftime("%m-%d %H:%M:%S")


def _rate(value: float, n: int) -> str:
    return "-" if n == 0 or math.isnan(value) else f"{value:.3f} (n={n})"


def status(reply: admin_pb2.StatusResponse) -> RenderableType:
    """The daemon, a row per policy scope and per plugin, what was set aside, the counters."""
    head = prose(
        f"agentgym-daemon {reply.daemon_version}, pid {reply.pid}, up {reply.uptime_s:.0f} s, "
        f"{reply.subscribers} agents connected, trainer {reply.trainer}\n"
        f"home {reply.home}, listening on {', '.join(reply.listeners)}\n"
        f"log {reply.log_end} bytes, {reply.log_end - reply.log_applied} not yet in the database, "
        f"{reply.disk_free // 2**20} MB free\n"
    )
    if reply.not_ready:
        head.append_text(prose(f"NOT READY: {reply.not_ready}\n", style="bold red"))
    for alarm in reply.reward_alarms:
        head.append(f"REWARDS: {alarm}\n", style="bold yellow")
    if reply.all_killed:
        head.append("KILLED: every agent falls back; agentgym revive ends it\n", style="bold red")
    columns = (
        "agent",
        "name",
        "live",
        "trajectories",
        "rewarded",
        "policy",
        "control",
        "next training in",
        "tools down",
    )
    scopes = titled("Policies", columns)
    for s in reply.scopes:
        scopes.add_row(
            s.scope.agent,
            s.scope.agent_name,
            (s.live or "none") + (" (pinned)" if s.pinned else ""),
            str(s.trajectories),
            str(s.rewarded),
            _rate(s.reliability_policy, s.n_policy),
            _rate(s.reliability_control, s.n_control),
            f"{s.until_training} trajectories",
            ", ".join(s.down) or "-",
        )
    counters = titled("Counters", ("counter", "n"))
    for name in sorted(reply.counters):
        counters.add_row(name, str(reply.counters[name]))
    return Group(
        head, scopes, Text(), *_ladder(reply.stages), *_producers(reply), *_damages(reply), counters
    )


def rung(place: common_pb2.AgentStage) -> str:
    """A stage as people write it, with the share of a canary."""
    known = place.stage in common_pb2.Stage.values()
    name = common_pb2.Stage.Name(place.stage) if known else str(place.stage)
    name = name.removeprefix("STAGE_").lower()
    return f"{name} {place.canary_share:g}" if place.canary_share else name


def stages(reply: policy_pb2.ListStagesResponse) -> RenderableType:
    """Where every agent stands; a kill of all comes first."""
    red = Text("KILLED: every agent falls back\n", style="bold red")
    return Group(*([red] if reply.all_killed else []), *_ladder(reply.stages))


def _ladder(places: Iterable[common_pb2.AgentStage]) -> Iterable[RenderableType]:
    table = titled("Ladder", ("agent", "stage", "set by", ""))
    for place in places:
        by = "a change" if place.recorded else "the daemon's setting"
        table.add_row(place.agent, rung(place), by, "KILLED" if place.killed else "")
    if table.row_count:
        yield from (table, Text())


def _producers(reply: admin_pb2.StatusResponse) -> Iterable[RenderableType]:
    """Where the items of every plugin are; produced = acked + pending + spooled + dropped."""
    if not reply.producers:
        return
    states = ("produced", "acked", "pending", "spooled", "dropped")
    table = titled("Plugins (spans)", ("agent", "pid", *states, "reasons", "heard of", ""))
    for known in reply.producers:
        report = known.report
        spans = {state: _sum(report.counters, f"{state}.spans") for state in states}
        table.add_row(
            report.agent,
            str(report.pid),
            *(str(spans[state]) for state in states),
            _reasons(report.counters),
            _time(known.received_unix_nano),
            "ended" if report.last else "on" if report.on else "off",
        )
    yield from (table, Text())


def _sum(counters: Mapping[str, int], name: str) -> int:
    """A counter with those of its reasons: dropped.spans and dropped.spans.REASON."""
    return sum(n for key, n in counters.items() if key == name or key.startswith(f"{name}."))


def _reasons(counters: Mapping[str, int]) -> str:
    dropped = {key.split(".", 2)[2]: n for key, n in counters.items() if _is_reason(key) and n}
    return ", ".join(f"{reason} {n}" for reason, n in sorted(dropped.items())) or "-"


def _is_reason(name: str) -> bool:
    return name.startswith("dropped.spans.")


def _damages(reply: admin_pb2.StatusResponse) -> Iterable[RenderableType]:
    if not reply.damages:
        return
    table = titled("Set aside, because it could not be read", ("at", "file", "lost bytes", "why"))
    for damage in reply.damages:
        at = _time(damage.time_unix_nano)
        table.add_row(at, damage.path, str(damage.lost_bytes), damage.reason)
    yield from (table, Text())


def trajectories(reply: trajectory_pb2.ListTrajectoriesResponse) -> RenderableType:
    """A row per trajectory, newest first."""
    columns = ("trajectory", "started", "agent", "state", "assignment", "policy")
    table = titled("", (*columns, "calls", "errors", "reward", "tools"))
    for t in reply.trajectories:
        table.add_row(*_cells(t))
    return table


def line(t: trajectory_pb2.TrajectorySummary) -> str:
    """One trajectory as one line of `tail`."""
    return "  ".join(clean(cell, limit=MAX_CELL) for cell in _cells(t))


def _cells(t: trajectory_pb2.TrajectorySummary) -> list[str]:
    return [
        t.trajectory_id.hex(),
        _time(t.start_unix_nano),
        t.agent,
        t.state,
        _assignment(t),
        t.policy_version or "-",
        str(t.tool_calls),
        str(t.tool_errors),
        f"{t.reward:.2f}" if t.HasField("reward") else "-",
        " > ".join(t.tools),
    ]


def _assignment(t: trajectory_pb2.TrajectorySummary) -> str:
    if t.framework.startswith(semconv.IMPORT_PREFIX):
        return "imported"
    return common_pb2.Assignment.Name(t.assignment).removeprefix("ASSIGNMENT_").lower()


def policies(reply: policy_pb2.ListPoliciesResponse) -> RenderableType:
    """A row per version, newest first."""
    columns = ("version", "agent", "name", "status", "parent", "created", "KB", "sha256")
    table = titled("", (*columns, "aliases", "note"))
    for p in reply.policies:
        table.add_row(
            p.version,
            p.scope.agent,
            p.scope.agent_name,
            p.status + (" (pinned)" if p.pinned else ""),
            p.parent or "-",
            _time(p.created_unix_nano),
            str(p.size // 1024),
            p.sha256[:12],
            ", ".join(p.aliases) or "-",
            p.note or "-",
        )
    return table


def explanations(reply: trajectory_pb2.ExplainResponse) -> RenderableType:
    """How the run turned out, then per decision: the sentence, the arms, parts of their scores."""
    blocks: list[Any] = [prose(_turned_out(reply.outcome))] if reply.HasField("outcome") else []
    for e in reply.explanations:
        blocks.append(prose(f"decision {e.decision.decision_id.hex()}: {e.summary}", style="bold"))
        named = {name for arm in e.arms for name in arm.parts}
        parts = sorted(named, key=lambda name: (_PARTS.index(name) if name in _PARTS else 99, name))
        table = titled("", ("arm", "score", "probability", *parts, ""))
        for arm in e.arms:
            table.add_row(
                arm.arm,
                f"{arm.score:.3f}",
                f"{arm.probability:.3f}",
                *(_part(arm.parts, name) for name in parts),
                "taken" if arm.taken else "",
            )
        blocks += [*([table] if e.arms else []), prose(_footer(e))]
    return Group(*blocks)


def _part(parts: Mapping[str, float], name: str) -> str:
    if name not in parts:
        return ""
    return f"{parts[name]:+.2f}" if round(parts[name], 2) else "0"


def _turned_out(run: trajectory_pb2.RunOutcome) -> str:
    outcome = f"{run.outcome:.3f}" if run.HasField("outcome") else "none yet"
    learned = "nothing now"
    if run.HasField("training_reward"):
        learned = f"reward {run.training_reward:.3f} with weight {run.weight:.3f}"
    taken = f", which takes {run.cost:.1%} of the outcome" if run.cost else ""
    return (
        f"trajectory {run.trajectory_id.hex()}, {run.state}\n"
        f"outcome {outcome}; learned: {learned}\n"
        f"cost {run.tokens:,} tokens, {run.seconds:.1f} s, tool calls {run.calls}{taken}\n"
    )


def _footer(e: trajectory_pb2.Explanation) -> str:
    checked = (
        f"recomputed from the record: greatest difference {e.recomputed_error:.1e}"
        if e.recomputed_error >= 0
        else "not recomputable"
    )
    masked = f"no arm: {', '.join(e.masked)}\n" if e.masked else ""
    return (
        f"{masked}offered {len(e.offered)} tools; executed {', '.join(e.executed) or 'none'}; "
        f"{checked}\n"
    )
