"""Rare facts, written one by one: policy versions, their changes, training runs."""

from __future__ import annotations

from agentgym.proto.v1 import common_pb2, log_pb2, policy_pb2
from agentgym_daemon.store.database import Cursor, fetch
from agentgym_daemon.store.rows import MAX_BIGINT, Scope

_KINDS = log_pb2.PolicyChange
LIVE_KINDS = (_KINDS.KIND_PROMOTE, _KINDS.KIND_ROLLBACK, _KINDS.KIND_PIN, _KINDS.KIND_UNPIN)
"""Kinds of changes that say what is live in a scope."""
_SCOPE = "agent = ? AND agent_name = ? AND feature_schema = ?"


def scope_of(message: common_pb2.Scope) -> Scope:
    """The scope of a protobuf message."""
    return Scope(message.agent, message.agent_name, message.feature_schema)


def write_policy(cursor: Cursor, fact: policy_pb2.PolicyVersion, *, no: int) -> None:
    """A version with its receipt; the same version again replaces what was known of it."""
    cursor.execute("DELETE FROM policies WHERE version = ?", [fact.version])
    cursor.execute(
        "INSERT INTO policies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            no,
            fact.version,
            *scope_of(fact.scope),
            fact.parent,
            fact.sha256,
            min(fact.size, MAX_BIGINT),
            fact.manifest_json,
            fact.receipt_json,
            fact.status or "candidate",
            min(fact.created_unix_nano, MAX_BIGINT),
        ],
    )


def write_change(cursor: Cursor, fact: log_pb2.PolicyChange, *, no: int, received_ns: int) -> None:
    """A change: the history, and for those that bear on it what is live afterwards."""
    scope = scope_of(fact.scope)
    cursor.execute(
        "INSERT INTO policy_changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            no,
            fact.kind,
            *scope,
            fact.version,
            fact.previous,
            fact.actor,
            fact.reason,
            received_ns,
            fact.stage,
            fact.canary_share,
            fact.alias,
            fact.receipt_json,
            fact.experiment.SerializeToString() if fact.HasField("experiment") else None,
        ],
    )
    if fact.kind in LIVE_KINDS:
        _write_live(cursor, fact, scope)


def _write_live(cursor: Cursor, fact: log_pb2.PolicyChange, scope: Scope) -> None:
    version = fact.version
    if not version and fact.kind == _KINDS.KIND_UNPIN:
        live = fetch(cursor, f"SELECT version FROM live_policies WHERE {_SCOPE}", scope)
        version = live[0][0] if live else ""
    cursor.execute(f"DELETE FROM live_policies WHERE {_SCOPE}", scope)
    cursor.execute(
        f"UPDATE policies SET status = 'retired' WHERE status = 'live' AND {_SCOPE}", scope
    )
    if version:
        pinned = fact.kind == _KINDS.KIND_PIN
        cursor.execute(
            "INSERT INTO live_policies VALUES (?, ?, ?, ?, ?)", [*scope, version, pinned]
        )
        cursor.execute("UPDATE policies SET status = 'live' WHERE version = ?", [version])


def write_training(cursor: Cursor, fact: log_pb2.TrainingRun, *, no: int, received_ns: int) -> None:
    """One run of the trainer."""
    cursor.execute(
        "INSERT INTO training_runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            no,
            *scope_of(fact.scope),
            fact.version,
            min(fact.trajectories, MAX_BIGINT),
            fact.verdict,
            fact.report_json,
            fact.duration_s,
            received_ns,
        ],
    )
