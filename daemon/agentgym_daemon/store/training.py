"""Reads for learning: progress and reliability per scope, recent decisions, the snapshot file."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from agentgym import semconv
from agentgym.proto.v1 import common_pb2, decision_pb2, training_pb2
from agentgym_daemon.store.aggregate import SUCCESS
from agentgym_daemon.store.catalogue import tools_of_scope
from agentgym_daemon.store.database import Cursor, fetch
from agentgym_daemon.store.policies import live_policy, versions_ever_live
from agentgym_daemon.store.rows import Scope
from agentgym_daemon.store.state import OPEN

SNAPSHOT_TRAJECTORIES = 20_000
_EXPORTED_AT_ONCE = 500
_LENGTH = struct.Struct("<I")
_IN_SCOPE = "agent = ? AND agent_name = ? AND feature_schema = ?"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a scope is from its next training, and how reliable it has been."""

    scope: Scope
    trajectories: int  # closed or incomplete, with a decision of the scope
    rewarded: int  # those of them that have a reward
    rewarded_at_last_training: int
    last_training_ns: int  # 0: never trained
    n_policy: int  # rewarded, assigned to the policy while there was one
    successes_policy: int
    n_control: int
    successes_control: int

    @property
    def since_training(self) -> int:
        """Rewarded trajectories since the last training began."""
        return max(0, self.rewarded - self.rewarded_at_last_training)

    @property
    def reliability_policy(self) -> float:
        """Share of successes under the policy; NaN where nothing was measured."""
        return self.successes_policy / self.n_policy if self.n_policy else float("nan")

    @property
    def reliability_control(self) -> float:
        """Share of successes without the policy; NaN where nothing was measured."""
        return self.successes_control / self.n_control if self.n_control else float("nan")


@dataclass(frozen=True, slots=True)
class Reliability:
    """Successes of one version (or none) under one assignment; numbers as in common.proto."""

    scope: Scope
    assignment: int
    policy_version: str
    n: int
    successes: int


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """One run of the trainer."""

    scope: Scope
    version: str
    trajectories: int
    verdict: str
    report_json: str
    duration_s: float
    received_ns: int


@dataclass(frozen=True, slots=True)
class RecentDecision:
    """A decision with the features that it was made from, where there are any."""

    decision: decision_pb2.DecisionRecord
    features: decision_pb2.TaskFeatures | None


def scope_progress(cursor: Cursor) -> list[Progress]:
    """One row per scope that has a decision."""
    rows = fetch(
        cursor,
        """
        SELECT s.agent, s.agent_name, s.feature_schema,
            count(*) FILTER (t.state <> $open),
            count(t.reward) FILTER (t.state <> $open),
            count(t.reward) FILTER (policy),
            count(t.reward) FILTER (policy AND t.reward >= $success),
            count(t.reward) FILTER (control),
            count(t.reward) FILTER (control AND t.reward >= $success)
        FROM trajectory_scopes s JOIN (
            SELECT *, state <> $open AND assignment = $control AS control,
                state <> $open AND assignment = $policy AND policy_version IS NOT NULL AS policy
            FROM trajectories
        ) t ON t.no = s.trajectory_no
        GROUP BY ALL ORDER BY ALL
        """,
        {
            "open": OPEN,
            "success": SUCCESS,
            "policy": common_pb2.ASSIGNMENT_POLICY,
            "control": common_pb2.ASSIGNMENT_CONTROL,
        },
    )
    last = {run.scope: run for run in training_runs(cursor)}
    return [_progress(Scope(*row[:3]), row[3:], last.get(Scope(*row[:3]))) for row in rows]


def _progress(scope: Scope, counts: Sequence[int], last: TrainingRun | None) -> Progress:
    trajectories, rewarded, *by_assignment = counts
    return Progress(
        scope,
        trajectories,
        rewarded,
        last.trajectories if last else 0,
        last.received_ns if last else 0,
        *by_assignment,
    )


