"""The demo's results: one JSON object, and a table per framework."""

from __future__ import annotations

import time
from typing import Any

from rich.table import Table

from agentgym_daemon.demo.orchestrate import Demo
from agentgym_daemon.demo.phases import Phase
from agentgym_daemon.demo.saving import Saving


def results(demo: Demo) -> dict[str, Any]:
    """What the last line of stdout says; all reliabilities are those of first attempts."""
    tally = demo.tally
    before, after, control = tally.phase(Phase.BEFORE), tally.phase(Phase.UNSEEN), tally.control()
    produced = sum(_spans(s) for s in demo.statuses.values())
    return {
        "reliability_before": _rounded(before.reliability),
        "reliability_after": _rounded(after.reliability),
        "control_reliability": _rounded(control.reliability),
        "control_n": control.calls,
        "task_success_before": _rounded(before.task_success),
        "task_success_after": _rounded(after.task_success),
        "tokens_per_success_before": _rounded(before.tokens_per_success, 1),
        "tokens_per_success_after": _rounded(after.tokens_per_success, 1),
        "tokens_per_success_control": _rounded(control.tokens_per_success, 1),
        **_saved("tokens_saved", after.saved(control)),
        **_saved("tokens_saved_since_before", after.saved(before)),
        "episodes": tally.phase(Phase.TRAIN).episodes,
        "policy_versions": demo.versions,
        "swaps": len(_swaps(demo)),
        "frameworks": {f: _framework(demo, f) for f in demo.options.frameworks},
        "spans": produced,
        "spans_lost": produced - demo.daemon_spans,
        "duration_s": round(time.monotonic() - demo.started_s, 1),
        "seed": demo.options.seed,
    }


def _framework(demo: Demo, framework: str) -> dict[str, Any]:
    tally = demo.tally
    control = tally.control(framework)
    return {
        "reliability_before": _rounded(tally.phase(Phase.BEFORE, framework).reliability),
        "reliability_after": _rounded(tally.phase(Phase.UNSEEN, framework).reliability),
        "control_reliability": _rounded(control.reliability),
        "control_n": control.calls,
        "episodes": tally.phase(Phase.TRAIN, framework).episodes,
        "swaps": len(demo.statuses[framework]["applied"]),
    }


def _swaps(demo: Demo) -> set[tuple[str, str]]:
    # Versions are unique per daemon; separate agents have separate versions.
    return {(v, demo.agent(f)) for f, s in demo.statuses.items() for v in s["applied"]}


def _spans(status: dict[str, Any]) -> int:
    return int(status["counters"].get("produced.spans", 0))


def _saved(name: str, found: Saving | None) -> dict[str, float | None]:
    return {
        name: _rounded(found.value if found else None),
        f"{name}_low": _rounded(found.low if found else None),
        f"{name}_high": _rounded(found.high if found else None),
    }


def summary(result: dict[str, Any]) -> list[str]:
    """What a success costs, in a line for each comparison that can be made."""
    lines = []
    for name, beside, base in (
        ("tokens_saved", "the control group", "tokens_per_success_control"),
        ("tokens_saved_since_before", "before AgentGym", "tokens_per_success_before"),
    ):
        if result[name] is not None:
            lines.append(
                f"Tokens per success: {result['tokens_per_success_after']:,.0f}, "
                f"{result[name]:.1%} less than {beside} ({result[base]:,.0f}); "
                f"95 % interval {result[f'{name}_low']:.1%} to {result[f'{name}_high']:.1%}"
            )
    return lines


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)


def table(result: dict[str, Any]) -> Table:
    """A row per framework and one for all."""
    columns = ("", "before", "after (unseen)", "control", "control calls", "episodes", "swaps")
    drawn = Table(title="Call reliability of first attempts", title_justify="left")
    for column in columns:
        drawn.add_column(column, justify="right" if column else "left")
    for name, row in result["frameworks"].items():
        drawn.add_row(name, *_row(row))
    drawn.add_section()
    drawn.add_row("all", *_row(result), style="bold")
    return drawn


def _row(row: dict[str, Any]) -> list[str]:
    rates = ("reliability_before", "reliability_after", "control_reliability")
    return [
        *("-" if row[name] is None else f"{row[name]:.3f}" for name in rates),
        *(str(row[name]) for name in ("control_n", "episodes", "swaps")),
    ]
