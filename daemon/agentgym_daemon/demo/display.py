"""The demo while it runs: call reliability by policy version against the control group."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agentgym_daemon.demo.orchestrate import Demo
from agentgym_daemon.demo.phases import Phase
from agentgym_daemon.demo.tally import Group as Sums

REFRESH_S = 0.25
PLAIN_EVERY_S = 5.0


@contextmanager
def shown(demo: Demo) -> Iterator[None]:
    """Live on a terminal; elsewhere a line every few seconds, both on stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        demo.changed = _Lines(demo)
        yield
        return
    with Live(console=console, refresh_per_second=4) as live:
        last = 0.0

        def update() -> None:
            nonlocal last
            if time.monotonic() - last > REFRESH_S:
                last = time.monotonic()
                live.update(render(demo))

        demo.changed = update
        yield
        live.update(render(demo))


class _Lines:
    """Progress where there is no terminal."""

    def __init__(self, demo: Demo) -> None:
        self._demo = demo
        self._last = 0.0

    def __call__(self) -> None:
        if time.monotonic() - self._last > PLAIN_EVERY_S:
            self._last = time.monotonic()
            sys.stderr.write(line(self._demo) + "\n")


def line(demo: Demo) -> str:
    """The state in one line."""
    tally = demo.tally
    versions = tally.versions()
    newest = versions[-1] if versions else "no policy"
    now = tally.group(lambda e: bool(versions) and e.version == versions[-1] and _with_policy(e))
    return (
        f"{time.monotonic() - demo.started_s:5.1f} s  {demo.phase:9} "
        f"{_served(demo):5}/{demo.planned}  before {_rate(tally.phase(Phase.BEFORE))}  "
        f"control {_rate(tally.control())}  {newest:8} {_rate(now)}"
    )


def _with_policy(episode: object) -> bool:
    return getattr(episode, "assignment", "") in ("policy", "pinned")


def _served(demo: Demo) -> int:
    return demo.tally.group(lambda e: e.phase == demo.phase).episodes


def _rate(sums: Sums) -> str:
    return "    -" if sums.reliability is None else f"{sums.reliability:.3f}"


def render(demo: Demo) -> RenderableType:
    """The table of versions with a bar each."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, justify in (
        ("group", "left"),
        ("calls", "right"),
        ("right first calls", "left"),
        ("", "right"),
    ):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]  # literals
    tally = demo.tally
    _row(table, "before AgentGym", tally.phase(Phase.BEFORE), "grey50")
    _row(table, "control group", tally.control(), "dark_orange")
    for version in tally.versions()[-12:]:
        sums = tally.group(lambda e, v=version: e.version == v and e.assignment == "policy")  # type: ignore[misc]
        _row(table, version, sums, "dodger_blue1")
    _row(table, "unseen, greedy", tally.phase(Phase.UNSEEN), "green")
    head = Text(
        f"{demo.phase}: {_served(demo)} of {demo.planned} requests, "
        f"{time.monotonic() - demo.started_s:.0f} s, {len(tally.versions())} policy versions"
    )
    return Group(head, table)


def _row(table: Table, name: str, sums: Sums, style: str) -> None:
    if sums.reliability is not None:
        bar = ProgressBar(total=1.0, completed=sums.reliability, width=40, complete_style=style)
        table.add_row(name, str(sums.calls), bar, f"{sums.reliability:.3f}")
