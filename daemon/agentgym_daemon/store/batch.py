"""Applies durable records to the database, many per transaction, exactly once each.

What a record does depends on the records before it and on nothing else, so any cut into batches,
and a rebuild, give the same rows. Ids that were seen are skipped: spans by (trace, span),
decisions by id within their trajectory, rewards by idempotency key within their trajectory.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import duckdb
from google.protobuf.message import DecodeError

from agentgym.proto.v1 import decision_pb2, log_pb2
from agentgym_daemon.store import rollups
from agentgym_daemon.store.database import (
    Cursor,
    Store,
    aggregation_of_rows,
    fetch,
    set_meta,
)
from agentgym_daemon.store.fold import Fold
from agentgym_daemon.store.indexes import Indexes
from agentgym_daemon.store.memory import KEPT_TRAJECTORIES, Memory
from agentgym_daemon.store.numbers import among
from agentgym_daemon.store.rewards import rewards_by_ids
from agentgym_daemon.store.rows import MAX_BIGINT, DecodedTraces, Entry, Scope, TraceDecoder
from agentgym_daemon.store.state import TrajectoryState, load

_REJECTIONS = (
    "spans_rejected",
    "decisions_rejected",
    "features_rejected",
    "rewards_rejected",
    "records_rejected",
)
_RATED_AT_ONCE = 2000
# Content that no column takes; what these say of one record they will always say of it.
_UNSTORABLE = (duckdb.DataError, duckdb.IntegrityError)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AppliedBatch:
    """What a committed batch changed."""

    end: int
    """Log offset behind it."""
    records: int = 0
    closed: tuple[bytes, ...] = ()
    """Ids of trajectories that ended."""
    touched: tuple[bytes, ...] = ()
    """Ids of trajectories about which anything was said."""
    rewarded: tuple[bytes, ...] = ()
    """Ids of trajectories whose rewards changed."""
    scopes: frozenset[Scope] = frozenset()
    """Scopes of the touched trajectories."""
    rejected: int = 0
    """Spans, decisions, features, rewards and whole records that could not be taken."""
    policies_changed: bool = False

    def followed_by(self, later: AppliedBatch) -> AppliedBatch:
        """Both as one."""
        return AppliedBatch(
            end=later.end,
            records=self.records + later.records,
            closed=self.closed + later.closed,
            touched=tuple(dict.fromkeys(self.touched + later.touched)),
            rewarded=tuple(dict.fromkeys(self.rewarded + later.rewarded)),
            scopes=self.scopes | later.scopes,
            rejected=self.rejected + later.rejected,
            policies_changed=self.policies_changed or later.policies_changed,
        )


class _Decoded(NamedTuple):
    """A record, and the parts of it that lie in bytes of their own."""

    end: int
    record: log_pb2.LogRecord | None  # None: it could not be read
    traces: DecodedTraces | None = None
    decisions: decision_pb2.RecordRequest | None = None


class BatchWriter:
    """The one writer of the database; used by one thread."""

    def __init__(
        self, store: Store, decode: TraceDecoder, *, kept_trajectories: int = KEPT_TRAJECTORIES
    ) -> None:
        self._store = store
        self._decode = decode
        self._kept = kept_trajectories
        self._rate_again()
        self._memory = self._fresh_memory()

    def apply(self, entries: Sequence[Entry]) -> AppliedBatch:
        """Applies the records in one transaction, which also holds the new applied offset."""
        decoded = [self._read(end, payload) for end, payload in entries]
        for number, one in enumerate(decoded[:-1]):
            if _deletes(one) or _deletes(decoded[number + 1]):
                # What it deletes must be written before, and what comes behind must not find it.
                first = self.apply(entries[: number + 1])
                return first.followed_by(self.apply(entries[number + 1 :]))
        try:
            return self._apply(decoded)
        except _UNSTORABLE as error:
            if len(entries) == 1:
                _logger.error("log record before %d cannot be stored: %s", entries[0][0], error)
                return self._apply([_Decoded(entries[0][0], None)])
            middle = len(entries) // 2
            return self.apply(entries[:middle]).followed_by(self.apply(entries[middle:]))

    def reset(self) -> None:
        """Forgets what is in memory, after the database was opened again."""
        self._memory = self._fresh_memory()

    def _fresh_memory(self) -> Memory:
        return Memory(self._store.writer, self._store.indexes, kept_trajectories=self._kept)

    def _read(self, end: int, payload: bytes) -> _Decoded:
        try:
            record = log_pb2.LogRecord.FromString(payload)
            match record.WhichOneof("fact"):
                case "otlp_traces":
                    received_ns = min(record.received_unix_nano, MAX_BIGINT)
                    return _Decoded(
                        end, record, traces=self._decode(record.otlp_traces, received_ns)
                    )
                case "decisions":
                    request = decision_pb2.RecordRequest.FromString(record.decisions)
                    return _Decoded(end, record, decisions=request)
        except DecodeError as error:
            _logger.error("log record before %d cannot be read: %s", end, error)
            return _Decoded(end, None)
        return _Decoded(end, record)

    def _apply(self, batch: Sequence[_Decoded]) -> AppliedBatch:
        cursor = self._store.writer
        cursor.execute("BEGIN")
        try:
            fold = self._fold(cursor, batch)
            _write(cursor, fold)
            set_meta(cursor, "applied_offset", str(batch[-1].end))
            cursor.execute("COMMIT")
        except BaseException:
            _roll_back(cursor)
            self._memory_after_failure()
            raise
        self._memory.committed(cursor, fold.touched.values(), fold.rewards)
        if fold.counts["trajectories_expired"]:
            self._store.index_again()
            self.reset()
        return AppliedBatch(
            end=batch[-1].end,
            records=len(batch),
            closed=tuple(fold.closed),
            touched=tuple(fold.touched),
            rewarded=tuple(fold.rewarded),
            scopes=frozenset(s for state in fold.touched.values() for s in state.scopes),
            rejected=sum(fold.counts[name] for name in _REJECTIONS),
            policies_changed=fold.policies_changed,
        )

    def _memory_after_failure(self) -> None:
        try:
            self.reset()
        except duckdb.Error:
            _logger.warning("database is not usable until it is opened again")

    def _fold(self, cursor: Cursor, batch: Sequence[_Decoded]) -> Fold:
        rewarded_by_id = _rewarded_by_id(cursor, self._store.indexes, batch)
        named = [i for ids in rewarded_by_id.values() for i in ids]
        self._memory.prepare(cursor, [*named, *_trajectory_ids(batch)])
        fold = Fold(
            self._memory,
            cursor,
            rules=self._store.rules,
            rewarded_by_id=rewarded_by_id,
        )
        for decoded in batch:
            _fold_one(fold, decoded)
        return fold

    def _rate_again(self) -> None:
        """Recomputes all rewards if the stored ones were aggregated by another rule."""
        cursor, rules = self._store.writer, self._store.rules
        if aggregation_of_rows(cursor) == str(rules):
            return
        cursor.execute("BEGIN")
        rows = fetch(cursor, "SELECT DISTINCT trajectory_no FROM rewards ORDER BY ALL")
        numbers = [number for (number,) in rows]
        for first in range(0, len(numbers), _RATED_AT_ONCE):
            states = list(load(cursor, numbers[first : first + _RATED_AT_ONCE]))
            for state in states:
                state.rate(rules)
            _replace_summaries(cursor, states)
        rollups.recount(cursor, (rollups.RUN_MINUTES, rollups.SCOPE_TOTALS))
        set_meta(cursor, "aggregation", str(rules))
        cursor.execute("COMMIT")


def _deletes(decoded: _Decoded) -> bool:
    record = decoded.record
    return record is not None and record.WhichOneof("fact") == "retention"


def _fold_one(fold: Fold, decoded: _Decoded) -> None:
    record = decoded.record
    fold.begin(decoded.end, record.expired if record is not None else ())
    fold.counts["records"] += 1
    if record is None:
        fold.counts["records_rejected"] += 1
        return
    received_ns = min(record.received_unix_nano, MAX_BIGINT)
    fold.producer(record, received_ns)
    if decoded.traces is not None:
        fold.traces(decoded.traces, received_ns, may_reward=not record.no_rewards)
        return
    if decoded.decisions is not None:
        fold.decisions_and_features(decoded.decisions, received_ns)
        return
    match record.WhichOneof("fact"):
        case "catalogue":
            fold.catalogue(record.catalogue, received_ns)
        case "reward":
            fold.reward(record.reward, received_ns)
        case "revocation":
            fold.revocation(record.revocation, received_ns)
        case "closure":
            fold.closure(record.closure, received_ns)
        case _:
            fold.rare(record, no=decoded.end, received_ns=received_ns)


def _trajectory_ids(batch: Iterable[_Decoded]) -> Iterator[bytes]:
    for decoded in batch:
        if decoded.traces is not None:
            yield from {span.trace_id for span in decoded.traces.spans}
            # Events lie on spans: their traces are among these.
        elif decoded.decisions is not None:
            yield from (decision.trajectory_id for decision in decoded.decisions.decisions)
            yield from (features.trajectory_id for features in decoded.decisions.features)
        elif decoded.record is not None:
            match decoded.record.WhichOneof("fact"):
                case "reward":
                    yield decoded.record.reward.reward.trajectory_id
                case "closure":
                    yield decoded.record.closure.trajectory_id


def _rewarded_by_id(
    cursor: Cursor, indexes: Indexes, batch: Iterable[_Decoded]
) -> dict[str, set[bytes]]:
    """Where the rewards that the batch revokes were given."""
    wanted = [
        decoded.record.revocation.reward_id
        for decoded in batch
        if decoded.record is not None and decoded.record.WhichOneof("fact") == "revocation"
    ]
    found: dict[str, set[bytes]] = {}
    for reward in rewards_by_ids(cursor, wanted, numbers=indexes.of_reward_ids(cursor, wanted)):
        found.setdefault(reward.reward_id, set()).add(reward.trajectory_id)
    return found


def _write(cursor: Cursor, fold: Fold) -> None:
    _append(cursor, "spans", fold.spans)
    _append(cursor, "decisions", fold.decisions)
    _append(cursor, "task_features", fold.features)
    _append(cursor, "trajectory_scopes", fold.trajectory_scopes)
    _append(cursor, "tools", fold.tools)
    _append(cursor, "scope_tools", fold.scope_tools)
    _append(cursor, "rewards", [reward.row() for reward in fold.rewards])
    for number, reason in fold.revoked:
        cursor.execute(
            "UPDATE rewards SET revoked = true, reason = ? WHERE no = ?", [reason, number]
        )
    _write_summaries(cursor, fold)
    rollups.write(cursor, fold.touched.values(), fold.tool_minutes)
    _write_producers(cursor, fold)
    _write_counters(cursor, fold)


def _write_summaries(cursor: Cursor, fold: Fold) -> None:
    stored = fold.memory.stored_trajectory
    states = sorted(fold.touched.values(), key=lambda state: state.no)
    old = [state for state in states if state.no <= stored]
    _replace_summaries(cursor, old)
    _append(cursor, "trajectories", [state.row() for state in states[len(old) :]])


def _replace_summaries(cursor: Cursor, states: Sequence[TrajectoryState]) -> None:
    if states:
        numbers = [state.no for state in states]
        cursor.execute(f"DELETE FROM trajectories WHERE {among('no', numbers)}")
        _append(cursor, "trajectories", [state.row() for state in states])


def _write_producers(cursor: Cursor, fold: Fold) -> None:
    if not fold.producers:
        return
    cursor.execute(
        "DELETE FROM producers WHERE producer_id IN (SELECT unnest(?::BLOB[]))",
        [list(fold.producers)],
    )
    known = fold.memory.producers
    _append(cursor, "producers", [(p, known[p], at) for p, at in fold.producers.items()])


def _write_counters(cursor: Cursor, fold: Fold) -> None:
    counters = fold.memory.counters
    for name, count in fold.counts.items():
        counters[name] = counters.get(name, 0) + count
    cursor.execute(
        "DELETE FROM counters WHERE name IN (SELECT unnest(?::VARCHAR[]))", [list(fold.counts)]
    )
    # A count of nothing leaves no row, whatever batch it was counted in.
    _append(cursor, "counters", [(n, counters[n]) for n in fold.counts if counters[n]])


def _append(cursor: Cursor, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    if rows:
        appender = cursor.appender(table)
        appender.append_rows(rows)
        appender.flush()


def _roll_back(cursor: Cursor) -> None:
    try:
        cursor.execute("ROLLBACK")
    except duckdb.Error:
        _logger.debug("nothing to roll back", exc_info=True)
