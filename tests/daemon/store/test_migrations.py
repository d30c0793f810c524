"""Files of older daemons: brought up to date at any interruption, and derived again where needed.

`golden/m001.tar.xz` is the home of a daemon with the first schema, killed with a live write-ahead
file, and its log.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import duckdb
import pytest

from agentgym_daemon.clock import ManualClock
from agentgym_daemon.ingest.log import SegmentLog
from agentgym_daemon.ingest.otlp import decode_traces
from agentgym_daemon.store.applier import Applier
from agentgym_daemon.store.database import DATABASE_NAME, Store
from agentgym_daemon.store.migrations import MIGRATIONS, Migration, migrate
from agentgym_daemon.store.rebuild import rebuild

GOLDEN = Path(__file__).parent / "golden" / "m001.tar.xz"


@pytest.fixture
def old_home(tmp_path: Path) -> Path:
    """The home of a daemon of the first schema."""
    home = tmp_path / "old"
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(home, filter="data")
    return home


def caught_up(home: Path, log: SegmentLog) -> dict[str, str]:
    """Content hashes after everything of the log was applied."""
    store = Store.open(home / DATABASE_NAME)
    assert store.quarantined is None
    applier = Applier(store, log, decode=decode_traces)
    applier.start()
    assert applier.wait(log.end, 60)
    applier.close()
    hashes = store.content_hashes()
    store.close()
    return hashes


def test_the_oldest_file_with_a_live_wal_becomes_what_a_rebuild_gives(old_home: Path) -> None:
    assert (old_home / f"{DATABASE_NAME}.wal").stat().st_size > 0
    log = SegmentLog(old_home / "log", clock=ManualClock())

    migrated = caught_up(old_home, log)

    assert migrated == rebuild(old_home, log=log, decode=decode_traces)
    assert int(migrated["spans"].split(":")[0]) > 30
    assert int(migrated["run_minutes"].split(":")[0]) > 0
    log.close()


@pytest.mark.parametrize("step", range(1, len(MIGRATIONS) + 1))
def test_a_kill_in_a_migration_leaves_a_file_that_the_next_start_completes(
    old_home: Path, step: int
) -> None:
    # The first step was done by the daemon that made the file: its kill is in an empty one.
    home = old_home if step > 1 else old_home.parent
    path = home / DATABASE_NAME

    ended = subprocess.run([sys.executable, "-c", KILLED, str(path), str(step)], check=False)

    assert ended.returncode == -9
    log = SegmentLog(home / "log", clock=ManualClock())
    assert caught_up(home, log) == rebuild(home, log=log, decode=decode_traces)
    log.close()


KILLED = """
import os, signal, sys
import duckdb
from agentgym_daemon.store.migrations import MIGRATIONS, migrate
path, step = sys.argv[1], int(sys.argv[2])
connection = duckdb.connect(path)
connection.create_function("die", lambda: os.kill(os.getpid(), signal.SIGKILL) or 0, [], "BIGINT",
    side_effects=True)
steps = [m._replace(sql=m.sql + "; SELECT die()") if n == step else m
    for n, m in enumerate(MIGRATIONS, start=1)]
migrate(connection, steps)
"""


def test_every_step_is_applied_once_and_in_order(tmp_path: Path) -> None:
    connection = duckdb.connect(tmp_path / "a")
    later = (*MIGRATIONS, Migration("m999_more", "CREATE TABLE more (x BIGINT)"))

    assert migrate(connection, MIGRATIONS[:1])
    assert migrate(connection)
    assert migrate(connection, later)
    assert not migrate(connection, later)
    connection.close()


def test_a_daemon_older_than_the_file_sets_it_aside_and_derives_its_own(
    records: Any, open_bench: Any, caplog: pytest.LogCaptureFixture
) -> None:
    newer = open_bench("a")
    newer.apply(*records.episode(1))
    newer.store.writer.execute("INSERT INTO migrations VALUES ('m999_future')")
    newer.store.close()

    older = open_bench("a").store

    assert older.quarantined is not None
    assert older.applied_offset() == 0
    assert "m999_future" in caplog.text
    assert "the log derives it again" in caplog.text


def test_shipped_steps_are_not_edited() -> None:
    # A change of a shipped schema is a new step; these are the digests of the shipped ones.
    digests = {m.name: hashlib.sha256(m.sql.encode()).hexdigest()[:16] for m in MIGRATIONS}

    assert digests["m001_initial"] == "7e968f086a8c65d2"
