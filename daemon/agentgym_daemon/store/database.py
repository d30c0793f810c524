"""The DuckDB file: opened, brought up to date, set aside when it is damaged, hashed.

The one writer is the applier's thread (or `rebuild`), through `writer`; everybody else reads
through a cursor of their own. Nothing here is lost for good: the log derives it again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import duckdb

from agentgym_daemon.errors import ConfigError, StorageError
from agentgym_daemon.store.aggregate import Aggregation
from agentgym_daemon.store.migrations import BOOKKEEPING_TABLES, UnknownSchemaError, migrate

DATABASE_NAME = "agentgym.duckdb"
_OPTIONS: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": "256MB",
    "threads": "2",
    # A checkpoint in the middle of every few batches would triple the cost of a span.
    "checkpoint_threshold": "256MB",
}
# These say nothing about the file's content: a new file would not open either.
_NOT_DAMAGE = (
    "could not set lock",
    "permission denied",
    "no space left",
    "too many open files",
    "read-only file system",
    "is a directory",
)

_logger = logging.getLogger(__name__)

Cursor = duckdb.DuckDBPyConnection
"""What reads run on; one per thread."""


class Store:
    """An open database; `writer` belongs to one thread, `cursor()` is for all others."""

    def __init__(self, path: Path, *, aggregation: Aggregation = "last") -> None:
        if aggregation not in get_args(Aggregation):
            raise ConfigError(
                f"reward_aggregation is {aggregation!r}, expected one of {get_args(Aggregation)}"
            )
        self.path = path
        self.aggregation: Aggregation = aggregation
        self.quarantined: Path | None = None
        """Where a damaged file was moved when this one was opened."""
        self._lock = threading.Lock()
        self._root: Cursor | None = None
        self._writer: Cursor | None = None
        self._open()

    @classmethod
    def open(cls, path: Path, *, aggregation: Aggregation = "last") -> Store:
        """Opens the file, or makes it; a damaged one is moved aside and the log fills a new one."""
        return cls(path, aggregation=aggregation)

    @property
    def writer(self) -> Cursor:
        """The writing connection, for its one thread."""
        if self._writer is None:
            raise self._closed()
        return self._writer

    def cursor(self) -> Cursor:
        """A connection of its own for the calling thread; close it after use."""
        with self._lock:
            if self._root is None:
                raise self._closed()
            return self._root.cursor()

    @contextmanager
    def reading(self) -> Iterator[Cursor]:
        """A cursor for a few reads."""
        cursor = self.cursor()
        try:
            yield cursor
        finally:
            cursor.close()

    def applied_offset(self) -> int:
        """How much of the log the committed rows hold."""
        return int(_meta(self.writer, "applied_offset") or 0)

    def reopen(self) -> None:
        """Closes and opens the file again, after an error that invalidated it."""
        self.close()
        self._open()

    def close(self) -> None:
        """Closes the file, once its readers have closed theirs; a second call does nothing."""
        with self._lock:
            for connection in (self._writer, self._root):
                if connection is not None:
                    connection.close()
            self._writer = self._root = None

    def content_hashes(self) -> dict[str, str]:
        """A hash per table over its rows in any order: equal after a rebuild from the same log."""
        with self.reading() as cursor:
            return {table: _hash(cursor, table) for table in _tables(cursor)}

    def _open(self) -> None:
        # A connection that nobody runs anything on: the others are made from it, in any thread.
        root = self._open_or_quarantine()
        with self._lock:
            self._root, self._writer = root, root.cursor()

    def _closed(self) -> StorageError:
        return StorageError(f"database {self.path} is closed")

    def _open_or_quarantine(self) -> Cursor:
        try:
            return self._connect()
        except (duckdb.Error, UnknownSchemaError) as error:
            if not self.path.exists() or _is_no_damage(error):
                raise StorageError(f"database {self.path} cannot be opened: {error}") from error
            self.quarantined = _quarantine(self.path)
            _logger.error(
                "database %s cannot be used (%s); moved to %s, the log derives it again",
                self.path,
                error,
                self.quarantined,
            )
        return self._connect()

    def _connect(self) -> Cursor:
        connection = duckdb.connect(self.path, config=_OPTIONS)
        try:
            self.path.chmod(0o600)
            if migrate(connection):
                connection.execute("CHECKPOINT")
        except BaseException:
            connection.close()
            raise
        return connection


def fetch(
    cursor: Cursor, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
) -> list[tuple[Any, ...]]:
    """All rows; a result that is not fetched whole would block the connection."""
    return cursor.execute(sql, parameters).fetchall()


def set_meta(writer: Cursor, key: str, value: str) -> None:
    """Writes one entry of `meta`."""
    writer.execute("DELETE FROM meta WHERE key = ?", [key])
    writer.execute("INSERT INTO meta VALUES (?, ?)", [key, value])


def _meta(cursor: Cursor, key: str) -> str | None:
    rows = fetch(cursor, "SELECT value FROM meta WHERE key = ?", [key])
    return rows[0][0] if rows else None


def aggregation_of_rows(cursor: Cursor) -> str | None:
    """The rule by which the stored rewards of trajectories were computed; None before the first."""
    return _meta(cursor, "aggregation")


def _tables(cursor: Cursor) -> list[str]:
    rows = fetch(cursor, "SELECT table_name FROM duckdb_tables() ORDER BY table_name")
    return [name for (name,) in rows if name not in BOOKKEEPING_TABLES]


def _hash(cursor: Cursor, table: str) -> str:
    columns = fetch(
        cursor,
        "SELECT column_name FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index",
        [table],
    )
    names = ", ".join(name for (name,) in columns)
    ((count, total),) = fetch(cursor, f"SELECT count(*), sum(hash({names})) FROM {table}")
    return f"{count}:{int(total or 0):x}"


def _is_no_damage(error: Exception) -> bool:
    text = str(error).lower()
    return any(word in text for word in _NOT_DAMAGE)


def _quarantine(path: Path) -> Path:
    number = 1
    while (target := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(target)
    wal = path.with_name(path.name + ".wal")
    if wal.exists():
        wal.rename(target.with_name(target.name + ".wal"))
    return target
