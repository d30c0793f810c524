"""Sums over the runs of policy and control, from which a lift follows."""

from __future__ import annotations

from dataclasses import dataclass

from agentgym.proto.v1 import common_pb2
from agentgym_daemon.store.aggregate import SUCCESS
from agentgym_daemon.store.database import Cursor, fetch
from agentgym_daemon.store.state import CLOSED

METRICS = {
    "success": f"(reward >= {SUCCESS})::DOUBLE",
    "tool_reliability": "CASE WHEN tool_calls > 0 THEN 1 - least(tool_errors, tool_calls) / "
    "tool_calls::DOUBLE END",
    "tokens": "(input_tokens + output_tokens)::DOUBLE",
    "tool_calls": "tool_calls::DOUBLE",
    "seconds": "greatest(end_ns - start_ns, 0) / 1e9",
}
"""What is compared, per closed rewarded run; NULL where a run says nothing of it."""


@dataclass(frozen=True, slots=True)
class ArmSums:
    """One metric of the runs of one arm, while the policy's share was the same."""

    policy_share: float
    control: bool
    metric: str
    n: int
    total: float
    squares: float


def arm_sums(cursor: Cursor, agent: str) -> list[ArmSums]:
    """All metrics of an agent's runs since it had a policy, killed ones apart."""
    sums = ", ".join(
        f"count({x}), coalesce(sum({x}), 0), coalesce(sum({x} * {x}), 0)" for x in METRICS.values()
    )
    rows = fetch(
        cursor,
        f"SELECT policy_share, assignment = $control, {sums} FROM trajectories "
        "WHERE agent = $agent AND state = $closed AND reward IS NOT NULL AND NOT killed "
        "AND policy_version <> '' AND policy_share IS NOT NULL "
        "AND assignment IN ($policy, $control) GROUP BY 1, 2 ORDER BY 1, 2",
        {
            "agent": agent,
            "closed": CLOSED,
            "policy": common_pb2.ASSIGNMENT_POLICY,
            "control": common_pb2.ASSIGNMENT_CONTROL,
        },
    )
    return [
        ArmSums(share, control, metric, *row[3 * i : 3 * i + 3])
        for share, control, *row in rows
        for i, metric in enumerate(METRICS)
    ]
