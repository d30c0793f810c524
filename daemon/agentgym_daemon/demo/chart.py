"""The learning curve as a picture (SVG and PNG)."""

from __future__ import annotations

from pathlib import Path

from agentgym_daemon.demo.phases import Phase
from agentgym_daemon.demo.tally import Tally, window

WINDOW = 150
_POLICY, _CONTROL, _BEFORE, _GREY = "#1f6feb", "#d1731f", "#6e7781", "#c9d1d9"


def draw(tally: Tally, directory: Path) -> list[Path]:
    """Writes learning-curve.svg and learning-curve.png; returns their paths."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    train = [e for e in tally.episodes if e.phase == Phase.TRAIN]
    position = {id(e): i + 1 for i, e in enumerate(train)}
    steered = tally.steered()
    control = [e for e in train if e.assignment == "control"]
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for version in tally.versions():
        first = next((e for e in steered if e.version == version), None)
        if first is not None:
            axes.axvline(position[id(first)], color=_GREY, linewidth=0.8, zorder=0)
    for episodes, color, label in (
        (steered, _POLICY, f"with the policy, exploring (last {WINDOW})"),
        (control, _CONTROL, f"control group (last {WINDOW})"),
    ):
        values = window(episodes, WINDOW)
        start = min(30, len(values) // 2)
        xs = [position[id(e)] for e in episodes]
        axes.plot(xs[start:], values[start:], color=color, linewidth=1.8, label=label)
    before, after = tally.phase(Phase.BEFORE).reliability, tally.phase(Phase.UNSEEN).reliability
    if before is not None:
        axes.axhline(
            before, color=_BEFORE, linestyle="--", linewidth=1, label=f"before {before:.3f}"
        )
    if after is not None:
        axes.plot(
            [len(train)], [after], "o", color=_POLICY, label=f"unseen requests after {after:.3f}"
        )
    axes.set(xlabel="training episodes (vertical lines: policy swaps)", ylabel="right first calls")
    axes.set_ylim(0.4, 1.0)
    axes.legend(loc="lower right", fontsize=9, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"learning-curve.{suffix}" for suffix in ("svg", "png")]
    for path in paths:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
    return paths
