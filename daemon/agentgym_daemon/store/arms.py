"""Sums over the runs of policy and control, from which a lift follows, and of experiments' arms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from agentgym.proto.v1 import common_pb2
from agentgym_daemon.store.aggregate import SUCCESS
from agentgym_daemon.store.database import Cursor, fetch
from agentgym_daemon.store.rollups import ORDINARY
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
    experiment: str  # that ran meanwhile; empty: none
    control: bool
    metric: str
    n: int
    total: float
    squares: float


def arm_sums(cursor: Cursor, agent: str) -> list[ArmSums]:
    """All metrics of an agent's runs since it had a policy, killed ones apart.

    Of an experiment's arms only those that are nothing but the live policy, or none.
    """
    sums = ", ".join(_sums(x) for x in METRICS.values())
    rows = fetch(
        cursor,
        f"SELECT policy_share, coalesce(experiment, ''), assignment = $control, {sums} "
        "FROM trajectories "
        "WHERE agent = $agent AND state = $closed AND reward IS NOT NULL AND NOT killed "
        "AND policy_version <> '' AND policy_share IS NOT NULL "
        f"AND coalesce(experiment_treatment, '') IN {ORDINARY} "
        "AND assignment IN ($policy, $control) GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        {
            "agent": agent,
            "closed": CLOSED,
            "policy": common_pb2.ASSIGNMENT_POLICY,
            "control": common_pb2.ASSIGNMENT_CONTROL,
        },
    )
    return [
        ArmSums(share, experiment, control, metric, *row[3 * i : 3 * i + 3])
        for share, experiment, control, *row in rows
        for i, metric in enumerate(METRICS)
    ]


class Units(NamedTuple):
    """Sums over units, each with n runs that come to a total: runs of one unit are alike."""

    number: int
    totals: float  # sum of total^2
    products: float  # sum of total x n
    sizes: float  # sum of n^2


@dataclass(frozen=True, slots=True)
class ExperimentSums:
    """One metric of the runs of an experiment's arm, while its probability was the same."""

    arm: str
    share: float
    metric: str
    n: int
    total: float
    squares: float
    units: Units | None = None  # None: every run is a unit of its own


def experiment_sums(cursor: Cursor, agent: str, experiment: str) -> list[ExperimentSums]:
    """All metrics of the runs of an experiment's arms, killed ones apart.

    Only success needs a reward: the other metrics are of all closed runs.
    """
    inner = ", ".join(
        f"count({x}) AS {name}_n, coalesce(sum({x}), 0) AS {name}_t, "
        f"coalesce(sum({x} * {x}), 0) AS {name}_q"
        for name, x in METRICS.items()
    )
    outer = ", ".join(
        f"sum({m}_n)::BIGINT, sum({m}_t), sum({m}_q), count(*) FILTER ({m}_n > 0), "
        f"sum({m}_t * {m}_t), sum({m}_t * {m}_n), sum({m}_n::DOUBLE * {m}_n)"
        for m in METRICS
    )
    rows = fetch(
        cursor,
        f"SELECT experiment_arm, experiment_share, {outer} FROM (SELECT experiment_arm, "
        f"experiment_share, {inner} FROM trajectories "
        "WHERE agent = ? AND experiment = ? AND experiment_arm IS NOT NULL "
        "AND experiment_share IS NOT NULL AND state = ? AND NOT killed "
        "GROUP BY experiment_arm, experiment_share, coalesce(unit, no::VARCHAR)) "
        "GROUP BY 1, 2 ORDER BY 1, 2",
        [agent, experiment, CLOSED],
    )
    found = []
    for arm, share, *row in rows:
        for i, metric in enumerate(METRICS):
            n, total, squares, *units = row[7 * i : 7 * i + 7]
            found.append(ExperimentSums(arm, share, metric, n, total, squares, Units(*units)))
    return found


def metric_means(cursor: Cursor, agent: str, runs: int) -> dict[str, tuple[int, float]]:
    """Of each metric how many of an agent's newest closed runs say something, and their mean."""
    values = ", ".join(f"{x} AS {name}" for name, x in METRICS.items())
    means = ", ".join(f"count({name}), coalesce(avg({name}), 0)" for name in METRICS)
    ((*row,),) = fetch(
        cursor,
        f"SELECT {means} FROM (SELECT {values} FROM trajectories WHERE agent = ? AND state = ? "
        "AND NOT killed ORDER BY no DESC LIMIT ?)",
        [agent, CLOSED, runs],
    )
    return {name: (row[2 * i], row[2 * i + 1]) for i, name in enumerate(METRICS)}


def _sums(value: str) -> str:
    return f"count({value}), coalesce(sum({value}), 0), coalesce(sum({value} * {value}), 0)"
