"""A small demo from the command line: three kinds of processes, and one object at the end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

KEYS = {
    *("reliability_before", "reliability_after", "control_reliability", "control_n"),
    *("task_success_before", "task_success_after"),
    *("tokens_per_success_before", "tokens_per_success_after", "tokens_per_success_control"),
    *("tokens_saved", "tokens_saved_low", "tokens_saved_high"),
    *(f"tokens_saved_since_before{end}" for end in ("", "_low", "_high")),
    *("episodes", "policy_versions", "swaps", "frameworks"),
    *("spans", "spans_lost", "duration_s", "seed"),
}
FRAMEWORK_KEYS = {
    *("reliability_before", "reliability_after", "control_reliability", "control_n"),
    *("episodes", "swaps"),
}


@pytest.mark.timeout(400)
def test_a_small_demo_learns_and_loses_nothing_though_its_daemon_is_killed(tmp_path: Path) -> None:
    size = ["--frameworks", "langchain", "--episodes", "60", "--limit", "40", "--retrain", "20"]

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "agentgym_daemon",
            "demo",
            *size,
            "--kill-daemon",
            "--out",
            tmp_path,
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result.keys() == KEYS
    assert result["frameworks"].keys() == {"langchain"}
    assert result["frameworks"]["langchain"].keys() == FRAMEWORK_KEYS
    assert result["episodes"] == 60
    assert result["spans"] > 400
    assert result["spans_lost"] == 0
    assert result["swaps"] >= 1
    assert {path.suffix for path in tmp_path.iterdir()} == {".svg", ".png"}
