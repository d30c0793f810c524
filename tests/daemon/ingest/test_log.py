"""What the log acknowledges it keeps: across restarts, torn tails, sealing and failing disks."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgym_daemon.clock import ManualClock
from agentgym_daemon.errors import StorageError, StorageFullError
from agentgym_daemon.ingest import frames
from agentgym_daemon.ingest.disk import Disk
from agentgym_daemon.ingest.log import SegmentLog

OpenLog = Callable[..., SegmentLog]


@pytest.fixture
def open_log(tmp_path: Path) -> Iterator[OpenLog]:
    """Opens logs in one directory; they are closed at the end."""
    opened: list[SegmentLog] = []

    def open_one(**options: Any) -> SegmentLog:
        opened.append(SegmentLog(tmp_path / "log", clock=ManualClock(), **options))
        return opened[-1]

    yield open_one
    for log in opened:
        log.close()


def fill(log: SegmentLog, *payloads: bytes) -> list[int]:
    return [log.append(payload).result(10) for payload in payloads]


def files(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "log").iterdir() if path.name.startswith("log-"))


def payloads_of(log: SegmentLog, offset: int = 0) -> list[bytes]:
    return [payload for _, payload in log.replay(offset)]


class HeldDisk(Disk):
    """Its syncs wait until they may go on."""

    def __init__(self) -> None:
        self.syncs = 0
        self.inside, self.go_on = threading.Event(), threading.Event()

    def sync_data(self, fd: int) -> None:
        self.syncs += 1
        self.inside.set()
        assert self.go_on.wait(30)
        super().sync_data(fd)


class FaultyDisk(Disk):
    """One kind of call fails while `error` is set."""

    def __init__(self, kind: str, error: int = 0) -> None:
        self.kind, self.error = kind, error

    def _check(self, kind: str) -> None:
        if self.error and kind == self.kind:
            raise OSError(self.error, os.strerror(self.error))

    def open(self, path: Path, flags: int) -> int:
        self._check("open")
        return super().open(path, flags)

    def write(self, fd: int, data: memoryview) -> int:
        if self.error and self.kind == "write" and len(data) > 5:
            return super().write(fd, data[:5])  # a full disk takes a part first
        self._check("write")
        return super().write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        self._check("truncate")
        super().truncate(fd, size)

    def sync_data(self, fd: int) -> None:
        self._check("sync_data")
        super().sync_data(fd)

    def rename(self, source: Path, target: Path) -> None:
        self._check("rename")
        super().rename(source, target)


def test_what_was_appended_is_replayed_in_order(open_log: OpenLog) -> None:
    log = open_log()

    ends = fill(log, b"one", b"two", b"three")

    assert list(log.replay()) == list(zip(ends, [b"one", b"two", b"three"], strict=True))
    assert list(log.replay(ends[1])) == [(ends[2], b"three")]
    assert list(log.replay(log.end)) == []
    assert ends == [11, 22, 35]


def test_offsets_go_on_after_a_restart(open_log: OpenLog) -> None:
    first = open_log()
    before = fill(first, b"one")
    first.close()
    first.close()

    again = open_log()
    after = fill(again, b"two")

    assert list(again.replay()) == [(before[0], b"one"), (after[0], b"two")]


def test_the_directory_and_its_files_are_private(open_log: OpenLog, tmp_path: Path) -> None:
    fill(open_log(), b"one")

    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in files(tmp_path)] == [0o600]


def test_a_group_is_told_before_it_is_acknowledged(open_log: OpenLog) -> None:
    told: list[tuple[int, bytes]] = []
    log = open_log(on_durable=told.extend)

    (end,) = fill(log, b"one")

    assert told == [(end, b"one")]


def test_a_failing_listener_does_not_stop_the_log(
    open_log: OpenLog, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(entries: Any) -> None:
        raise RuntimeError("the listener's own fault")

    log = open_log(on_durable=broken)

    fill(log, b"one", b"two")

    assert "listener of the log failed" in caplog.text


def test_waiting_appends_share_one_sync(open_log: OpenLog) -> None:
    disk = HeldDisk()
    log = open_log(disk=disk)
    first = log.append(b"first")
    assert disk.inside.wait(30)
    others = [log.append(b"other %d" % number) for number in range(20)]
    assert not first.done()
    disk.go_on.set()

    assert [other.result(10) for other in others] == sorted(other.result() for other in others)
    assert disk.syncs == 2


def test_a_large_queue_is_committed_in_several_groups(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentgym_daemon.ingest.log._GROUP_BYTES", 2)
    log = open_log()

    futures = [log.append(b"x") for _ in range(50)]

    assert [future.result(10) for future in futures] == [9 * n for n in range(1, 51)]


def test_full_segments_are_sealed_and_replayed_from(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log(segment_bytes=100)
    payloads = [b"payload %d " % number * 5 for number in range(20)]
    ends = fill(log, *payloads)
    log.wait_sealed()

    suffixes = [path.suffix for path in files(tmp_path)]
    assert suffixes == [".zst"] * (len(suffixes) - 1) + [".seg"]
    assert len(suffixes) > 5
    everything = list(zip(ends, payloads, strict=True))
    assert list(log.replay()) == everything
    assert list(log.replay(ends[6])) == everything[7:]
    log.close()
    assert list(open_log().replay()) == everything


def test_a_replay_survives_sealing_under_its_feet(open_log: OpenLog) -> None:
    log = open_log(segment_bytes=60)
    replayed = []

    fill(log, *[b"payload %d" % number for number in range(10)])
    for _, payload in log.replay():
        replayed.append(payload)
        log.wait_sealed()

    assert len(replayed) == 10


def test_segments_left_unsealed_are_sealed_at_the_next_start(
    open_log: OpenLog, tmp_path: Path
) -> None:
    log = open_log(segment_bytes=10, disk=FaultyDisk("rename", errno.ENOSPC))
    fill(log, b"0123456789", b"next")
    log.close()
    assert [path.suffix for path in files(tmp_path)] == [".seg", ".seg"]

    again = open_log()
    again.wait_sealed()

    assert [path.suffix for path in files(tmp_path)] == [".zst", ".seg"]
    assert payloads_of(again) == [b"0123456789", b"next"]


def test_a_crash_inside_sealing_leaves_nothing_behind(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log(segment_bytes=10)
    fill(log, b"0123456789", b"next")
    log.wait_sealed()
    log.close()
    before = files(tmp_path)
    uncompressed = tmp_path / "log" / "log-00000000000000000000.seg"
    uncompressed.write_bytes(b"the uncompressed file, not unlinked yet")
    (tmp_path / "log" / "log-00000000000000000099.seg.tmp").write_bytes(b"half")
    (tmp_path / "log" / "README").write_text("somebody's own file")

    again = open_log()

    assert payloads_of(again) == [b"0123456789", b"next"]
    assert files(tmp_path) == before
    assert (tmp_path / "log" / "README").exists()


def test_a_segment_that_was_sealed_by_an_older_daemon_is_read(
    open_log: OpenLog, tmp_path: Path
) -> None:
    (tmp_path / "log").mkdir()
    old = b"".join(map(frames.encode_frame, [b"one", b"two"]))
    path = tmp_path / "log" / "log-00000000000000000000.seg.zst"
    path.write_bytes(zstandard.compress(old))
    (tmp_path / "log" / f"log-{len(old):020d}.seg").write_bytes(frames.encode_frame(b"three"))

    assert payloads_of(open_log()) == [b"one", b"two", b"three"]
    assert not path.exists()


def test_a_log_whose_last_segment_is_sealed_goes_on_in_a_new_one(
    open_log: OpenLog, tmp_path: Path
) -> None:
    log = open_log(segment_bytes=10)
    fill(log, b"0123456789", b"next")
    log.wait_sealed()
    log.close()
    files(tmp_path)[1].unlink()

    again = open_log()

    assert fill(again, b"after") == [18 + 13]
    assert [payload for _, payload in again.replay()] == [b"0123456789", b"after"]


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 60), tail=st.binary(max_size=12))
def test_a_torn_tail_is_cut_off_and_everything_before_it_kept(
    tmp_path_factory: pytest.TempPathFactory, cut: int, tail: bytes
) -> None:
    directory = tmp_path_factory.mktemp("torn")
    payloads = [b"first record", b"second one", b"third"]
    log = SegmentLog(directory, clock=ManualClock())
    ends = fill(log, *payloads)
    log.close()
    path = next(directory.iterdir())
    data = path.read_bytes()
    kept = min(cut, len(data))
    path.write_bytes(data[:kept] + tail)

    again = SegmentLog(directory, clock=ManualClock())
    found = list(again.replay())
    fill(again, b"after")
    followed = list(again.replay())
    again.close()

    whole = list(zip(ends, payloads, strict=True))
    survivors = [entry for entry in whole if entry[0] <= kept]
    assert found[: len(survivors)] == survivors
    assert len(followed) == len(found) + 1


@pytest.mark.parametrize("tail", [b"\x00" * 64, b"\xff" * 64])
def test_a_tail_of_zeros_or_garbage_is_no_record(
    open_log: OpenLog, tmp_path: Path, tail: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    log = open_log()
    fill(log, b"one")
    log.close()
    with files(tmp_path)[0].open("ab") as file:
        file.write(tail)

    with caplog.at_level(logging.WARNING):
        again = open_log()

    assert [payload for _, payload in again.replay()] == [b"one"]
    assert "torn tail of 64 bytes" in caplog.text


def test_an_offset_behind_the_end_is_refused(open_log: OpenLog) -> None:
    with pytest.raises(StorageError, match="ends at offset 0, expected at least 5"):
        list(open_log().replay(5))


@pytest.mark.parametrize("payload", [b"", bytes(frames.MAX_PAYLOAD_BYTES + 1)], ids=len)
def test_a_record_of_an_impossible_size_is_refused(open_log: OpenLog, payload: bytes) -> None:
    log = open_log()

    with pytest.raises(StorageError, match="expected 1 to"):
        log.append(payload).result(10)

    assert fill(log, b"good")


def test_a_failed_sync_stops_the_log_for_good(open_log: OpenLog) -> None:
    disk = FaultyDisk("sync_data")
    log = open_log(disk=disk)
    fill(log, b"kept")

    disk.error = errno.EIO
    with pytest.raises(StorageError, match="could not be written"):
        log.append(b"lost").result(10)
    disk.error = 0

    with pytest.raises(StorageError, match="free or repair the disk"):
        log.append(b"refused").result(10)
    with pytest.raises(StorageError, match="free or repair the disk"):
        log.rotate().result(10)
    assert log.failed is not None
    assert payloads_of(log) == [b"kept"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_refuses_and_the_log_goes_on_when_there_is_space(
    open_log: OpenLog, code: int
) -> None:
    disk = FaultyDisk("write")
    log = open_log(disk=disk)
    ends = fill(log, b"kept")

    disk.error = code
    with pytest.raises(StorageFullError, match="takes nothing for now") as caught:
        log.append(b"refused, all of it").result(10)
    disk.error = 0
    ends += fill(log, b"after")

    assert caught.value.retry_after_s > 0
    assert log.failed is None
    assert ends == [12, 25]
    log.close()
    assert payloads_of(open_log()) == [b"kept", b"after"]


def test_a_failed_write_that_cannot_be_undone_stops_the_log(open_log: OpenLog) -> None:
    class BrokenDisk(FaultyDisk):
        def truncate(self, fd: int, size: int) -> None:
            raise OSError(errno.EIO, "input/output error")

    log = open_log(disk=BrokenDisk("write", errno.ENOSPC))

    with pytest.raises(StorageError, match="could not be written"):
        log.append(b"who knows").result(10)

    assert log.failed is not None
    log.close()
    assert payloads_of(open_log()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EMFILE, errno.EROFS])
def test_a_segment_that_cannot_be_begun_refuses_and_is_begun_later(
    open_log: OpenLog, code: int
) -> None:
    disk = FaultyDisk("open")
    log = open_log(segment_bytes=5, disk=disk)
    fill(log, b"0123456789")

    disk.error = code
    with pytest.raises(StorageFullError, match="takes nothing for now"):
        log.append(b"refused").result(10)
    disk.error = 0
    fill(log, b"after")

    assert log.active.start == 18
    assert payloads_of(log) == [b"0123456789", b"after"]


def test_a_segment_can_be_begun_on_request(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log()
    log.rotate().result(10)
    assert len(files(tmp_path)) == 1

    fill(log, b"one")
    log.rotate().result(10)
    fill(log, b"two")

    assert [segment.start for segment in log.closed] == [0]
    assert log.active.start == 11
    assert payloads_of(log) == [b"one", b"two"]
    assert log.last() == (22, b"two")


def test_a_partial_write_is_completed(open_log: OpenLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log()
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:3])))

    fill(log, b"a longer record")
    monkeypatch.undo()

    assert [payload for _, payload in log.replay()] == [b"a longer record"]


def test_a_cancelled_append_harms_nobody(open_log: OpenLog) -> None:
    disk = HeldDisk()
    log = open_log(disk=disk)
    cancelled = log.append(b"one")
    assert disk.inside.wait(30)
    assert cancelled.cancel()
    disk.go_on.set()

    assert fill(log, b"two")
    with pytest.raises(CancelledError):
        cancelled.result()


def test_a_closed_log_refuses(open_log: OpenLog) -> None:
    log = open_log()
    log.close()

    with pytest.raises(StorageError, match="log is closed"):
        log.append(b"late").result(10)


def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")

    with pytest.raises(StorageError, match="cannot be opened"):
        SegmentLog(tmp_path / "file" / "log", clock=ManualClock())


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from agentgym_daemon.clock import SystemClock
from agentgym_daemon.ingest.log import SegmentLog
log = SegmentLog(Path(sys.argv[1]), segment_bytes=2000, clock=SystemClock())
number = 0
while True:
    futures = [log.append(b"record %d" % (number + i)) for i in range(7)]
    for future in futures:
        future.result()
        print(number, flush=True)
        number += 1
"""
    command = [sys.executable, "-c", program, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline() for _ in range(500)]
        writer.kill()
        acknowledged += writer.stdout.readlines()
    count = len([line for line in acknowledged if line.endswith("\n")])

    log = SegmentLog(tmp_path / "log", clock=ManualClock())
    found = [payload for _, payload in log.replay()]
    log.close()

    assert len(found) >= count >= 500
    assert found == [b"record %d" % number for number in range(len(found))]
