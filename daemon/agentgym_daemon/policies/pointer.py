"""Files that repeat what subscribers are told, for processes that may not use gRPC.

home/policies/current/
├── handshake.update           how to act, without versions
└── <sha256 of agent>.update   as that agent's subscribers get it; gone when it has nothing

Each is a serialised SignedUpdate, replaced in one rename; its modification time says how fresh it
is. They are derived, so nothing is synced: the next start writes them anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from agentgym.proto.v1 import policy_pb2
from agentgym_daemon.policies.hub import Hub
from agentgym_daemon.policies.updates import Updates

_log = logging.getLogger(__name__)

DIRECTORY = "current"
HANDSHAKE = "handshake.update"
SUFFIX = ".update"
RENEW_S = 30.0
"""At least this often the files are renewed, so that readers know that the daemon lives."""


def file_name(agent: str) -> str:
    """Name of an agent's file: agents may be called anything, files may not."""
    return hashlib.sha256(agent.encode("utf-8", "surrogatepass")).hexdigest() + SUFFIX


class Pointer:
    """Keeps the files as the hub rings; `run` is one task, the disk is touched in a thread."""

    def __init__(
        self, policies: Path, updates: Updates, hub: Hub, *, renew_s: float = RENEW_S
    ) -> None:
        self._directory = policies / DIRECTORY
        self._updates = updates
        self._hub = hub
        self._renew_s = renew_s
        self._written: dict[str, bytes] = {}

    async def run(self) -> None:
        """Writes at every change and at least every `renew_s`, until it is cancelled."""
        changed = asyncio.Event()
        with self._hub.watch(changed.set):
            while True:
                changed.clear()
                await self.write()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), self._renew_s)

    async def write(self) -> None:
        """Brings the files up to date; a disk that takes none leaves the old ones."""
        files = {HANDSHAKE: self._kept(self._updates.common())}
        placed = self._updates.placed()
        for agent in self._updates.agents():
            update = self._updates.of(agent)
            if update.live or update.down or agent in placed:
                files[file_name(agent)] = self._kept(update)
        try:
            await asyncio.to_thread(self._replace, files)
        except OSError as error:
            _log.warning("policy pointer %s cannot be written: %s", self._directory, error)

    def _kept(self, update: policy_pb2.PolicyUpdate) -> bytes:
        return self._updates.kept(update).SerializeToString(deterministic=True)

    def _replace(self, files: Mapping[str, bytes]) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self._directory.iterdir():
            if path.name not in files:
                path.unlink(missing_ok=True)
                self._written.pop(path.name, None)
        for name, data in files.items():
            self._put(name, data)

    def _put(self, name: str, data: bytes) -> None:
        path = self._directory / name
        if self._written.get(name) == data:
            with contextlib.suppress(FileNotFoundError):
                os.utime(path)  # takes no space, so it works on a full disk
                return
        self._written.pop(name, None)
        part = path.with_name(f".{name}.part")
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        part.replace(path)
        self._written[name] = data
