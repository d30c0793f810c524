"""The chain of changes, as the database repeats it."""

from __future__ import annotations

from agentgym.proto.v1 import log_pb2
from agentgym_daemon.store.database import Cursor, fetch
from agentgym_daemon.store.rows import MAX_BIGINT


def write_audit(cursor: Cursor, record: log_pb2.LogRecord) -> None:
    """A change with its place in the chain."""
    audit = record.audit
    plain = log_pb2.LogRecord()
    plain.CopyFrom(record)
    plain.ClearField("audit")
    cursor.execute(
        "INSERT INTO audit VALUES (?, ?, ?, ?, ?)",
        [
            min(audit.number, MAX_BIGINT),
            audit.previous,
            audit.hash,
            min(record.received_unix_nano, MAX_BIGINT),
            plain.SerializeToString(deterministic=True),
        ],
    )


def audit_head(cursor: Cursor) -> log_pb2.Audit:
    """The last link; number 0 if there is none."""
    newest = audited(cursor, 1)
    return newest[0].audit if newest else log_pb2.Audit()


def audited(cursor: Cursor, limit: int) -> list[log_pb2.LogRecord]:
    """The newest changes with their places, newest first."""
    rows = fetch(
        cursor,
        "SELECT number, previous, hash, record FROM audit ORDER BY number DESC LIMIT ?",
        [limit],
    )
    return [_record(*row) for row in rows]


def _record(number: int, previous: bytes, digest: bytes, data: bytes) -> log_pb2.LogRecord:
    record = log_pb2.LogRecord.FromString(data)
    record.audit.CopyFrom(log_pb2.Audit(number=number, previous=previous, hash=digest))
    return record
