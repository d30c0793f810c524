"""The maths of the table, on numbers made by hand, and how it is printed."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from agentgym_daemon.bench.learn import figures, table
from agentgym_daemon.bench.learn.figures import Spread, closed
from agentgym_daemon.bench.learn.jobs import ABLATION, CEILING, OURS, PEER, Run
from agentgym_daemon.bench.learn.sets import STANDARD, Arm, Setting

PLAIN, RETRY, SEVERAL, DRIFT = (
    next(s for s in STANDARD if s.name == name)
    for name in ("clinc150", "clinc150-retry", "ultratool", "clinc150-drift")
)


def figures_of(at_1000: float, **more: Any) -> dict[str, Any]:
    """A run as the referee writes it."""
    return {
        "test": {
            "500": {"call": at_1000 - 0.1, "task": 0.1, "deferred": 0.3, "forced_call": 0.9},
            "1000": {"call": at_1000, "task": 0.2, "deferred": 0.2},
        },
        "windows": [0.6, 0.8, 0.9],
        "worst_window": 0.6,
        "online_call": 0.75,
        "deferred": 0.25,
        "finish_cpu_s": 2.0,
        "decide_cpu_s": 1.0,
        **more,
    }


def run(kind: str, setting: str, seed: int, at_1000: float, **more: Any) -> Run:
    base = figures_of(0.65, windows=[0.5, 0.6, 0.7], worst_window=0.5 + seed / 10)
    return Run(kind, setting, seed, "", {}, figures_of(at_1000, **more), base)


def ceiling(setting: Setting, seed: int, call: float) -> Run:
    return Run(CEILING, setting.ceiling, seed, "", {}, {"call": call, "task": 0.7})


def rows(setting: Setting, *runs: Run) -> dict[str, figures.Row]:
    return {row.name: row for row in figures.rows(setting, runs)}


def test_the_spread_is_median_and_range_of_what_is_there() -> None:
    assert Spread.of([0.3, None, 0.1, 0.2]) == Spread(0.2, 0.1, 0.3, 3)
    assert Spread.of([None]) is None


@pytest.mark.parametrize(
    ("ours", "peer", "top", "share"),
    [
        (0.9, 0.8, 1.0, 0.5),
        (0.7, 0.8, 1.0, -0.5),
        (1.1, 0.8, 1.0, 1.5),
        (0.9, 1.0, 1.0, None),
        (0.9, None, 1.0, None),
    ],
)
def test_the_gap_is_a_share_of_the_way_from_peer_to_ceiling(
    ours: float, peer: float | None, top: float, share: float | None
) -> None:
    assert closed(ours, peer, top) == (None if share is None else pytest.approx(share))


def test_the_gap_closed_is_given_of_the_medians_and_of_each_seed() -> None:
    found = rows(
        PLAIN,
        *(run(OURS, PLAIN.name, seed, value) for seed, value in enumerate((0.90, 0.80, 0.85))),
        *(run(PEER, PLAIN.name, seed, value) for seed, value in enumerate((0.70, 0.60, 0.80))),
        *(ceiling(PLAIN, seed, value) for seed, value in enumerate((1.0, 1.0, 0.9))),
    )

    row = found["unseen, 1,000"]
    assert row.ours == Spread(0.85, 0.80, 0.90, 3)
    assert row.base == Spread(0.65, 0.65, 0.65, 3)
    assert row.gap == pytest.approx((0.85 - 0.70) / (1.0 - 0.70))
    assert row.gap_paired is not None
    # seeds: .2/.3, .2/.4, .05/.1
    assert row.gap_paired.median == pytest.approx(0.5)
    assert row.gap_paired.high == pytest.approx(2 / 3)


def test_there_is_no_gap_before_a_thousand_episodes() -> None:
    found = rows(
        PLAIN,
        run(OURS, PLAIN.name, 0, 0.9),
        run(PEER, PLAIN.name, 0, 0.7),
        ceiling(PLAIN, 0, 1.0),
    )

    assert found["unseen, 500"].gap is None
    assert found["unseen, 500"].ceiling == Spread(1.0, 1.0, 1.0, 1)
    assert found["unseen, 1,000"].gap == pytest.approx(2 / 3)


@pytest.mark.parametrize("setting", [RETRY, SEVERAL])
def test_there_is_no_gap_where_several_calls_are_made(setting: Setting) -> None:
    found = rows(
        setting,
        run(OURS, setting.name, 0, 0.9),
        run(PEER, setting.name, 0, 0.7),
        ceiling(setting, 0, 1.0),
    )

    assert found["unseen, 1,000"].ceiling is not None
    assert found["unseen, 1,000"].gap is None


def test_a_second_chance_shares_the_ceiling_of_first_calls_only() -> None:
    found = rows(RETRY, run(OURS, RETRY.name, 0, 0.9), ceiling(PLAIN, 0, 0.97))

    assert found["unseen, 1,000"].ceiling == Spread(0.97, 0.97, 0.97, 1)
    assert found["unseen, either call, 1,000"].ceiling is None


def test_whole_tasks_have_a_ceiling_of_their_own() -> None:
    found = rows(SEVERAL, run(OURS, SEVERAL.name, 0, 0.9), ceiling(SEVERAL, 0, 0.97))

    assert found["unseen, task, 1,000"].ceiling == Spread(0.7, 0.7, 0.7, 1)


def test_differences_to_the_agent_are_paired_by_seed_before_the_median() -> None:
    found = rows(
        PLAIN,
        run(OURS, PLAIN.name, 0, 0.9, worst_window=0.60),  # agent .5
        run(OURS, PLAIN.name, 1, 0.9, worst_window=0.55),  # agent .6
        run(OURS, PLAIN.name, 2, 0.9, worst_window=0.80),  # agent .7
    )

    worst = found["worst window - agent's own"].ours
    assert worst is not None
    assert (worst.median, worst.low, worst.high) == pytest.approx((0.1, -0.05, 0.1))
    # ours .6, .8 and the agent's .5, .6; the third window is past 1,000 episodes
    first = found["first 1,000 online - agent's own"].ours
    assert first is not None
    assert first.median == pytest.approx(0.15)


def test_deferral_and_forced_calls_are_those_of_the_last_test() -> None:
    found = rows(PLAIN, run(OURS, PLAIN.name, 0, 0.9))

    assert found["left to the agent, unseen"].ours == Spread(0.2, 0.2, 0.2, 1)
    assert found["forced calls right, unseen"].ours is None  # nothing was forced in it


def test_drift_is_reported_by_kind_and_span() -> None:
    drift = {"broken": {"before": 0.9, "+0-250": None}}
    one, two = (run(OURS, DRIFT.name, seed, 0.9, drift=drift) for seed in (0, 1))
    drifted = {**one.base, "drift": {"broken": {"before": 0.6, "+0-250": 0.1}}}
    found = rows(
        DRIFT, *(Run(r.kind, r.setting, r.seed, "", {}, r.run, drifted) for r in (one, two))
    )

    before = found["online, broken tools' queries, before"]
    assert (before.ours, before.base) == (Spread(0.9, 0.9, 0.9, 2), Spread(0.6, 0.6, 0.6, 2))
    assert found["online, broken tools' queries, +0-250"].ours is None


def test_nothing_run_gives_no_rows() -> None:
    assert figures.rows(PLAIN, [run(OURS, "metatool", 0, 0.9)]) == []


def test_an_ablation_is_compared_with_the_default_of_the_same_seed() -> None:
    arms = (Arm("default"), Arm("less", "pg_weight=0"), Arm("not run"))
    values = {"default": (0.9, 0.5, 0.7), "less": (0.8, 0.6, 0.5)}
    runs = [
        Run(ABLATION, "s", seed, arm, {}, figures_of(value))
        for arm, of in values.items()
        for seed, value in enumerate(of)
    ]

    default, less = figures.ablated(Setting("s", "S", "d", 1), arms, runs)

    assert default.differences["unseen"] == Spread(0.0, 0.0, 0.0, 3)
    difference = less.differences["unseen"]
    assert difference is not None
    assert difference.median == pytest.approx(-0.1)
    assert less.figures["unseen"] == Spread(0.6, 0.5, 0.8, 3)


@pytest.fixture
def printed() -> Callable[[Any], str]:
    def text(of: Any) -> str:
        console = Console(file=StringIO(), width=200)
        table.printed(console, [of])
        return console.file.getvalue()  # type: ignore[attr-defined]

    return text


def test_the_table_shows_ranges_gaps_and_a_peer_that_is_not_installed(
    printed: Callable[[Any], str],
) -> None:
    runs = [run(OURS, PLAIN.name, 0, 0.9), run(OURS, PLAIN.name, 1, 0.8)]

    without = printed(table.of_setting(PLAIN, figures.rows(PLAIN, runs), peer=table.NOT_INSTALLED))
    runs += [run(PEER, PLAIN.name, seed, 0.7) for seed in (0, 1)]
    runs += [ceiling(PLAIN, seed, 1.0) for seed in (0, 1)]
    with_peer = printed(table.of_setting(PLAIN, figures.rows(PLAIN, runs)))

    assert "CLINC150, 150 tools, 10,000 episodes" in without
    assert ".850 [.800, .900]" in without
    assert "not installed" in without
    assert "gap closed" not in without
    assert "gap closed" in with_peer
    assert ".50 [.33, .67]" in with_peer
    assert "not installed" not in with_peer


def test_the_table_of_ablations_shows_differences(printed: Callable[[Any], str]) -> None:
    arms = (Arm("default"), Arm("less"))
    runs = [
        Run(ABLATION, "s", 0, a, {}, figures_of(v)) for a, v in (("default", 0.9), ("less", 0.8))
    ]
    setting = Setting("s", "S", "d", 2000)

    shown = printed(table.of_ablations(setting, figures.ablated(setting, arms, runs)))

    assert ".800 (-.100)" in shown
    assert "task" not in shown  # one call per task
