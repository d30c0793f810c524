"""The database file: opened again, set aside when damaged, refused when held or newer."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import duckdb
import pytest

from agentgym_daemon.errors import ConfigError, StorageError
from agentgym_daemon.store.database import Store
from agentgym_daemon.store.migrations import MIGRATIONS, Migration, migrate


def test_an_opened_database_keeps_its_rows_and_is_private(records: Any, open_bench: Any) -> None:
    first = open_bench("kept")
    first.apply(*records.episode(1, reward=1.0))
    before, offset = first.store.content_hashes(), first.store.applied_offset()
    first.store.close()
    first.store.close()

    again = open_bench("kept").store

    assert (again.content_hashes(), again.applied_offset()) == (before, offset)
    assert again.path.stat().st_mode & 0o777 == 0o600
    assert again.quarantined is None


def test_a_damaged_file_is_set_aside(records: Any, open_bench: Any) -> None:
    first = open_bench("a")
    first.apply(*records.episode(1))
    first.store.close()
    path = first.store.path
    for number in range(4):
        path.write_bytes(b"x" * 5000)
        path.with_name("a.wal").write_bytes(b"y%d" % number)

        store = open_bench("a").store

        assert store.applied_offset() == 0
        assert store.content_hashes()["spans"] == "0:0"
        store.close()
    assert store.quarantined == path.with_name("a.damaged-4")
    assert path.with_name("a.damaged-3.wal").read_bytes() == b"y2"
    assert sorted(p.name for p in path.parent.glob("*.damaged-?")) == ["a.damaged-3", "a.damaged-4"]


def test_a_file_that_ends_the_process_when_it_is_opened_is_set_aside_at_last(
    open_bench: Any,
) -> None:
    first = open_bench("a").store
    first.close()
    first.path.with_name("a.opening").write_text("3")

    store = open_bench("a").store

    assert store.quarantined == store.path.with_name("a.damaged-1")
    assert not store.path.with_name("a.opening").exists()


def test_a_reader_that_meets_damage_says_so(open_bench: Any) -> None:
    store = open_bench("a").store
    woken: list[bool] = []
    store.on_damage = lambda: woken.append(True)

    with pytest.raises(duckdb.Error, match="does not exist"), store.reading() as cursor:
        cursor.execute("SELECT * FROM missing")
    assert store.damage == ""
    with pytest.raises(duckdb.IOException), store.reading():
        raise duckdb.IOException("Corrupt database file: computed checksum 1 does not match 2")

    assert woken == [True]
    assert store.damage.startswith("Corrupt database file")


def test_a_reader_that_will_not_end_is_interrupted_before_the_file_is_closed(
    open_bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentgym_daemon.store.database._READERS_S", 0.2)
    store = open_bench("a").store
    begun = threading.Event()
    ended: list[str] = []

    def read() -> None:
        try:
            with store.reading() as cursor:
                begun.set()
                cursor.execute(
                    "SELECT sum(a.range * b.range) FROM range(10000000) a, range(1000000) b"
                )
        except duckdb.Error as error:
            ended.append(type(error).__name__)

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(10)
    store.close()
    reader.join(30)

    assert ended == ["InterruptException"]


def test_a_file_of_a_newer_daemon_is_set_aside(open_bench: Any) -> None:
    first = open_bench("a").store
    first.writer.execute("INSERT INTO migrations VALUES ('m999_future')")
    first.close()

    assert open_bench("a").store.quarantined is not None


def test_a_later_migration_is_applied_once(tmp_path: Path) -> None:
    connection = duckdb.connect(tmp_path / "a")
    later = (*MIGRATIONS, Migration("m002_more", "CREATE TABLE more (x BIGINT)"))

    assert migrate(connection)
    assert migrate(connection, later)
    assert not migrate(connection, later)
    connection.close()


def test_a_file_that_another_process_holds_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.duckdb"
    hold = f"import duckdb; c = duckdb.connect({str(path)!r}); print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StorageError, match="cannot be opened"):
            Store.open(path)
        holder.communicate("\n")

    assert list(tmp_path.glob("*.damaged-*")) == []


def test_a_closed_store_says_so(open_bench: Any) -> None:
    store = open_bench().store
    store.close()

    with pytest.raises(StorageError, match="is closed"):
        store.cursor()
    with pytest.raises(StorageError, match="is closed"):
        _ = store.writer


def test_an_unknown_aggregation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected one of"):
        Store.open(tmp_path / "a", aggregation="mode")  # type: ignore[arg-type]


def test_the_database_itself_refuses_a_reward_that_is_no_number(records: Any, bench: Any) -> None:
    bench.apply(*records.episode(1, reward=1.0))

    for value in ("'nan'", "'inf'", "2.0"):
        with pytest.raises(duckdb.ConstraintException):
            bench.store.writer.execute(f"UPDATE rewards SET value = {value}::DOUBLE")
