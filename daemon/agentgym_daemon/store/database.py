"""The DuckDB file: opened, brought up to date, set aside when it is damaged, hashed.

The one writer is the applier's thread (or `rebuild`), through `writer`; everybody else reads
through a cursor of their own. Nothing here is lost for good: the log derives it again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, get_args

import duckdb

from agentgym_daemon.errors import ConfigError, StorageError
from agentgym_daemon.store.aggregate import Aggregation, Rules
from agentgym_daemon.store.indexes import Indexes
from agentgym_daemon.store.migrations import BOOKKEEPING_TABLES, UnknownSchemaError, migrate

DATABASE_NAME = "agentgym.duckdb"
_OPTIONS: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": "192MB",
    "threads": "2",
    "checkpoint_threshold": "64MB",
}
# A checkpoint rewrites the row group that is being filled, so a row group must not hold more bytes
# than the threshold. Measured over 128,000 spans of 2.1 KB (us CPU per span, B per span, MB RSS
# above the start):
#   threshold 256 MB, row groups of 122,880 (DuckDB's own)   60 us   653 B   +265 MB
#   threshold 128 MB, row groups of 122,880                  82 us   928 B   +276 MB
#   threshold  64 MB, row groups of  16,384                  53 us   666 B   +129 MB
#   threshold  32 MB, row groups of  16,384                  80 us   834 B   +215 MB
ROW_GROUP_ROWS = 16_384
_CATALOG = "agentgym"
_MOST_DAMAGED = 2
_READ_AT_START = ("meta", "policies", "policy_changes", "live_policies")
_MOST_TRIES = 3
_READERS_S = 5.0
# What DuckDB says of a block or an entry that is not what was written.
_DAMAGE = (
    "corrupt",
    "checksum",
    "could not read enough bytes",
    "not a valid duckdb database",
    "failure while replaying wal",
    "failed to deserialize",
)
# These say nothing about the file's content: a new file would not open either.
_NOT_DAMAGE = (
    "could not set lock",
    "unique file handle conflict",
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

    def __init__(
        self,
        path: Path,
        *,
        aggregation: Aggregation = "last",
        weights: Mapping[str, float] | None = None,
    ) -> None:
        if aggregation not in get_args(Aggregation):
            raise ConfigError(
                f"reward_aggregation is {aggregation!r}, expected one of {get_args(Aggregation)}"
            )
        self.path = path
        self.rules = Rules(aggregation, weights or {})
        """By what the rewards of a trajectory become one."""
        self.quarantined: Path | None = None
        """Where the last damaged file was moved."""
        self.damage = ""
        """What was read of this file shows that it is damaged; empty while all is well."""
        self.on_damage: Callable[[], None] | None = None
        """Called when a reader finds damage."""
        self.on_set_aside: Callable[[Path, str], None] | None = None
        """Called with a damaged file's new place and the reason."""
        self._reading: set[Cursor] = set()
        self._read = threading.Condition()
        self._lock = threading.Lock()
        self._root: Cursor | None = None
        self._writer: Cursor | None = None
        self.indexes = Indexes()
        """Where ids and keys may stand."""
        self._open()

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        aggregation: Aggregation = "last",
        weights: Mapping[str, float] | None = None,
    ) -> Store:
        """Opens the file, or makes it; a damaged one is moved aside and the log fills a new one."""
        return cls(path, aggregation=aggregation, weights=weights)

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
            return _use(self._root.cursor())

    @contextmanager
    def reading(self) -> Iterator[Cursor]:
        """A cursor for a few reads."""
        cursor = self.cursor()
        with self._read:
            self._reading.add(cursor)
        try:
            yield cursor
        except duckdb.Error as error:
            self._note(error)
            raise
        finally:
            cursor.close()
            with self._read:
                self._reading.discard(cursor)
                self._read.notify_all()

    def applied_offset(self) -> int:
        """How much of the log the committed rows hold."""
        return int(_meta(self.writer, "applied_offset") or 0)

    def checkpoint(self, *, at_least_bytes: int = 0) -> None:
        """Moves a write-ahead log of this size into the file; for the writer's thread."""
        wal = self.path.with_name(self.path.name + ".wal")
        if not wal.exists() or wal.stat().st_size < at_least_bytes:
            return
        try:
            self.writer.execute("CHECKPOINT")
        except duckdb.TransactionException as error:
            _logger.info("not checkpointed now: %s", error)  # the next threshold will

    def index_again(self) -> None:
        """Finds anew where ids and keys stand, after rows were deleted; for the writer's thread."""
        self.indexes = Indexes.load(self.writer)

    def reopen(self) -> None:
        """Closes and opens the file again, after an error that invalidated it."""
        self.close()
        self._open()

    def set_aside(self, reason: str) -> None:
        """Moves a damaged file away and opens an empty one, which the log fills again."""
        self.close()
        self._move_away(reason)
        self._open()

    def close(self) -> None:
        """Closes the file, once its readers have closed theirs; a second call does nothing."""
        with self._lock:
            root, writer = self._root, self._writer
            self._root = self._writer = None
        # An instance that outlived this call would write into the next one's files.
        with self._read:
            if not self._read.wait_for(lambda: not self._reading, _READERS_S):
                for cursor in self._reading:
                    cursor.interrupt()
                self._read.wait_for(lambda: not self._reading, _READERS_S)
        for connection in (writer, root):
            if connection is not None:
                connection.close()

    def content_hashes(self) -> dict[str, str]:
        """A hash per table over its rows in any order: equal after a rebuild from the same log."""
        with self.reading() as cursor:
            return {table: _hash(cursor, table) for table in _tables(cursor)}

    def _open(self) -> None:
        opening = self.path.with_name(f"{self.path.name}.opening")
        tries = _tries(opening)
        if tries >= _MOST_TRIES and self.path.exists():
            self._move_away(f"{tries} starts in a row ended while it was opened")
        with suppress(OSError):  # a full disk is no reason not to open what is there
            opening.write_text(str(tries + 1), encoding="ascii")
        try:
            self._load()
        except (duckdb.Error, UnknownSchemaError) as error:
            if not self.path.exists() or is_outer(error):
                raise StorageError(f"database {self.path} cannot be opened: {error}") from error
            self._move_away(str(error))
            self._load()
        finally:
            opening.unlink(missing_ok=True)

    def _load(self) -> None:
        # A connection that nobody runs anything on: the others are made from it, in any thread.
        root = self._connect()
        try:
            writer = _use(root.cursor())
            indexes = Indexes.load(writer)
            # A start that fails on one of these would fail again at every start.
            for table in _READ_AT_START:
                _hash(writer, table)
        except BaseException:
            root.close()
            raise
        with self._lock:
            self._root, self._writer, self.indexes = root, writer, indexes
        self.damage = ""

    def _move_away(self, reason: str) -> None:
        self.quarantined = target = _quarantine(self.path)
        _logger.error(
            "database %s cannot be used (%s); moved to %s, the log derives it again",
            self.path,
            reason,
            target,
        )
        if self.on_set_aside is not None:
            self.on_set_aside(target, reason)

    def _note(self, error: duckdb.Error) -> None:
        if is_damage(error):
            self.damage = self.damage or str(error)
            if self.on_damage is not None:
                self.on_damage()

    def _closed(self) -> StorageError:
        return StorageError(f"database {self.path} is closed")

    def _connect(self) -> Cursor:
        # Only ATTACH takes the size of row groups: the file hangs on an empty database in memory.
        options = {**_OPTIONS, "temp_directory": f"{self.path}.tmp"}
        connection = duckdb.connect(":memory:", config=options)
        try:
            path = str(self.path).replace("'", "''")
            connection.execute(f"ATTACH '{path}' AS {_CATALOG} (ROW_GROUP_SIZE {ROW_GROUP_ROWS})")
            _use(connection)
            self.path.chmod(0o600)
            if migrate(connection):
                connection.execute("CHECKPOINT")
        except BaseException:
            connection.close()
            raise
        return connection


