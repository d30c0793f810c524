"""Row B2: an answer never leaves before the disk has said that the record is durable."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from agentgym_daemon.clock import SystemClock
from agentgym_daemon.ingest.disk import Disk
from agentgym_daemon.ingest.frames import HEADER_BYTES
from agentgym_daemon.ingest.log import SegmentLog


class RecordingDisk(Disk):
    """Knows for every file how much of it was written and how much is durable."""

    def __init__(self) -> None:
        self.names: dict[int, int] = {}
        self.written: dict[int, int] = {}
        self.durable: dict[int, int] = {}
        self.named: set[int] = set()
        self.lock = threading.Lock()

    def open(self, path: Path, flags: int) -> int:
        fd = super().open(path, flags)
        with self.lock:
            self.names.pop(fd, None)
            if path.suffix == ".seg" and flags & 1:
                start = int(path.name[4:24])
                self.names[fd] = start
                self.written.setdefault(start, 0)
        return fd

    def write(self, fd: int, data: memoryview) -> int:
        count = super().write(fd, data)
        with self.lock:
            if fd in self.names:
                self.written[self.names[fd]] += count
        return count

    def sync_data(self, fd: int) -> None:
        with self.lock:
            size = self.written[self.names[fd]]
        super().sync_data(fd)
        with self.lock:
            self.durable[self.names[fd]] = size

    def sync(self, fd: int) -> None:
        with self.lock:
            present = set(self.written)
        super().sync(fd)
        with self.lock:
            self.named |= present  # the directory, or a file besides; both come after the open


def test_every_acknowledged_record_was_synced_in_a_segment_with_a_durable_name(
    tmp_path: Path, load: Callable[..., int], report: Any
) -> None:
    """Before any acknowledgement came fdatasync of its segment, and fsync of the segment's name."""
    disk = RecordingDisk()
    log = SegmentLog(tmp_path / "log", segment_bytes=50_000, clock=SystemClock(), disk=disk)
    records = load(20_000)
    early: list[int] = []
    starts: list[int] = [0]

    def acknowledged(future: Future[int]) -> None:
        end = future.result()
        with disk.lock:
            start = max(start for start in disk.written if start < end)
            if disk.durable.get(start, 0) < end - start or start not in disk.named:
                early.append(end)

    rng = random.Random(1)
    futures = []
    for _ in range(records):
        future = log.append(bytes(rng.randrange(1, 3000)))
        future.add_done_callback(acknowledged)
        futures.append(future)
        if rng.random() < 0.02:
            future.result(30)
    ends = [future.result(30) for future in futures]
    log.close()
    report.load |= {"records": records}
    report.figures |= {"acknowledged": len(ends), "early": len(early), "segments": len(disk.named)}

    assert early == []
    assert ends == sorted(ends)
    assert ends[0] > HEADER_BYTES
    assert len(disk.named) >= len(starts)
