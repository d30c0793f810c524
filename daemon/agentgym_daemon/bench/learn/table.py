"""The table as it is printed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from agentgym_daemon.bench.learn.figures import ABLATION_FIGURES, Ablated, Row, Spread
from agentgym_daemon.bench.learn.sets import Setting

ABSENT = "-"
NOT_INSTALLED = "not installed"

_LEAST_WIDTH = 156  # characters, for medians with their ranges
_FORMS = {"share": "{:.3f}", "difference": "{:+.3f}", "s": "{:.1f}", "gap": "{:.2f}"}


def of_setting(setting: Setting, rows: Sequence[Row], *, peer: str = "") -> Table:
    """One setting's table; `peer` stands in the peer's column where it has no figures."""
    table = Table(
        title=f"{setting.title}, {setting.episodes:,} episodes",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("figure", "AgentGym", "agent alone", "Vowpal Wabbit", "ceiling"):
        table.add_column(heading, no_wrap=heading == "figure")
    gaps = any(row.gap is not None for row in rows)
    if gaps:
        table.add_column("gap closed")
        table.add_column("seed by seed")
    for row in rows:
        cells = [shown(spread, row.unit) for spread in (row.ours, row.base, row.peer, row.ceiling)]
        if peer and row.peer is None:
            cells[2] = peer
        if gaps:
            cells.append(ABSENT if row.gap is None else _number(row.gap, "gap"))
            cells.append(shown(row.gap_paired, "gap"))
        table.add_row(row.name, *cells)
    return table


def of_ablations(setting: Setting, rows: Sequence[Ablated]) -> Table:
    """What each part is worth on one set: medians, in brackets the difference to the default."""
    left_out = () if setting.several else ("unseen, task",)
    columns = [name for name in ABLATION_FIGURES if name not in left_out]
    title = f"Ablations: {setting.title}, {setting.episodes:,} episodes (difference, paired)"
    table = Table("arm", *columns, title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for row in rows:
        own = {} if row is rows[0] else row.differences  # the default differs from nothing
        table.add_row(row.arm, *(_changed(row.figures, own, name) for name in columns))
    return table


def shown(spread: Spread | None, unit: str) -> str:
    """Median and, where seeds differ, the range."""
    if spread is None:
        return ABSENT
    median, low, high = (_number(v, unit) for v in (spread.median, spread.low, spread.high))
    return median if low == high else f"{median} \\[{low}, {high}]"


def _number(value: float, unit: str) -> str:
    """.765 rather than 0.765: there are many of them."""
    return re.sub(r"^([+-]?)0\.", r"\1.", _FORMS[unit].format(value))


def printed(console: Console, tables: Sequence[Table]) -> None:
    """Prints tables, wide enough for their ranges: a file has no width of its own."""
    wide = Console(file=console.file, width=max(console.width, _LEAST_WIDTH))
    for table in tables:
        wide.print(table)


def _changed(
    figures: Mapping[str, Spread | None], differences: Mapping[str, Spread | None], name: str
) -> str:
    unit = "s" if name.endswith(", s") else "share"
    value, difference = figures[name], differences.get(name)
    if value is None:
        return ABSENT
    text = _number(value.median, unit)
    if difference is None or unit == "s":
        return text
    return f"{text} ({_number(difference.median, 'difference')})"
