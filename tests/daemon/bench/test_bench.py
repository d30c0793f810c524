"""The bench frame: what is printed and written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentgym_daemon.bench import cli
from agentgym_daemon.bench.frame import Report


def test_a_report_gives_median_and_spread_of_each_metric() -> None:
    report = Report("x", {"a": "ms"}, [{"a": 3.0}, {"a": 1.0}, {"a": 2.0}], ["b"])

    written = report.as_json("agentgym-daemon bench x")

    assert written["metrics"] == {"a": {"median": 2.0, "min": 1.0, "max": 3.0, "unit": "ms"}}
    assert written["runs"] == [{"a": 3.0}, {"a": 1.0}, {"a": 2.0}]
    assert written["not_measured"] == ["b"]
    assert {"python", "cores"} <= written["machine"].keys()


def test_the_decision_benchmark_writes_every_metric(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "reports" / "decision.json"

    assert cli.main(["decision", "--rounds", "1", "--json", str(target)]) == 0

    written = json.loads(target.read_text())
    assert written["name"] == "decision"
    assert written["command"].startswith("agentgym-daemon bench decision --rounds 1")
    assert all(metric["median"] > 0 for metric in written["metrics"].values())
    assert "not measured" in capsys.readouterr().out


def test_no_rounds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["decision", "--rounds", "0"]) == 2
    assert "expected at least 1, got 0" in capsys.readouterr().err
