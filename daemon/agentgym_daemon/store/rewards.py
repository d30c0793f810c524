"""Reads about rewards: where one belongs, and what was given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentgym_daemon.store.aggregate import DEFAULT_SOURCE
from agentgym_daemon.store.database import Cursor, fetch

_SELECT = (
    "SELECT t.id, r.reward_id, r.value, r.name, r.source, r.idempotency_key, r.time_ns, "
    "r.revoked, r.reason FROM rewards r JOIN trajectories t ON t.no = r.trajectory_no"
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


def candidates(cursor: Cursor, *, key: str, agent: str = "") -> list[Candidate]:
    """The trajectories with this key, newest first; an empty agent matches all."""
    return _candidates(cursor, "t.key = ? AND (? = '' OR t.agent = ?)", [key, agent, agent])


def candidate(cursor: Cursor, trajectory_id: bytes) -> Candidate | None:
    """The trajectory with this id; None if it was never heard of."""
    found = _candidates(cursor, "t.id = ?", [trajectory_id])
    return found[0] if found else None


def _candidates(cursor: Cursor, where: str, parameters: list[Any]) -> list[Candidate]:
    rows = fetch(
        cursor,
        "SELECT t.id, t.agent, t.state, t.start_ns, t.no IN "
        "(SELECT trajectory_no FROM rewards WHERE NOT revoked AND source <> ?) "
        f"FROM trajectories t WHERE {where} ORDER BY t.start_ns DESC, t.no DESC",
        [DEFAULT_SOURCE, *parameters],
    )
    return [Candidate(*row) for row in rows]


def rewards_of(cursor: Cursor, trajectory_no: int) -> list[StoredReward]:
    """The trajectory's rewards in the order in which they came, revoked ones too."""
    return _rewards(cursor, "r.trajectory_no = ?", [trajectory_no])


def rewards_by_idempotency_key(cursor: Cursor, key: str) -> list[StoredReward]:
    """What was given under this idempotency key, one per trajectory."""
    return _rewards(cursor, "r.idempotency_key = ?", [key])


def rewards_by_id(cursor: Cursor, reward_id: str) -> list[StoredReward]:
    """What was given under this reward id, one per trajectory."""
    return _rewards(cursor, "r.reward_id = ?", [reward_id])


def _rewards(cursor: Cursor, where: str, parameters: list[Any]) -> list[StoredReward]:
    rows = fetch(cursor, f"{_SELECT} WHERE {where} ORDER BY r.no", parameters)
    return [StoredReward(*row) for row in rows]
