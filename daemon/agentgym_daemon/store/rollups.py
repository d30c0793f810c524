"""Roll-ups: sums per minute and per scope, kept up to date with every batch.

A trajectory's contribution follows from its present state alone. What changed is subtracted and
added, in integers, so that any cut into batches and a rebuild give equal rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import duckdb

from agentgym import semconv
from agentgym_daemon.store.aggregate import SUCCESS
from agentgym_daemon.store.numbers import among
from agentgym_daemon.store.rows import Scope, SpanRow

MINUTE_NS = 60_000_000_000
REWARD_UNIT = 1_000_000_000
"""`reward_nanos` of a reward of 1."""
BUCKETS = 24
"""Bucket 0 holds calls under 1 ms, bucket n those from 2^(n-1) ms to 2^n ms, the last the rest."""
BUCKET_COLUMNS = tuple(f"calls_{bucket:02}" for bucket in range(BUCKETS))
# A sender's nonsense must not make a sum overflow.
_MOST_US = 86_400_000_000
_MOST_TOKENS = 10**12
_FAR_MINUTES = 60

ORDINARY = ("", "live", "none")
"""What an experiment may do to runs that still say what the live policy or its absence is worth."""
LABEL = "label"
"""What it does to runs of which it is not known what the user's own code did."""

Key = tuple[Any, ...]
Values = tuple[int, ...]


class Rollup(NamedTuple):
    """A table of sums: what its rows are told apart by, and what is summed."""

    table: str
    keys: tuple[str, ...]
    values: tuple[str, ...]


RUN_MINUTES = Rollup(
    "run_minutes",
    ("minute", "agent", "agent_name", "feature_schema", "assignment", "policy_version"),
    (
        "runs",
        "rewarded",
        "successes",
        "reward_nanos",
        "input_tokens",
        "output_tokens",
        "tool_calls",
        "tool_errors",
        "duration_us",
    ),
)
SCOPE_TOTALS = Rollup(
    "scope_totals",
    ("agent", "agent_name", "feature_schema", "assignment", "policy_version"),
    ("seen", "ended", "rewarded", "successes", "imported"),
)
EXPIRED_TOTALS = SCOPE_TOTALS._replace(table="expired_totals")
"""What of the totals lies in no row any more, so that what counts trainings only grows."""
TOOL_MINUTES = Rollup(
    "tool_minutes",
    ("minute", "agent", "tool"),
    ("calls", "errors", "duration_us", *BUCKET_COLUMNS),
)
ROLLUPS = (RUN_MINUTES, SCOPE_TOTALS, TOOL_MINUTES)

Contributions = dict[tuple[Rollup, Key], Values]


class Counted(Protocol):
    """What a trajectory's contribution is computed from; `counted` is what was written of it."""

    agent: str
    framework: str | None
    assignment: int
    killed: bool
    experiment_treatment: str | None
    policy_version: str | None
    start_ns: int
    end_ns: int
    state: str
    tool_calls: int
    tool_errors: int
    input_tokens: int
    output_tokens: int
    reward: float | None
    scopes: set[Scope]
    counted: Contributions


