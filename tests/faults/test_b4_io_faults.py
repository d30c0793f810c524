"""Row B4: whichever call to the disk fails, the log is as before or as after, and says so."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentgym_daemon.clock import ManualClock
from agentgym_daemon.errors import StorageError
from agentgym_daemon.ingest.disk import Disk
from agentgym_daemon.ingest.log import SegmentLog

CODES = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EMFILE)


class FaultyDisk(Disk):
    """Its n-th call fails, once or from then on."""

    def __init__(self, nth: int, code: int, *, lasting: bool) -> None:
        self.nth, self.code, self.lasting = nth, code, lasting
        self.calls = 0
        self.failed: list[str] = []

    def _step(self, kind: str) -> None:
        self.calls += 1
        if self.calls == self.nth or (self.lasting and self.calls > self.nth):
            self.failed.append(kind)
            raise OSError(self.code, os.strerror(self.code))

    def open(self, path: Path, flags: int) -> int:
        self._step("open")
        return super().open(path, flags)

    def write(self, fd: int, data: memoryview) -> int:
        self._step("write")
        return super().write(fd, data[: max(1, len(data) // 2)])

    def truncate(self, fd: int, size: int) -> None:
        self._step("truncate")
        super().truncate(fd, size)

    def sync_data(self, fd: int) -> None:
        self._step("sync_data")
        super().sync_data(fd)

    def sync(self, fd: int) -> None:
        self._step("sync")
        super().sync(fd)

    def rename(self, source: Path, target: Path) -> None:
        self._step("rename")
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._step("unlink")
        super().unlink(path)

    def make_directory(self, path: Path) -> None:
        self._step("make_directory")
        super().make_directory(path)


class Run:
    """One life of a log on a faulty disk: what was sent, acknowledged and refused."""

    def __init__(self, directory: Path, disk: Disk) -> None:
        self.sent: list[bytes] = []
        self.acknowledged: list[bytes] = []
        self.unknown = False
        try:
            log = SegmentLog(directory, segment_bytes=60, clock=ManualClock(), disk=disk)
        except StorageError:
            return
        try:
            for number in range(12):
                payload = b"record %04d" % number
                self.sent.append(payload)
                with contextlib.suppress(StorageError):
                    log.append(payload).result(10)
                    self.acknowledged.append(payload)
            log.wait_sealed()
            with contextlib.suppress(StorageError, OSError):
                log.thin(log.active.start, lambda entries: (list(entries), True), thorough=True)
            self.unknown = log.failed is not None
        finally:
            log.close()


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from-then-on"])
@pytest.mark.parametrize("code", CODES, ids=lambda code: errno.errorcode[code])
def test_after_any_failed_call_the_log_opens_with_what_was_acknowledged_and_nothing_else(
    tmp_path: Path, load: Callable[..., int], report: Any, code: int, lasting: bool
) -> None:
    """The n-th call fails, n = 1..all: all acknowledged records are there, no refused one is."""
    step = max(1, 20 // load(20))
    nth, kinds, stopped = 1, set(), 0
    while True:
        directory = tmp_path / f"log-{nth}"
        disk = FaultyDisk(nth, code, lasting=lasting)
        run = Run(directory, disk)
        if not disk.failed:
            break
        kinds.add(disk.failed[0])
        stopped += run.unknown

        log = SegmentLog(directory, segment_bytes=60, clock=ManualClock())
        found = [payload for _, payload in log.replay()]
        with_one_more = log.append(b"after").result(10)
        damages = log.damages
        log.close()

        # A file that the disk could not read once is set aside, and read again: nothing is lost.
        lost = [damage for damage in damages if damage.lost_bytes or code != errno.EIO]
        assert lost == [], (nth, disk.failed)
        if run.unknown:  # the group in hand when it stopped may be there
            assert found[: len(run.acknowledged)] == run.acknowledged
            assert set(found) <= set(run.sent)
        else:
            assert found == run.acknowledged, (nth, disk.failed)
        assert with_one_more > 0
        nth += step
    report.load |= {"calls": nth - 1, "code": errno.errorcode[code], "lasting": lasting}
    report.figures |= {"kinds": sorted(kinds), "fail_stops": stopped}

    assert step > 1 or {"open", "write", "sync_data", "sync", "rename", "unlink"} <= kinds
    assert nth > 20
