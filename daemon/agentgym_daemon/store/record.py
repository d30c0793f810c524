"""Reads for the watch: how the newest runs of a scope went, and what they were about."""

from __future__ import annotations

from dataclasses import dataclass

from agentgym.proto.v1 import common_pb2, decision_pb2
from agentgym_daemon.store.aggregate import SUCCESS
from agentgym_daemon.store.database import Cursor, fetch
from agentgym_daemon.store.numbers import among
from agentgym_daemon.store.rollups import ORDINARY
from agentgym_daemon.store.rows import Scope
from agentgym_daemon.store.state import CLOSED

_IN_SCOPE = "agent = ? AND agent_name = ? AND feature_schema = ?"


@dataclass(frozen=True, slots=True)
class Run:
    """A closed and rewarded run of a scope."""

    no: int
    closed_ns: int
    control: bool
    success: bool
    version: str  # that decided, or would have; empty: none
    error: bool = False
    """Whether a tool failed visibly in it."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a run was about: its first task's features, and the tools that it called."""

    no: int
    control: bool
    features: decision_pb2.TaskFeatures
    called: tuple[str, ...]


def runs_of(cursor: Cursor, scope: Scope, limit: int) -> list[Run]:
    """The newest runs that had the policy or were its control group, oldest first.

    Runs in which a kill took effect are left out, and the arms of an experiment that are another
    version or mode: they were neither.
    """
    rows = fetch(
        cursor,
        "SELECT no, closed_ns, assignment, reward >= ?, coalesce(policy_version, ''), "
        "tool_errors > 0 "
        "FROM trajectories WHERE agent = ? AND state = ? AND reward IS NOT NULL AND NOT killed "
        f"AND {_assigned()} AND coalesce(experiment_treatment, '') IN {ORDINARY} "
        f"AND no IN (SELECT trajectory_no FROM trajectory_scopes WHERE {_IN_SCOPE}) "
        "ORDER BY no DESC LIMIT ?",
        [SUCCESS, scope.agent, CLOSED, *scope, limit],
    )
    if not rows:
        return []
    # A run of several agents has a version for each; the run itself names that of its root.
    decided = dict(
        fetch(
            cursor,
            f"SELECT trajectory_no, max(policy_version) FROM decisions WHERE {_IN_SCOPE} "
            "AND trajectory_no >= ? AND policy_version <> '' GROUP BY trajectory_no",
            [*scope, rows[-1][0]],
        )
    )
    control = common_pb2.ASSIGNMENT_CONTROL
    return [
        Run(no, closed_ns, assignment == control, success, decided.get(no, version), error)
        for no, closed_ns, assignment, success, version, error in reversed(rows)
    ]


def contents_of(cursor: Cursor, scope: Scope, limit: int) -> list[Content]:
    """The newest ended runs with features, whatever they were assigned to, oldest first."""
    rows = fetch(
        cursor,
        "SELECT no, assignment FROM trajectories WHERE agent = ? AND state = ? AND no IN "
        f"(SELECT trajectory_no FROM trajectory_scopes WHERE {_IN_SCOPE}) "
        "ORDER BY no DESC LIMIT ?",
        [scope.agent, CLOSED, *scope, limit],
    )
    numbers = sorted(no for no, _ in rows)
    first = dict(
        fetch(
            cursor,
            "SELECT trajectory_no, first(record ORDER BY received_ns) FROM task_features "
            f"WHERE {among('trajectory_no', numbers)} GROUP BY trajectory_no",
        )
    )
    called = dict(
        fetch(
            cursor,
            "SELECT trajectory_no, flatten(list(called ORDER BY step)) FROM decisions "
            f"WHERE {among('trajectory_no', numbers)} AND {_IN_SCOPE} GROUP BY trajectory_no",
            [*scope],
        )
    )
    policy = common_pb2.ASSIGNMENT_POLICY
    return [
        Content(
            no,
            assignment != policy,
            decision_pb2.TaskFeatures.FromString(first[no]),
            tuple(called.get(no, ())),
        )
        for no, assignment in reversed(rows)
        if no in first
    ]


def _assigned() -> str:
    treated = (
        common_pb2.ASSIGNMENT_POLICY,
        common_pb2.ASSIGNMENT_PINNED,
        common_pb2.ASSIGNMENT_CONTROL,
    )
    return f"assignment IN ({', '.join(str(int(one)) for one in treated)})"
