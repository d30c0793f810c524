"""Row numbers come from the record alone; ids and keys are found without a scan."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agentgym.proto.v1 import log_pb2
from agentgym_daemon.ingest.otlp import decode_traces
from agentgym_daemon.rewards.lookup import StoreLookup
from agentgym_daemon.store import indexes as indexes_module
from agentgym_daemon.store.batch import BatchWriter
from agentgym_daemon.store.database import Store
from agentgym_daemon.store.index import HashIndex
from agentgym_daemon.store.numbers import among, ranges

T0 = 1_700_000_000_000_000_000


def numbers_of(store: Store) -> dict[bytes, int]:
    with store.reading() as cursor:
        return dict(cursor.execute("SELECT id, no FROM trajectories").fetchall())


def test_a_number_is_the_records_offset_and_the_position_in_it(records: Any, bench: Any) -> None:
    first = records.spans(records.root(1))
    second = records.spans(
        records.call(2, 5, "find"), records.call(1, 6, "find"), records.root(2), records.root(3)
    )
    bench.apply(first, second)

    ends = len(first), len(first) + len(second)
    assert numbers_of(bench.store) == {
        records.trace(1): ends[0] << 20,
        records.trace(2): ends[1] << 20,
        records.trace(3): ends[1] << 20 | 2,
    }


def test_numbers_are_the_same_when_older_records_are_gone(records: Any, tmp_path: Path) -> None:
    payloads = records.history(5, trajectories=8)
    entries = list(enumerate(payloads, start=1))
    whole, later = Store.open(tmp_path / "whole"), Store.open(tmp_path / "later")
    BatchWriter(whole, decode_traces).apply(entries)
    BatchWriter(later, decode_traces).apply(entries[len(entries) // 2 :])
    expected, found = numbers_of(whole), numbers_of(later)
    boundary = (len(entries) // 2) << 20 | 0xFFFFF

    assert {i: no for i, no in expected.items() if no > boundary}.items() <= found.items()
    assert any(no > boundary for no in expected.values())
    whole.close()
    later.close()


def test_expired_parts_of_a_record_count_no_more_but_keep_their_places(
    records: Any, open_bench: Callable[..., Any]
) -> None:
    payload = records.spans(records.root(1), records.root(2), records.root(3))
    record = log_pb2.LogRecord.FromString(payload)
    record.expired.append(records.trace(1))
    bench = open_bench()

    bench.writer.apply([(9, record.SerializeToString())])

    assert numbers_of(bench.store) == {
        records.trace(2): 9 << 20 | 1,
        records.trace(3): 9 << 20 | 2,
    }


@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99)), max_size=8)))
def test_the_index_finds_what_a_dictionary_finds(batches: list[list[tuple[int, int]]]) -> None:
    index = HashIndex()
    known: dict[int, set[int]] = {}
    for batch in batches:
        index.add(
            np.array([h for h, _ in batch], dtype=np.uint64),
            np.array([n for _, n in batch], dtype=np.int64),
        )
        for hashed, number in batch:
            known.setdefault(hashed, set()).add(number)

    for hashed in range(10):
        wanted = np.array([hashed], dtype=np.uint64)
        assert index.find(wanted) == sorted(known.get(hashed, ()))


def test_an_index_of_many_small_batches_keeps_few_runs() -> None:
    index, rng = HashIndex(), random.Random(1)
    for number in range(3000):
        index.add(np.array([rng.getrandbits(64)], dtype=np.uint64), np.array([number]))

    assert len(index) == 3000
    assert len(index._runs) <= 8


def test_after_a_restart_the_indexes_find_the_same(records: Any, open_bench: Any) -> None:
    def found(store: Store) -> list[Any]:
        lookup = StoreLookup(store)
        return [
            lookup.is_known(records.trace(1)),
            lookup.is_known(records.trace(99)),
            lookup.with_key("ticket", ""),
            lookup.with_key("none", ""),
            lookup.with_idempotency_key("key-r1"),
            lookup.with_id("r1"),
            lookup.idle_since(T0 + 1),
        ]

    bench = open_bench("a")
    bench.apply(*records.episode(1, reward=1.0), records.spans(records.call(3, 5, "find")))
    bench.apply(records.spans(records.root(2, **{"agentgym.trajectory.key": "ticket"})))
    live = found(bench.store)
    bench.store.close()

    assert found(open_bench("a").store) == live
    assert (live[0], live[1], live[3]) == (True, False, [])
    assert (len(live[2]), len(live[4]), len(live[5]), live[6]) == (1, 1, 1, [records.trace(3)])


def test_more_open_trajectories_than_are_watched_are_found_in_the_table(
    records: Any, bench: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(indexes_module, "MOST_OPEN", 2)
    bench.apply(*(records.spans(records.call(n, 5, "find")) for n in range(1, 6)))

    assert len(bench.store.indexes.open) == 2
    assert len(StoreLookup(bench.store).idle_since(T0 + 1)) == 5


def test_far_numbers_make_ranges_of_their_own() -> None:
    assert ranges([1, 2, 3, 1000, 1001], far=10) == [(1, 3), (1000, 1001)]
    assert len(ranges(list(range(0, 10_000, 100)), far=10)) == 8
    assert among("no", []) == "false"
    assert among("no", [7, 7]) == "no = 7"
