"""Reads for learning: progress per scope, runs of the trainer, the snapshot file."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentgym import semconv
from agentgym.proto.v1 import common_pb2, training_pb2
from agentgym_daemon.store.catalogue import tools_of_scope
from agentgym_daemon.store.database import Cursor, fetch
from agentgym_daemon.store.policies import live_policy, versions_ever_live
from agentgym_daemon.store.rollups import LABEL
from agentgym_daemon.store.rows import Scope
from agentgym_daemon.store.state import OPEN
from agentgym_daemon.store.targets import Shares, Target, Treatment, targets

SNAPSHOT_TRAJECTORIES = 20_000
"""The newest ended trajectories of a scope that a training sees."""
_EXPORTED_AT_ONCE = 1_000
_HEAD = "no, id, reward, closed_ns, input_tokens + output_tokens"
_LENGTH = struct.Struct("<I")
_TOTALS = "(FROM scope_totals UNION ALL FROM expired_totals)"
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
class Exported:
    """What a trainer's file holds: by this it is known later which trajectories took part."""

    trajectories: int
    first_no: int
    last_no: int
    last_closed_ns: int
    sources: Mapping[str, Shares]


_AS_GIVEN = Treatment()


def scope_progress(cursor: Cursor) -> list[Progress]:
    """One row per scope that has a decision."""
    rows = fetch(
        cursor,
        f"""
        SELECT agent, agent_name, feature_schema, sum(ended)::BIGINT, sum(rewarded)::BIGINT,
            coalesce(sum(rewarded) FILTER (policy), 0)::BIGINT,
            coalesce(sum(successes) FILTER (policy), 0)::BIGINT,
            coalesce(sum(rewarded) FILTER (control), 0)::BIGINT,
            coalesce(sum(successes) FILTER (control), 0)::BIGINT
        FROM (
            SELECT *, assignment = $control AS control,
                assignment = $policy AND policy_version <> '' AS policy
            FROM {_TOTALS}
        )
        GROUP BY agent, agent_name, feature_schema ORDER BY ALL
        """,
        {
            "policy": common_pb2.ASSIGNMENT_POLICY,
            "control": common_pb2.ASSIGNMENT_CONTROL,
        },
    )
    last = {run.scope: run for run in training_runs(cursor)}
    return [_progress(Scope(*row[:3]), row[3:], last.get(Scope(*row[:3]))) for row in rows]


def agents_seen(cursor: Cursor) -> set[str]:
    """Names of all agents that ever had a decision."""
    return {str(row[0]) for row in fetch(cursor, f"SELECT DISTINCT agent FROM {_TOTALS}")}


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


