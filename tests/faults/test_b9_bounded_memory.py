"""Row B9: a million spans in bounded memory, and a start that replays them in as much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SPANS = 1_000_000
BATCH = 512
PEAK_MB = 512
SLOPE_MB = 1.0  # per million spans, at the whole load; a twentieth of it is all warm-up
MB = 2**20


def test_memory_does_not_grow_with_what_was_taken_nor_does_a_replay_need_more(
    load: Callable[..., int], full: bool, report: Any, daemon: Any, otlp: Any, traces: Any,
    span: Any, slope: Any,
) -> None:  # fmt: skip
    """Resident memory stays below its limit and level; what was derived is derived again in it."""
    count = load(SPANS) // BATCH * BATCH
    sender, seen, looks = otlp(daemon.home), [], 50 if full else 8
    for first in range(0, count, BATCH):
        sender.export(traces([span(number) for number in range(first, first + BATCH)]))
        if first // BATCH % (count // BATCH // looks) == 0:
            daemon.applied()
            seen.append((first, daemon.rss_bytes() / MB))
    daemon.applied()
    peak, late = daemon.peak_rss_bytes() / MB, seen[len(seen) // 2 :]
    daemon.stop()
    for path in daemon.home.glob("agentgym.duckdb*"):
        path.unlink()
    daemon.start()
    daemon.applied()
    replayed = daemon.peak_rss_bytes() / MB

    stored = daemon.stored_spans()
    report.load["spans"] = count
    report.figures |= {
        "peak_mb": round(peak),
        "peak_of_replay_mb": round(replayed),
        "slope_mb_per_million": round(slope(late) * 1e6, 2),
    }
    assert len(stored) == count
    assert max(peak, replayed) <= PEAK_MB
    if count > SPANS / 2:
        assert report.figures["slope_mb_per_million"] <= SLOPE_MB
