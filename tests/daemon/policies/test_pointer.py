"""The files that repeat what subscribers are told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentgym.proto.v1 import common_pb2, policy_pb2
from agentgym_daemon.clock import ManualClock
from agentgym_daemon.lock import prepare
from agentgym_daemon.policies.hub import Hub
from agentgym_daemon.policies.pointer import HANDSHAKE, Pointer, file_name
from agentgym_daemon.policies.signing import Signer
from agentgym_daemon.policies.updates import Updates

AGENT = "support/desk ü"


class Book:
    """A book with the versions that a test makes live."""

    def __init__(self) -> None:
        self.versions: list[policy_pb2.PolicyVersion] = []

    def live(self, agent: str = "") -> list[policy_pb2.PolicyVersion]:
        return [v for v in self.versions if not agent or v.scope.agent == agent]


class Desk:
    """A pointer over a book that can be changed."""

    def __init__(self, directory: Path) -> None:
        prepare(directory)
        self.book, self.hub = Book(), Hub()
        self.down: dict[str, list[bytes]] = {}
        self.updates = Updates(
            self,  # type: ignore[arg-type]
            handshake=policy_pb2.PolicyUpdate(
                daemon_version="1", features=policy_pb2.FeatureSchema(number=1)
            ),
            signer=Signer(directory, ManualClock()),
            down=lambda agent: self.down.get(agent, []),
            agents_down=lambda: self.down,
        )
        self.pointer = Pointer(directory, self.updates, self.hub)
        self.directory = directory / "current"

    def promote(self, version: str) -> None:
        scope = common_pb2.Scope(agent=AGENT, agent_name="clerk", feature_schema=1)
        self.book.versions = [policy_pb2.PolicyVersion(scope=scope, version=version)]

    def read(self, name: str) -> policy_pb2.PolicyUpdate:
        signed = policy_pb2.SignedUpdate.FromString((self.directory / name).read_bytes())
        return policy_pb2.PolicyUpdate.FromString(signed.update)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def test_an_agent_finds_what_its_subscribers_are_told(desk: Desk) -> None:
    desk.promote("p-000001")

    await desk.pointer.write()

    kept = desk.updates.kept(desk.updates.of(AGENT))
    assert (desk.directory / file_name(AGENT)).read_bytes() == kept.SerializeToString(
        deterministic=True
    )
    assert [v.version for v in desk.read(file_name(AGENT)).live] == ["p-000001"]
    assert list(desk.read(HANDSHAKE).live) == []
    assert desk.read(HANDSHAKE).daemon_version == "1"
    modes = {path.stat().st_mode & 0o777 for path in desk.directory.iterdir()}
    assert modes == {0o600}


async def test_an_agent_with_broken_tools_alone_has_a_file_too(desk: Desk) -> None:
    desk.down = {AGENT: [b"refund"]}

    await desk.pointer.write()

    assert list(desk.read(file_name(AGENT)).down) == [b"refund"]


async def test_the_file_of_an_agent_that_has_nothing_any_more_goes(desk: Desk) -> None:
    desk.promote("p-000001")
    await desk.pointer.write()
    desk.book.versions = []

    await desk.pointer.write()

    assert [path.name for path in desk.directory.iterdir()] == [HANDSHAKE]


async def test_an_unchanged_file_stays_and_becomes_fresh(desk: Desk) -> None:
    await desk.pointer.write()
    path = desk.directory / HANDSHAKE
    inode = path.stat().st_ino
    os.utime(path, (1, 1))

    await desk.pointer.write()

    assert path.stat().st_ino == inode
    assert path.stat().st_mtime > 1


async def test_a_lost_file_comes_back(desk: Desk) -> None:
    await desk.pointer.write()
    (desk.directory / HANDSHAKE).unlink()

    await desk.pointer.write()

    assert desk.read(HANDSHAKE).daemon_version == "1"


async def test_every_ring_is_written_down(desk: Desk) -> None:
    running = asyncio.create_task(desk.pointer.run())
    await until((desk.directory / HANDSHAKE).exists)

    desk.promote("p-000002")
    desk.hub.ring(AGENT)
    await until((desk.directory / file_name(AGENT)).exists)
    running.cancel()

    assert [v.version for v in desk.read(file_name(AGENT)).live] == ["p-000002"]


async def test_a_directory_that_cannot_be_written_is_no_reason_to_end(desk: Desk) -> None:
    desk.directory.parent.mkdir(exist_ok=True)
    desk.directory.write_text("in the way")

    await desk.pointer.write()

    assert desk.directory.read_text() == "in the way"
