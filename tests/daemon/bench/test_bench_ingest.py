"""The ingest benchmark: its load is what it says, and a tiny one runs from end to end."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import pytest

from agentgym_daemon.bench import cli
from agentgym_daemon.bench.ingest import payload
from agentgym_daemon.ingest.otlp import decode_traces

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.parametrize("size", [1, 7, 64, 512])
def test_every_request_has_fresh_ids_in_whole_trajectories(size: int) -> None:
    requests = payload.Requests(size, seed=3, templates=20)
    count = 2 * 10 * max(1, 1280 // (10 * size))

    rows = [
        row
        for request in itertools.islice(iter(requests), count)
        for row in decode_traces(request).spans
    ]

    assert len(rows) == count * size
    assert len({(row.trace_id, row.span_id) for row in rows}) == len(rows)
    assert len({row.trace_id for row in rows}) == len(rows) / payload.SPANS_PER_TRAJECTORY
    roots = {row.trace_id: row.span_id for row in rows if row.is_root}
    assert len(roots) == len(rows) / payload.SPANS_PER_TRAJECTORY
    assert all(row.parent_span_id in (None, roots[row.trace_id]) for row in rows)


def test_a_span_has_the_size_and_the_attributes_that_are_promised() -> None:
    requests = payload.Requests(64, seed=1, templates=320)
    (row, *_) = decode_traces(next(iter(requests))).spans

    assert 2000 < requests.bytes_per_span < 2200
    assert len(json.loads(row.attributes)) == payload.ATTRIBUTES_PER_SPAN


def test_a_tiny_load_gives_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "ingest.json"
    tiny = ["--spans", "640", "--single-spans", "40", "--templates", "64", "--batches", "64", "1"]

    assert cli.main(["ingest", "--rounds", "1", *tiny, "--json", str(target)]) == 0

    metrics = json.loads(target.read_text())["metrics"]
    for batch in ("batch_64", "batch_1"):
        assert metrics[f"{batch}.spans_per_cpu_s"]["median"] > 0
        assert metrics[f"{batch}.peak_rss_mb"]["median"] > 10
        assert metrics[f"{batch}.duckdb_bytes_per_span"]["median"] > 0
    assert "arize-phoenix" in capsys.readouterr().out
