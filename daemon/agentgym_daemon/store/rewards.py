"""Reads about rewards: where one belongs, and what was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from agentgym_daemon.store.aggregate import DEFAULT_SOURCE
from agentgym_daemon.store.database import Cursor, fetch
from agentgym_daemon.store.numbers import among, possible

_SELECT = (
    "SELECT no, trajectory_no, reward_id, value, name, source, idempotency_key, time_ns, revoked, "
    "reason FROM rewards"
)


@dataclass(frozen=True, slots=True)
class StoredReward:
    """One reward of one trajectory."""

    trajectory_id: bytes
    reward_id: str
    value: float
    name: str
    source: str
    idempotency_key: str
    time_ns: int
    revoked: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trajectory that a reward may belong to."""

    trajectory_id: bytes
    agent: str
    state: str
    start_ns: int
    rewarded: bool
    """Whether somebody judged it; the default reward does not count."""


# Below, `numbers` are the rows in which an index says that the wanted may stand; None: it was not
# asked, and all rows are looked through.


def candidates(
    cursor: Cursor, *, key: str, agent: str = "", numbers: Sequence[int] | None = None
) -> list[Candidate]:
    """The trajectories with this key, newest first; an empty agent matches all."""
    return _candidates(cursor, "key = ? AND (? = '' OR agent = ?)", [key, agent, agent], numbers)


def candidate(
    cursor: Cursor, trajectory_id: bytes, *, numbers: Sequence[int] | None = None
) -> Candidate | None:
    """The trajectory with this id; None if it was never heard of."""
    found = _candidates(cursor, "id = ?", [trajectory_id], numbers)
    return found[0] if found else None


def _candidates(
    cursor: Cursor, where: str, parameters: list[Any], numbers: Sequence[int] | None
) -> list[Candidate]:
    rows = fetch(
        cursor,
        "SELECT no, id, agent, state, start_ns FROM trajectories "
        f"WHERE {possible('no', numbers)} AND {where} ORDER BY start_ns DESC, no DESC",
        parameters,
    )
    judged = fetch(
        cursor,
        "SELECT DISTINCT trajectory_no FROM rewards WHERE "
        f"{among('trajectory_no', [row[0] for row in rows])} AND NOT revoked AND source <> ?",
        [DEFAULT_SOURCE],
    )
    rewarded = {number for (number,) in judged}
    return [
        Candidate(identifier, owner, state, start_ns, number in rewarded)
        for number, identifier, owner, state, start_ns in rows
    ]


def rewards_of(cursor: Cursor, trajectory_no: int, *, trajectory_id: bytes) -> list[StoredReward]:
    """The trajectory's rewards in the order in which they came, revoked ones too."""
    rows = fetch(cursor, f"{_SELECT} WHERE trajectory_no = ?", [trajectory_no])
    return [StoredReward(trajectory_id, *row[2:]) for row in sorted(rows, key=itemgetter(0))]


def rewards_by_idempotency_key(
    cursor: Cursor, key: str, *, numbers: Sequence[int] | None = None
) -> list[StoredReward]:
    """What was given under this idempotency key, one per trajectory."""
    return _rewards(cursor, f"{possible('no', numbers)} AND idempotency_key = ?", [key])


def rewards_by_id(
    cursor: Cursor, reward_id: str, *, numbers: Sequence[int] | None = None
) -> list[StoredReward]:
    """What was given under this reward id, one per trajectory."""
    return rewards_by_ids(cursor, [reward_id], numbers=numbers)


def rewards_by_ids(
    cursor: Cursor, reward_ids: Sequence[str], *, numbers: Sequence[int] | None
) -> list[StoredReward]:
    """What was given under these reward ids, one per id and trajectory."""
    where = f"{possible('no', numbers)} AND reward_id IN (SELECT unnest(?::VARCHAR[]))"
    return _rewards(cursor, where, [list(reward_ids)])


def _rewards(cursor: Cursor, where: str, parameters: list[Any]) -> list[StoredReward]:
    rows = sorted(fetch(cursor, f"{_SELECT} WHERE {where}", parameters), key=itemgetter(0))
    if not rows:
        return []
    numbers = sorted({row[1] for row in rows})
    owners = dict(fetch(cursor, f"SELECT no, id FROM trajectories WHERE {among('no', numbers)}"))
    return [StoredReward(owners[row[1]], *row[2:]) for row in rows if row[1] in owners]
