"""Row A4: the daemon is away for an hour of work, pressed into minutes, and comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SPANS = 180_000  # an hour at 50 per second
CALLS = 9
WHOLE = CALLS + 1
MB = 2**20
SPOOL_BYTES = 256 * MB
GROWTH_BYTES = 16 * MB
RATE = 1200.0  # spans per second: the hour in two and a half minutes


def spool_size(home: Any) -> int:
    """Bytes of all files in the spool."""
    return sum(path.stat().st_size for path in (home / "spool").rglob("*") if path.is_file())


def sums(counters: dict[str, int], prefix: str) -> int:
    """Counters of spans that begin so."""
    return sum(count for name, count in counters.items() if name.startswith(f"{prefix}.spans"))


def test_everything_is_delivered_once_when_the_daemon_is_back(
    load: Callable[..., int], report: Any, make_daemon: Any, home: Any, run_agent: Any
) -> None:
    """Nothing is lost in an hour's outage; memory and spool stay within their limits."""
    runs = load(SPANS) // WHOLE
    agent = run_agent(
        "work", "outage", "--runs", str(runs), "--calls", str(CALLS), "--rate", str(RATE)
    )
    away = agent.read()
    spooled = spool_size(home)
    daemon = make_daemon(home=home).start()
    agent.tell()
    agent.tell("300")
    back = agent.read()
    assert agent.wait() == 0, agent.errors
    stored = daemon.stored_spans()

    produced = back["counters"]["produced.spans"]
    report.load["spans"] = produced
    report.figures |= {
        "stored": len(stored),
        "rss_growth_mb": round(away["growth"] / MB, 1),
        "spool_mb": round(spooled / MB, 1),
    }
    assert produced == runs * WHOLE
    assert back["flushed"], back
    assert back["counters"]["acked.spans"] == produced
    assert sums(back["counters"], "dropped") == 0
    assert len(stored) == produced
    assert set(stored.values()) == {1}
    assert spooled <= SPOOL_BYTES
    assert away["growth"] <= GROWTH_BYTES


def test_above_the_cap_whole_oldest_trajectories_are_dropped_and_counted(
    load: Callable[..., int], report: Any, make_daemon: Any, home: Any, run_agent: Any
) -> None:
    """At four times the volume the oldest trajectories go, each of them whole, counted exactly."""
    runs = 4 * load(SPANS) // WHOLE
    # As much smaller as the load is; and below what the spans take, however small they are.
    cap = SPOOL_BYTES * load(SPANS) // SPANS // 4
    agent = run_agent(
        *("work", "outage", "--runs", str(runs), "--calls", str(CALLS), "--rate", str(4 * RATE)),
        AGENTGYM_SPOOL_BYTES=str(cap),
    )
    away = agent.read()
    spooled = spool_size(home)
    daemon = make_daemon(home=home).start()
    agent.tell()
    agent.tell("300")
    back = agent.read()
    assert agent.wait() == 0, agent.errors
    counts = daemon.stored_spans()
    rows = daemon.rows("SELECT key, spans FROM trajectories ORDER BY key")

    produced, dropped = back["counters"]["produced.spans"], sums(back["counters"], "dropped")
    report.load["spans"] = produced
    report.figures |= {
        "dropped": dropped,
        "stored": len(counts),
        "spool_mb": round(spooled / MB, 1),
        "cap_mb": round(cap / MB, 1),
        "rss_growth_mb": round(away["growth"] / MB, 1),
    }
    assert back["flushed"], back
    assert dropped > 0
    assert produced == runs * WHOLE == back["counters"]["acked.spans"] + dropped
    assert len(counts) == produced - dropped
    assert set(counts.values()) == {1}
    assert {spans for _, spans in rows} == {WHOLE}
    kept = [key for key, _ in rows if key != "warm-up"]
    assert kept == [f"run-{number:08d}" for number in range(runs - len(kept), runs)]
    assert spooled <= cap
