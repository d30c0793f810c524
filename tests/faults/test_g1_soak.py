"""Row G1: a long mixed load, with the faults of a day pressed into it."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from typing import Any

from agentgym.proto.v1 import reward_pb2, trajectory_pb2

SPANS = 1_000_000
BATCH = 128
FAULTS = 24
SLOPE_MB = 1.0  # per million spans, at the whole load
MB = 2**20


def test_a_long_mixed_load_leaves_no_trace_in_memory_threads_or_files(
    load: Callable[..., int], full: bool, report: Any, daemon: Any, otlp: Any, traces: Any,
    span: Any, slope: Any,
) -> None:  # fmt: skip
    """No growth of memory, threads or open files, and no loss, through freezes and restarts."""
    count, rng, sender = load(SPANS) // BATCH * BATCH, random.Random(7), otlp(daemon.home)
    every = max(1, count // BATCH // load(FAULTS))
    seen: list[tuple[int, float, int, int]] = []
    rewards = 0
    for number, first in enumerate(range(0, count, BATCH)):
        request = traces([span(n) for n in range(first, first + BATCH)])
        sender.export(request)
        if rng.random() < 0.05:
            sender.export(request)  # a retry
        rewards += reward(daemon, span(first).trace_id) if number % 20 == 0 else 0
        if number % 20 == 10:
            read(daemon)
        if number % every == every - 1:
            disturb(daemon, restart=number // every % 2 == 1)
            daemon.applied()
        if number % (count // BATCH // (50 if full else 12)) == 0:
            daemon.applied()
            seen.append((first, daemon.rss_bytes() / MB, daemon.threads(), daemon.descriptors()))
    late = seen[len(seen) // 2 :]
    kept = daemon.trajectory(span(0).trace_id).rewards
    stored = daemon.stored_spans()

    report.load |= {"spans": count, "rewards": rewards, "faults": load(FAULTS)}
    report.figures |= {
        "rss_mb": round(late[-1][1]),
        "slope_mb_per_million": round(slope([(p[0], p[1]) for p in late]) * 1e6, 2),
        "threads": [late[0][2], late[-1][2]],
        "descriptors": [late[0][3], late[-1][3]],
    }
    assert set(stored.values()) == {1}
    assert len(stored) == count
    assert len(kept) == 1
    assert max(p[2] for p in late) <= max(p[2] for p in seen[: len(seen) // 2]) + 4
    assert max(p[3] for p in late) <= max(p[3] for p in seen[: len(seen) // 2]) + 8
    if count > SPANS / 2:
        assert report.figures["slope_mb_per_million"] <= SLOPE_MB


def disturb(daemon: Any, *, restart: bool) -> None:
    """Freezes the daemon for a moment, or kills it."""
    if restart:
        daemon.kill()
        daemon.start()
    else:
        daemon.signal(signal.SIGSTOP)
        time.sleep(0.2)
        daemon.signal(signal.SIGCONT)


def reward(daemon: Any, trajectory_id: bytes) -> int:
    """One reward, given twice."""
    one = reward_pb2.Reward(
        trajectory_id=trajectory_id, value=1.0, idempotency_key=trajectory_id.hex()
    )
    daemon.applied()
    for _ in range(2):
        request = reward_pb2.ReportRequest(rewards=[one])
        (result,) = daemon.call("rewards", "Report", request).results
        assert not result.error
    return 1


def read(daemon: Any) -> None:
    """What a person at a screen would ask."""
    daemon.call("trajectories", "List", trajectory_pb2.ListTrajectoriesRequest(limit=20))
