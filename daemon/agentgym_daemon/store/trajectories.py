"""Reads about trajectories: summaries, spans, decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

from agentgym import semconv
from agentgym.proto.v1 import decision_pb2
from agentgym_daemon.store.aggregate import DEFAULT_SOURCE
from agentgym_daemon.store.catalogue import StoredTool, tools_by_fingerprint
from agentgym_daemon.store.database import Cursor, fetch
from agentgym_daemon.store.numbers import among, possible
from agentgym_daemon.store.rewards import StoredReward, rewards_of
from agentgym_daemon.store.state import CLOSED, OPEN, SUMMARY_COLUMNS

_EXPERIMENT = SUMMARY_COLUMNS.split(", ").index("experiment")

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
    experiment: str = ""  # that ran when it began
    experiment_arm: str = ""  # empty: it had no part in it


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


# Below, `numbers` are the rows in which an index says that the wanted may stand; None: it was not
# asked, and all rows are looked through.


def trajectory(
    cursor: Cursor, trajectory_id: bytes, *, numbers: Sequence[int] | None = None
) -> StoredTrajectory | None:
    """The trajectory with its contents; None if it was never heard of."""
    rows = _summary_rows(cursor, [trajectory_id], numbers)
    if not rows:
        return None
    # Every statement costs its planning, more than what it reads: none that is not needed.
    found = _summary(rows[0], ())
    spans = spans_of(cursor, found.no)
    called = tuple(s.tool or s.name for s in spans if s.operation == semconv.EXECUTE_TOOL)
    decisions = decisions_of(cursor, found.no) if found.decisions else []
    agents = dict.fromkeys([found.agent, *(d.scope.agent for d in decisions)])
    offered = dict.fromkeys(f for d in decisions for f in d.offered)
    return StoredTrajectory(
        summary=replace(found, tools=called),
        spans=tuple(spans),
        decisions=tuple(decisions),
        features=tuple(features_of(cursor, found.no)),
        tools=tuple(tools_by_fingerprint(cursor, list(agents), list(offered)) if offered else ()),
        rewards=tuple(rewards_of(cursor, found.no, trajectory_id=trajectory_id)),
    )


def summary(
    cursor: Cursor, trajectory_id: bytes, *, numbers: Sequence[int] | None = None
) -> Summary | None:
    """The trajectory's summary; None if it was never heard of."""
    found = summaries(cursor, [trajectory_id], numbers=numbers)
    return found[0] if found else None


def summaries(
    cursor: Cursor, trajectory_ids: Sequence[bytes], *, numbers: Sequence[int] | None = None
) -> list[Summary]:
    """Summaries of those trajectories that exist, in order of appearance."""
    return _with_tools(cursor, _summary_rows(cursor, trajectory_ids, numbers))


def _summary_rows(
    cursor: Cursor, ids: Sequence[bytes], numbers: Sequence[int] | None
) -> list[tuple[Any, ...]]:
    # Sorted here: an ORDER BY costs more to plan than such a few rows to sort.
    condition = "id = ?" if len(ids) == 1 else "id IN (SELECT unnest(?::BLOB[]))"
    rows = fetch(
        cursor,
        f"SELECT {SUMMARY_COLUMNS} FROM trajectories WHERE {possible('no', numbers)} "
        f"AND {condition}",
        [ids[0] if len(ids) == 1 else list(ids)],
    )
    return sorted(rows, key=itemgetter(0))


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
        "FROM spans WHERE trajectory_no = ?",
        [trajectory_no],
    )
    spans = [StoredSpan(*row) for row in rows]
    return sorted(spans, key=lambda span: (span.start_ns, not span.is_root, span.span_id))


def decisions_of(cursor: Cursor, trajectory_no: int) -> list[decision_pb2.DecisionRecord]:
    """The trajectory's decisions in step order."""
    rows = fetch(
        cursor,
        "SELECT step, time_ns, decision_id, record FROM decisions WHERE trajectory_no = ?",
        [trajectory_no],
    )
    return [decision_pb2.DecisionRecord.FromString(record) for *_, record in sorted(rows)]


def features_of(cursor: Cursor, trajectory_no: int) -> list[decision_pb2.TaskFeatures]:
    """The trajectory's task features."""
    rows = fetch(
        cursor,
        "SELECT features_id, record FROM task_features WHERE trajectory_no = ?",
        [trajectory_no],
    )
    return [decision_pb2.TaskFeatures.FromString(record) for _, record in sorted(rows)]


def decision(cursor: Cursor, decision_id: bytes) -> decision_pb2.DecisionRecord | None:
    """The decision with this id, the newest should there be two; None if there is none."""
    rows = fetch(
        cursor,
        "SELECT record FROM decisions WHERE decision_id = ? ORDER BY trajectory_no DESC LIMIT 1",
        [decision_id],
    )
    return decision_pb2.DecisionRecord.FromString(rows[0][0]) if rows else None


def idle_open(
    cursor: Cursor, *, before_ns: int, numbers: Sequence[int] | None = None
) -> list[bytes]:
    """Open trajectories of which nothing was received since `before_ns`."""
    rows = fetch(
        cursor,
        f"SELECT id FROM trajectories WHERE {possible('no', numbers)} "
        "AND state = ? AND received_ns < ? ORDER BY no",
        [OPEN, before_ns],
    )
    return [trajectory_id for (trajectory_id,) in rows]


def closed_unrewarded(cursor: Cursor, *, before_ns: int, from_ns: int = 0) -> list[bytes]:
    """Trajectories that ended by themselves in this time and have no reward that counts.

    Imported ones are not among them: that nobody judged a past run says nothing. Neither are those
    that had a default reward: taken back, or without a weight, it is not given again.
    """
    rows = fetch(
        cursor,
        "SELECT id FROM trajectories t WHERE state = ? AND closed_ns >= ? AND closed_ns < ? "
        "AND reward IS NULL AND NOT starts_with(coalesce(framework, ''), ?) AND NOT EXISTS "
        "(SELECT 1 FROM rewards r WHERE r.trajectory_no = t.no AND r.source = ?) ORDER BY no",
        [CLOSED, from_ns, before_ns, semconv.IMPORT_PREFIX, DEFAULT_SOURCE],
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
        f"WHERE {among('trajectory_no', numbers)} AND operation = ? GROUP BY trajectory_no",
        [semconv.EXECUTE_TOOL],
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
        *row[13:21],
        tools,
        row[_EXPERIMENT] or "",
        row[_EXPERIMENT + 1] or "",
    )
    return Summary(*values)
