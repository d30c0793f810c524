"""`bench scale`, at sizes that take a moment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentgym_daemon.bench import cli
from agentgym_daemon.bench.scale import history
from agentgym_daemon.ingest.otlp import decode_traces
from agentgym_daemon.store.batch import BatchWriter
from agentgym_daemon.store.counters import counters
from agentgym_daemon.store.database import Store


def test_it_measures_at_every_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "scale.json"
    sizes = ["--spans", "3000", "1500", "--rounds", "1", "--directory", str(tmp_path)]

    assert cli.main(["scale", *sizes, "--json", str(target)]) == 0

    metrics = json.loads(target.read_text())["metrics"]
    assert metrics["ingest_ratio"]["goal"] == "<= 1.2"
    assert metrics["lookup_trajectory_0.0015M"]["goal"] == "<= 5"
    assert all(metric["median"] > 0 for metric in metrics.values())
    assert {name.rpartition("_")[2] for name in metrics} == {"0.0015M", "0.003M", "ratio"}
    assert "not measured" in capsys.readouterr().out


def test_the_history_is_stored_without_a_rejection(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "a.duckdb")
    entries = list(history.entries(60))

    BatchWriter(store, decode_traces).apply(entries)

    with store.reading() as cursor:
        found = counters(cursor)
    store.close()
    assert sum(history.spans_in(payload) for _, payload in entries) == found["spans"] == 600
    assert (found["decisions"], found["rewards"], found["trajectories_closed"]) == (60, 30, 60)
    assert not any("rejected" in name or "duplicate" in name for name in found)
