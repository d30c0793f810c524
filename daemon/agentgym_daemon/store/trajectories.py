"""Reads about trajectories: summaries, spans, decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentgym import semconv
from agentgym.proto.v1 import decision_pb2
from agentgym_daemon.store.catalogue import StoredTool, tools_by_fingerprint
from agentgym_daemon.store.database import Cursor, fetch
from agentgym_daemon.store.rewards import StoredReward, rewards_of
from agentgym_daemon.store.state import CLOSED, OPEN, SUMMARY_COLUMNS

MOST_LISTED = 1000
DEFAULT_LISTED = 50


@dataclass(frozen=True, slots=True)
class Summary:
    """A trajectory in one row; `mode` and `assignment` are numbers as in common.proto."""

    no: int
    trajectory_id: bytes
    key: str
    agent: str
    framework: str
    mode: int
    assignment: int
    policy_version: str
    start_ns: int
    end_ns: int  # 0 while open
    state: str  # open, closed, incomplete
    closed_reason: str
    closed_ns: int  # 0 while open
    received_ns: int
    spans: int
    decisions: int
    tool_calls: int
    tool_errors: int
    input_tokens: int
    output_tokens: int
    reward: float | None
    tools: tuple[str, ...]  # executed, in order of their start


@dataclass(frozen=True, slots=True)
class StoredSpan:
    """One span with its attributes as JSON."""

    span_id: bytes
    parent_span_id: bytes | None
    name: str
    operation: str
    start_ns: int
    end_ns: int
    error_type: str
    status: int
    agent_name: str
    agent_path: str
    tool: str
    call_id: str
    model: str
    input_tokens: int
    output_tokens: int
    decision_id: bytes | None
    incomplete: str
    is_root: bool
    attributes_json: str


@dataclass(frozen=True, slots=True)
class StoredTrajectory:
    """Everything that is known of a trajectory."""

    summary: Summary
    spans: tuple[StoredSpan, ...]
    decisions: tuple[decision_pb2.DecisionRecord, ...]
    features: tuple[decision_pb2.TaskFeatures, ...]
    tools: tuple[StoredTool, ...]
    rewards: tuple[StoredReward, ...]


def trajectory(cursor: Cursor, trajectory_id: bytes) -> StoredTrajectory | None:
    """The trajectory with its contents; None if it was never heard of."""
    found = summary(cursor, trajectory_id)
    if found is None:
        return None
    decisions = decisions_of(cursor, found.no)
    agents = dict.fromkeys([found.agent, *(d.scope.agent for d in decisions)])
    offered = dict.fromkeys(f for d in decisions for f in d.offered)
    return StoredTrajectory(
        summary=found,
        spans=tuple(spans_of(cursor, found.no)),
        decisions=tuple(decisions),
        features=tuple(features_of(cursor, found.no)),
        tools=tuple(tools_by_fingerprint(cursor, list(agents), list(offered))),
        rewards=tuple(rewards_of(cursor, found.no)),
    )


def summary(cursor: Cursor, trajectory_id: bytes) -> Summary | None:
    """The trajectory's summary; None if it was never heard of."""
    found = summaries(cursor, [trajectory_id])
    return found[0] if found else None


def summaries(cursor: Cursor, trajectory_ids: Sequence[bytes]) -> list[Summary]:
    """Summaries of those trajectories that exist, in order of appearance."""
    rows = fetch(
        cursor,
        f"SELECT {SUMMARY_COLUMNS} FROM trajectories "
        "WHERE id IN (SELECT unnest(?::BLOB[])) ORDER BY no",
        [list(trajectory_ids)],
    )
    return _with_tools(cursor, rows)


def list_summaries(
    cursor: Cursor,
    *,
    agent: str = "",
    key: str = "",
    state: str = "",
    limit: int = DEFAULT_LISTED,
    before_ns: int = 0,
) -> list[Summary]:
    """The trajectories that began last, newest first; empty filters match all."""
    filters = {"agent = ?": agent, "key = ?": key, "state = ?": state, "start_ns < ?": before_ns}
    used = {condition: value for condition, value in filters.items() if value}
    where = " AND ".join(["true", *used])
    rows = fetch(
        cursor,
        f"SELECT {SUMMARY_COLUMNS} FROM trajectories WHERE {where} "
        "ORDER BY start_ns DESC, no DESC LIMIT ?",
        [*used.values(), max(1, min(limit, MOST_LISTED))],
    )
    return _with_tools(cursor, rows)


