"""What agents left on disk reaches the log once, whatever state it was left in."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span

from agentgym.proto.v1 import catalogue_pb2, decision_pb2, log_pb2, reward_pb2, spool_pb2
from agentgym_daemon import adoption as adoption_module
from agentgym_daemon.adoption import REWARD_WAIT_S, Adoption, Intake
from agentgym_daemon.clock import ManualClock
from agentgym_daemon.errors import InvalidRewardError, NotFoundError, StorageError
from agentgym_daemon.ingest import spooled
from agentgym_daemon.ingest.frames import encode_frame
from agentgym_daemon.rewards.resolve import Outcome

PRODUCER = bytes(range(16))
RUN, OTHER = b"r" * 16, b"o" * 16


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories need not grow old before they are looked at."""
    monkeypatch.setattr(spooled, "SETTLED_S", -1.0)
    monkeypatch.setattr(adoption_module, "_RETRY_S", 0.001)


def header(**fields: Any) -> bytes:
    resource = ExportTraceServiceRequest()
    spans = resource.resource_spans.add()
    spans.resource.attributes.add(key="service.name").value.string_value = "desk"
    spans.scope_spans.add().scope.name = "agentgym"
    values = {
        "producer_id": PRODUCER,
        "contract_version": 1,
        "resource_spans": resource.SerializeToString(),
        **fields,
    }
    return frame(header=spool_pb2.SpoolHeader(**values))


def frame(**kind: Any) -> bytes:
    return encode_frame(spool_pb2.SpoolFrame(**kind).SerializeToString())


def record(sequence: int, *, run: bytes = RUN, **parts: Any) -> bytes:
    spans = ScopeSpans(spans=[Span(trace_id=run, span_id=sequence.to_bytes(8, "big"))])
    values = {
        "sequence": sequence,
        "trajectory_id": run,
        "spans": spans.SerializeToString(),
        "items": {"spans": 1},
        **parts,
    }
    return frame(record=spool_pb2.SpoolRecord(**values))


def reward(run: bytes, key: str) -> bytes:
    report = reward_pb2.ReportRequest(
        rewards=[reward_pb2.Reward(trajectory_id=run, value=1.0, idempotency_key=key)]
    )
    return report.SerializeToString()


def dropped(run: bytes) -> bytes:
    return frame(
        dropped=spool_pb2.SpoolDropped(trajectory_id=run, reason="cap", items={"spans": 2})
    )


class Taken:
    """An intake that remembers what came, and fails when it is told to."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, ExportTraceServiceRequest]] = []
        self.requests: list[tuple[int, Any]] = []
        self.rewards: list[str] = []
        self.known = {RUN, OTHER}
        self.failures = 0
        self.senders: set[bytes] = set()
        self.gate: asyncio.Event | None = None

    def intake(self) -> Intake:
        return Intake(_Keep(self.take_spans), _Keep(self.take), _Keep(self.take), self.report)

    async def take_spans(self, request: bytes, record: log_pb2.LogRecord) -> None:
        await self.wait(record)
        self.spans.append((record.sequence, ExportTraceServiceRequest.FromString(request)))

    async def take(self, request: Any, record: log_pb2.LogRecord) -> Any:
        await self.wait(record)
        self.requests.append((record.sequence, request))

    async def wait(self, record: log_pb2.LogRecord) -> None:
        self.senders.add(record.producer_id)
        if self.failures:
            self.failures -= 1
            raise StorageError("the disk is full")
        if self.gate is not None:
            await self.gate.wait()

    async def report(self, rewards: Sequence[reward_pb2.Reward]) -> list[Outcome]:
        return [self.outcome(reward) for reward in rewards]

    def outcome(self, reward: reward_pb2.Reward) -> Outcome:
        if reward.trajectory_id not in self.known:
            return Outcome(error=NotFoundError("unknown"))
        if reward.value > 1:
            return Outcome(error=InvalidRewardError("too much"))
        self.rewards.append(reward.idempotency_key)
        return Outcome((reward.trajectory_id,), "r-1")

    @property
    def sequences(self) -> list[int]:
        return [sequence for sequence, _ in self.spans]


class _Keep:
    def __init__(self, keep: Any) -> None:
        self.keep = keep


class Spool:
    """A spool with one producer's directory, and its adoption."""

    def __init__(self, root: Path) -> None:
        self.root = root / "spool"
        self.directory = self.root / PRODUCER.hex()
        self.directory.mkdir(parents=True, mode=0o700)
        (self.directory / "lock").touch(mode=0o600)
        self.taken, self.counts, self.clock = Taken(), Counter[str](), ManualClock()
        self.damages: list[tuple[Path, str, int]] = []
        self.hold = ""
        self.adoption = self.adopter()

    def adopter(self) -> Adoption:
        return Adoption(
            self.root,
            self.taken.intake(),
            hold=lambda: self.hold,
            clock=self.clock,
            count=lambda name, times: self.counts.update({name: times}),
            note_damage=lambda *damage: self.damages.append(damage),
            look_s=0.001,
        )

    def write(self, name: str, *frames: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(b"".join(frames))
        path.chmod(0o600)
        return path


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path)


