"""Row B1: the daemon is killed under load, again and again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(300)  # many starts of a daemon, on whatever machine

RATE = 5000  # spans per second, of all senders together
SENDERS = 2
ALIVE_S = (0.2, 1.0)
"""How long the daemon takes spans before it is killed, at random within."""


def first_after(moments: Iterable[float], moment: float) -> float | None:
    """The first moment that lies behind another one."""
    return next((one for one in moments if one > moment), None)


def test_what_was_acknowledged_is_stored_once_however_often_the_daemon_is_killed(
    load: Callable[..., int], report: Any, daemon: Any, pump: Any, until: Any, percentile: Any
) -> None:
    """No acknowledged span is lost, none is doubled, and the daemon is soon ready again."""
    kills, rng = load(200), random.Random(1)
    pumps = [pump(rate=RATE / SENDERS) for _ in range(SENDERS)]
    ready_s: list[float] = []

    for _ in range(kills):
        before = sum(len(one.acks) for one in pumps)
        until(lambda before=before: sum(len(one.acks) for one in pumps) > before, "an ack")
        time.sleep(rng.uniform(*ALIVE_S))
        daemon.kill()
        daemon.start()
        started = daemon.started_at
        until(
            lambda started=started: first_after(reversed_acks(pumps), started),
            "an ack after a kill",
        )
        acked_at = min(ack for one in pumps for ack in one.acks[-200:] if ack > started)
        ready_s.append(acked_at - started)
    for one in pumps:
        one.end()
    stored = daemon.stored_spans()

    acked = set().union(*(one.ids for one in pumps))
    report.load |= {"kills": kills, "spans_per_s": RATE, "senders": SENDERS}
    report.figures |= {
        "acked": len(acked),
        "stored": len(stored),
        "lost": len(acked - set(stored)),
        "doubled": sum(count - 1 for count in stored.values()),
        "calls_repeated": sum(one.repeated for one in pumps),
        "ready_again_p50_s": round(percentile(ready_s, 0.5), 3),
        "ready_again_p99_s": round(percentile(ready_s, 0.99), 3),
    }
    assert report.figures["lost"] == 0
    assert report.figures["doubled"] == 0
    assert len(acked) > kills * 64


def reversed_acks(pumps: Any) -> Iterable[float]:
    """The latest acknowledgements of all senders."""
    return (ack for one in pumps for ack in one.acks[-1:])