def scope_reliability(cursor: Cursor, scope: Scope) -> list[Reliability]:
    """Rewarded trajectories of the scope by assignment and version."""
    rows = fetch(
        cursor,
        "SELECT t.assignment, coalesce(t.policy_version, ''), count(*), "
        "count(*) FILTER (t.reward >= ?) FROM trajectories t "
        "WHERE t.state <> ? AND t.reward IS NOT NULL AND t.no IN "
        f"(SELECT trajectory_no FROM trajectory_scopes WHERE {_IN_SCOPE}) "
        "GROUP BY ALL ORDER BY ALL",
        [SUCCESS, OPEN, *scope],
    )
    return [Reliability(scope, *row) for row in rows]


def imported(cursor: Cursor, scope: Scope) -> int:
    """How many of the scope's ended trajectories were imported from other tools' traces."""
    rows = fetch(
        cursor,
        "SELECT count(*) FROM trajectories WHERE state <> ? "
        "AND starts_with(coalesce(framework, ''), ?) "
        f"AND no IN (SELECT trajectory_no FROM trajectory_scopes WHERE {_IN_SCOPE})",
        [OPEN, semconv.IMPORT_PREFIX, *scope],
    )
    return int(rows[0][0])


def training_runs(cursor: Cursor, scope: Scope | None = None) -> list[TrainingRun]:
    """Runs of the trainer, oldest first, of one scope or of all."""
    rows = fetch(
        cursor,
        "SELECT agent, agent_name, feature_schema, version, trajectories, verdict, report_json, "
        f"duration_s, received_ns FROM training_runs WHERE {_IN_SCOPE if scope else 'true'} "
        "ORDER BY no",
        scope or (),
    )
    return [TrainingRun(Scope(*row[:3]), *row[3:]) for row in rows]


def recent_decisions(cursor: Cursor, scope: Scope, count: int) -> list[RecentDecision]:
    """The scope's last decisions, oldest first."""
    rows = fetch(
        cursor,
        "SELECT trajectory_no, record FROM decisions "
        f"WHERE {_IN_SCOPE} ORDER BY time_ns DESC, trajectory_no DESC, step DESC LIMIT ?",
        [*scope, count],
    )
    features = _features(cursor, [number for number, _ in rows])
    decisions = [(n, decision_pb2.DecisionRecord.FromString(record)) for n, record in rows]
    return [
        RecentDecision(found, features.get((number, found.features_id)))
        for number, found in reversed(decisions)
    ]


def export_snapshot(
    cursor: Cursor,
    scope: Scope,
    path: Path,
    *,
    feature_key: bytes,
    limit: int = SNAPSHOT_TRAJECTORIES,
) -> int:
    """Writes the trainer's file (training.proto); returns how many trajectories it holds."""
    # One transaction, so that the file is one moment of a database that goes on.
    cursor.execute("BEGIN")
    try:
        rows = _ended(cursor, scope, limit)
        with path.open("wb") as file:
            for message in _messages(cursor, scope, rows, feature_key):
                data = message.SerializeToString()
                file.write(_LENGTH.pack(len(data)))
                file.write(data)
    finally:
        cursor.execute("ROLLBACK")
    return len(rows)


def recent_trajectories(
    cursor: Cursor, scope: Scope, limit: int
) -> Iterator[training_pb2.TrainingTrajectory]:
    """The newest `limit` ended trajectories of a scope, oldest first."""
    rows = _ended(cursor, scope, limit)
    for first in range(0, len(rows), _EXPORTED_AT_ONCE):
        yield from _trajectories(cursor, scope, rows[first : first + _EXPORTED_AT_ONCE])


def ended_trajectories(
    cursor: Cursor, scope: Scope, ids: Sequence[bytes]
) -> list[training_pb2.TrainingTrajectory]:
    """Those of some trajectories that have ended and have a decision of the scope, oldest first."""
    rows = fetch(
        cursor,
        "SELECT no, id, reward, closed_ns FROM trajectories WHERE state <> ? "
        "AND id IN (SELECT unnest(?::BLOB[])) AND no IN "
        f"(SELECT trajectory_no FROM trajectory_scopes WHERE {_IN_SCOPE}) ORDER BY no",
        [OPEN, list(ids), *scope],
    )
    return list(_trajectories(cursor, scope, rows))


