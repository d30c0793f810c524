"""Deletes trajectories that are over and old: their rows in all tables, and what they were counted.

It runs when the applier meets retention's mark in the log, so a rebuild deletes at the same place.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from agentgym.proto.v1 import common_pb2, log_pb2
from agentgym_daemon.store import rollups
from agentgym_daemon.store.database import Cursor, fetch, set_meta
from agentgym_daemon.store.numbers import NUMBER_BITS
from agentgym_daemon.store.rows import Scope
from agentgym_daemon.store.state import OPEN

_PENDING = "retention"
_EXPIRED = "state <> ? AND received_ns < ?"
_CONTENTS = ("spans", "decisions", "task_features", "trajectory_scopes", "rewards")
_ASKED_AT_ONCE = 5000


@dataclass(slots=True)
class Pending:
    """What marks deleted and no receipt tells yet."""

    trajectories: int = 0
    spans: int = 0
    totals: list[tuple[list[str | int], list[int]]] = field(default_factory=list)


def expirable(cursor: Cursor, *, before_ns: int) -> int:
    """How many trajectories a mark would delete."""
    rows = fetch(cursor, f"SELECT count(*) FROM trajectories WHERE {_EXPIRED}", [OPEN, before_ns])
    return int(rows[0][0])


def expire(cursor: Cursor, *, before_ns: int) -> int:
    """Deletes ended trajectories of which nothing was received since; returns how many."""
    cursor.execute(
        f"CREATE OR REPLACE TEMP TABLE expiring AS SELECT no FROM trajectories WHERE {_EXPIRED}",
        [OPEN, before_ns],
    )
    ((count,),) = fetch(cursor, "SELECT count(*) FROM expiring")
    if count:
        chosen = "IN (SELECT no FROM expiring)"
        ((spans,),) = fetch(cursor, f"SELECT count(*) FROM spans WHERE trajectory_no {chosen}")
        gone = rollups.expire(cursor, "expiring")
        for table in _CONTENTS:
            cursor.execute(f"DELETE FROM {table} WHERE trajectory_no {chosen}")
        cursor.execute(f"DELETE FROM trajectories WHERE no {chosen}")
        kept = pending(cursor) or Pending()
        kept.trajectories += count
        kept.spans += spans
        kept.totals += [(list(key), values) for key, values in gone.items()]
        set_meta(
            cursor, _PENDING, json.dumps([kept.trajectories, kept.spans, kept.totals], default=int)
        )
    cursor.execute("DROP TABLE expiring")
    return int(count)


def pending(cursor: Cursor) -> Pending | None:
    """What marks deleted since the last receipt; None if nothing."""
    rows = fetch(cursor, "SELECT value FROM meta WHERE key = ?", [_PENDING])
    return Pending(*json.loads(rows[0][0])) if rows else None


def receipt(found: Pending, *, log_bytes: int) -> log_pb2.Retention:
    """The fact that tells what was deleted."""
    fact = log_pb2.Retention(
        trajectories=found.trajectories, spans=found.spans, log_bytes=log_bytes
    )
    for (agent, agent_name, schema, assignment, version), values in found.totals:
        scope = common_pb2.Scope(
            agent=str(agent), agent_name=str(agent_name), feature_schema=int(schema)
        )
        name = common_pb2.Assignment.Name(int(assignment))
        fact.totals.add(scope=scope, assignment=name, policy_version=str(version), values=values)
    return fact


def take_receipt(cursor: Cursor, fact: log_pb2.Retention) -> None:
    """Keeps the totals of what was deleted, which no row holds any more."""
    totals: dict[rollups.Key, list[int]] = {}
    for total in fact.totals:
        scope = Scope(total.scope.agent, total.scope.agent_name, total.scope.feature_schema)
        key = (*scope, total.assignment, total.policy_version)
        known = totals.setdefault(key, [0] * len(total.values))
        totals[key] = [a + b for a, b in zip(known, total.values, strict=True)]
    rollups.add_expired(cursor, totals)
    cursor.execute("DELETE FROM meta WHERE key = ?", [_PENDING])


def first_offsets(cursor: Cursor, ids: Sequence[bytes]) -> dict[bytes, int]:
    """Offset behind the record in which each of these trajectories began, if it is stored."""
    found: dict[bytes, int] = {}
    for first in range(0, len(ids), _ASKED_AT_ONCE):
        rows = fetch(
            cursor,
            "SELECT id, no FROM trajectories WHERE id IN (SELECT unnest(?::BLOB[]))",
            [list(ids[first : first + _ASKED_AT_ONCE])],
        )
        found.update((trajectory_id, number >> NUMBER_BITS) for trajectory_id, number in rows)
    return found


def reward_ids(cursor: Cursor, ids: Sequence[str]) -> set[str]:
    """Which of these rewards are stored."""
    rows = fetch(
        cursor,
        "SELECT DISTINCT reward_id FROM rewards WHERE reward_id IN (SELECT unnest(?::VARCHAR[]))",
        [list(ids)],
    )
    return {reward_id for (reward_id,) in rows}
