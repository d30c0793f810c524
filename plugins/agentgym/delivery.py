"""What both ways of delivery share: an outbox with its spool, a packer, and the install's features.

`Courier` sends over gRPC and spools while that does not work; `Scribe` only spools.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from agentgym import forking, semconv
from agentgym.buffer import Inbox
from agentgym.config import Config
from agentgym.encode import export_request, resource_attributes, resource_head
from agentgym.ledger import Ledger
from agentgym.live import LivePolicies
from agentgym.outbox import Outbox
from agentgym.packer import Packer
from agentgym.spool.files import DIRECTORY
from agentgym.spool.record import header_frame
from agentgym.spool.spool import Spool
from agentgym.wire import BYTES, entry, tag, text

if TYPE_CHECKING:
    from agentgym.policy.features import Featuriser
    from agentgym.policy.pointer import Pointer

DRAIN_ITEMS = 512
"""Items that are encoded in one go, so that other threads get their turn."""
_LOOK_AGAIN_S = 2.0


def is_local(config: Config) -> bool:
    """Whether the daemon shares this home: only then it sees files that are left there."""
    kind, _, path = config.endpoint.partition(":")
    if kind != "unix":
        return False
    try:
        return Path(path).parent.resolve() == config.home.resolve()
    except OSError:
        return False


class Delivery:
    """One process's facts from the inbox to encoded records in memory or on disk."""

    def __init__(
        self,
        config: Config,
        live: LivePolicies,
        inbox: Inbox,
        producer_id: bytes,
        *,
        shared: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.live = live
        self.inbox = inbox
        self.ledger: Ledger = inbox.ledger
        self.local = is_local(config)
        self.head = resource_head(resource_attributes(config.agent, producer_id))
        self.outbox = Outbox(
            self.ledger,
            agent_prefix=entry(tag(1, BYTES), text(config.agent)),
            limit_bytes=config.buffer_bytes,
            monotonic=monotonic,
        )
        self.packer = Packer(self.outbox, self._features, held_bytes=config.buffer_bytes // 4)
        self.outbox.on_gap = self.packer.forget_tools
        inbox.on_shed = lambda ids: self.outbox.forget(ids, "buffer_full")
        self._pointer: Pointer | None = None
        self.now = monotonic
        self._offline: Featuriser | None = None
        self._look_at_s = 0.0
        if config.spool:
            self.outbox.spool = self._spool(producer_id, shared=shared)

    def _spool(self, producer_id: bytes, *, shared: bool) -> Spool:
        def header() -> bytes:
            return header_frame(
                producer_id,
                self.config.agent,
                os.getpid(),
                semconv.CONTRACT_VERSION,
                export_request(self.head, ()),
                shared=shared,
            )

        return Spool(
            self.config.home / DIRECTORY,
            producer_id,
            header,
            limit_bytes=self.config.spool_bytes,
            on_dropped=self.outbox.spool_dropped,
            before_drop=self.outbox.detach,
            shared=shared,
        )

    @property
    def pointer(self) -> Pointer:
        """The policies by file; numpy and the policies' code are loaded at its first use."""
        if self._pointer is None:
            with forking.importing():
                from agentgym.policy.pointer import Pointer

            self._pointer = Pointer(
                self.config.home,
                self.config.agent,
                self.live,
                key_file=self.config.trusted_key_file,
            )
        return self._pointer

    def pack(self) -> None:
        """Takes what was recorded and encodes it."""
        self.packer.pack(self.inbox.drain(DRAIN_ITEMS))

    def pack_all(self) -> None:
        """Takes everything that was recorded so far."""
        while len(self.inbox):
            self.pack()

    def store(self) -> bool:
        """To the spool; where that cannot be, memory keeps its limit. False if it cannot be."""
        stored = self.outbox.store()
        if not stored:
            self.outbox.shrink()
        return stored

    def look_for_features(self) -> None:
        """Without the daemon: what its last handshake left in the shared directory."""
        if self.packer.holding and self._offline is None and self.now() >= self._look_at_s:
            self._look_at_s = self.now() + _LOOK_AGAIN_S
            self._offline = self.pointer.features() if self.local else None
            if self._offline is not None:
                self.packer.pack(())

    def _features(self) -> Featuriser | None:
        current = self.live.current
        return current.features if current else self._offline

    def end(self, deadline_s: float) -> None:
        """Encodes all that is left, for the last time; texts only before the deadline."""
        self.pack_all()
        self._look_at_s = 0.0
        self.look_for_features()
        self.packer.finish(may_compute=lambda: self.now() < deadline_s)

    def leave(self) -> None:
        """Stores what was not acked; what cannot be stored is dropped, and counted."""
        if not self.outbox.store(last=True):
            self.outbox.give_up("closed")
        if self.outbox.spool is not None:
            self.outbox.spool.close()

    def after_fork_in_child(self) -> None:
        """All of it is the parent's."""
        if self.outbox.spool is not None:
            self.outbox.spool.after_fork_in_child()
