"""Reads about rewards: where one belongs, and what was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from agentgym_daemon.store.aggregate import DEFAULT_SOURCE
from agentgym_daemon.store.database import Cursor, fetch
from agentgym_daemon.store.numbers import among, possible

_CLOSED = "closed"

_SELECT = (
    "SELECT no, trajectory_no, reward_id, value, name, source, idempotency_key, time_ns, revoked, "
    "reason, actor, provenance, received_ns FROM rewards"
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
    actor: str = ""
    """Whose token it came with; empty for one that travelled in a span."""
    provenance: str = ""
    """What it rests on, as a JSON object; empty: nothing was said."""
    received_ns: int = 0
    no: int = 0


@dataclass(frozen=True, slots=True)
class Activity:
    """What one source did for one agent: ever, and within the latest time."""

    agent: str
    source: str
    rewards: int  # that stand
    revoked: int
    mean: float | None
    first_ns: int
    last_ns: int
    recent: int
    recent_mean: float | None
    before: int  # those that are not recent
    before_mean: float | None


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
    return [_stored(trajectory_id, row) for row in sorted(rows, key=itemgetter(0))]


def _stored(trajectory_id: bytes, row: tuple[Any, ...]) -> StoredReward:
    return StoredReward(*(trajectory_id, *row[2:], row[0]))


def activity(cursor: Cursor, *, agent: str = "", since_ns: int) -> list[Activity]:
    """One row per agent and source; an empty agent means all. Recent is what came since then."""
    rows = fetch(
        cursor,
        """
        SELECT t.agent, r.source, count(*) FILTER (NOT revoked), count(*) FILTER (revoked),
            avg(value) FILTER (NOT revoked), min(r.received_ns), max(r.received_ns),
            count(*) FILTER (NOT revoked AND r.received_ns >= $since),
            avg(value) FILTER (NOT revoked AND r.received_ns >= $since),
            count(*) FILTER (NOT revoked AND r.received_ns < $since),
            avg(value) FILTER (NOT revoked AND r.received_ns < $since)
        FROM rewards r JOIN trajectories t ON r.trajectory_no = t.no
        WHERE $agent = '' OR t.agent = $agent
        GROUP BY t.agent, r.source ORDER BY t.agent, r.source
        """,
        {"since": since_ns, "agent": agent},
    )
    return [Activity(*row) for row in rows]


def ungraded(cursor: Cursor, *, source: str, since_ns: int, limit: int) -> list[bytes]:
    """Runs that ended by themselves since then and have no reward of a source, oldest first."""
    rows = fetch(
        cursor,
        "SELECT id FROM trajectories t WHERE state = ? AND closed_ns >= ? AND NOT EXISTS "
        "(SELECT 1 FROM rewards r WHERE r.trajectory_no = t.no AND r.source = ?) "
        "ORDER BY no LIMIT ?",
        [_CLOSED, since_ns, source, limit],
    )
    return [trajectory_id for (trajectory_id,) in rows]


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
    return [_stored(owners[row[1]], row) for row in rows if row[1] in owners]
