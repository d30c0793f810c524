"""The demo's counting, table and picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentgym_daemon.demo import chart, display, report
from agentgym_daemon.demo.orchestrate import Demo, Options
from agentgym_daemon.demo.phases import Phase
from agentgym_daemon.demo.tally import Tally, window


def _message(**changes: Any) -> dict[str, Any]:
    return {
        "framework": "langchain",
        "phase": "train",
        "request": "t0001",
        "first_attempts": [True],
        "success": True,
        "tokens": 100,
        "assignment": "policy",
        "version": "p-000001",
    } | changes


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    options = Options(
        home=tmp_path, seed=3, episodes=10, retrain=5, frameworks=("langchain", "autogen")
    )
    demo = Demo(options)
    for changes in (
        {
            "phase": "before",
            "assignment": "",
            "version": "",
            "first_attempts": [True, False],
            "success": False,
        },
        {"phase": "before", "assignment": "", "version": "", "framework": "autogen"},
        {"assignment": "control", "first_attempts": [False], "success": False},
        {"version": ""},
        {"version": "p-000002"},
        {"framework": "autogen", "first_attempts": [False, True], "success": False},
        {"phase": "unseen", "assignment": "pinned", "version": "p-000002", "tokens": 60},
        {"phase": "unseen", "assignment": "pinned", "version": "p-000002", "framework": "autogen"},
    ):
        demo.tally.add(_message(**changes))
    demo.statuses = {
        "langchain": {"applied": ["p-000001", "p-000002"], "counters": {"produced.spans": 30}},
        "autogen": {"applied": ["p-000002"], "counters": {"produced.spans": 12}},
    }
    demo.daemon_spans, demo.versions = 41, 2
    return demo


def test_groups_count_calls_successes_and_tokens(demo: Demo) -> None:
    before = demo.tally.phase(Phase.BEFORE)

    assert (before.episodes, before.calls, before.right) == (2, 3, 2)
    assert before.reliability == pytest.approx(2 / 3)
    assert before.task_success == pytest.approx(0.5)
    assert before.tokens_per_success == pytest.approx(200.0)


def test_an_empty_group_has_no_rates() -> None:
    group = Tally().phase(Phase.UNSEEN)

    assert (group.reliability, group.task_success, group.tokens_per_success) == (None, None, None)


def test_the_control_group_is_of_the_training_phase(demo: Demo) -> None:
    assert demo.tally.control().reliability == 0.0
    assert demo.tally.control("autogen").episodes == 0


def test_the_window_forgets_older_episodes(demo: Demo) -> None:
    episodes = [demo.tally.add(_message(first_attempts=[right])) for right in (False, True, True)]

    assert window(episodes, 2) == [0.0, 0.5, 1.0]


def test_results_name_every_figure_of_the_last_line(demo: Demo) -> None:
    result = report.results(demo)

    assert result["reliability_before"] == pytest.approx(2 / 3, abs=1e-4)
    assert result["reliability_after"] == 1.0
    assert (result["control_reliability"], result["control_n"]) == (0.0, 1)
    assert (result["task_success_before"], result["task_success_after"]) == (0.5, 1.0)
    assert (result["tokens_per_success_before"], result["tokens_per_success_after"]) == (
        200.0,
        80.0,
    )
    assert result["tokens_per_success_control"] is None  # no success in it
    assert result["tokens_saved"] is result["tokens_saved_since_before_low"] is None  # too few
    assert report.summary(result) == []
    assert (result["episodes"], result["policy_versions"], result["swaps"]) == (4, 2, 2)
    assert (result["spans"], result["spans_lost"], result["seed"]) == (42, 1, 3)
    assert result["frameworks"]["autogen"] == {
        "reliability_before": 1.0,
        "reliability_after": 1.0,
        "control_reliability": None,
        "control_n": 0,
        "episodes": 1,
        "swaps": 1,
    }
    assert result["duration_s"] >= 0


def test_the_saving_is_that_of_a_success(demo: Demo) -> None:
    """300 tokens and one success of two before, 150 and a success in each run after."""
    for number in range(40):
        for phase, tokens in (("before", 300), ("train", 300), ("unseen", 150)):
            assignment = {"before": "", "train": "control", "unseen": "pinned"}[phase]
            demo.tally.add(
                _message(
                    request=f"r{number}", phase=phase, assignment=assignment,
                    tokens=tokens + number, success=phase == "unseen" or number % 2 == 0,
                )
            )  # fmt: skip

    result = report.results(demo)

    for name, base in (
        ("tokens_saved", result["tokens_per_success_control"]),
        ("tokens_saved_since_before", result["tokens_per_success_before"]),
    ):
        saved = 1 - result["tokens_per_success_after"] / base
        assert result[name] == pytest.approx(saved, abs=1e-4)
        assert 0.5 < result[f"{name}_low"] < result[name] < result[f"{name}_high"] < 0.9
    control, before = report.summary(result)
    assert "less than the control group" in control
    assert "less than before AgentGym" in before
    assert "95 % interval" in control


def test_separate_agents_have_swaps_of_their_own(demo: Demo) -> None:
    separate = Demo(
        Options(
            home=demo.options.home,
            seed=0,
            episodes=1,
            retrain=1,
            frameworks=("langchain", "autogen"),
            separate=True,
        )
    )
    separate.statuses = {
        f: {"applied": ["p-000001"], "counters": {}} for f in ("langchain", "autogen")
    }

    assert report.results(separate)["swaps"] == 2


def test_the_table_and_the_live_view_show_every_group(demo: Demo) -> None:
    from rich.console import Console

    console = Console(width=120, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115 - the console owns it
    console.print(report.table(report.results(demo)))
    console.print(display.render(demo))
    text = console.export_text()
    console.file.close()

    assert all(
        word in text for word in ("langchain", "autogen", "control group", "p-000002", "unseen")
    )


def test_a_line_of_progress_names_phase_and_rates(demo: Demo) -> None:
    demo.phase, demo.planned = "train", 10

    assert "train" in display.line(demo)
    assert "4/10" in display.line(demo)
    assert "control 0.000" in display.line(demo)


def test_the_curve_is_drawn_as_svg_and_png(demo: Demo, tmp_path: Path) -> None:
    paths = chart.draw(demo.tally, tmp_path / "pictures")

    assert [path.suffix for path in paths] == [".svg", ".png"]
    assert paths[0].read_text().startswith("<?xml")
    assert paths[1].read_bytes().startswith(b"\x89PNG")
