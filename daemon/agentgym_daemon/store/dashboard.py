"""Reads that a dashboard asks for again and again: from roll-ups, never from all spans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentgym_daemon.store.database import Cursor, fetch
from agentgym_daemon.store.rollups import (
    BUCKET_COLUMNS,
    BUCKETS,
    MINUTE_NS,
    REWARD_UNIT,
)

MINUTES_SHOWN = 15


@dataclass(frozen=True, slots=True)
class PolicyPeriod:
    """How runs of one agent went under one assignment and version, in one stretch of minutes."""

    minute: int  # the first of the stretch, since the Unix epoch
    assignment: int
    policy_version: str  # empty: none
    runs: int
    rewarded: int
    successes: int
    reward_sum: float


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Calls of one tool in a window; times in seconds."""

    tool: str
    calls: int
    errors: int
    mean_s: float
    p50_s: float
    p95_s: float


@dataclass(frozen=True, slots=True)
class Minute:
    """What ended in one minute."""

    minute: int
    runs: int
    rewarded: int
    successes: int
    tool_calls: int
    tool_errors: int
    input_tokens: int
    output_tokens: int
    mean_duration_s: float


def success_by_policy(
    cursor: Cursor, *, agent: str, from_ns: int, to_ns: int, minutes: int = 60
) -> list[PolicyPeriod]:
    """Runs that ended in the window, by stretches of so many minutes, assignment and version."""
    rows = fetch(
        cursor,
        "SELECT minute // $step * $step AS first, assignment, policy_version, "
        "sum(runs)::BIGINT, sum(rewarded)::BIGINT, sum(successes)::BIGINT, "
        "sum(reward_nanos)::DOUBLE / $unit FROM run_minutes "
        "WHERE minute BETWEEN $first AND $last AND agent = $agent AND agent_name IS NULL "
        "GROUP BY ALL ORDER BY ALL",
        {
            "step": minutes,
            "unit": REWARD_UNIT,
            "first": from_ns // MINUTE_NS,
            "last": to_ns // MINUTE_NS,
            "agent": agent,
        },
    )
    return [PolicyPeriod(*row) for row in rows]


def tools_used(cursor: Cursor, *, agent: str, from_ns: int, to_ns: int) -> list[ToolUse]:
    """Every tool that was called in the window, the most used first."""
    buckets = ", ".join(f"sum({column})::BIGINT" for column in BUCKET_COLUMNS)
    rows = fetch(
        cursor,
        "SELECT tool, sum(calls)::BIGINT AS calls, sum(errors)::BIGINT, "
        f"sum(duration_us)::DOUBLE / 1e6, {buckets} FROM tool_minutes "
        "WHERE minute BETWEEN ? AND ? AND agent = ? GROUP BY tool ORDER BY calls DESC, tool",
        [from_ns // MINUTE_NS, to_ns // MINUTE_NS, agent],
    )
    return [
        ToolUse(tool, calls, errors, total / calls, quantile(counts, 0.5), quantile(counts, 0.95))
        for tool, calls, errors, total, *counts in rows
    ]


def last_minutes(cursor: Cursor, *, now_ns: int, minutes: int = MINUTES_SHOWN) -> list[Minute]:
    """The last minutes up to now, oldest first, over all agents; quiet ones too."""
    last = now_ns // MINUTE_NS
    rows = fetch(
        cursor,
        "SELECT m.minute, coalesce(sum(runs), 0)::BIGINT AS ended, "
        "coalesce(sum(rewarded), 0)::BIGINT, coalesce(sum(successes), 0)::BIGINT, "
        "coalesce(sum(tool_calls), 0)::BIGINT, coalesce(sum(tool_errors), 0)::BIGINT, "
        "coalesce(sum(input_tokens), 0)::BIGINT, coalesce(sum(output_tokens), 0)::BIGINT, "
        "coalesce(sum(duration_us)::DOUBLE / 1e6 / nullif(ended, 0), 0) "
        "FROM range($first::BIGINT, $last::BIGINT + 1) m(minute) LEFT JOIN "
        "(FROM run_minutes WHERE agent_name IS NULL AND minute BETWEEN $first AND $last) r "
        "ON r.minute = m.minute GROUP BY m.minute ORDER BY m.minute",
        {"first": last - minutes + 1, "last": last},
    )
    return [Minute(*row) for row in rows]


def quantile(counts: Sequence[int], share: float) -> float:
    """A quantile of bucketed times in seconds, within its bucket as if log-uniform there."""
    wanted, below = share * sum(counts), 0
    for bucket, count in enumerate(counts):
        if count and below + count >= wanted:
            within = (wanted - below) / count
            upper_s = 2.0 ** min(bucket, BUCKETS - 1) / 1000
            return upper_s * within if bucket == 0 else upper_s / 2 * 2.0**within
        below += count
    return 0.0