def scopes_of(cursor: Cursor) -> list[Scope]:
    """Every scope that has a decision."""
    rows = fetch(
        cursor,
        "SELECT DISTINCT agent, agent_name, feature_schema FROM trajectory_scopes ORDER BY ALL",
        [],
    )
    return [Scope(*row) for row in rows]


def _ended(cursor: Cursor, scope: Scope, limit: int) -> list[tuple[Any, ...]]:
    rows = fetch(
        cursor,
        "SELECT no, id, reward, closed_ns FROM trajectories WHERE state <> ? AND no IN "
        f"(SELECT trajectory_no FROM trajectory_scopes WHERE {_IN_SCOPE}) "
        "ORDER BY no DESC LIMIT ?",
        [OPEN, *scope, limit],
    )
    return rows[::-1]


def _messages(
    cursor: Cursor, scope: Scope, rows: Sequence[tuple[Any, ...]], feature_key: bytes
) -> Iterator[Message]:
    live = live_policy(cursor, scope)
    yield training_pb2.TrainingHeader(
        scope=common_pb2.Scope(**scope._asdict()),
        parent=live.version if live else "",
        tools=[
            common_pb2.Tool(
                fingerprint=tool.fingerprint,
                name=tool.name,
                description=tool.description,
                parameters_json=tool.parameters_json,
            )
            for tool in tools_of_scope(cursor, scope)
        ],
        feature_key=feature_key,
        trajectories=len(rows),
        versions=versions_ever_live(cursor, scope),
    )
    for first in range(0, len(rows), _EXPORTED_AT_ONCE):
        yield from _trajectories(cursor, scope, rows[first : first + _EXPORTED_AT_ONCE])


def _trajectories(
    cursor: Cursor, scope: Scope, rows: Sequence[tuple[Any, ...]]
) -> Iterator[training_pb2.TrainingTrajectory]:
    messages = {
        no: training_pb2.TrainingTrajectory(
            trajectory_id=identifier, reward=reward, closed_unix_nano=closed_ns
        )
        for no, identifier, reward, closed_ns in rows
    }
    numbers = list(messages)
    for number, record in _contents(
        cursor, "record", "decisions", f"{_IN_SCOPE} ORDER BY step, time_ns", numbers, scope
    ):
        messages[number].decisions.add().MergeFromString(record)
    needed = {(n, d.features_id) for n, message in messages.items() for d in message.decisions}
    for key, features in _features(cursor, numbers).items():
        if key in needed:
            messages[key[0]].features.append(features)
    for number, decision_id, tool, error in _contents(
        cursor,
        "decision_id, coalesce(tool, name), error_type IS NOT NULL OR status = 2",
        "spans",
        "operation = ? ORDER BY start_ns, span_id",
        numbers,
        [semconv.EXECUTE_TOOL],
    ):
        messages[number].calls.add(decision_id=decision_id or b"", tool=tool, error=error)
    yield from messages.values()


def _features(
    cursor: Cursor, numbers: Sequence[int]
) -> dict[tuple[int, bytes], decision_pb2.TaskFeatures]:
    rows = _contents(
        cursor, "features_id, record", "task_features", "true ORDER BY features_id", numbers
    )
    return {
        (number, features_id): decision_pb2.TaskFeatures.FromString(record)
        for number, features_id, record in rows
    }


def _contents(
    cursor: Cursor,
    columns: str,
    table: str,
    condition: str,
    numbers: Sequence[int],
    parameters: Sequence[Any] = (),
) -> list[tuple[Any, ...]]:
    if not numbers:
        return []
    return fetch(
        cursor,
        f"SELECT trajectory_no, {columns} FROM {table} WHERE trajectory_no BETWEEN ? AND ? "
        f"AND trajectory_no IN (SELECT unnest(?::BIGINT[])) AND {condition}",
        [min(numbers), max(numbers), list(numbers), *parameters],
    )
