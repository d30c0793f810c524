"""The registry: files, facts and the pointer move together."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agentgym.errors import SnapshotError
from agentgym.policy.snapshot import digest
from agentgym.proto.v1 import common_pb2, log_pb2
from agentgym_daemon.clock import ManualClock
from agentgym_daemon.errors import DirectoryError, NotFoundError, PolicyStateError, StorageError
from agentgym_daemon.policies.registry import Registry

MakeCandidate = Callable[..., bytes]


class Journal:
    """Keeps facts in a list; fails when it is told to."""

    def __init__(self) -> None:
        self.records: list[log_pb2.LogRecord] = []
        self.broken = False

    async def append(self, record: log_pb2.LogRecord) -> int:
        if self.broken:
            raise StorageError("disk is full")
        self.records.append(record)
        return len(self.records)


class Desk:
    """A registry with its surroundings."""

    def __init__(self, directory: Path, scope: common_pb2.Scope, make: MakeCandidate) -> None:
        self.scope, self.make, self.directory = scope, make, directory
        self.journal = Journal()
        self.changed: list[str] = []
        self.registry = self.reopen()

    def reopen(self) -> Registry:
        registry = Registry(
            self.directory / "policies",
            append=self.journal.append,
            clock=ManualClock(),
            changed=self.changed.append,
        )
        facts = self.journal.records
        registry.load(
            [fact.policy for fact in facts if fact.HasField("policy")],
            [fact.change for fact in facts if fact.HasField("change")],
        )
        return registry

    async def register(self, bias: float = 0.0) -> str:
        version = self.registry.book.next_version()
        await self.registry.register(
            self.make(version, bias=bias),
            sha256=digest(self.make(version, bias=bias)),
            scope=self.scope,
            status="candidate",
            receipt={"tier": 0},
        )
        return version

    def live(self) -> list[str]:
        return [version.version for version in self.registry.live()]


@pytest.fixture
def desk(tmp_path: Path, scope: common_pb2.Scope, make_candidate: MakeCandidate) -> Desk:
    return Desk(tmp_path, scope, make_candidate)


async def test_a_registered_candidate_is_a_file_and_a_fact_but_not_live(desk: Desk) -> None:
    version = await desk.register()

    entry = desk.registry.book.get(version)
    assert (entry.status, entry.version, json.loads(entry.receipt_json)) == (
        "candidate",
        "p-000001",
        {"tier": 0},
    )
    assert desk.registry.read(entry.sha256) == desk.registry.path(version).read_bytes()
    assert desk.registry.path(version).stat().st_mode & 0o777 == 0o600
    assert desk.registry.snapshot(version).version == version
    assert desk.registry.live() == []
    assert desk.live() == []


async def test_promotion_and_rollback_write_a_fact_move_the_pointer_and_tell(desk: Desk) -> None:
    first, second = await desk.register(), await desk.register(bias=1.0)

    await desk.registry.promote(first, actor="trainer")
    change = await desk.registry.promote(second, actor="trainer", reason="better")

    assert (change.version, change.previous, change.reason) == (second, first, "better")
    assert desk.live() == [second]
    back = await desk.registry.rollback(desk.scope, actor="cli")
    assert (back.version, back.previous) == (first, second)
    assert desk.live() == [first]
    none = await desk.registry.rollback(desk.scope, actor="cli")
    assert (none.version, none.previous) == ("", first)
    assert desk.live() == []
    assert desk.changed == ["support-desk"] * 4
    with pytest.raises(PolicyStateError, match="nothing to roll back"):
        await desk.registry.rollback(desk.scope, actor="cli")


async def test_a_pinned_scope_takes_no_other_version_until_it_is_unpinned(desk: Desk) -> None:
    first, second = await desk.register(), await desk.register(bias=1.0)
    await desk.registry.pin(first, actor="cli")

    with pytest.raises(PolicyStateError, match=f"pinned to {first}; unpin it"):
        await desk.registry.promote(second, actor="trainer")
    with pytest.raises(PolicyStateError, match="unpin it first"):
        await desk.registry.rollback(desk.scope, actor="cli")

    assert desk.registry.live()[0].pinned
    assert (await desk.registry.unpin(desk.scope, actor="cli")).version == first
    with pytest.raises(PolicyStateError, match="is not pinned"):
        await desk.registry.unpin(desk.scope, actor="cli")
    await desk.registry.promote(second, actor="trainer")
    with pytest.raises(PolicyStateError, match="is live already"):
        await desk.registry.promote(second, actor="trainer")


async def test_a_restart_goes_on_where_the_log_ended(desk: Desk) -> None:
    first, second = await desk.register(), await desk.register(bias=1.0)
    await desk.registry.promote(first, actor="trainer")
    await desk.registry.promote(second, actor="trainer")

    desk.registry = desk.reopen()

    assert desk.live() == [second]
    assert desk.registry.book.next_version() == "p-000003"
    assert (await desk.registry.rollback(desk.scope, actor="cli")).version == first


@pytest.mark.parametrize("place", [0, 100, -1])
async def test_a_file_with_a_changed_byte_is_never_served(desk: Desk, place: int) -> None:
    version = await desk.register()
    await desk.registry.promote(version, actor="trainer")
    path = desk.registry.path(version)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)

    with pytest.raises(SnapshotError, match="was changed after it was registered"):
        desk.registry.read(digest(desk.make(version)))
    desk.registry = desk.reopen()

    assert desk.registry.live() == []
    assert desk.live() == []
    with pytest.raises(PolicyStateError, match="cannot be used"):
        await desk.registry.pin(version, actor="cli")


async def test_a_lost_file_is_named_and_its_return_mends_it(desk: Desk) -> None:
    version = await desk.register()
    await desk.registry.promote(version, actor="trainer")
    path = desk.registry.path(version)
    data = path.read_bytes()
    path.unlink()
    desk.registry = desk.reopen()
    assert desk.registry.live() == []
    with pytest.raises(SnapshotError, match="cannot be read"):
        desk.registry.snapshot(version)

    path.write_bytes(data)
    await desk.registry.pin(version, actor="cli")

    assert [live.version for live in desk.registry.live()] == [version]


async def test_a_broken_or_misnamed_candidate_is_not_kept(desk: Desk) -> None:
    broken = bytearray(desk.make("p-000001"))
    broken[-1] ^= 255

    with pytest.raises(SnapshotError):
        await desk.registry.register(
            bytes(broken),
            sha256=digest(desk.make("p-000001")),
            scope=desk.scope,
            status="candidate",
            receipt={},
        )
    with pytest.raises(SnapshotError, match="named 'p-000009', expected 'p-000001'"):
        await desk.registry.register(
            desk.make("p-000009"),
            sha256=digest(desk.make("p-000009")),
            scope=desk.scope,
            status="candidate",
            receipt={},
        )

    assert desk.journal.records == []


async def test_nothing_changes_when_the_log_fails(desk: Desk) -> None:
    version = await desk.register()
    desk.journal.broken = True

    with pytest.raises(StorageError):
        await desk.registry.promote(version, actor="cli")

    assert desk.registry.live() == []
    assert desk.changed == []


async def test_changes_that_meet_are_made_one_after_the_other(desk: Desk) -> None:
    first, second = await desk.register(), await desk.register(bias=1.0)

    changes = await asyncio.gather(
        desk.registry.promote(first, actor="a"), desk.registry.promote(second, actor="b")
    )

    assert [(change.version, change.previous) for change in changes] == [
        (first, ""),
        (second, first),
    ]


async def test_an_unknown_artifact_is_not_found(desk: Desk) -> None:
    with pytest.raises(NotFoundError, match="no artifact has sha256"):
        desk.registry.read("0" * 64)


async def test_snapshots_are_cached_within_a_bound(desk: Desk) -> None:
    versions = [await desk.register(bias=float(i)) for i in range(10)]

    first = desk.registry.snapshot(versions[0])

    assert desk.registry.snapshot(versions[0]) is first
    for version in versions[1:]:
        desk.registry.snapshot(version)
    assert desk.registry.snapshot(versions[0]) is not first


async def test_a_file_in_the_place_of_the_directory_is_a_clear_error(
    tmp_path: Path, scope: common_pb2.Scope, make_candidate: MakeCandidate
) -> None:
    (tmp_path / "policies").touch()

    with pytest.raises(DirectoryError, match="policies cannot be made"):
        Desk(tmp_path, scope, make_candidate)
