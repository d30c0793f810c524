"""A registry with its surroundings, without a daemon."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agentgym.policy.snapshot import digest
from agentgym.proto.v1 import common_pb2, log_pb2
from agentgym_daemon.clock import ManualClock
from agentgym_daemon.lock import prepare
from agentgym_daemon.policies.curation import Curator
from agentgym_daemon.policies.registry import Registry
from agentgym_daemon.policies.signing import Signer

MakeCandidate = Callable[..., bytes]


class Shelf:
    """A registry on a directory, with who curates it; facts are kept in a list."""

    def __init__(
        self, home: Path, scope: common_pb2.Scope, make: MakeCandidate, feature_key: bytes
    ) -> None:
        prepare(home)
        self.home, self.scope, self.make, self.feature_key = home, scope, make, feature_key
        self.facts: list[log_pb2.LogRecord] = []
        self.signer = Signer(home, ManualClock())
        self.reopen()

    def reopen(self) -> None:
        """As a start of the daemon does."""
        self.registry = Registry(
            self.home / "policies", append=self._append, clock=ManualClock(), changed=lambda _: None
        )
        self.registry.load(
            [fact.policy for fact in self.facts if fact.HasField("policy")],
            [fact.change for fact in self.facts if fact.HasField("change")],
        )
        self.book = self.registry.book
        self.curator = Curator(
            self.registry, self.signer, feature_key=self.feature_key, clock=ManualClock()
        )

    async def _append(self, record: log_pb2.LogRecord) -> int:
        self.facts.append(record)
        return len(self.facts)

    async def register(
        self, *, live: bool = False, status: str = "candidate", best: str = ""
    ) -> str:
        """A new version; each differs from the others. `best` is what its receipt names."""
        version = self.book.next_version()
        data = self.make(version, bias=float(version[2:]))
        await self.registry.register(
            data,
            sha256=digest(data),
            scope=self.scope,
            status=status,
            receipt={"tier": 0, "best": best},
        )
        if live:
            await self.registry.promote(version, actor="trainer")
        return version

    def kinds(self) -> list[str]:
        """What happened, in words."""
        kinds = log_pb2.PolicyChange.Kind
        changes = [fact.change for fact in self.facts if fact.HasField("change")]
        return [kinds.Name(change.kind).removeprefix("KIND_").lower() for change in changes]


@pytest.fixture
def make_shelf(
    tmp_path: Path, scope: common_pb2.Scope, make_candidate: MakeCandidate
) -> Callable[..., Shelf]:
    def make(name: str = "home", feature_key: bytes = b"features") -> Shelf:
        return Shelf(tmp_path / name, scope, make_candidate, feature_key)

    return make


@pytest.fixture
def shelf(make_shelf: Callable[..., Shelf]) -> Shelf:
    return make_shelf()