def spans_of(cursor: Cursor, trajectory_no: int) -> list[StoredSpan]:
    """The trajectory's spans in order of their start."""
    rows = fetch(
        cursor,
        "SELECT span_id, parent_span_id, name, coalesce(operation, ''), start_ns, end_ns, "
        "coalesce(error_type, ''), status, coalesce(agent_name, ''), coalesce(agent_path, ''), "
        "coalesce(tool, ''), coalesce(call_id, ''), coalesce(model, ''), "
        "coalesce(input_tokens, 0), coalesce(output_tokens, 0), decision_id, "
        "coalesce(incomplete, ''), is_root, attributes "
        "FROM spans WHERE trajectory_no = ? ORDER BY start_ns, is_root DESC, span_id",
        [trajectory_no],
    )
    return [StoredSpan(*row) for row in rows]


def decisions_of(cursor: Cursor, trajectory_no: int) -> list[decision_pb2.DecisionRecord]:
    """The trajectory's decisions in step order."""
    rows = fetch(
        cursor,
        "SELECT record FROM decisions WHERE trajectory_no = ? ORDER BY step, time_ns, decision_id",
        [trajectory_no],
    )
    return [decision_pb2.DecisionRecord.FromString(record) for (record,) in rows]


def features_of(cursor: Cursor, trajectory_no: int) -> list[decision_pb2.TaskFeatures]:
    """The trajectory's task features."""
    rows = fetch(
        cursor,
        "SELECT record FROM task_features WHERE trajectory_no = ? ORDER BY features_id",
        [trajectory_no],
    )
    return [decision_pb2.TaskFeatures.FromString(record) for (record,) in rows]


def decision(cursor: Cursor, decision_id: bytes) -> decision_pb2.DecisionRecord | None:
    """The decision with this id, the newest should there be two; None if there is none."""
    rows = fetch(
        cursor,
        "SELECT record FROM decisions WHERE decision_id = ? ORDER BY trajectory_no DESC LIMIT 1",
        [decision_id],
    )
    return decision_pb2.DecisionRecord.FromString(rows[0][0]) if rows else None


def idle_open(cursor: Cursor, *, before_ns: int) -> list[bytes]:
    """Open trajectories of which nothing was received since `before_ns`."""
    rows = fetch(
        cursor,
        "SELECT id FROM trajectories WHERE state = ? AND received_ns < ? ORDER BY no",
        [OPEN, before_ns],
    )
    return [trajectory_id for (trajectory_id,) in rows]


def closed_unrewarded(cursor: Cursor, *, before_ns: int) -> list[bytes]:
    """Trajectories that ended by themselves before `before_ns` and have no reward that counts.

    Imported ones are not among them: that nobody judged a past run says nothing.
    """
    rows = fetch(
        cursor,
        "SELECT id FROM trajectories WHERE state = ? AND closed_ns < ? AND reward IS NULL "
        "AND NOT starts_with(coalesce(framework, ''), ?) ORDER BY no",
        [CLOSED, before_ns, semconv.IMPORT_PREFIX],
    )
    return [trajectory_id for (trajectory_id,) in rows]


def _with_tools(cursor: Cursor, rows: list[tuple[Any, ...]]) -> list[Summary]:
    tools = _tools_executed(cursor, [row[0] for row in rows])
    return [_summary(row, tuple(tools.get(row[0], ()))) for row in rows]


def _tools_executed(cursor: Cursor, numbers: list[int]) -> dict[int, list[str]]:
    if not numbers:
        return {}
    rows = fetch(
        cursor,
        "SELECT trajectory_no, list(coalesce(tool, name) ORDER BY start_ns, span_id) FROM spans "
        "WHERE trajectory_no BETWEEN ? AND ? AND trajectory_no IN (SELECT unnest(?::BIGINT[])) "
        "AND operation = ? GROUP BY trajectory_no",
        [min(numbers), max(numbers), numbers, semconv.EXECUTE_TOOL],
    )
    return dict(rows)


def _summary(row: tuple[Any, ...], tools: tuple[str, ...]) -> Summary:
    (no, trajectory_id, key, agent, framework, mode, assignment, policy_version, start_ns) = row[:9]
    end_ns, state, closed_reason, closed_ns = row[9:13]
    values: tuple[Any, ...] = (
        no,
        trajectory_id,
        key or "",
        agent,
        framework or "",
        mode,
        assignment,
        policy_version or "",
        start_ns,
        0 if state == OPEN else end_ns,
        state,
        closed_reason or "",
        closed_ns or 0,
        *row[13:],
        tools,
    )
    return Summary(*values)
