"""Which rows an id or a key may stand in: held in memory, filled at the opening of the database.

The database has no index of its own: a unique one would cost more than all else that a span costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np

from agentgym_daemon.store.index import Hashes, HashIndex, Numbers

if TYPE_CHECKING:  # these need the database, which needs this
    from agentgym_daemon.store.state import RewardState, TrajectoryState

MOST_OPEN = 100_000
"""Open trajectories that are watched one by one; with more, the table is asked."""

_FILL = (
    ("trajectories", "SELECT hash(id) AS hash, no FROM trajectories"),
    ("keys", "SELECT hash(key) AS hash, no FROM trajectories WHERE key IS NOT NULL"),
    ("idempotency_keys", "SELECT hash(idempotency_key) AS hash, no FROM rewards"),
    ("reward_ids", "SELECT hash(reward_id) AS hash, no FROM rewards"),
)


class Indexes:
    """Written by the writer's thread after each commit; read by any thread."""

    def __init__(self) -> None:
        self.trajectories = HashIndex()
        self.keys = HashIndex()
        self.idempotency_keys = HashIndex()
        self.reward_ids = HashIndex()
        self.open: dict[int, int] = {}
        """When something was last received of each open trajectory, by number."""
        self.all_open_known = True
        """Whether `open` holds every one."""

    @classmethod
    def load(cls, connection: duckdb.DuckDBPyConnection) -> Indexes:
        """The indexes of what is stored."""
        indexes = cls()
        for name, sql in _FILL:
            columns = connection.execute(sql).fetchnumpy()
            index: HashIndex = getattr(indexes, name)
            index.add(_plain(columns["hash"], np.uint64), _plain(columns["no"], np.int64))
        rows = connection.execute(
            "SELECT no, received_ns FROM trajectories WHERE state = 'open' LIMIT ?", [MOST_OPEN + 1]
        ).fetchall()
        indexes.open = dict(rows[:MOST_OPEN])
        indexes.all_open_known = len(rows) <= MOST_OPEN
        return indexes

    def of_ids(self, cursor: duckdb.DuckDBPyConnection, ids: Sequence[bytes]) -> list[int]:
        """Numbers of the trajectories that may have one of these ids."""
        return self.trajectories.find(hashes_of(cursor, "BLOB", ids)) if ids else []

    def of_key(self, cursor: duckdb.DuckDBPyConnection, key: str) -> list[int]:
        """Numbers of the trajectories that may have this key."""
        return self.keys.find(hashes_of(cursor, "VARCHAR", [key]))

    def of_idempotency_key(self, cursor: duckdb.DuckDBPyConnection, key: str) -> list[int]:
        """Numbers of the rewards that may have been given under this idempotency key."""
        return self.idempotency_keys.find(hashes_of(cursor, "VARCHAR", [key]))

    def of_reward_ids(self, cursor: duckdb.DuckDBPyConnection, ids: Sequence[str]) -> list[int]:
        """Numbers of the rewards that may have one of these ids."""
        return self.reward_ids.find(hashes_of(cursor, "VARCHAR", ids)) if ids else []

    def note(
        self,
        cursor: duckdb.DuckDBPyConnection,
        trajectories: Sequence[TrajectoryState],
        rewards: Sequence[RewardState],
        *,
        stored: int,
    ) -> None:
        """Adds what was committed; trajectories up to number `stored` are known by their id."""
        known = [(t.id, t.no) for t in trajectories if t.no > stored]
        keyed = [(t.key, t.no) for t in trajectories if t.key and t.key != t.indexed_key]
        _add(self.trajectories, cursor, "BLOB", known)
        _add(self.keys, cursor, "VARCHAR", keyed)
        _add(self.idempotency_keys, cursor, "VARCHAR", [(r.idempotency_key, r.no) for r in rewards])
        _add(self.reward_ids, cursor, "VARCHAR", [(r.reward_id, r.no) for r in rewards])
        for trajectory in trajectories:
            if trajectory.state == "open":
                self._note_open(trajectory.no, trajectory.received_ns)
            else:
                self.open.pop(trajectory.no, None)

    def idle(self, before_ns: int) -> list[int] | None:
        """Open trajectories of which nothing came since; None: the table has to be asked."""
        if not self.all_open_known:
            return None
        return sorted(no for no, received_ns in list(self.open.items()) if received_ns < before_ns)

    def _note_open(self, number: int, received_ns: int) -> None:
        if number in self.open or len(self.open) < MOST_OPEN:
            self.open[number] = received_ns
        else:
            self.all_open_known = False


def _add(
    index: HashIndex,
    cursor: duckdb.DuckDBPyConnection,
    kind: str,
    entries: Sequence[tuple[Any, int]],
) -> None:
    # `kind` is the SQL type of the keys.
    if entries:
        hashes = hashes_of(cursor, kind, [key for key, _ in entries])
        index.add(hashes, _numbers(number for _, number in entries))


def hashes_of(cursor: duckdb.DuckDBPyConnection, kind: str, keys: Sequence[Any]) -> Hashes:
    """DuckDB's own hash of each key, as the filling scan computes it."""
    ((found,),) = cursor.execute(
        f"SELECT list_transform(?::{kind}[], lambda key: hash(key))", [list(keys)]
    ).fetchall()
    return np.array(found, dtype=np.uint64)


def _numbers(numbers: Iterable[int]) -> Numbers:
    return np.fromiter(numbers, dtype=np.int64)


def _plain(column: Any, kind: Any) -> Any:
    return np.ascontiguousarray(np.ma.getdata(column), dtype=kind)
