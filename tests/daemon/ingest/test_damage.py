"""Whatever happens to the files of the log: it opens, serves what is left, and says what is not."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentgym_daemon.clock import ManualClock
from agentgym_daemon.ingest import frames
from agentgym_daemon.ingest.log import SegmentLog

OpenLog = Callable[..., SegmentLog]
Entries = list[tuple[int, bytes]]


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


def fill(log: SegmentLog, *payloads: bytes) -> Entries:
    return [(log.append(payload).result(10), payload) for payload in payloads]


def files(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "log").iterdir() if path.name.startswith("log-"))


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


def lost(log: SegmentLog) -> list[int]:
    return [damage.lost_bytes for damage in log.damages]


@pytest.mark.parametrize("position", [11, 15, 20], ids=["length", "sum", "payload"])
def test_records_on_both_sides_of_a_damaged_one_are_served_under_their_offsets(
    open_log: OpenLog, tmp_path: Path, position: int
) -> None:
    log = open_log()
    entries = fill(log, b"one", b"two", b"three", b"four")
    log.close()
    damaged = files(tmp_path)[0]
    flip(damaged, position)

    again = open_log()

    assert list(again.replay()) == [entries[0], entries[2], entries[3]]
    assert again.end == entries[-1][0]
    assert lost(again) == [11]
    aside = Path(again.damages[0].path)
    assert aside.parent.name == "damaged"
    assert aside.name == damaged.name
    assert "offset 11 is damaged" in again.damages[0].reason
    entries += fill(again, b"after")
    again.close()
    later = open_log()
    assert list(later.replay()) == [entries[0], *entries[2:]]
    assert later.damages == again.damages


def test_the_list_of_damages_is_private_and_outlives_its_own_damage(
    open_log: OpenLog, tmp_path: Path
) -> None:
    log = open_log()
    fill(log, b"one", b"two", b"three")
    log.note_damage(tmp_path / "database", "bad block")
    log.close()
    path = tmp_path / "log" / "damages.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())[0]["reason"] == "bad block"
    path.write_text("[{]")

    again = open_log()

    assert again.damages == ()
    assert len(list(again.replay())) == 3


def test_a_damaged_sealed_segment_is_salvaged_when_it_is_read(
    open_log: OpenLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentgym_daemon.ingest.sealed.CHUNK_BYTES", 1000)
    log = open_log(segment_bytes=5000)
    entries = fill(log, *[os.urandom(300) for _ in range(40)])
    log.wait_sealed()
    log.close()
    sealed = files(tmp_path)[0]
    flip(sealed, sealed.stat().st_size // 2)

    again = open_log()
    served = list(again.replay())

    missing = [entry for entry in entries if entry not in served]
    assert 0 < len(missing) <= 4
    assert served == [entry for entry in entries if entry not in missing]
    assert lost(again) == [308 * len(missing)]
    assert [path.name.split(".", 1)[1] for path in files(tmp_path)[:2]] == ["salvaged.zst", "zst"]
    assert list(again.replay(entries[20][0])) == [e for e in served if e[0] > entries[20][0]]


def test_a_segment_that_turns_out_to_be_damaged_when_it_is_sealed_is_salvaged(
    open_log: OpenLog, tmp_path: Path
) -> None:
    log = open_log()
    entries = fill(log, b"one", b"two", b"three")
    flip(files(tmp_path)[0], 15)
    log.rotate().result(10)
    log.wait_sealed()

    assert list(log.replay()) == [entries[0], entries[2]]
    assert lost(log) == [11]


def test_damage_to_the_segment_that_is_being_written_to_is_passed_over(
    open_log: OpenLog, tmp_path: Path
) -> None:
    log = open_log()
    entries = fill(log, b"one", b"two", b"three")
    flip(files(tmp_path)[0], 20)

    assert list(log.replay()) == [entries[0], entries[2]]
    entries += fill(log, b"four")
    assert list(log.replay()) == [entries[0], *entries[2:]]
    assert lost(log) == [11]


def test_a_file_that_is_no_segment_at_all_is_set_aside(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log(segment_bytes=10)
    entries = fill(log, b"0123456789", b"next")
    log.wait_sealed()
    log.close()
    files(tmp_path)[0].write_bytes(b"not zstd at all")

    again = open_log()

    assert list(again.replay()) == entries[1:]
    assert lost(again) == [18]


def test_a_missing_segment_is_a_recorded_gap(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log(segment_bytes=10)
    entries = fill(log, b"0123456789", b"0123456789", b"0123456789", b"next")
    log.wait_sealed()
    files(tmp_path)[1].unlink()

    assert list(log.replay()) == [entries[0], *entries[2:]]
    log.close()
    again = open_log()

    assert list(again.replay()) == [entries[0], *entries[2:]]
    assert lost(again) == [18]
    assert again.damages[0].reason == "the file is gone"

    again.close()
    files(tmp_path)[0].unlink()
    assert list(open_log().replay()) == entries[2:]
    once_more = open_log()
    assert lost(once_more) == [18, 18]
    assert once_more.damages[-1].reason == "records are missing from the log"


def test_a_log_that_ends_before_the_database_goes_on_behind_it(open_log: OpenLog) -> None:
    log = open_log()
    entries = fill(log, b"one")

    log.skip_to(1000).result(10)
    entries += fill(log, b"two")

    assert entries[-1][0] == 1011
    assert list(log.replay()) == entries
    assert list(log.replay(500)) == entries[1:]
    assert lost(log) == [989]
    log.close()
    again = open_log()
    assert list(again.replay()) == entries
    assert lost(again) == [989]


def test_an_end_that_is_no_record_is_kept_aside_and_named(
    open_log: OpenLog, tmp_path: Path
) -> None:
    log = open_log()
    entries = fill(log, b"one")
    log.close()
    with files(tmp_path)[0].open("ab") as file:
        file.write(bytes(64))

    again = open_log()

    assert list(again.replay()) == entries
    assert lost(again) == [64]
    assert Path(again.damages[0].path).read_bytes() == bytes(64)


def test_a_crash_before_the_damaged_file_was_moved_is_healed(
    open_log: OpenLog, tmp_path: Path
) -> None:
    log = open_log()
    entries = fill(log, b"one", b"two", b"three")
    log.close()
    path = files(tmp_path)[0]
    flip(path, 20)
    damaged = path.read_bytes()
    open_log().close()
    path.write_bytes(damaged)

    again = open_log()

    assert list(again.replay()) == [entries[0], entries[2]]
    assert lost(again) == [11]
    assert not path.exists()


def test_salvage_finds_records_behind_any_kind_of_damage() -> None:
    rng = random.Random(4)
    payloads = [rng.randbytes(rng.randrange(1, 3000)) for _ in range(60)]
    data = b"".join(map(frames.encode_frame, payloads))
    ends = []
    for payload in payloads:
        ends.append((ends[-1] if ends else 0) + 8 + len(payload))
    for begin, length, filler in [
        (ends[9] + 2, 1, b"\xff"),
        (ends[19] - 40, 200, b"\x00"),
        (ends[29], 9000, rng.randbytes(9000)),
    ]:
        broken = data[:begin] + filler.ljust(length, b"\x00")[:length] + data[begin + length :]
        spoilt = {
            number
            for number, end in enumerate(ends)
            if end > begin and end - 8 - len(payloads[number]) < begin + length
        }

        found = list(frames.find_frames(broken))

        assert found == [
            (end, payload)
            for number, (end, payload) in enumerate(zip(ends, payloads, strict=True))
            if number not in spoilt
        ]
