"""Roll-ups equal what a count over all rows gives, and what a dashboard reads of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from agentgym import semconv
from agentgym.proto.v1 import common_pb2, log_pb2
from agentgym_daemon.store import dashboard, rollups
from agentgym_daemon.store.expire import Pending, pending, receipt
from agentgym_daemon.store.rows import Scope
from agentgym_daemon.store.training import imported, scope_progress, scopes_of
from agentgym_daemon.store.trajectories import summary

T0 = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
MINUTE = T0 // rollups.MINUTE_NS
TABLES = {"run_minutes", "scope_totals", "tool_minutes"}


def steered(records: Any, trace: int, **attributes: Any) -> dict[str, Any]:
    return records.root(
        trace,
        **{
            semconv.MODE: "steer",
            semconv.ASSIGNMENT: "policy",
            semconv.POLICY_VERSION: "p-1",
            **attributes,
        },
    )


@pytest.mark.parametrize("seed", range(6))
def test_kept_up_to_date_they_equal_a_count_over_all_rows(
    records: Any, open_bench: Callable[..., Any], seed: int
) -> None:
    bench = open_bench()
    payloads = records.history(seed, trajectories=12)
    rng = random.Random(seed)
    while payloads:
        size = rng.randrange(1, 9)
        bench.apply(*payloads[:size])
        payloads = payloads[size:]
    kept = bench.store.content_hashes()

    rollups.recount(bench.store.writer)

    counted = bench.store.content_hashes()
    assert {table: kept[table] for table in TABLES} == {t: counted[t] for t in TABLES}
    assert not any(kept[table].startswith("0:") for table in TABLES)


def test_a_late_reward_its_revocation_and_late_spans_change_what_was_counted(
    records: Any, bench: Any
) -> None:
    def minutes() -> list[tuple[Any, ...]]:
        with bench.store.reading() as cursor:
            found = dashboard.success_by_policy(
                cursor, agent="desk", from_ns=T0, to_ns=T0 + 600 * SECOND, minutes=1
            )
        return [
            (f.minute - MINUTE, f.policy_version, f.runs, f.rewarded, f.successes) for f in found
        ]

    bench.apply(records.spans(steered(records, 1)))
    bench.apply(records.reward(1, 1.0, reward_id="a"))
    rewarded = minutes()
    bench.apply(records.revocation("a"))
    revoked = minutes()
    bench.apply(records.spans(records.call(1, 5, "find", start=200.0, end=300.0)))

    assert rewarded == [(0, "p-1", 1, 1, 1)]
    assert revoked == [(0, "p-1", 1, 0, 0)]
    assert minutes() == [(300 // 60, "p-1", 1, 0, 0)]


def test_a_run_of_two_scopes_counts_once_as_a_whole_and_once_in_each(
    records: Any, bench: Any
) -> None:
    other = common_pb2.Scope(agent="desk", agent_name="writer", feature_schema=1)
    bench.apply(
        records.decisions(records.decision(1, 1), records.decision(1, 2, scope=other)),
        records.spans(steered(records, 1)),
        records.reward(1, 1.0, reward_id="a"),
        records.decisions(records.decision(2, 3)),
    )

    with bench.store.reading() as cursor:
        (minute,) = dashboard.last_minutes(cursor, now_ns=T0, minutes=1)
        progress = {row.scope.agent_name: row for row in scope_progress(cursor)}
        known = scopes_of(cursor)
        past = imported(cursor, known[0])
    assert (minute.runs, minute.successes) == (1, 1)
    assert [progress[name].trajectories for name in ("helper", "writer")] == [1, 1]
    assert (progress["helper"].n_policy, progress["helper"].successes_policy) == (1, 1)
    assert known == [Scope("desk", "helper", 1), Scope("desk", "writer", 1)]
    assert past == 0


def test_tools_are_summed_with_their_latencies(records: Any, bench: Any) -> None:
    calls = [
        records.call(1, n, "find", start=1.0, end=1.0 + 0.1, status=2 if n == 10 else 0)
        for n in range(10, 30)
    ]
    bench.apply(records.spans(*calls, records.call(1, 40, "mail", start=1.0, end=9.0)))

    with bench.store.reading() as cursor:
        find, mail = dashboard.tools_used(cursor, agent="desk", from_ns=T0, to_ns=T0 + SECOND)
        none = dashboard.tools_used(cursor, agent="other", from_ns=T0, to_ns=T0 + SECOND)
    assert (find.tool, find.calls, find.errors) == ("find", 20, 1)
    assert find.mean_s == pytest.approx(0.1)
    assert 0.064 <= find.p50_s <= find.p95_s <= 0.128
    assert (mail.calls, mail.p95_s) == (1, pytest.approx(8.0, rel=0.1))
    assert none == []


def test_quiet_minutes_are_shown_too(records: Any, bench: Any) -> None:
    bench.apply(records.spans(records.root(1)))

    with bench.store.reading() as cursor:
        shown = dashboard.last_minutes(cursor, now_ns=T0 + 120 * SECOND)

    assert [minute.runs for minute in shown] == [0] * 12 + [1, 0, 0]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95, 1.0])
def test_a_quantile_lies_in_the_bucket_of_its_rank(share: float) -> None:
    counts = [0] * rollups.BUCKETS
    counts[3] = 10

    assert 0.004 <= dashboard.quantile(counts, share) <= 0.008
    assert dashboard.quantile([0] * rollups.BUCKETS, share) == 0.0


def test_nonsense_of_a_sender_overflows_no_sum(records: Any, bench: Any) -> None:
    chat = [
        records.ours(n, 2, semconv.CHAT, attributes={semconv.INPUT_TOKENS: 2**62}) for n in (1, 2)
    ]
    batch = bench.apply(
        records.spans(chat[0], records.root(1)), records.spans(chat[1], records.root(2))
    )

    with bench.store.reading() as cursor:
        (minute,) = dashboard.last_minutes(cursor, now_ns=T0, minutes=1)
    assert batch.rejected == 0
    assert (minute.runs, minute.input_tokens <= 2 * 10**12) == (2, True)


def test_expired_trajectories_leave_no_row_and_their_totals_are_kept(
    records: Any, open_bench: Callable[..., Any]
) -> None:
    old = [*records.episode(1, reward=1.0), *records.episode(2)]
    new = [records.spans(records.root(3), at=100), records.spans(records.call(4, 9, "find"))]
    both, alone = open_bench("both"), open_bench("alone")
    both.apply(*old, *new)
    alone.apply(*[b"\xff"] * len(old), *new)
    before = {row.scope: (row.rewarded, row.trajectories) for row in progress_of(both)}

    both.apply(mark(records, at=50))

    left, fresh = both.store.content_hashes(), alone.store.content_hashes()
    same = TABLES | {"spans", "decisions", "task_features", "trajectory_scopes", "rewards"}
    assert {table: left[table][:2] for table in same} == {t: fresh[t][:2] for t in same}
    assert {t: left[t] for t in TABLES} == {t: fresh[t] for t in TABLES}
    with both.store.reading() as cursor:
        both.apply(records.record(retention=receipt(pending(cursor) or Pending(), log_bytes=0)))
    assert {row.scope: (row.rewarded, row.trajectories) for row in progress_of(both)} == before
    assert both.store.indexes.of_ids(both.store.writer, [records.trace(1)]) == []


def mark(records: Any, *, at: float) -> bytes:
    before_ns = T0 + int(at * SECOND)
    return bytes(records.record(retention=log_pb2.Retention(before_unix_nano=before_ns)))


def progress_of(bench: Any) -> list[Any]:
    with bench.store.reading() as cursor:
        return scope_progress(cursor)


def test_a_trajectory_that_is_heard_of_again_after_it_expired_is_a_new_one(
    records: Any, bench: Any
) -> None:
    bench.apply(*records.episode(1, reward=1.0))
    bench.apply(mark(records, at=1))
    bench.apply(records.spans(records.call(1, 77, "find")))

    with bench.store.reading() as cursor:
        found = summary(cursor, records.trace(1))
    assert found is not None
    assert (found.spans, found.state) == (1, "open")


@pytest.mark.parametrize("assignment", ["policy", "control"])
def test_a_killed_run_keeps_its_assignment_and_enters_no_estimate(
    assignment: str, records: Any, bench: Any
) -> None:
    number = common_pb2.Assignment.Value(f"ASSIGNMENT_{assignment.upper()}")
    killed = records.decision(
        2, 20, assignment=number, fallback=common_pb2.FALLBACK_KILLED, arm=-1, support=[]
    )
    whole = records.decision(1, 10, assignment=number)
    for trace, decision in ((1, whole), (2, killed)):
        root = {**steered(records, trace, **{semconv.ASSIGNMENT: assignment}), "span_id": trace}
        bench.apply(records.decisions(decision), records.spans(root))
        bench.apply(records.reward(trace, 1.0, reward_id=f"r{trace}"))

    (progress,) = progress_of(bench)
    kept = bench.store.content_hashes()
    rollups.recount(bench.store.writer)
    with bench.store.reading() as cursor:
        found = summary(cursor, records.trace(2))

    assert (progress.rewarded, progress.n_policy + progress.n_control) == (2, 1)
    assert found is not None
    assert found.assignment == number
    assert bench.store.content_hashes() == kept
