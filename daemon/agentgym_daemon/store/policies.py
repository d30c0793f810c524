"""Reads about policy versions: what is live, what there is, what happened."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from agentgym.proto.v1 import common_pb2, log_pb2
from agentgym_daemon.store.database import Cursor, fetch
from agentgym_daemon.store.facts import LIVE_KINDS
from agentgym_daemon.store.rows import Scope


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """A policy version with its receipt."""

    version: str
    scope: Scope
    parent: str
    sha256: str
    size: int
    manifest_json: str
    receipt_json: str
    status: str  # candidate, live, retired, rejected
    created_ns: int
    pinned: bool


@dataclass(frozen=True, slots=True)
class StoredChange:
    """A change with all that it says; `kind` and `stage` as in log.proto."""

    no: int
    kind: int
    scope: Scope
    version: str
    previous: str
    actor: str
    reason: str
    received_ns: int
    stage: int
    canary_share: float
    alias: str
    receipt_json: str
    experiment: bytes | None  # Experiment


@dataclass(frozen=True, slots=True)
class LivePolicy:
    """What is live in a scope."""

    scope: Scope
    version: str
    pinned: bool


_POLICIES = (
    "SELECT p.version, p.agent, p.agent_name, p.feature_schema, p.parent, p.sha256, p.size, "
    "p.manifest_json, p.receipt_json, p.status, p.created_ns, "
    "p.version IN (SELECT version FROM live_policies WHERE pinned) FROM policies p"
)


def policy(cursor: Cursor, version: str) -> StoredPolicy | None:
    """The version; None if there is none of this name."""
    found = _policies(cursor, "p.version = ?", [version])
    return found[0] if found else None


def policies(cursor: Cursor, *, agent: str = "") -> list[StoredPolicy]:
    """All versions, oldest first; an empty agent matches all."""
    return _policies(cursor, "? = '' OR p.agent = ?", [agent, agent])


def live_policies(cursor: Cursor, *, agent: str = "") -> list[LivePolicy]:
    """What is live in every scope that has a live version; an empty agent matches all."""
    rows = fetch(
        cursor,
        "SELECT agent, agent_name, feature_schema, version, pinned FROM live_policies "
        "WHERE ? = '' OR agent = ? ORDER BY agent, agent_name, feature_schema",
        [agent, agent],
    )
    return [LivePolicy(Scope(*row[:3]), *row[3:]) for row in rows]


def live_policy(cursor: Cursor, scope: Scope) -> LivePolicy | None:
    """What is live in the scope; None if nothing is."""
    return next((p for p in live_policies(cursor, agent=scope.agent) if p.scope == scope), None)


def policy_changes(cursor: Cursor, scope: Scope | None = None) -> list[StoredChange]:
    """What happened, in the scope or anywhere, oldest first."""
    where = "agent = ? AND agent_name = ? AND feature_schema = ?" if scope else "true"
    rows = fetch(
        cursor,
        "SELECT no, kind, agent, agent_name, feature_schema, version, previous, actor, reason, "
        "received_ns, stage, canary_share, alias, receipt_json, experiment FROM policy_changes "
        f"WHERE {where} ORDER BY no",
        scope or (),
    )
    return [StoredChange(row[0], row[1], Scope(*row[2:5]), *row[5:]) for row in rows]


@dataclass(frozen=True, slots=True)
class LiveThen:
    """What was live in a scope at some time, and the change that made it so."""

    scope: Scope
    version: str  # empty: none
    pinned: bool
    since_ns: int
    actor: str
    reason: str


def live_at(cursor: Cursor, at_ns: int, *, agent: str = "") -> list[LiveThen]:
    """What was live in every scope that had a change by then; an empty agent matches all."""
    then: dict[Scope, LiveThen] = {}
    for change in policy_changes(cursor):
        if change.kind not in LIVE_KINDS or change.received_ns > at_ns:
            continue
        if agent in ("", change.scope.agent):
            before = then.get(change.scope)
            then[change.scope] = _followed(before, change)
    return [then[scope] for scope in sorted(then)]


def _followed(before: LiveThen | None, change: StoredChange) -> LiveThen:
    pinned = change.kind == log_pb2.PolicyChange.KIND_PIN
    if before is not None and before.version == change.version:
        return replace(before, pinned=pinned)  # a pin of what is live, or its end
    return LiveThen(
        change.scope, change.version, pinned, change.received_ns, change.actor, change.reason
    )


def most_reliable(cursor: Cursor) -> set[str]:
    """Per scope, the version under which most of the runs went well, by a cautious estimate."""
    rows = fetch(
        cursor,
        "SELECT agent, agent_name, feature_schema, policy_version, sum(rewarded)::BIGINT, "
        "sum(successes)::BIGINT FROM (FROM scope_totals UNION ALL FROM expired_totals) "
        "WHERE assignment = ? AND policy_version <> '' GROUP BY ALL ORDER BY ALL",
        [common_pb2.ASSIGNMENT_POLICY],
    )
    best: dict[Scope, tuple[float, str]] = {}
    for agent, name, schema, version, rewarded, successes in rows:
        if rewarded:
            found = (_wilson(successes, rewarded), version)
            scope = Scope(agent, name, schema)
            best[scope] = max(best.get(scope, found), found)
    return {version for _, version in best.values()}


def _wilson(successes: int, n: int, z: float = 1.645) -> float:
    """Lower bound of a share (Wilson 1927), one-sided 95 %."""
    share, extra = successes / n, z * z / n
    spread = z * math.sqrt(share * (1 - share) / n + extra / (4 * n))
    return (share + extra / 2 - spread) / (1 + extra)


def versions_ever_live(cursor: Cursor, scope: Scope) -> list[str]:
    """Versions that were live in the scope at some time, in order of their first time."""
    changes = policy_changes(cursor, scope)
    return list(dict.fromkeys(c.version for c in changes if c.version and c.kind in LIVE_KINDS))


def version_count(cursor: Cursor) -> int:
    """How many versions there are, over all scopes."""
    ((count,),) = fetch(cursor, "SELECT count(*) FROM policies")
    return int(count)


def _policies(cursor: Cursor, where: str, parameters: list[Any]) -> list[StoredPolicy]:
    rows = fetch(cursor, f"{_POLICIES} WHERE {where} ORDER BY p.no", parameters)
    return [StoredPolicy(row[0], Scope(*row[1:4]), *row[4:]) for row in rows]
