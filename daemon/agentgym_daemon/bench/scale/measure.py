"""A store that grows, and what is timed in it."""

from __future__ import annotations

import random
import statistics
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from agentgym_daemon.bench.scale import history
from agentgym_daemon.ingest.otlp import decode_traces
from agentgym_daemon.rewards.lookup import StoreLookup
from agentgym_daemon.store import dashboard, trajectories
from agentgym_daemon.store.applier import BATCH_BYTES
from agentgym_daemon.store.batch import BatchWriter
from agentgym_daemon.store.database import Cursor, Store
from agentgym_daemon.store.rows import Entry
from agentgym_daemon.store.training import scope_progress

LAST_SPANS = 100_000
_DAY_NS = 86_400_000_000_000
_LATE = 100

_UNITS = {
    "ingest_cpu": "us/span",
    "ingest_cpu_all": "us/span",
    "lookup_trajectory": "cpu ms",
    "lookup_trajectory_worst": "cpu ms",
    "wall_of_lookups": "wall ms",
    "lookup_unknown": "cpu ms",
    "lookup_reward_key": "cpu ms",
    "lookup_key": "cpu ms",
    "lookup_idle": "cpu ms",
    "query_decision_id": "cpu ms",
    "query_list": "cpu ms",
    "query_list_deep": "cpu ms",
    "rollup_policies_week": "cpu ms",
    "rollup_tools_day": "cpu ms",
    "rollup_last_minutes": "cpu ms",
    "rollup_progress": "cpu ms",
    "late_rewards": "cpu ms/100",
    "rss": "MB",
    "reopen": "s",
    "bytes_per_span": "B",
}


def units_of() -> dict[str, str]:
    """The unit of every figure of one size."""
    return dict(_UNITS)


class Growing:
    """Builds a history up to the sizes that are asked for, ascending."""

    def __init__(self, directory: Path, spans: int, *, repeats: int) -> None:
        self._path = directory / "scale.duckdb"
        self._store = Store.open(self._path)
        self._writer = BatchWriter(self._store, decode_traces)
        self._entries = history.entries(spans // history.SPANS)
        self._end = 0
        self._spans = 0
        self._late = 0
        self._repeats = repeats
        self._rng = random.Random(1)

    def close(self) -> None:
        """Closes the store."""
        self._store.close()

    def measure(self, spans: int) -> dict[str, float]:
        """Grows to this many spans and measures there."""
        figures = self._grow(spans)
        known = self._spans // history.SPANS
        with self._store.reading() as cursor:
            figures |= self._lookups(cursor, known)
            figures |= self._queries(cursor, known)
        figures["late_rewards"] = self._late_rewards(known)
        figures["rss"] = _rss_mb()
        self._store.close()
        began = time.perf_counter()
        self._store.reopen()
        figures["reopen"] = time.perf_counter() - began
        self._writer = BatchWriter(self._store, decode_traces)
        figures["bytes_per_span"] = self._path.stat().st_size / self._spans
        return figures

    def _grow(self, spans: int) -> dict[str, float]:
        wanted = spans - self._spans
        last: deque[tuple[int, float]] = deque()
        whole_s = 0.0
        while self._spans < spans - history.SPANS:
            entries, count = self._batch(spans)
            began = time.process_time()
            self._writer.apply(entries)
            spent_s = time.process_time() - began
            whole_s += spent_s
            self._spans += count
            last.append((count, spent_s))
            while sum(n for n, _ in last) - last[0][0] >= min(LAST_SPANS, wanted // 2):
                last.popleft()
        return {
            "ingest_cpu": 1e6 * sum(s for _, s in last) / sum(n for n, _ in last),
            "ingest_cpu_all": 1e6 * whole_s / wanted,
        }

    def _batch(self, spans: int) -> tuple[list[Entry], int]:
        """As many bytes as the daemon applies at once, but not beyond the size."""
        batch: list[Entry] = []
        size = count = 0
        for end, payload in self._entries:
            batch.append((end, payload))
            self._end = end
            size += len(payload)
            count += history.spans_in(payload)
            if size >= BATCH_BYTES or self._spans + count >= spans:
                break
        return batch, count

    def _lookups(self, cursor: Cursor, known: int) -> dict[str, float]:
        lookup, indexes = StoreLookup(self._store), self._store.indexes
        ids = [history.trajectory_id(self._rng.randrange(known)) for _ in range(self._repeats)]

        def one(identifier: bytes) -> None:
            numbers = indexes.of_ids(cursor, [identifier])
            found = trajectories.trajectory(cursor, identifier, numbers=numbers)
            assert found is not None
            assert len(found.spans) == history.SPANS

        began = time.perf_counter()
        times = [_ms(lambda: one(identifier)) for identifier in ids]  # noqa: B023 - called at once
        wall_ms = (time.perf_counter() - began) * 1000
        now = history.START_NS
        return {
            "lookup_trajectory": statistics.median(times),
            "lookup_trajectory_worst": max(times),
            "wall_of_lookups": wall_ms / self._repeats,
            "lookup_unknown": self._median(lambda: lookup.is_known(self._rng.randbytes(16))),
            "lookup_reward_key": self._median(
                lambda: lookup.with_idempotency_key(
                    history.reward_key(self._rng.randrange(0, known, 2))
                )
            ),
            "lookup_key": self._median(
                lambda: lookup.with_key(f"{self._rng.randrange(known):012}", history.AGENT)
            ),
            "lookup_idle": self._median(lambda: lookup.idle_since(now)),
        }

    def _queries(self, cursor: Cursor, known: int) -> dict[str, float]:
        agent = history.AGENT
        end_ns = history.START_NS + known * history.EVERY_NS
        middle_ns = history.START_NS + known // 2 * history.EVERY_NS

        def decision() -> None:
            identifier = history.decision_id(self._rng.randrange(0, known, 3), 1)
            assert trajectories.decision(cursor, identifier) is not None

        return {
            "query_decision_id": self._median(decision),
            "query_list": self._median(
                lambda: trajectories.list_summaries(cursor, agent=agent, limit=50)
            ),
            "query_list_deep": self._median(
                lambda: trajectories.list_summaries(
                    cursor, agent=agent, limit=50, before_ns=middle_ns
                )
            ),
            "rollup_policies_week": self._median(
                lambda: dashboard.success_by_policy(
                    cursor, agent=agent, from_ns=end_ns - 7 * _DAY_NS, to_ns=end_ns
                )
            ),
            "rollup_tools_day": self._median(
                lambda: dashboard.tools_used(
                    cursor, agent=agent, from_ns=end_ns - _DAY_NS, to_ns=end_ns
                )
            ),
            "rollup_last_minutes": self._median(
                lambda: dashboard.last_minutes(cursor, now_ns=end_ns)
            ),
            "rollup_progress": self._median(lambda: scope_progress(cursor)),
        }

    def _late_rewards(self, known: int) -> float:
        """A batch of rewards for trajectories of any age."""
        entries = []
        for position in range(_LATE):
            number = self._rng.randrange(known)
            self._late += 1
            at = history.START_NS + known * history.EVERY_NS
            # Between two records of the history there is room for these.
            entries.append(
                (self._end + 1 + position, history.reward(number, f"late-{self._late}", 0.5, at))
            )
        return _ms(lambda: self._writer.apply(entries))

    def _median(self, action: Callable[[], object]) -> float:
        return statistics.median(_ms(action) for _ in range(self._repeats))


def _ms(action: Callable[[], object]) -> float:
    # Of all threads: on a busy machine, the time on the wall says how busy it is.
    began = time.process_time()
    action()
    return (time.process_time() - began) * 1000


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20