def _use(connection: Cursor) -> Cursor:
    connection.execute(f"USE {_CATALOG}")
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


def is_outer(error: Exception) -> bool:
    """Whether an error says nothing about the file: a new one would fail as well."""
    text = str(error).lower()
    return any(word in text for word in _NOT_DAMAGE)


def is_damage(error: BaseException) -> bool:
    """Whether an error says that the file itself is damaged, so that trying again is no use."""
    text = str(error).lower()
    return isinstance(error, duckdb.Error) and any(word in text for word in _DAMAGE)


def _tries(opening: Path) -> int:
    try:
        return int(opening.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return 0


def _quarantine(path: Path) -> Path:
    """Moves the file and its write-ahead log away; of all that were, the newest are kept."""
    name = f"{path.name}.damaged-"
    numbers = sorted(
        int(number)
        for other in path.parent.glob(f"{name}*")
        if (number := other.name.removeprefix(name)).isdecimal()
    )
    target = path.with_name(f"{name}{numbers[-1] + 1 if numbers else 1}")
    with suppress(FileNotFoundError):
        path.rename(target)
    if _wal(path).exists():
        _wal(path).rename(_wal(target))
    for oldest in numbers[: max(0, len(numbers) + 1 - _MOST_DAMAGED)]:
        old = path.with_name(f"{name}{oldest}")
        old.unlink(missing_ok=True)
        _wal(old).unlink(missing_ok=True)
    return target


def _wal(path: Path) -> Path:
    return path.with_name(f"{path.name}.wal")
