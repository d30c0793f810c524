"""The schema, as append-only named steps; a shipped step is never edited.

No table has a unique index: what is sent twice is recognised before it is written (`batch`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import duckdb


class Migration(NamedTuple):
    """A named step of the schema."""

    name: str
    sql: str


MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        "m001_initial",
        """
        CREATE TABLE trajectories (
            no BIGINT NOT NULL,              -- in order of first appearance in the log
            id BLOB NOT NULL,
            key VARCHAR,
            agent VARCHAR NOT NULL,
            framework VARCHAR,
            mode INTEGER NOT NULL,           -- numbers as in common.proto
            assignment INTEGER NOT NULL,
            policy_version VARCHAR,
            start_ns BIGINT NOT NULL,
            end_ns BIGINT NOT NULL,          -- latest end of a span
            state VARCHAR NOT NULL CHECK (state IN ('open', 'closed', 'incomplete')),
            closed_reason VARCHAR,
            closed_ns BIGINT,                -- when the closing record was received
            received_ns BIGINT NOT NULL,     -- when its latest record was received
            spans BIGINT NOT NULL,
            decisions BIGINT NOT NULL,
            tool_calls BIGINT NOT NULL,
            tool_errors BIGINT NOT NULL,
            input_tokens BIGINT NOT NULL,
            output_tokens BIGINT NOT NULL,
            reward DOUBLE CHECK (isfinite(reward) AND reward BETWEEN 0 AND 1)
        );
        CREATE TABLE spans (
            trajectory_no BIGINT NOT NULL,
            trace_id BLOB NOT NULL,
            span_id BLOB NOT NULL,
            parent_span_id BLOB,
            name VARCHAR NOT NULL,
            operation VARCHAR,
            start_ns BIGINT NOT NULL,
            end_ns BIGINT NOT NULL,
            error_type VARCHAR,
            status INTEGER NOT NULL,
            agent VARCHAR NOT NULL,
            agent_name VARCHAR,
            agent_path VARCHAR,
            tool VARCHAR,
            call_id VARCHAR,
            model VARCHAR,
            input_tokens BIGINT,
            output_tokens BIGINT,
            decision_id BLOB,
            incomplete VARCHAR,
            is_root BOOLEAN NOT NULL,
            framework VARCHAR,
            attributes VARCHAR USING COMPRESSION zstd,
            received_ns BIGINT NOT NULL
        );
        CREATE TABLE decisions (
            trajectory_no BIGINT NOT NULL,
            decision_id BLOB NOT NULL,
            step BIGINT NOT NULL,
            agent VARCHAR NOT NULL,
            agent_name VARCHAR NOT NULL,
            feature_schema BIGINT NOT NULL,
            time_ns BIGINT NOT NULL,
            mode INTEGER NOT NULL,
            assignment INTEGER NOT NULL,
            fallback INTEGER NOT NULL,
            policy_version VARCHAR NOT NULL,
            arm_kind INTEGER NOT NULL,       -- 0: not decided
            arm_propensity DOUBLE NOT NULL,
            called VARCHAR[] NOT NULL,
            record BLOB NOT NULL,            -- DecisionRecord
            received_ns BIGINT NOT NULL
        );
        CREATE TABLE task_features (
            trajectory_no BIGINT NOT NULL,
            features_id BLOB NOT NULL,
            record BLOB NOT NULL,            -- TaskFeatures
            received_ns BIGINT NOT NULL
        );
        CREATE TABLE trajectory_scopes (
            trajectory_no BIGINT NOT NULL,
            agent VARCHAR NOT NULL,
            agent_name VARCHAR NOT NULL,
            feature_schema BIGINT NOT NULL
        );
        CREATE TABLE rewards (
            no BIGINT NOT NULL,              -- in log order
            trajectory_no BIGINT NOT NULL,
            reward_id VARCHAR NOT NULL,
            value DOUBLE NOT NULL CHECK (isfinite(value) AND value BETWEEN 0 AND 1),
            name VARCHAR NOT NULL,
            source VARCHAR NOT NULL,
            idempotency_key VARCHAR NOT NULL,
            time_ns BIGINT NOT NULL,
            received_ns BIGINT NOT NULL,
            revoked BOOLEAN NOT NULL,
            reason VARCHAR NOT NULL
        );
        CREATE TABLE tools (
            agent VARCHAR NOT NULL,
            fingerprint BLOB NOT NULL,
            name VARCHAR NOT NULL,
            description VARCHAR NOT NULL,
            parameters_json VARCHAR NOT NULL,
            first_seen_ns BIGINT NOT NULL
        );
        CREATE TABLE scope_tools (           -- what was ever offered in a scope
            agent VARCHAR NOT NULL,
            agent_name VARCHAR NOT NULL,
            feature_schema BIGINT NOT NULL,
            fingerprint BLOB NOT NULL,
            first_seen_ns BIGINT NOT NULL
        );
        CREATE TABLE policies (
            no BIGINT NOT NULL,              -- log offset of its record
            version VARCHAR NOT NULL,
            agent VARCHAR NOT NULL,
            agent_name VARCHAR NOT NULL,
            feature_schema BIGINT NOT NULL,
            parent VARCHAR NOT NULL,
            sha256 VARCHAR NOT NULL,
            size BIGINT NOT NULL,
            manifest_json VARCHAR NOT NULL,
            receipt_json VARCHAR NOT NULL,
            status VARCHAR NOT NULL,
            created_ns BIGINT NOT NULL
        );
        CREATE TABLE policy_changes (
            no BIGINT NOT NULL,
            kind INTEGER NOT NULL,
            agent VARCHAR NOT NULL,
            agent_name VARCHAR NOT NULL,
            feature_schema BIGINT NOT NULL,
            version VARCHAR NOT NULL,
            previous VARCHAR NOT NULL,
            actor VARCHAR NOT NULL,
            reason VARCHAR NOT NULL,
            received_ns BIGINT NOT NULL
        );
        CREATE TABLE live_policies (
            agent VARCHAR NOT NULL,
            agent_name VARCHAR NOT NULL,
            feature_schema BIGINT NOT NULL,
            version VARCHAR NOT NULL,
            pinned BOOLEAN NOT NULL
        );
        CREATE TABLE training_runs (
            no BIGINT NOT NULL,
            agent VARCHAR NOT NULL,
            agent_name VARCHAR NOT NULL,
            feature_schema BIGINT NOT NULL,
            version VARCHAR NOT NULL,
            trajectories BIGINT NOT NULL,
            verdict VARCHAR NOT NULL,
            report_json VARCHAR NOT NULL,
            duration_s DOUBLE NOT NULL,
            received_ns BIGINT NOT NULL
        );
        CREATE TABLE producers (
            producer_id BLOB NOT NULL,
            sequence BIGINT NOT NULL,        -- highest seen
            received_ns BIGINT NOT NULL
        );
        CREATE TABLE counters (
            name VARCHAR NOT NULL,
            value BIGINT NOT NULL
        );
        """,
    ),
    Migration(
        "m002_numbers_and_rollups",
        # Row numbers mean something else from here on, and rows are derived: so all of them are
        # derived again from the log, which is as if the file were new.
        """
        DELETE FROM trajectories;
        DELETE FROM spans;
        DELETE FROM decisions;
        DELETE FROM task_features;
        DELETE FROM trajectory_scopes;
        DELETE FROM rewards;
        DELETE FROM tools;
        DELETE FROM scope_tools;
        DELETE FROM policies;
        DELETE FROM policy_changes;
        DELETE FROM live_policies;
        DELETE FROM training_runs;
        DELETE FROM producers;
        DELETE FROM counters;
        DELETE FROM meta WHERE key = 'applied_offset';
        CREATE TABLE run_minutes (           -- ended trajectories by minute of their last end
            minute BIGINT NOT NULL,          -- since the Unix epoch
            agent VARCHAR NOT NULL,
            agent_name VARCHAR,              -- NULL: the whole run; else its part in a scope
            feature_schema BIGINT,
            assignment INTEGER NOT NULL,
            policy_version VARCHAR NOT NULL, -- empty: none
            runs BIGINT NOT NULL,
            rewarded BIGINT NOT NULL,
            successes BIGINT NOT NULL,
            reward_nanos BIGINT NOT NULL,
            input_tokens BIGINT NOT NULL,
            output_tokens BIGINT NOT NULL,
            tool_calls BIGINT NOT NULL,
            tool_errors BIGINT NOT NULL,
            duration_us BIGINT NOT NULL
        );
        CREATE TABLE scope_totals (
            agent VARCHAR NOT NULL,
            agent_name VARCHAR NOT NULL,
            feature_schema BIGINT NOT NULL,
            assignment INTEGER NOT NULL,
            policy_version VARCHAR NOT NULL,
            seen BIGINT NOT NULL,            -- open ones too
            ended BIGINT NOT NULL,
            rewarded BIGINT NOT NULL,        -- ended and rewarded
            successes BIGINT NOT NULL,
            imported BIGINT NOT NULL
        );
        CREATE TABLE expired_totals AS FROM scope_totals;  -- of trajectories that were deleted
        CREATE TABLE tool_minutes (          -- tool calls by minute of their end
            minute BIGINT NOT NULL,
            agent VARCHAR NOT NULL,
            tool VARCHAR NOT NULL,
            calls BIGINT NOT NULL,
            errors BIGINT NOT NULL,
            duration_us BIGINT NOT NULL,
            -- calls_00: under 1 ms; calls_NN: from 2^(NN-1) ms to 2^NN ms; the last: the rest
            calls_00 BIGINT NOT NULL, calls_01 BIGINT NOT NULL, calls_02 BIGINT NOT NULL,
            calls_03 BIGINT NOT NULL, calls_04 BIGINT NOT NULL, calls_05 BIGINT NOT NULL,
            calls_06 BIGINT NOT NULL, calls_07 BIGINT NOT NULL, calls_08 BIGINT NOT NULL,
            calls_09 BIGINT NOT NULL, calls_10 BIGINT NOT NULL, calls_11 BIGINT NOT NULL,
            calls_12 BIGINT NOT NULL, calls_13 BIGINT NOT NULL, calls_14 BIGINT NOT NULL,
            calls_15 BIGINT NOT NULL, calls_16 BIGINT NOT NULL, calls_17 BIGINT NOT NULL,
            calls_18 BIGINT NOT NULL, calls_19 BIGINT NOT NULL, calls_20 BIGINT NOT NULL,
            calls_21 BIGINT NOT NULL, calls_22 BIGINT NOT NULL, calls_23 BIGINT NOT NULL
        );
        """,
    ),
    Migration(
        "m003_ladder_and_audit",
        """
        ALTER TABLE policy_changes ADD COLUMN stage INTEGER DEFAULT 0;
        ALTER TABLE policy_changes ADD COLUMN canary_share DOUBLE DEFAULT 0;
        ALTER TABLE policy_changes ADD COLUMN alias VARCHAR DEFAULT '';
        ALTER TABLE policy_changes ADD COLUMN receipt_json VARCHAR DEFAULT '';
        CREATE TABLE audit (                 -- the chain of changes
            number BIGINT NOT NULL,
            previous BLOB NOT NULL,
            hash BLOB NOT NULL,
            received_ns BIGINT NOT NULL,
            record BLOB NOT NULL             -- the LogRecord without its place in the chain
        );
        """,
    ),
    Migration(
        "m004_reward_provenance",
        # What evaluation events say of themselves is in the log alone: rows are derived again.
        """
        ALTER TABLE rewards ADD COLUMN actor VARCHAR DEFAULT '';
        ALTER TABLE rewards ADD COLUMN provenance VARCHAR DEFAULT '';
        DELETE FROM trajectories;
        DELETE FROM spans;
        DELETE FROM decisions;
        DELETE FROM task_features;
        DELETE FROM trajectory_scopes;
        DELETE FROM rewards;
        DELETE FROM tools;
        DELETE FROM scope_tools;
        DELETE FROM policies;
        DELETE FROM policy_changes;
        DELETE FROM live_policies;
        DELETE FROM training_runs;
        DELETE FROM producers;
        DELETE FROM counters;
        DELETE FROM audit;
        DELETE FROM run_minutes;
        DELETE FROM scope_totals;
        DELETE FROM expired_totals;
        DELETE FROM tool_minutes;
        DELETE FROM meta WHERE key = 'applied_offset';
        """,
    ),
    Migration(
        "m005_killed",
        # Nothing that was recorded before knew of a kill.
        "ALTER TABLE trajectories ADD COLUMN killed BOOLEAN DEFAULT false;",
    ),
    Migration(
        "m006_policy_share",
        # P(policy) when the run was assigned; of runs before this, it is not known.
        "ALTER TABLE trajectories ADD COLUMN policy_share DOUBLE;",
    ),
    Migration(
        "m007_experiments",
        # Nothing that was recorded before had a part in one; its units nobody asks for.
        """
        ALTER TABLE trajectories ADD COLUMN experiment VARCHAR;
        ALTER TABLE trajectories ADD COLUMN experiment_arm VARCHAR;       -- NULL: no part in it
        ALTER TABLE trajectories ADD COLUMN experiment_treatment VARCHAR;
        ALTER TABLE trajectories ADD COLUMN experiment_share DOUBLE;      -- probability of the arm
        ALTER TABLE trajectories ADD COLUMN unit VARCHAR;                 -- pseudonym, if any
        ALTER TABLE policy_changes ADD COLUMN experiment BLOB;            -- Experiment, if any
        """,
    ),
)

BOOKKEEPING = """
    CREATE TABLE IF NOT EXISTS migrations (name VARCHAR NOT NULL);
    CREATE TABLE IF NOT EXISTS meta (key VARCHAR NOT NULL, value VARCHAR NOT NULL);
"""
BOOKKEEPING_TABLES = ("migrations", "meta")
"""How far and by which rules the rows were derived; not derived themselves."""


class UnknownSchemaError(Exception):
    """The file was written by a newer daemon."""


def migrate(connection: duckdb.DuckDBPyConnection, steps: Sequence[Migration] = MIGRATIONS) -> bool:
    """Brings the schema up to date; says whether anything had to be done."""
    connection.execute(BOOKKEEPING)
    done = [name for (name,) in connection.execute("SELECT name FROM migrations").fetchall()]
    known = [step.name for step in steps]
    if done != known[: len(done)]:
        raise UnknownSchemaError(f"schema has steps {done}, this daemon knows {known}")
    for step in steps[len(done) :]:
        connection.execute("BEGIN")
        connection.execute(step.sql)
        connection.execute("INSERT INTO migrations VALUES (?)", [step.name])
        connection.execute("COMMIT")
    return len(done) < len(steps)