@pytest.fixture
def owner(spool: Spool) -> Iterator[None]:
    """The directory's owner lives."""
    descriptor = os.open(spool.directory / "lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
    os.close(descriptor)


async def test_everything_of_a_dead_owner_is_kept_and_its_directory_goes(spool: Spool) -> None:
    tools = catalogue_pb2.PutRequest(agent="desk").SerializeToString()
    decisions = decision_pb2.RecordRequest(
        decisions=[decision_pb2.DecisionRecord(decision_id=b"d" * 8)]
    ).SerializeToString()
    spool.write("00000001.spool", header(), record(1), record(2, decisions=decisions))
    spool.write("00000002.part", header(), record(3, rewards=reward(RUN, "k"), catalogue=tools))

    await spool.adoption.round()

    assert spool.taken.sequences == [1, 2, 3]
    assert spool.taken.senders == {PRODUCER}
    (first,) = spool.taken.spans[0][1].resource_spans
    assert first.resource.attributes[0].value.string_value == "desk"
    assert first.scope_spans[0].scope.name == "agentgym"
    assert first.scope_spans[0].spans[0].trace_id == RUN
    assert [sequence for sequence, _ in spool.taken.requests] == [2, 3]
    assert spool.taken.rewards == ["k"]
    assert not spool.directory.exists()
    assert spool.counts["adopted_spans"] == 3
    assert spool.counts["adopted_directories"] == 1


@pytest.mark.usefixtures("owner")
async def test_files_of_a_living_owner_are_left_alone(spool: Spool) -> None:
    path = spool.write("00000001.spool", header(), record(1))

    await spool.adoption.round()

    assert spool.taken.spans == []
    assert path.exists()


@pytest.mark.usefixtures("owner")
async def test_complete_files_of_a_shared_directory_are_taken_while_its_owner_lives(
    spool: Spool,
) -> None:
    spool.write("00000001.spool", header(shared=True), record(1))
    part = spool.write("00000002.part", header(shared=True), record(2))

    await spool.adoption.round()
    await spool.adoption.round()

    assert spool.taken.sequences == [1]
    assert [path.name for path in spool.directory.glob("*.*")] == [part.name]


@pytest.mark.parametrize("cut", [1, 8, 9])
async def test_a_torn_tail_is_cut_and_is_no_damage(spool: Spool, cut: int) -> None:
    spool.write("00000001.part", header(), record(1), record(2)[:-cut])

    await spool.adoption.round()

    assert spool.taken.sequences == [1]
    assert spool.damages == []
    assert not spool.directory.exists()


@pytest.mark.parametrize("place", [0, 4, 8, 20])
async def test_a_damaged_frame_costs_itself_alone_and_is_put_on_record(
    spool: Spool, place: int
) -> None:
    damaged = bytearray(record(2))
    damaged[place] ^= 0x40
    spool.write("00000001.spool", header(), record(1), bytes(damaged), record(3))

    await spool.adoption.round()

    assert spool.taken.sequences == [1, 3]
    ((where, reason, lost),) = spool.damages
    assert (where.parent.name, lost) == ("damaged", len(damaged))
    assert "1 frames with a wrong checksum" in reason
    assert spool.counts["spool_damaged_frames"] == 1
    assert not spool.directory.exists()


async def test_a_damaged_header_does_not_cost_the_records(spool: Spool) -> None:
    damaged = bytearray(header())
    damaged[9] ^= 1
    spool.write("00000001.spool", bytes(damaged), record(1))

    await spool.adoption.round()

    assert spool.taken.sequences == [1]
    assert spool.taken.senders == {PRODUCER}


async def test_a_file_of_another_producer_is_set_aside_and_never_read_again(spool: Spool) -> None:
    spool.write("00000001.spool", header(producer_id=b"x" * 16), record(1))

    await spool.adoption.round()
    await spool.adoption.round()

    assert spool.taken.spans == []
    assert len(spool.damages) == 1
    assert len(list((spool.root / "damaged").iterdir())) == 1


async def test_a_dropped_trajectory_is_void_in_all_files_before_it(spool: Spool) -> None:
    spool.write("00000001.spool", header(), record(1), record(2, run=OTHER))
    spool.write("00000002.spool", header(), record(3), dropped(RUN), record(4))

    await spool.adoption.round()

    assert spool.taken.sequences == [2, 4]
    assert spool.counts["spool_dropped_spans_cap"] == 2


async def test_a_file_stays_until_its_facts_are_durable(spool: Spool) -> None:
    path = spool.write("00000001.spool", header(), record(1))
    spool.taken.gate = asyncio.Event()

    adopting = asyncio.create_task(spool.adoption.round())
    while not spool.taken.senders:
        await asyncio.sleep(0)
    stayed = path.exists()
    spool.taken.gate.set()
    await adopting

    assert stayed
    assert not path.exists()


async def test_an_end_in_the_middle_means_that_it_is_read_once_more(spool: Spool) -> None:
    spool.write("00000001.spool", header(), record(1))
    spool.taken.gate = asyncio.Event()
    adopting = asyncio.create_task(spool.adoption.round())
    while not spool.taken.senders:
        await asyncio.sleep(0)
    adopting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adopting

    spool.taken.gate = None
    await spool.adopter().round()

    assert spool.taken.sequences == [1]
    assert not spool.directory.exists()


async def test_a_full_disk_is_waited_for(spool: Spool) -> None:
    spool.write("00000001.spool", header(), record(1))
    spool.taken.failures = 3

    await spool.adoption.round()

    assert spool.taken.sequences == [1]


async def test_nothing_is_looked_at_while_the_daemon_is_not_ready(spool: Spool) -> None:
    spool.write("00000001.spool", header(), record(1))
    spool.hold = "the disk is full"
    task = asyncio.create_task(spool.adoption.run())
    await asyncio.sleep(0.02)
    while_held = list(spool.taken.spans)
    spool.hold = ""
    while spool.directory.exists():
        await asyncio.sleep(0.001)
    task.cancel()

    assert while_held == []
    assert spool.taken.sequences == [1]


async def test_a_reward_waits_for_its_trajectory(spool: Spool) -> None:
    late = b"l" * 16
    path = spool.write("00000001.spool", header(), record(1, rewards=reward(late, "k")))

    await spool.adoption.round()
    waited = path.exists()
    spool.taken.known.add(late)
    spool.clock.advance(10)
    await spool.adoption.round()

    assert waited
    assert spool.taken.rewards == ["k"]
    assert spool.taken.sequences == [1]
    assert not spool.directory.exists()


async def test_a_reward_that_nobody_can_take_is_counted_in_the_end(spool: Spool) -> None:
    spool.write("00000001.spool", header(), record(1, rewards=reward(b"l" * 16, "k")))

    await spool.adoption.round()
    spool.clock.advance(REWARD_WAIT_S + 1)
    await spool.adoption.round()

    assert spool.counts["adopted_rewards_rejected"] == 1
    assert not spool.directory.exists()


async def test_a_link_in_place_of_a_directory_is_refused(spool: Spool, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    spool.write("00000001.spool", header(), record(1))
    spool.directory.rename(elsewhere)
    spool.directory.symlink_to(elsewhere)

    await spool.adoption.round()

    assert spool.taken.spans == []
    assert (elsewhere / "00000001.spool").exists()
    assert spool.counts["spool_refused"] == 1


async def test_a_link_in_place_of_a_file_is_refused(spool: Spool, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(header() + record(1))
    (spool.directory / "00000001.spool").symlink_to(secret)

    await spool.adoption.round()

    assert spool.taken.spans == []
    assert secret.exists()


async def test_a_directory_that_others_may_write_is_refused_for_a_while(spool: Spool) -> None:
    spool.write("00000001.spool", header(), record(1))
    spool.directory.chmod(0o777)
    await spool.adoption.round()
    spool.directory.chmod(0o700)
    await spool.adoption.round()
    refused = list(spool.taken.spans)

    spool.clock.advance(61)
    await spool.adoption.round()

    assert refused == []
    assert spool.taken.sequences == [1]


async def test_another_contract_is_left_for_the_daemon_that_speaks_it(spool: Spool) -> None:
    path = spool.write("00000001.spool", header(contract_version=2), record(1))

    await spool.adoption.round()

    assert spool.taken.spans == []
    assert path.exists()


async def test_a_directory_that_is_just_being_made_is_left_alone(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooled, "SETTLED_S", 60.0)

    await spool.adoption.round()

    assert spool.directory.exists()


async def test_a_directory_without_a_lock_is_that_of_a_dead_owner(spool: Spool) -> None:
    (spool.directory / "lock").unlink()
    spool.write("00000001.spool", header(), record(1))

    await spool.adoption.round()

    assert spool.taken.sequences == [1]
    assert not spool.directory.exists()


async def test_bytes_that_are_no_frames_at_all_are_set_aside(spool: Spool) -> None:
    spool.write("00000001.spool", os.urandom(5000))

    await spool.adoption.round()

    assert [lost for _, _, lost in spool.damages] == [5000]
    assert not spool.directory.exists()
