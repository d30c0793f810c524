"""The benchmarks of learning, with hardly any load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentgym_daemon.bench import cli


@pytest.mark.timeout(400)  # a daemon, and trainers that load torch, on whatever machine
def test_the_retrain_benchmark_judges_a_candidate(tmp_path: Path) -> None:
    target = tmp_path / "retrain.json"
    load = ["--rounds", "1", "--episodes", "120", "--tools", "12", "--encoder", "none"]

    assert cli.main(["retrain", *load, "--json", str(target)]) == 0

    metrics = json.loads(target.read_text())["metrics"]
    assert metrics["wall_s"]["goal"].startswith("<= 20")
    assert {"export_s", "load_s", "featurise_s", "train_s", "twins_s", "gate_s"} <= metrics.keys()
    assert all(metrics[name]["median"] > 0 for name in ("train_s", "trainer_cpu_s"))


def test_the_swap_benchmark_waits_until_an_agent_applied_each(tmp_path: Path) -> None:
    target = tmp_path / "swap.json"

    assert (
        cli.main(["swap", "--rounds", "1", "--swaps", "3", "--tools", "4", "--json", str(target)])
        == 0
    )

    metrics = json.loads(target.read_text())["metrics"]
    assert metrics["asked_p99_ms"]["median"] >= metrics["published_p99_ms"]["median"] >= 0