def contributions(run: Counted) -> Contributions:
    """What a trajectory adds to the roll-ups: once as a whole, and to each of its scopes."""
    ended = int(run.state != "open")
    # A run in which a kill took effect had neither the policy nor a control's fair chance, and one
    # of an experiment's arm had something else than both.
    apart = run.killed or (run.experiment_treatment or "") not in ORDINARY
    group = (0 if apart else run.assignment, run.policy_version or "")
    rewarded = int(ended and run.reward is not None)
    teaches = int(rewarded and run.experiment_treatment != LABEL)
    reward = run.reward or 0.0
    succeeded = int(rewarded and reward >= SUCCESS)
    imported = int(ended and (run.framework or "").startswith(semconv.IMPORT_PREFIX))
    totals = (1, ended, teaches, succeeded, imported)
    found: Contributions = {(SCOPE_TOTALS, (*s, *group)): totals for s in run.scopes}
    if not ended:
        return found
    last_ns = max(run.end_ns, run.start_ns)
    minute = last_ns // MINUTE_NS
    values = (
        1,
        rewarded,
        succeeded,
        math.floor(reward * REWARD_UNIT + 0.5),
        min(run.input_tokens, _MOST_TOKENS),
        min(run.output_tokens, _MOST_TOKENS),
        run.tool_calls,
        run.tool_errors,
        min((last_ns - run.start_ns) // 1000, _MOST_US),
    )
    found[RUN_MINUTES, (minute, run.agent, None, None, *group)] = values
    for scope in run.scopes:
        found[RUN_MINUTES, (minute, *scope, *group)] = values
    return found


class ToolMinutes:
    """Tool calls of one batch, by minute of their end, agent and tool."""

    def __init__(self) -> None:
        self.sums: dict[Key, list[int]] = {}

    def add(self, span: SpanRow) -> None:
        """Counts the span if it is a tool call."""
        if span.operation != semconv.EXECUTE_TOOL:
            return
        key = (span.end_ns // MINUTE_NS, span.agent, span.tool or span.name)
        sums = self.sums.get(key)
        if sums is None:
            sums = self.sums[key] = [0] * len(TOOL_MINUTES.values)
        duration_us = min(max(0, span.end_ns - span.start_ns) // 1000, _MOST_US)
        sums[0] += 1
        sums[1] += bool(span.error_type) or span.status == 2
        sums[2] += duration_us
        sums[3 + min((duration_us // 1000).bit_length(), BUCKETS - 1)] += 1


def write(
    cursor: duckdb.DuckDBPyConnection, runs: Iterable[Counted], tool_minutes: ToolMinutes
) -> None:
    """Brings the roll-ups up to date with changed trajectories and new tool calls."""
    changes: dict[Rollup, dict[Key, list[int]]] = {RUN_MINUTES: {}, SCOPE_TOTALS: {}}
    for run in runs:
        now = contributions(run)
        if now == run.counted:
            continue
        for found, sign in ((run.counted, -1), (now, 1)):
            for (rollup, key), values in found.items():
                _add(changes[rollup], key, values, sign)
        run.counted = now
    changes[TOOL_MINUTES] = tool_minutes.sums
    for rollup, sums in changes.items():
        _merge(cursor, rollup, sums)


def expire(cursor: duckdb.DuckDBPyConnection, trajectories: str) -> dict[Key, list[int]]:
    """Takes out those whose number is in the table of this name, before their rows go.

    Returns what goes of the totals; `add_expired` keeps it.
    """
    gone: dict[Rollup, dict[Key, list[int]]] = {}
    for rollup, sql in _sums(f"IN (SELECT no FROM {trajectories})").items():
        width = len(rollup.keys)
        rows = cursor.execute(sql).fetchall()
        gone[rollup] = {row[:width]: [int(value) for value in row[width:]] for row in rows}
        negative = {key: [-value for value in values] for key, values in gone[rollup].items()}
        _merge(cursor, rollup, negative)
    return gone[SCOPE_TOTALS]


def add_expired(cursor: duckdb.DuckDBPyConnection, totals: Mapping[Key, list[int]]) -> None:
    """Notes totals of trajectories whose rows, and records, are gone."""
    _merge(cursor, EXPIRED_TOTALS, totals)


def recount(cursor: duckdb.DuckDBPyConnection, rollups: Sequence[Rollup] = ROLLUPS) -> None:
    """Computes roll-ups anew from the rows."""
    sums = _sums("IS NOT NULL")
    for rollup in rollups:
        cursor.execute(f"DELETE FROM {rollup.table}")
        cursor.execute(f"INSERT INTO {rollup.table} {sums[rollup]}")


def _add(sums: dict[Key, list[int]], key: Key, values: Values, sign: int) -> None:
    old = sums.get(key)
    if old is None:
        sums[key] = [sign * value for value in values]
    else:
        for i, value in enumerate(values):
            old[i] += sign * value


def _merge(
    cursor: duckdb.DuckDBPyConnection, rollup: Rollup, changes: Mapping[Key, list[int]]
) -> None:
    changed = {key: values for key, values in changes.items() if any(values)}
    if not changed:
        return
    width = len(rollup.keys)
    if rollup.keys[0] == "minute":
        where = among("minute", [key[0] for key in changed], far=_FAR_MINUTES)
        parameters: list[Any] = []
    else:
        where = "agent IN (SELECT unnest(?::VARCHAR[]))"
        parameters = [sorted({key[0] for key in changed})]
    # Whole minutes are written again: telling a few rows from their neighbours would cost more.
    rows = cursor.execute(
        f"DELETE FROM {rollup.table} WHERE {where} RETURNING *", parameters
    ).fetchall()
    sums = {row[:width]: list(row[width:]) for row in rows}
    for key, values in changed.items():
        _add(sums, key, tuple(values), 1)
    left = [(*key, *values) for key, values in sums.items() if any(values)]
    if left:
        appender = cursor.appender(rollup.table)
        appender.append_rows(left)
        appender.flush()


def _sums(numbers: str) -> dict[Rollup, str]:
    """The roll-ups as queries over the rows; `numbers` is a condition on trajectory numbers."""
    scopes = (
        f"SELECT DISTINCT trajectory_no, agent, agent_name, feature_schema FROM trajectory_scopes "
        f"WHERE trajectory_no {numbers}"
    )
    runs = f"""
        SELECT no, agent, CASE WHEN killed OR coalesce(experiment_treatment, '') NOT IN
            {ORDINARY} THEN 0 ELSE assignment END AS assignment,
            coalesce(policy_version, '') AS policy_version,
            greatest(end_ns, start_ns) // {MINUTE_NS} AS minute, state <> 'open' AS ended, 1 AS one,
            state <> 'open' AND starts_with(coalesce(framework, ''), '{semconv.IMPORT_PREFIX}')
                AS imported,
            state <> 'open' AND reward IS NOT NULL AS rewarded,
            rewarded AND coalesce(experiment_treatment, '') <> '{LABEL}' AS teaches,
            state <> 'open' AND coalesce(reward >= {SUCCESS}, false) AS succeeded,
            floor(coalesce(reward, 0) * {REWARD_UNIT} + 0.5)::BIGINT AS reward_nanos,
            least(input_tokens, {_MOST_TOKENS}) AS input_tokens,
            least(output_tokens, {_MOST_TOKENS}) AS output_tokens, tool_calls, tool_errors,
            least((greatest(end_ns, start_ns) - start_ns) // 1000, {_MOST_US}) AS duration_us
        FROM trajectories WHERE no {numbers}"""
    sums = ", ".join(
        f"sum({name})::BIGINT"
        for name in ("one", "rewarded::INT", "succeeded::INT", *RUN_MINUTES.values[3:])
    )
    return {
        RUN_MINUTES: f"""
            WITH runs AS ({runs}), scopes AS ({scopes}), parts AS (
                SELECT NULL::VARCHAR AS agent_name, NULL::BIGINT AS feature_schema, runs.*
                FROM runs
                UNION ALL BY NAME
                SELECT s.agent_name, s.feature_schema, runs.* REPLACE (s.agent AS agent)
                FROM runs JOIN scopes s ON s.trajectory_no = runs.no
            )
            SELECT minute, agent, agent_name, feature_schema, assignment, policy_version, {sums}
            FROM parts WHERE ended GROUP BY ALL""",
        SCOPE_TOTALS: f"""
            WITH runs AS ({runs}), scopes AS ({scopes})
            SELECT s.agent, s.agent_name, s.feature_schema, assignment, policy_version,
                count(*), sum(ended::INT)::BIGINT, sum(teaches::INT)::BIGINT,
                sum(succeeded::INT)::BIGINT, sum(imported::INT)::BIGINT
            FROM runs JOIN scopes s ON s.trajectory_no = runs.no GROUP BY ALL""",
        TOOL_MINUTES: f"""
            WITH calls AS (
                SELECT end_ns // {MINUTE_NS} AS minute, agent, coalesce(nullif(tool, ''), name)
                    AS tool,
                    (coalesce(error_type, '') <> '' OR status = 2)::INT AS error,
                    least(greatest(0, end_ns - start_ns) // 1000, {_MOST_US}) AS us,
                    least(CASE WHEN us < 1000 THEN 0 ELSE 1 + floor(log2(us // 1000)) END,
                        {BUCKETS - 1})::INT AS bucket
                FROM spans WHERE operation = '{semconv.EXECUTE_TOOL}' AND trajectory_no {numbers}
            )
            SELECT minute, agent, tool, count(*), sum(error)::BIGINT, sum(us)::BIGINT,
                {", ".join(f"count(*) FILTER (bucket = {i})" for i in range(BUCKETS))}
            FROM calls GROUP BY ALL""",
    }
