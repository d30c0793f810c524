"""Delivery by files alone, for a forked child that must not touch gRPC.

It writes a spool that the daemon reads while we live, and follows the policies by their pointer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from agentgym.buffer import Inbox
from agentgym.config import Config
from agentgym.delivery import Delivery
from agentgym.live import LivePolicies

ROTATE_S = 0.2
POLL_S = 0.5
_BACKLOG = 8  # complete files that wait: the daemon is away, and more files would not help


class Scribe(Delivery):
    """The sender's work, a little of it per `tick`; whoever holds the sender's lock."""

    def __init__(
        self,
        config: Config,
        live: LivePolicies,
        inbox: Inbox,
        producer_id: bytes,
        *,
        on_ready: Callable[[], None],
    ) -> None:
        super().__init__(config, live, inbox, producer_id, shared=True)
        self._on_ready = on_ready
        self._poll_at_s = 0.0
        self._rotate_at_s: float | None = None

    def start(self) -> None:
        """Nothing has to be opened."""

    def tick(self, *, hurry: bool) -> float:
        """Does what is due; returns the seconds until something is due again."""
        now = self.now()
        if now >= self._poll_at_s:
            self._poll_at_s = now + POLL_S
            if self.pointer.poll():
                self._on_ready()
            self.collect()
        self.write()
        if self._rotate_at_s is not None and (hurry or now >= self._rotate_at_s):
            self._rotate(now)
        pause = self._poll_at_s - now
        if self._rotate_at_s is not None:
            pause = min(pause, self._rotate_at_s - now)
        return max(0.0, min(pause, ROTATE_S))

    def write(self) -> None:
        """Brings everything recorded so far to the disk."""
        while len(self.inbox) or (self.packer.holding and self.live.current):
            self.pack()
            self.store()
        self.look_for_features()
        if not self.outbox.idle:
            self.store()
        spool = self.outbox.spool
        if spool is not None and spool.unfinished and self._rotate_at_s is None:
            self._rotate_at_s = self.now() + ROTATE_S

    def _rotate(self, now: float) -> None:
        spool = self.outbox.spool
        if spool is None:
            return
        if len(spool.files) > _BACKLOG:
            self._rotate_at_s = now + ROTATE_S
            return
        self._rotate_at_s = None
        try:
            spool.rotate()
        except OSError:
            self._rotate_at_s = now + POLL_S

    def collect(self) -> None:
        """Counts what the daemon has adopted, and its files are gone."""
        if self.outbox.spool is not None:
            gone = self.outbox.spool.collect()
            self.ledger.settled(gone, {}, gone)

    def finish(self, deadline_s: float, bell: threading.Event) -> None:
        """Writes what is left."""
        self.end(deadline_s)
        self.leave()