def imported(cursor: Cursor, scope: Scope) -> int:
    """How many of the scope's ended trajectories were imported from other tools' traces."""
    rows = fetch(
        cursor,
        f"SELECT coalesce(sum(imported), 0)::BIGINT FROM {_TOTALS} WHERE {_IN_SCOPE}",
        scope,
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


def export_snapshot(
    cursor: Cursor,
    scope: Scope,
    path: Path,
    *,
    feature_key: bytes,
    limit: int = SNAPSHOT_TRAJECTORIES,
    treatment: Treatment = _AS_GIVEN,
    parent: str | None = None,
) -> Exported:
    """Writes the trainer's file (training.proto).

    `parent` is the version from which the training starts; None: what is live by what is stored,
    which may be a promotion behind.
    """
    # One transaction, so that the file is one moment of a database that goes on.
    cursor.execute("BEGIN")
    try:
        # Where the user's code did something else, what the policy was worth is mixed with it.
        rows = _ended(cursor, scope, limit, f"coalesce(experiment_treatment, '') <> '{LABEL}'")
        numbers = [row[0] for row in rows]
        learned = targets(cursor, numbers, treatment)
        with path.open("wb") as file:
            for data in _messages(cursor, scope, rows, feature_key, learned.by_no, parent):
                file.write(_LENGTH.pack(len(data)))
                file.write(data)
    finally:
        cursor.execute("ROLLBACK")
    return Exported(
        trajectories=len(rows),
        first_no=numbers[0] if numbers else 0,
        last_no=numbers[-1] if numbers else 0,
        last_closed_ns=max((row[3] for row in rows), default=0),
        sources=learned.sources,
    )


def recent_trajectories(
    cursor: Cursor, scope: Scope, limit: int
) -> Iterator[training_pb2.TrainingTrajectory]:
    """The newest `limit` ended trajectories of a scope, oldest first."""
    for data in _trajectories(cursor, scope, _ended(cursor, scope, limit)):
        yield training_pb2.TrainingTrajectory.FromString(data)


def ended_trajectories(
    cursor: Cursor, scope: Scope, ids: Sequence[bytes]
) -> list[training_pb2.TrainingTrajectory]:
    """Those of some trajectories that have ended and have a decision of the scope, oldest first."""
    rows = fetch(
        cursor,
        f"SELECT {_HEAD} FROM trajectories WHERE state <> ? "
        "AND id IN (SELECT unnest(?::BLOB[])) AND no IN "
        f"(SELECT trajectory_no FROM trajectory_scopes WHERE {_IN_SCOPE}) ORDER BY no",
        [OPEN, list(ids), *scope],
    )
    return [
        training_pb2.TrainingTrajectory.FromString(data)
        for data in _trajectories(cursor, scope, rows)
    ]


def scopes_of_trajectory(cursor: Cursor, no: int) -> list[Scope]:
    """The scopes in which a trajectory has a decision."""
    rows = fetch(
        cursor,
        "SELECT agent, agent_name, feature_schema FROM trajectory_scopes WHERE trajectory_no = ?",
        [no],
    )
    return [Scope(*row) for row in rows]


def held_back(cursor: Cursor, scope: Scope, received_since_ns: int) -> int:
    """Rewarded ended trajectories of a scope all of whose rewards came since then."""
    rows = fetch(
        cursor,
        "SELECT count(*) FROM trajectories t WHERE state <> ? AND reward IS NOT NULL "
        f"AND coalesce(experiment_treatment, '') <> '{LABEL}' "
        f"AND no IN (SELECT trajectory_no FROM trajectory_scopes WHERE {_IN_SCOPE}) "
        "AND no IN (SELECT trajectory_no FROM rewards WHERE received_ns >= ?) AND NOT EXISTS "
        "(SELECT 1 FROM rewards r WHERE r.trajectory_no = t.no AND NOT revoked "
        "AND received_ns < ?)",
        [OPEN, *scope, received_since_ns, received_since_ns],
    )
    return int(rows[0][0])


def scopes_of(cursor: Cursor) -> list[Scope]:
    """Every scope that has a decision."""
    rows = fetch(
        cursor,
        f"SELECT DISTINCT agent, agent_name, feature_schema FROM {_TOTALS} ORDER BY ALL",
        [],
    )
    return [Scope(*row) for row in rows]


def _ended(
    cursor: Cursor, scope: Scope, limit: int, condition: str = "true"
) -> list[tuple[Any, ...]]:
    rows = fetch(
        cursor,
        f"SELECT {_HEAD} FROM trajectories WHERE state <> ? AND {condition} "
        f"AND no IN (SELECT trajectory_no FROM trajectory_scopes WHERE {_IN_SCOPE}) "
        "ORDER BY no DESC LIMIT ?",
        [OPEN, *scope, limit],
    )
    return rows[::-1]


def _messages(
    cursor: Cursor,
    scope: Scope,
    rows: Sequence[tuple[Any, ...]],
    feature_key: bytes,
    learned: Mapping[int, Target],
    parent: str | None,
) -> Iterator[bytes]:
    if parent is None:
        live = live_policy(cursor, scope)
        parent = live.version if live else ""
    versions = versions_ever_live(cursor, scope)
    header = training_pb2.TrainingHeader(
        scope=common_pb2.Scope(**scope._asdict()),
        parent=parent,
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
        versions=versions if not parent or parent in versions else [*versions, parent],
    )
    yield header.SerializeToString()
    yield from _trajectories(cursor, scope, rows, learned)


def _trajectories(
    cursor: Cursor,
    scope: Scope,
    rows: Sequence[tuple[Any, ...]],
    learned: Mapping[int, Target] | None = None,
) -> Iterator[bytes]:
    """TrainingTrajectory messages, serialised: what is stored is copied, not read.

    Without targets they have their outcomes as rewards.
    """
    for first in range(0, len(rows), _EXPORTED_AT_ONCE):
        yield from _some(cursor, scope, rows[first : first + _EXPORTED_AT_ONCE], learned)


def _head(
    no: int,
    trajectory_id: bytes,
    reward: float | None,
    closed_ns: int,
    tokens: int,
    *,
    learned: Mapping[int, Target] | None,
) -> training_pb2.TrainingTrajectory:
    head = training_pb2.TrainingTrajectory(
        trajectory_id=trajectory_id, closed_unix_nano=closed_ns, tokens=max(0, tokens or 0)
    )
    if learned is None:
        if reward is not None:
            head.reward = reward
    elif no in learned:
        head.outcome, head.reward, head.weight = learned[no]
    return head


def _some(
    cursor: Cursor,
    scope: Scope,
    rows: Sequence[tuple[Any, ...]],
    learned: Mapping[int, Target] | None,
) -> Iterator[bytes]:
    parts: dict[int, list[bytes]] = {
        row[0]: [_head(*row, learned=learned).SerializeToString()] for row in rows
    }
    numbers = list(parts)
    decisions = _contents(
        cursor, "record", "decisions", f"{_IN_SCOPE} ORDER BY step, time_ns", numbers, scope
    )
    # Those of other scopes too: a step finds its own by id.
    features = _contents(cursor, "record", "task_features", "true ORDER BY features_id", numbers)
    for tag, found in ((_DECISIONS, decisions), (_FEATURES, features)):
        for number, record in found:
            parts[number] += (tag, _varint(len(record)), record)
    for number, decision_id, tool, error in _contents(
        cursor,
        "decision_id, coalesce(tool, name), error_type IS NOT NULL OR status = 2",
        "spans",
        "operation = ? ORDER BY start_ns, span_id",
        numbers,
        [semconv.EXECUTE_TOOL],
    ):
        call = training_pb2.TrainingCall(decision_id=decision_id or b"", tool=tool, error=error)
        data = call.SerializeToString()
        parts[number] += (_CALLS, _varint(len(data)), data)
    for number in numbers:
        yield b"".join(parts[number])


def _tag(field: str) -> bytes:
    """What stands before a message in a field of TrainingTrajectory, besides its length."""
    number = training_pb2.TrainingTrajectory.DESCRIPTOR.fields_by_name[field].number
    return bytes([number << 3 | 2])


_DECISIONS, _FEATURES, _CALLS = _tag("decisions"), _tag("features"), _tag("calls")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


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
