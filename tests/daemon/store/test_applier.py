"""The thread between log and database: catches up, follows, survives faults."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from agentgym_daemon.clock import ManualClock
from agentgym_daemon.errors import StorageError
from agentgym_daemon.ingest.log import SegmentLog
from agentgym_daemon.ingest.otlp import decode_traces
from agentgym_daemon.store import applier as applier_module
from agentgym_daemon.store import batch as batch_module
from agentgym_daemon.store.applier import Applier
from agentgym_daemon.store.batch import AppliedBatch
from agentgym_daemon.store.database import Store
from agentgym_daemon.store.rows import DecodedTraces


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SegmentLog]:
    opened = SegmentLog(tmp_path / "log", clock=ManualClock())
    yield opened
    opened.close()


@pytest.fixture
def start(tmp_path: Path, log: SegmentLog) -> Iterator[Callable[..., Applier]]:
    """Starts an applier on a store of its own."""
    opened: list[Any] = []

    def start_one(**options: Any) -> Applier:
        close()  # a file has one owner
        store = Store.open(tmp_path / "a.duckdb")
        options = {"decode": decode_traces, "longest_pause_s": 0.1, **options}
        applier = Applier(store, log, **options)
        log.on_durable = applier.submit
        opened.extend([store, applier])
        applier.start()
        return applier

    def close() -> None:
        for resource in reversed(opened):
            resource.close()

    yield start_one
    close()


def stored_spans(applier: Applier) -> int:
    with applier._store.reading() as cursor:
        ((count,),) = cursor.execute("SELECT count(*) FROM spans").fetchall()
    return int(count)


def test_it_replays_what_was_appended_before_and_follows_what_comes(
    records: Any, log: SegmentLog, start: Callable[..., Applier], tmp_path: Path
) -> None:
    for number in range(1, 6):
        log.append(records.spans(records.root(number))).result(10)
    applier = start(batch_bytes=1)
    end = log.append(records.spans(records.root(6))).result(10)

    assert applier.wait(end, 30)
    assert applier.applied == log.end == end
    assert not applier.wait(end + 1, 0.01)
    applier.close()
    applier.close()
    assert stored_spans(applier) == 6


def test_it_goes_on_where_it_stopped(
    records: Any, log: SegmentLog, start: Callable[..., Applier], tmp_path: Path
) -> None:
    first = start()
    assert first.wait(log.append(records.spans(records.root(1))).result(10), 30)
    first.close()
    end = log.append(records.spans(records.root(2))).result(10)

    second = start()

    assert second.wait(end, 30)
    second.close()
    assert stored_spans(second) == 2


def test_subscribers_hear_of_every_batch_and_cannot_break_it(
    records: Any, log: SegmentLog, start: Callable[..., Applier]
) -> None:
    heard: list[AppliedBatch] = []

    def broken(batch: AppliedBatch) -> None:
        raise RuntimeError("a listener's own fault")

    applier = start()
    applier.subscribe(broken)
    leave = applier.subscribe(heard.append)
    both = threading.Event()
    applier.subscribe(lambda batch: both.set())
    end = log.append(records.spans(records.root(1))).result(10)

    assert applier.wait(end, 30)
    assert both.wait(30)
    leave()
    both.clear()
    assert applier.wait(log.append(records.spans(records.root(2))).result(10), 30)
    assert both.wait(30)
    assert [batch.closed for batch in heard] == [(records.trace(1),)]
    assert heard[0].end == end


def test_a_failing_database_is_opened_again_and_nothing_is_lost_or_doubled(
    records: Any,
    log: SegmentLog,
    start: Callable[..., Applier],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures = iter([duckdb.IOException("disk full"), duckdb.FatalException("invalidated")])
    real = batch_module.set_meta

    def failing(*arguments: Any) -> None:
        if arguments[1] == "applied_offset" and (failure := next(failures, None)):
            raise failure
        real(*arguments)

    monkeypatch.setattr(batch_module, "set_meta", failing)
    applier = start()
    end = log.append(records.spans(records.root(1))).result(10)

    assert applier.wait(end, 30)
    assert applier.failed == ""
    applier.close()
    assert stored_spans(applier) == 1


def test_a_commit_that_succeeded_although_it_failed_is_not_applied_twice(
    records: Any,
    log: SegmentLog,
    start: Callable[..., Applier],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures = iter([duckdb.IOException("committed, but the checkpoint failed")])
    real = batch_module.BatchWriter.apply

    def apply(self: batch_module.BatchWriter, entries: Any) -> AppliedBatch:
        done = real(self, entries)
        if failure := next(failures, None):
            raise failure
        return done

    monkeypatch.setattr(batch_module.BatchWriter, "apply", apply)
    applier = start()

    assert applier.wait(log.append(records.spans(records.root(1))).result(10), 30)
    applier.close()
    assert stored_spans(applier) == 1


def test_a_database_that_cannot_be_opened_again_is_tried_again(
    records: Any,
    log: SegmentLog,
    start: Callable[..., Applier],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faults = iter([RuntimeError("decoder"), None])
    refusals = iter([StorageError("no space left"), None])
    real = Store.reopen

    def decode(request: bytes, received_ns: int) -> DecodedTraces:
        if fault := next(faults, None):
            raise fault
        return decode_traces(request)

    def reopen(self: Store) -> None:
        self.close()
        if refusal := next(refusals, None):
            raise refusal
        real(self)

    monkeypatch.setattr(Store, "reopen", reopen)
    applier = start(decode=decode)

    assert applier.wait(log.append(records.spans(records.root(1))).result(10), 30)


def test_a_database_ahead_of_the_log_keeps_its_rows_and_takes_what_comes_next(
    records: Any, log: SegmentLog, tmp_path: Path
) -> None:
    store = Store.open(tmp_path / "a.duckdb")
    store.writer.execute("INSERT INTO meta VALUES ('applied_offset', '999')")
    applier = Applier(store, log, decode=decode_traces)
    log.on_durable = applier.submit

    applier.start()
    end = log.append(records.spans(records.root(1))).result(10)

    assert end > 999
    assert applier.wait(end, 30)
    assert store.content_hashes()["spans"].startswith("1:")
    assert [damage.lost_bytes for damage in log.damages] == [999]
    applier.close()
    store.close()


def test_a_file_whose_damage_shows_only_when_it_is_read_is_derived_again(
    records: Any, log: SegmentLog, tmp_path: Path
) -> None:
    path = tmp_path / "a.duckdb"
    store = Store.open(path)
    applier = Applier(store, log, decode=decode_traces, longest_pause_s=0.1)
    log.on_durable = applier.submit
    applier.start()
    for payload in records.history(1, trajectories=30):
        end = log.append(payload).result(10)
    assert applier.wait(end, 30)
    expected = store.content_hashes()
    told: list[Path] = []
    caught_up: list[bool] = []

    def set_aside(moved: Path, reason: str) -> None:
        told.append(moved)
        caught_up.append(applier.wait(0, 0))

    store.on_set_aside = set_aside

    store.damage = "Corrupt database file"
    applier.submit()
    assert applier.wait(log.append(records.catalogue()).result(10), 30)

    assert told == [tmp_path / "a.duckdb.damaged-1"]
    assert caught_up == [False]  # nobody may take the empty tables for what the log says
    assert store.damage == ""
    lifetime = {"counters": ""}  # the last record was counted
    assert store.content_hashes() | lifetime == expected | lifetime
    applier.close()
    store.close()


def test_it_stops_between_batches(
    records: Any, log: SegmentLog, start: Callable[..., Applier]
) -> None:
    for number in range(1, 4):
        log.append(records.spans(records.root(number))).result(10)
    applied, go_on = threading.Event(), threading.Event()

    def decode(request: bytes, received_ns: int) -> DecodedTraces:
        applied.set()
        assert go_on.wait(30)
        return decode_traces(request)

    applier = start(decode=decode, batch_bytes=1)
    assert applied.wait(30)
    closing = threading.Thread(target=applier.close)
    closing.start()
    while not applier._stop.is_set():
        pass
    go_on.set()
    closing.join(30)

    assert 0 < applier.applied < log.end


@pytest.mark.parametrize("batch_bytes", [100, 2**20])
def test_what_does_not_fit_into_memory_is_read_from_the_log(
    records: Any, log: SegmentLog, start: Callable[..., Applier], batch_bytes: int
) -> None:
    """Also where it overflowed while a batch was applied, and holds a full one since."""
    applied, go_on = threading.Event(), threading.Event()

    def decode(request: bytes, received_ns: int) -> DecodedTraces:
        applied.set()
        assert go_on.wait(30)
        return decode_traces(request, received_ns)

    applier = start(decode=decode, batch_bytes=batch_bytes)
    applier._recent._limit = 1000
    log.append(records.spans(records.root(1))).result(10)
    assert applied.wait(30)
    for number in range(2, 40):
        end = log.append(records.spans(records.root(number))).result(10)
    assert applier._recent.size <= 1000
    go_on.set()

    assert applier.wait(end, 30)
    assert stored_spans(applier) == 39


def test_it_hears_of_records_that_only_the_log_knows(
    records: Any, log: SegmentLog, start: Callable[..., Applier]
) -> None:
    applier = start()
    log.on_durable = None
    end = log.append(records.spans(records.root(1))).result(10)

    applier.submit()

    assert applier.wait(end, 30)


def test_an_idle_applier_moves_a_long_write_ahead_log_into_the_file(
    records: Any,
    log: SegmentLog,
    start: Callable[..., Applier],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(applier_module, "IDLE_WAL_BYTES", 1)
    applier = start(idle_s=0.05)
    assert applier.wait(log.append(records.spans(records.root(1))).result(10), 30)
    wal = tmp_path / "a.duckdb.wal"

    for _ in range(600):
        if not wal.exists():
            break
        time.sleep(0.05)

    assert not wal.exists()
    assert stored_spans(applier) == 1
