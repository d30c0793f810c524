"""Learning curves as small multiples: unseen queries over episodes, SVG or PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentgym_daemon.bench.learn.figures import Figures, Seeds, Spread
from agentgym_daemon.bench.learn.jobs import Run
from agentgym_daemon.bench.learn.sets import Setting
from agentgym_daemon.errors import ConfigError

PANELS = ("clinc150", "clinc30", "metatool30", "ultratool")
SUFFIXES = (".svg", ".png")

_OURS, _PEER, _AGENT, _CEILING, _GRID = "#1f6feb", "#d1731f", "#6e7781", "#1f2328", "#eaeef2"
_COLUMNS = 2


def check(path: Path | None) -> None:
    """Raises ConfigError for a file that cannot be drawn, before anything is measured."""
    if path is None:
        return
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"--picture: expected a file ending in .png or .svg, got {path}")
    try:
        import matplotlib  # noqa: F401 - whether it is there
    except ModuleNotFoundError:
        raise ConfigError(
            "--picture: matplotlib is not installed; run: pip install 'agentgym[bench]'"
        ) from None


def draw(settings: Sequence[Setting], runs: Sequence[Run], path: Path) -> None:
    """One panel for each of PANELS that was measured; raises ConfigError if none was."""
    panels = {s: Seeds.of(s, runs) for s in settings if s.name in PANELS}
    panels = {setting: seeds for setting, seeds in panels.items() if seeds.ours}
    if not panels:
        raise ConfigError(f"--picture: draws {', '.join(PANELS)}; none of them was measured")
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    columns = min(_COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    size = (4.4 * columns, 2.9 * lines + 0.4)
    with mpl.rc_context({"svg.hashsalt": "agentgym", "font.size": 9}):
        figure, grid = plt.subplots(
            lines, columns, figsize=size, layout="constrained", squeeze=False
        )
        axes = list(grid.flat)
        for panel, (setting, seeds) in zip(axes, panels.items(), strict=False):
            _panel(panel, setting, seeds)
        for unused in axes[len(panels) :]:
            unused.set_axis_off()
        for row in grid:
            row[0].set_ylabel("right calls, unseen queries")
        handles: dict[str, Any] = {}
        for panel in axes:
            found, labels = panel.get_legend_handles_labels()
            handles |= dict(zip(labels, found, strict=True))
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=2 * columns,
            frameon=False,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=160, metadata=metadata, facecolor="white")
        plt.close(figure)


def _panel(axes: Any, setting: Setting, seeds: Seeds) -> None:
    _curve(axes, seeds.ours, _OURS, "AgentGym (median, range over seeds)", above=2)
    _curve(axes, seeds.peer, _PEER, "Vowpal Wabbit", above=1)
    alone = curve(seeds.base)
    medians = [s.median for s in alone.values()]
    axes.plot(list(alone), medians, "--", color=_AGENT, linewidth=1, label="agent alone")
    top = Spread.of(run.run["call"] for run in seeds.ceiling.values())
    if top is not None:
        axes.axhline(top.median, color=_CEILING, linewidth=1, linestyle=":", label="ceiling")
    axes.set_xscale("log")
    ticks = [at for at in (100, 300, 1000, 3000, 10_000) if at <= max(alone)] or [max(alone)]
    axes.set_xticks(ticks, [f"{at:,}" for at in ticks])
    axes.minorticks_off()
    axes.set_ylim(top=1.0)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(setting.title, loc="left", fontsize=10)
    axes.set_xlabel("episodes")


def _curve(axes: Any, runs: Mapping[int, Run], color: str, label: str, *, above: int) -> None:
    points = curve([run.run for run in runs.values()])
    if not points:
        return
    at, spreads = list(points), list(points.values())
    low, high = [s.low for s in spreads], [s.high for s in spreads]
    axes.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)
    style = {"color": color, "linewidth": 1.8, "marker": "o", "markersize": 3, "label": label}
    axes.plot(at, [s.median for s in spreads], zorder=2 + above, **style)


def curve(runs: Sequence[Figures]) -> dict[int, Spread]:
    """Reliability on unseen queries by episode, at every test that all runs have."""
    if not runs:
        return {}
    points = sorted(set.intersection(*({int(at) for at in run["test"]} for run in runs)))
    return {
        at: spread
        for at in points
        if (spread := Spread.of(run["test"][str(at)]["call"] for run in runs)) is not None
    }
