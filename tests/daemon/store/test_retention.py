"""Old trajectories go with their rows and records, the rest stays, and a rebuild agrees."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentgym.proto.v1 import log_pb2
from agentgym_daemon.clock import ManualClock
from agentgym_daemon.errors import StorageError
from agentgym_daemon.ingest.disk import Disk
from agentgym_daemon.ingest.log import SegmentLog
from agentgym_daemon.ingest.otlp import decode_traces
from agentgym_daemon.retention import Freed, Retention
from agentgym_daemon.store.applier import Applier
from agentgym_daemon.store.database import DATABASE_NAME, Store
from agentgym_daemon.store.rebuild import rebuild
from agentgym_daemon.store.training import scope_progress

T0 = 1_700_000_000_000_000_000
DAY = 86_400


class DyingDisk(Disk):
    """From its n-th call that changes a name on, nothing reaches it any more."""

    def __init__(self) -> None:
        self.left = -1
        self.died = False

    def _step(self) -> None:
        if self.left == 0:
            self.died = True
            raise OSError(errno.EIO, "the process has ended")
        self.left -= 1

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._step()
        super().unlink(path)

    def sync(self, fd: int) -> None:
        self._step()
        super().sync(fd)


class Site:
    """A log with its database, and a clock that can be moved on by days."""

    def __init__(self, home: Path, *, disk: Disk | None = None, now_ns: int = T0) -> None:
        self.home = home
        self.clock = ManualClock(now_ns)
        self.log = SegmentLog(
            home / "log", segment_bytes=4000, clock=self.clock, disk=disk or Disk()
        )
        self.store = Store.open(home / DATABASE_NAME)
        self.applier = Applier(self.store, self.log, decode=decode_traces)
        self.log.on_durable = self.applier.submit
        self.applier.start()
        self.retention = Retention(
            self.log,
            self.store,
            decode=decode_traces,
            append=self.append,
            caught_up=self.caught_up,
            clock=self.clock,
            days=30,
        )

    async def append(self, record: log_pb2.LogRecord) -> int:
        record.received_unix_nano = self.clock.now_ns()
        return self.log.append(record.SerializeToString()).result(10)

    async def caught_up(self) -> bool:
        return self.applier.wait(self.log.end, 30)

    def take(self, *payloads: bytes) -> None:
        for payload in payloads:
            record = log_pb2.LogRecord.FromString(payload)
            record.received_unix_nano = self.clock.now_ns()
            self.log.append(record.SerializeToString()).result(10)

    def ids(self) -> list[int]:
        assert self.applier.wait(self.log.end, 30)
        with self.store.reading() as cursor:
            rows = cursor.execute("SELECT id FROM trajectories ORDER BY no").fetchall()
        return [int.from_bytes(identifier, "big") for (identifier,) in rows]

    def hashes(self) -> dict[str, str]:
        """All tables except lifetime counters, which count what is gone too."""
        assert self.applier.wait(self.log.end, 30)
        hashes = self.store.content_hashes()
        hashes.pop("counters", None)
        return hashes

    def rebuilt(self) -> dict[str, str]:
        target = self.home / "rebuilt"
        target.mkdir(exist_ok=True)
        hashes = rebuild(target, log=self.log, decode=decode_traces)
        hashes.pop("counters", None)
        return hashes

    def close(self) -> None:
        self.applier.close()
        self.log.close()
        self.store.close()


@pytest.fixture
def open_site(home: Path) -> Iterator[Callable[..., Site]]:
    """Opens sites on one directory, one after the other."""
    opened: list[Site] = []

    def open_one(**options: Any) -> Site:
        opened.append(Site(home, **options))
        return opened[-1]

    yield open_one
    for site in opened:
        site.close()


def live_through(site: Site, records: Any) -> None:
    """Three weeks of runs, some of which share records or go on for long."""
    site.take(records.catalogue(), records.policy("p-1"), records.change("PROMOTE", "p-1"))
    for day in range(21):
        first = 10 * day
        for number in range(first + 1, first + 7):
            site.take(*records.episode(number, reward=0.5 if number % 2 else None))
        # Two runs in one record: one ends, the other goes on for a long time.
        site.take(
            records.spans(
                records.root(first + 8, 1),
                records.call(first + 7, 5, "mail"),
                producer=b"p" * 16,
                sequence=day + 1,
            ),
            records.revocation(f"r{first + 1}"),
            records.training(day),
        )
        site.clock.advance(DAY)
    for day in range(15, 21):
        site.take(records.spans(records.root(10 * day + 7, 1)))
    site.take(records.spans(records.root(7, 9), records.root(3, 77)))


async def test_what_is_old_goes_and_a_rebuild_gives_the_same_rows(
    records: Any, open_site: Callable[..., Site]
) -> None:
    site = open_site()
    live_through(site, records)
    site.log.rotate().result(10)
    site.log.wait_sealed()
    everything = site.ids()
    before = site.log.bytes_on_disk()
    assert site.rebuilt() == site.hashes()
    with site.store.reading() as cursor:
        progress = scope_progress(cursor)

    site.clock.advance(19 * DAY)
    freed = await site.retention.run_due()
    assert await site.caught_up()

    left = site.ids()
    assert freed is not None
    assert freed.trajectories == len(everything) - len(left) > 30
    assert set(left) < set(everything)
    assert {3, 7} < set(left)  # something was said of them later
    assert {1, 11, 21} & set(left) == set()
    assert site.hashes() == site.rebuilt()
    assert freed.log_bytes > before / 4
    assert before - site.log.bytes_on_disk() >= freed.log_bytes - 500
    with site.store.reading() as cursor:
        assert scope_progress(cursor) == progress
    names = {path.name.split(".", 1)[1] for path in (site.home / "log").glob("log-*")}
    assert "thin.zst" in names


async def test_everything_expires_in_the_end_but_the_rare_facts(
    records: Any, open_site: Callable[..., Site]
) -> None:
    site = open_site()
    live_through(site, records)
    for _ in range(3):
        site.clock.advance(40 * DAY)
        await site.retention.run_due()
        site.take(records.catalogue())

    site.take(*(records.closure(10 * day + 7) for day in range(21)))
    site.clock.advance(40 * DAY)
    await site.retention.run_due()
    site.take(records.catalogue())
    site.clock.advance(40 * DAY)
    await site.retention.run_due()
    assert await site.caught_up()

    hashes = site.hashes()
    assert site.ids() == []
    assert {hashes[table] for table in ("spans", "decisions", "rewards", "task_features")} == {
        "0:0"
    }
    assert hashes["training_runs"].startswith("21:")
    assert not hashes["scope_tools"].startswith("0:")
    assert site.rebuilt() == hashes
    assert len(list((site.home / "log").glob("log-*.rare.zst"))) <= 2
    assert await site.retention.run_due() is None


async def test_a_late_span_of_a_deleted_trajectory_makes_a_new_one(
    records: Any, open_site: Callable[..., Site]
) -> None:
    site = open_site()
    live_through(site, records)
    site.clock.advance(40 * DAY)
    await site.retention.run_due()
    site.take(records.spans(records.call(2, 99, "late")))

    assert 2 in site.ids()
    site.clock.advance(3600)
    await site.retention.run_due()
    assert site.rebuilt() == site.hashes()


async def test_nothing_is_deleted_while_retention_is_off_or_nothing_is_old(
    records: Any, open_site: Callable[..., Site]
) -> None:
    site = open_site()
    live_through(site, records)
    before = site.hashes()

    assert await site.retention.run_due() == Freed()
    site.retention.days = 0
    site.clock.advance(400 * DAY)
    assert await site.retention.run_due() is None

    assert site.hashes() == before


async def test_a_death_at_any_step_is_healed_by_the_next_run(
    records: Any, open_site: Callable[..., Site]
) -> None:
    site = open_site()
    live_through(site, records)
    now_ns = site.clock.now_ns() + 40 * DAY * 10**9
    site.close()
    step, died = 0, True
    while died:
        disk = DyingDisk()
        site = open_site(disk=disk, now_ns=now_ns)
        site.log.wait_sealed()
        disk.left = step
        with contextlib.suppress(OSError, StorageError):
            await site.retention.run_due()
        died = disk.died
        site.close()
        step += 1
    last = open_site(now_ns=now_ns)

    assert step > 3
    assert 1 not in last.ids()
    assert {17, 27, 37} < set(last.ids())  # still open
    assert last.hashes() == last.rebuilt()
    ends = [end for end, _ in last.log.replay()]
    assert ends == sorted(set(ends))


async def test_old_damaged_files_go_too(records: Any, open_site: Callable[..., Site]) -> None:
    site = open_site()
    live_through(site, records)
    aside = site.home / "log" / "damaged"
    aside.mkdir()
    database = site.home / f"{DATABASE_NAME}.damaged-1"
    for path in (aside / "old", aside / "new", database):
        path.write_bytes(b"x")
        if path.name != "new":
            os.utime(path, ns=(T0, T0))
    site.clock.advance(40 * DAY)

    await site.retention.run_due()

    assert not (aside / "old").exists()
    assert not database.exists()
    assert (aside / "new").exists()
