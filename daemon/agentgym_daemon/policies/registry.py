"""The registry: snapshot files, and promotion, rollback and pinning as one operation each.

A version is a file and a fact of the log; a change of what is live is a fact of the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from agentgym.errors import SnapshotError
from agentgym.policy.snapshot import Snapshot, canonical, digest, parse
from agentgym.proto.v1 import common_pb2, log_pb2, policy_pb2
from agentgym_daemon.clock import Clock
from agentgym_daemon.errors import DirectoryError, NotFoundError, PolicyStateError
from agentgym_daemon.lock import write_private
from agentgym_daemon.policies.book import Book, Change, scope_key

_log = logging.getLogger(__name__)

Append = Callable[[log_pb2.LogRecord], Awaitable[int]]
"""Writes a fact to the log and returns when it is durable."""

_CACHED_SNAPSHOTS = 8


class Registry:
    """Owns home/policies; its methods run on the daemon's event loop."""

    def __init__(
        self, directory: Path, *, append: Append, clock: Clock, changed: Callable[[str], None]
    ) -> None:
        self._directory = directory
        self._append = append
        self._clock = clock
        self._changed = changed  # called with the agent whose live versions changed
        self.changing = asyncio.Lock()
        """Held by whoever changes something, from its first look to its last word."""
        self._reading = threading.Lock()
        self._snapshots: dict[str, Snapshot] = {}
        self._broken: set[str] = set()
        self.book = Book()

    def load(self, versions: Iterable[policy_pb2.PolicyVersion], changes: Iterable[Change]) -> None:
        """Takes up what the log says, and looks at the files."""
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise DirectoryError(
                self._directory.parent, f"policies cannot be made ({error.strerror})"
            ) from error
        for version in versions:
            self.book.add(version)
        for change in changes:
            self.book.change(change)
        for pruned in self.book.pruned():
            with contextlib.suppress(OSError):  # a crash came between the fact and its deed
                self.path(pruned).unlink(missing_ok=True)
        for version in self.book.live():
            self._check(version)

    def path(self, version: str) -> Path:
        """Where the file of a version lies."""
        return self._directory / f"{version}.safetensors"

    def live(self, agent: str = "") -> list[policy_pb2.PolicyVersion]:
        """The live versions whose files are intact."""
        return [v for v in self.book.live(agent) if v.version not in self._broken]

    def snapshot(self, version: str) -> Snapshot:
        """The verified snapshot of a version; may be called from any thread."""
        with self._reading:
            known = self._snapshots.get(version)
            if known is None:
                entry = self.book.get(version)
                known = parse(self._read_verified(entry), entry.sha256)
                while len(self._snapshots) >= _CACHED_SNAPSHOTS:
                    self._snapshots.pop(next(iter(self._snapshots)))
                self._snapshots[version] = known
            return known

    def read(self, sha256: str) -> bytes:
        """The bytes of the file with this address, compared with it; for any thread."""
        for version in reversed(self.book.versions()):
            if version.sha256 == sha256:
                return self._read_verified(version)
        raise NotFoundError(
            f"no artifact has sha256 {sha256!r}; policy list shows those that exist"
        )

    async def register(
        self,
        data: bytes,
        *,
        sha256: str,
        scope: common_pb2.Scope,
        status: str,
        receipt: Mapping[str, Any],
    ) -> policy_pb2.PolicyVersion:
        """Keeps a candidate, its file first; raises SnapshotError if it is broken."""
        async with self.changing:
            return await self.keep(data, sha256=sha256, scope=scope, status=status, receipt=receipt)

    async def keep(
        self,
        data: bytes,
        *,
        sha256: str,
        scope: common_pb2.Scope,
        status: str,
        receipt: Mapping[str, Any],
    ) -> policy_pb2.PolicyVersion:
        """The registration itself; `changing` is held."""
        snapshot = await asyncio.to_thread(parse, data, sha256)
        if snapshot.version != self.book.next_version():
            raise SnapshotError(
                f"the candidate is named {snapshot.version!r}, expected "
                f"{self.book.next_version()!r}; it is not kept"
            )
        version = policy_pb2.PolicyVersion(
            scope=scope,
            version=snapshot.version,
            parent=str(snapshot.manifest["parent"] or ""),
            sha256=sha256,
            size=len(data),
            manifest_json=canonical(snapshot.manifest),
            status=status,
            created_unix_nano=self._clock.now_ns(),
            receipt_json=canonical(dict(receipt)),
        )
        await asyncio.to_thread(write_private, self.path(snapshot.version), data)
        await self._append(log_pb2.LogRecord(policy=version))
        self.book.add(version)
        return version

    async def promote(self, version: str, *, actor: str, reason: str = "") -> Change:
        """Makes a version live."""
        async with self.changing:
            entry = self.book.get(version)
            version = entry.version
            live = self.book.live_version(entry.scope)
            if self.book.is_pinned(entry.scope):
                raise PolicyStateError(
                    f"{entry.scope.agent!r} is pinned to {live}; unpin it before a promotion"
                )
            if live == version:
                raise PolicyStateError(f"{version} is live already")
            return await self._commit(Change.KIND_PROMOTE, entry.scope, version, actor, reason)

    async def rollback(self, scope: common_pb2.Scope, *, actor: str, reason: str = "") -> Change:
        """Makes the version live that was live before, or none."""
        async with self.changing:
            scope = self.book.resolve(scope)
            live = self.book.live_version(scope)
            if not live:
                raise PolicyStateError(
                    f"no policy of {scope.agent!r} is live; nothing to roll back"
                )
            if self.book.is_pinned(scope):
                raise PolicyStateError(f"{scope.agent!r} is pinned to {live}; unpin it first")
            return await self.go_back(scope, actor=actor, reason=reason)

    async def go_back(
        self, scope: common_pb2.Scope, *, actor: str, reason: str, receipt: str = ""
    ) -> Change:
        """The rollback itself; `changing` is held, and a pin is no hindrance any more."""
        target = self.book.previous_version(scope)
        return await self._commit(Change.KIND_ROLLBACK, scope, target, actor, reason, receipt)

    async def pin(self, version: str, *, actor: str, reason: str = "", receipt: str = "") -> Change:
        """Makes a version live and keeps it so until `unpin`."""
        async with self.changing:
            entry = self.book.get(version)
            return await self._commit(
                Change.KIND_PIN, entry.scope, entry.version, actor, reason, receipt
            )

    async def unpin(self, scope: common_pb2.Scope, *, actor: str, reason: str = "") -> Change:
        """Lets promotions through again; what is live stays."""
        async with self.changing:
            scope = self.book.resolve(scope)
            if not self.book.is_pinned(scope):
                raise PolicyStateError(f"{scope.agent!r} is not pinned")
            live = self.book.live_version(scope)
            return await self._commit(Change.KIND_UNPIN, scope, live, actor, reason)

    async def _commit(
        self,
        kind: Change.Kind,
        scope: common_pb2.Scope,
        version: str,
        actor: str,
        reason: str,
        receipt: str = "",
    ) -> Change:
        if version:
            self._require_free(version)
            await asyncio.to_thread(self._require_intact, version)
        previous = self.book.live_version(scope)
        change = Change(
            kind=kind,
            scope=scope,
            version=version,
            previous=previous,
            actor=actor,
            reason=reason,
            receipt_json=receipt,
        )
        await self.write(change)
        self._broken.discard(version)
        self._changed(scope.agent)
        name = Change.Kind.Name(kind).removeprefix("KIND_").lower()
        _log.info(
            "%s %s of %s by %s (was %s)",
            name,
            version or "none",
            scope_key(scope),
            actor,
            previous or "none",
        )
        return change

    async def write(self, change: Change) -> None:
        """Makes a change a fact, then true; `changing` is held."""
        await self._append(log_pb2.LogRecord(change=change))
        self.book.change(change)

    def _require_free(self, version: str) -> None:
        why = self.book.quarantined(version)
        if why is not None:
            because = f" ({why})" if why else ""
            raise PolicyStateError(
                f"{version} is quarantined{because}; release it first: "
                f"agentgym policy release {version}"
            )
        if self.book.is_pruned(version):
            raise PolicyStateError(f"{version} cannot be used: its file was pruned")

    def _require_intact(self, version: str) -> None:
        entry = self.book.get(version)
        try:
            parse(self._read_verified(entry), entry.sha256)
        except SnapshotError as error:
            raise PolicyStateError(f"{version} cannot be used: {error}") from error

    def _read_verified(self, version: policy_pb2.PolicyVersion) -> bytes:
        path = self.path(version.version)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise SnapshotError(f"{path} cannot be read ({error.strerror})") from error
        if digest(data) != version.sha256:
            raise SnapshotError(f"{path} was changed after it was registered; restore it")
        return data

    def _check(self, version: policy_pb2.PolicyVersion) -> None:
        try:
            parse(self._read_verified(version), version.sha256)
        except SnapshotError:
            self._broken.add(version.version)
            _log.exception("live policy %s is not served", version.version)
