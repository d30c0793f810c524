"""What is on its way: conserved whatever happens, in order, whole trajectories above the cap."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agentgym import outbox as module
from agentgym.items import SpanItem
from agentgym.ledger import Ledger
from agentgym.outbox import Outbox
from agentgym.spool.record import header_frame
from agentgym.spool.spool import Spool
from agentgym.testing import spools
from agentgym.wire import BYTES, entry, tag

PRODUCER = b"p" * 16


def span_bytes(trajectory_id: bytes, number: int, size: int = 50) -> bytes:
    fields = entry(tag(1, BYTES), trajectory_id) + entry(tag(2, BYTES), number.to_bytes(8, "big"))
    return entry(tag(2, BYTES), fields + entry(tag(5, BYTES), b"x" * size))


def balance(report: dict[str, int]) -> Counter[str]:
    total: Counter[str] = Counter()
    for name, n in report.items():
        what, kind = name.split(".")[:2]
        total[kind] += n if what == "produced" else -n
    return total


class Bench:
    """An outbox with a spool in a directory of its own; the clock is told."""

    def __init__(self, limit_bytes: int = 20_000, spool_bytes: int = 64_000) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="ag-", dir="/tmp"))
        self.now = 0.0
        self.ledger = Ledger()
        self.outbox = Outbox(
            self.ledger, agent_prefix=b"", limit_bytes=limit_bytes, monotonic=lambda: self.now
        )
        self.outbox.spool = self.spool = Spool(
            self.home / "spool",
            PRODUCER,
            lambda: header_frame(PRODUCER, "agent", 1, 1, b"", shared=False),
            limit_bytes=spool_bytes,
            on_dropped=self.outbox.spool_dropped,
            before_drop=self.outbox.detach,
        )
        self.made = 0

    def put(self, trajectory: int, size: int = 50) -> None:
        trajectory_id = trajectory.to_bytes(16, "big")
        self.made += 1
        self.ledger.arrived([SpanItem(trajectory_id, b"", b"", "", 0, 0, {}, "")])
        self.outbox.add("spans", trajectory_id, span_bytes(trajectory_id, self.made, size))

    def ack(self) -> list[Any]:
        batch = self.outbox.next_batch()
        if batch is None:
            return []
        records = batch.records
        self.outbox.settle(batch.counts, {})
        return records

    def close(self) -> None:
        self.spool.close()
        shutil.rmtree(self.home, ignore_errors=True)


@pytest.fixture
def bench() -> Any:
    made = Bench()
    yield made
    made.close()


def test_what_was_stored_comes_back_in_order_and_its_files_go(bench: Bench) -> None:
    for trajectory in range(1, 6):
        bench.put(trajectory)
        assert bench.outbox.store()
    assert bench.ledger.report() == {"produced.spans": 5, "spooled.spans": 5}

    got = bench.ack()

    assert [int.from_bytes(record.trajectory_id, "big") for record in got] == [1, 2, 3, 4, 5]
    assert bench.ledger.report() == {"produced.spans": 5, "acked.spans": 5}
    assert bench.spool.empty
    assert [p.name for p in spools.directories(bench.home)[0].iterdir()] == ["lock"]


def test_files_and_directories_are_for_their_owner_alone(bench: Bench) -> None:
    bench.put(1)
    bench.outbox.store()

    [directory] = spools.directories(bench.home)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in directory.iterdir()} == {0o600}
    assert directory.parent.stat().st_mode & 0o777 == 0o700


def test_a_batch_that_waits_is_stored_and_not_sent_twice(bench: Bench) -> None:
    bench.put(1)
    batch = bench.outbox.next_batch()
    bench.put(2)
    assert bench.outbox.store()
    assert bench.ledger.report()["spooled.spans"] == 2
    assert len(spools.read_all(bench.home).spans) == 2

    assert bench.outbox.next_batch() is batch
    bench.ack()

    assert [record.trajectory_id[-1] for record in bench.ack()] == [2]
    assert bench.ledger.report() == {"produced.spans": 2, "acked.spans": 2}


def test_above_the_cap_an_adopter_finds_no_part_of_what_was_dropped(bench: Bench) -> None:
    # A long trajectory with records in every file, and many short ones.
    for trajectory in range(2, 100):
        bench.put(1, 100)
        bench.put(trajectory, 500)
        bench.outbox.store()

    left = spools.read_all(bench.home)
    ids = Counter(int.from_bytes(span.trace_id, "big") for span in left.spans)
    report = bench.ledger.report()

    assert 1 not in ids
    assert sum(ids.values()) == report["spooled.spans"]
    assert report["dropped.spans.spool_full"] == 196 - report["spooled.spans"]
    assert list(ids) == list(range(min(ids), 100))
    assert {d.reason for d in left.dropped} == {"spool_full"}
    assert sum(p.stat().st_size for p in spools.directories(bench.home)[0].iterdir()) <= 64_000


def test_a_torn_tail_is_cut_and_a_write_that_fails_leaves_none(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    bench.put(1)
    bench.outbox.store()
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))
        bench.put(2)
        assert not bench.outbox.store()
    assert bench.ledger.report() == {"produced.spans": 2, "spooled.spans": 1, "pending.spans": 1}

    bench.now += 100
    assert bench.outbox.store()

    assert len(spools.read_all(bench.home).spans) == 2
    assert bench.ledger.report() == {"produced.spans": 2, "spooled.spans": 2}


def test_files_that_somebody_deleted_are_counted_as_lost(bench: Bench) -> None:
    bench.put(1)
    bench.outbox.store()
    for path in spools.directories(bench.home)[0].glob("*.part"):
        path.unlink()

    assert bench.ack() == []

    assert bench.ledger.report() == {"produced.spans": 1, "dropped.spans.spool_lost": 1}
    assert bench.outbox.idle


def test_a_long_trajectory_is_cut(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 1_000)
    for _ in range(30):
        bench.put(1, 200)

    sizes = []
    while records := bench.ack():
        sizes.append(sum(record.size for record in records))

    assert max(sizes) <= 1_000
    assert bench.ledger.report() == {"produced.spans": 30, "acked.spans": 30}


class Conservation(RuleBasedStateMachine):
    """Any order of putting, sending, acking, refusing, storing, failing writes and caps."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(limit_bytes=3_000, spool_bytes=40_000)

    def teardown(self) -> None:
        self.bench.close()

    @rule(trajectory=st.integers(1, 9), size=st.integers(0, 3_000), n=st.integers(1, 8))
    def put(self, trajectory: int, size: int, n: int) -> None:
        for _ in range(n):
            self.bench.put(trajectory, size)

    @rule()
    def send(self) -> None:
        self.bench.outbox.next_batch()

    @rule(refused=st.booleans())
    def settle(self, refused: bool) -> None:
        batch = self.bench.outbox.batch
        if batch is not None:
            counts = batch.counts
            self.bench.outbox.settle({} if refused else counts, {"bad": counts} if refused else {})

    @rule()
    def store(self) -> None:
        self.bench.now += 10
        if not self.bench.outbox.store():
            self.bench.outbox.shrink()

    @rule()
    def fail_to_store(self) -> None:
        with contextlib.suppress(OSError):
            (self.bench.spool.directory or self.bench.home).chmod(0o500)
        self.bench.outbox.shrink()
        with contextlib.suppress(OSError):
            (self.bench.spool.directory or self.bench.home).chmod(0o700)

    @rule()
    def detach(self) -> None:
        self.bench.outbox.detach()

    @invariant()
    def everything_is_somewhere(self) -> None:
        report = self.bench.ledger.report()
        assert not any(balance(report).values())
        assert all(n >= 0 for n in report.values())
        assert self.bench.outbox.bytes >= 0
        spooled = report.get("spooled.spans", 0)
        unread = sum(file.unread["spans"] for file in self.bench.spool.files)
        batch = self.bench.outbox.batch
        assert spooled == unread + (batch.stored_counts["spans"] if batch else 0)
        assert self.bench.spool.size <= 44_000


TestConservation = Conservation.TestCase
TestConservation.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
