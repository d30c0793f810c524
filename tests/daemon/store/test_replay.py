"""However records are cut into batches, and whenever the process dies, the rows are the same."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgym_daemon.clock import ManualClock
from agentgym_daemon.ingest.log import SegmentLog
from agentgym_daemon.ingest.otlp import decode_traces
from agentgym_daemon.store.applier import Applier
from agentgym_daemon.store.batch import BatchWriter
from agentgym_daemon.store.counters import counters
from agentgym_daemon.store.database import DATABASE_NAME, Store
from agentgym_daemon.store.rebuild import rebuild


def applied(path: Path, payloads: list[bytes], cuts: list[int], **options: Any) -> dict[str, str]:
    """Content hashes after these batch sizes; a size of 0 kills and reopens the store."""
    store = Store.open(path)
    writer = BatchWriter(store, decode_traces, **options)
    entries = [(number, payload) for number, payload in enumerate(payloads, start=1)]
    for cut in [*cuts, len(entries)]:
        if not cut:
            store.close()
            store = Store.open(path)
            writer = BatchWriter(store, decode_traces, **options)
            continue
        done = store.applied_offset()
        if done < len(entries):
            writer.apply(entries[done : done + cut])
    hashes = store.content_hashes()
    store.close()
    return hashes


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 12), max_size=20))
def test_any_cut_into_batches_and_any_restart_give_equal_rows(
    records: Any, seed: int, cuts: list[int]
) -> None:
    payloads = records.history(seed)

    with tempfile.TemporaryDirectory() as directory:
        whole = applied(Path(directory) / "whole", payloads, [])
        cut = applied(Path(directory) / "cut", payloads, cuts, kept_trajectories=2)

    assert cut == whole
    assert not whole["spans"].startswith("0:")


def test_a_rebuild_equals_the_live_database(records: Any, home: Path) -> None:
    log = SegmentLog(home / "log", segment_bytes=4096, clock=ManualClock())
    store = Store.open(home / DATABASE_NAME)
    applier = Applier(store, log, decode=decode_traces)
    log.on_durable = applier.submit
    applier.start()
    for payload in records.history(7):
        end = log.append(payload).result(10)
    assert applier.wait(end, 30)
    live = store.content_hashes()
    applier.close()
    store.close()

    rebuilt = rebuild(home, log=log, decode=decode_traces)

    assert rebuilt == live
    store = Store.open(home / DATABASE_NAME)
    assert store.content_hashes() == live
    assert store.applied_offset() == log.end
    store.close()
    log.close()


def test_an_applier_killed_at_any_moment_leaves_what_replay_completes(
    records: Any, home: Path
) -> None:
    log = SegmentLog(home / "log", clock=ManualClock())
    for payload in records.history(3, trajectories=60):
        log.append(payload)
    log.append(records.catalogue()).result(10)
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", APPLY, str(home)], stdout=subprocess.PIPE, text=True
        ) as victim:
            assert victim.stdout is not None
            assert victim.stdout.readline() == "applied\n"
            victim.kill()

    store = Store.open(home / DATABASE_NAME)
    survived = store.applied_offset()
    applier = Applier(store, log, decode=decode_traces)
    applier.start()
    assert applier.wait(log.end, 60)
    applier.close()
    completed = store.content_hashes()
    store.close()

    assert survived > 0
    assert completed == rebuild(home, log=log, decode=decode_traces)
    log.close()


APPLY = """
import sys
from pathlib import Path
from agentgym_daemon.clock import SystemClock
from agentgym_daemon.ingest.log import SegmentLog
from agentgym_daemon.ingest.otlp import decode_traces
from agentgym_daemon.store.applier import Applier
from agentgym_daemon.store.database import DATABASE_NAME, Store
home = Path(sys.argv[1])
store = Store.open(home / DATABASE_NAME)
log = SegmentLog(home / "log", clock=SystemClock())
applier = Applier(store, log, decode=decode_traces, batch_bytes=500)
applier.subscribe(lambda batch: print("applied", flush=True))
applier.start()
applier.wait(log.end + 1, 60)
"""


def test_a_rebuild_replaces_what_an_interrupted_one_left(records: Any, home: Path) -> None:
    (home / f"{DATABASE_NAME}.rebuilding").write_bytes(b"half a file")
    (home / f"{DATABASE_NAME}.wal").write_bytes(b"of the old file")
    log = SegmentLog(home / "log", clock=ManualClock())
    log.append(records.spans(records.root(1))).result(10)

    hashes = rebuild(home, log=log, decode=decode_traces)

    log.close()
    assert hashes["spans"].startswith("1:")
    assert sorted(p.name for p in home.iterdir()) == [DATABASE_NAME, "log"]


def test_a_repeated_request_changes_nothing_but_the_counters(records: Any, open_bench: Any) -> None:
    payloads = [*records.episode(1, reward=1.0), records.catalogue()]
    once, twice = open_bench("once"), open_bench("twice")

    once.apply(*payloads)
    twice.apply(*payloads)
    twice.apply(*payloads)

    first, second = once.store.content_hashes(), twice.store.content_hashes()
    assert {t for t in first if first[t] != second[t]} == {"counters"}
    with twice.store.reading() as cursor:
        found = counters(cursor)
    assert (found["spans"], found["spans_duplicate"]) == (2, 2)
    assert (found["decisions"], found["decisions_duplicate"]) == (1, 1)
    assert (found["rewards"], found["rewards_duplicate"]) == (1, 1)


def test_the_highest_sequence_of_each_sender_is_kept(records: Any, bench: Any) -> None:
    sender = b"p" * 16
    bench.apply(
        records.catalogue(producer=sender, sequence=2),
        records.catalogue(producer=sender, sequence=1),
    )
    bench.apply(records.catalogue(producer=sender, sequence=2**64 - 1))
    bench.apply(records.catalogue(producer=sender, sequence=5))

    with bench.store.reading() as cursor:
        rows = cursor.execute("SELECT producer_id, sequence FROM producers").fetchall()
    assert rows == [(sender, 2**63 - 1)]


def test_a_record_that_no_column_takes_is_skipped_and_its_neighbours_stored(
    records: Any, bench: Any
) -> None:
    unstorable = records.training(1, at=3.0)
    good = [records.spans(records.root(n)) for n in (1, 2, 3)]
    bench.store.writer.execute("DROP TABLE training_runs")
    bench.store.writer.execute(
        "CREATE TABLE training_runs (no BIGINT, agent VARCHAR, agent_name VARCHAR, "
        "feature_schema BIGINT, version VARCHAR, trajectories BIGINT CHECK (trajectories > 5), "
        "verdict VARCHAR, report_json VARCHAR, duration_s DOUBLE, received_ns BIGINT)"
    )

    batch = bench.apply(good[0], good[1], unstorable, good[2])

    assert (batch.records, batch.rejected, len(batch.closed)) == (4, 1, 3)


@pytest.mark.parametrize("aggregation", ["last", "mean", "median", "min"])
def test_another_aggregation_rates_every_stored_trajectory_again(
    records: Any, open_bench: Any, aggregation: str
) -> None:
    payloads = [
        *records.episode(1),
        records.reward(1, 0.75, reward_id="a", at=1),
        records.reward(1, 0.25, reward_id="b", at=2),
        records.reward(1, 0.5, reward_id="c", at=3),
    ]
    first = open_bench("kept", aggregation="last")
    first.apply(*payloads)
    first.store.close()

    again = open_bench("kept", aggregation=aggregation)
    fresh = open_bench("fresh", aggregation=aggregation)
    fresh.apply(*payloads)

    assert again.store.content_hashes() == fresh.store.content_hashes()


def test_other_weights_of_sources_rate_every_stored_trajectory_again(
    records: Any, open_bench: Any
) -> None:
    payloads = [
        *records.episode(1),
        records.reward(1, 1.0, reward_id="a", source="a"),
        records.reward(1, 0.0, reward_id="b", source="b"),
    ]
    first = open_bench("kept", aggregation="mean")
    first.apply(*payloads)
    before = first.store.content_hashes()
    first.store.close()

    again = open_bench("kept", aggregation="mean", weights={"a": 3.0, "b": 0.0})
    fresh = open_bench("fresh", aggregation="mean", weights={"a": 3.0, "b": 0.0})
    fresh.apply(*payloads)

    assert again.store.content_hashes() == fresh.store.content_hashes() != before
