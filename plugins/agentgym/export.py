"""The sender: one thread per process that delivers what was recorded, and never holds anybody up.

It is started by the first attach or item and does all the work: encoding, sending, spooling. A
forked child whose parent ever had a channel never touches gRPC; it writes files for the daemon of
the shared directory (`scribe`); where there is none its agents run as if we were not there.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import weakref
from enum import Enum
from typing import TYPE_CHECKING

from agentgym import forking
from agentgym.buffer import Inbox
from agentgym.config import Config
from agentgym.guard import Guard
from agentgym.items import Item, RewardItem
from agentgym.kill import LOOK_S, KillFile
from agentgym.ledger import Ledger

if TYPE_CHECKING:
    from agentgym.courier import Courier
    from agentgym.live import LivePolicies
    from agentgym.scribe import Scribe

logger = logging.getLogger(__name__)

_LEAST_JOIN_S = 0.1  # writing the rest to a file takes a few milliseconds, and waits for no daemon
_START_S = 2.0
_AFTER_ERROR_S = 0.2
_WRITE_WAIT_S = 0.05


class Way(Enum):
    """How this process's facts travel."""

    WIRE = "wire"
    FILES = "files"
    NONE = "none"


class Sender:
    """Background delivery for one `AgentGym`; implements the recorder's `Sink`."""

    def __init__(self, config: Config, live: LivePolicies, guard: Guard) -> None:
        self.config = config
        self.live = live
        self.guard = guard
        self._begin()
        forking.watch(self)

    def _begin(self) -> None:
        """Everything that belongs to one process."""
        self.producer_id = os.urandom(16)
        self.inbox = Inbox(self.config.buffer_bytes, Ledger())
        self.ready = threading.Event()
        self.way = Way.WIRE
        self._bell = threading.Event()
        self._stop = threading.Event()
        self._settled = threading.Condition()
        self._start_lock = threading.Lock()
        self._work = threading.RLock()
        self._writing = False
        self._sleeping = False
        self._flushes = 0
        self._deadline_s = 0.0
        self._started_s = 0.0
        self._kill_file = KillFile(self.config.home, self.config.agent)
        self._look_at_s = 0.0
        self._thread: threading.Thread | None = None
        self._delivery: Courier | Scribe | None = None
        if forking.inherited_channel():
            self._go_without_grpc()

    def _go_without_grpc(self) -> None:
        from agentgym.delivery import is_local  # loaded by the parent already

        if self.config.spool and is_local(self.config):
            self.way = Way.FILES
        else:
            self.way = Way.NONE
            self.inbox.close("forked")

    # ---- the recorder's side

    def put(self, item: Item) -> None:
        """Takes an item; starts the thread if it does not run yet."""
        if self.config.disabled:
            return
        self.inbox.put(item)
        if self._thread is None:
            self.start()
        elif self._sleeping:
            self._bell.set()
        if self.way is Way.FILES and type(item) is RewardItem:
            self._write_now()

    def end(self, trajectory_id: bytes) -> None:
        """A trajectory is complete."""
        if self.way is Way.FILES:
            self._write_now()

    def _write_now(self) -> None:
        """Workers are killed without a word, right after their last result: it must be on disk."""
        # `_writing`: a finaliser or a signal handler within a write of this thread.
        if self._writing or not self._work.acquire(timeout=_WRITE_WAIT_S):
            return
        try:
            if self._stop.is_set():
                return
            self._writing = True
            with self.guard("spool"):
                delivery = self._deliver_by()
                if hasattr(delivery, "write"):
                    delivery.write()
        finally:
            self._writing = False
            self._work.release()

    def start(self) -> None:
        """Starts the thread, once; does not wait for it."""
        if self.way is Way.NONE or self.config.disabled:
            return
        with self._start_lock:
            if self._thread or self._stop.is_set():
                return
            thread = threading.Thread(target=self._run, name="agentgym-sender", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads, or the interpreter is shutting down
                logger.warning("AgentGym cannot send: no thread can be started", exc_info=True)
                self._stop.set()
                self.inbox.close("no_thread")
                return
            self._thread, self._started_s = thread, time.monotonic()
        _close_at_exit(weakref.ref(self))

    def flush(self, timeout_s: float) -> bool:
        """Waits until everything recorded so far was acked or dropped; False on timeout."""
        with self._settled:
            self._flushes += 1
            self._bell.set()
            try:
                return self._settled.wait_for(self._nothing_waits, timeout_s)
            finally:
                self._flushes -= 1

    def _nothing_waits(self) -> bool:
        return not len(self.inbox) and not self.inbox.ledger.waiting

    def close(self, timeout_s: float) -> None:
        """Sends what is left within the time, else leaves it on disk; idempotent."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        if not self._stop.is_set():
            self._deadline_s = time.monotonic() + timeout_s
            self._stop.set()
        self._bell.set()
        thread.join(max(timeout_s, _LEAST_JOIN_S))
        if time.monotonic() < self._started_s + _START_S:
            thread.join(_START_S)  # it may still be importing what it needs to write a file

    @property
    def counters(self) -> dict[str, int]:
        """Conservation counters: produced.*, acked.*, pending.*, spooled.*, dropped.*."""
        return self.inbox.report()

    def status(self) -> dict[str, object]:
        """How things travel now, for people and tests."""
        delivery = self._delivery
        spool = delivery.outbox.spool if delivery is not None else None
        link = getattr(delivery, "link", None)
        return {
            "way": self.way.value,
            "producer": self.producer_id.hex(),
            "connected": bool(link is not None and link.connected),
            "spool": str(spool.directory) if spool is not None and spool.directory else "",
            "spool_bytes": spool.size if spool is not None else 0,
        }

    # ---- the thread

    def _deliver_by(self) -> Courier | Scribe:
        """The work of this process; heavy imports happen here, off the agent's path."""
        # In this order: `_write_now` comes here with the first lock in hand.
        with self._work, forking.importing():
            if self._delivery is None:
                if self.way is Way.FILES:
                    from agentgym.scribe import Scribe

                    self._delivery = Scribe(
                        self.config, self.live, self.inbox, self.producer_id,
                        on_ready=self.ready.set,
                    )  # fmt: skip
                else:
                    from agentgym.courier import Courier

                    self._delivery = Courier(
                        self.config, self.live, self.inbox, self.producer_id,
                        guard=self.guard, ring=self._bell.set, on_ready=self.ready.set,
                    )  # fmt: skip
            return self._delivery

    def _run(self) -> None:
        with self.guard("sender"):
            delivery = self._deliver_by()
            if not self._stop.is_set():
                delivery.start()
            while not self._stop.is_set():
                self._look()
                self._round(delivery)
            with self._work:
                delivery.finish(self._deadline_s, self._bell)
        self._say_what_is_left()
        self.inbox.close("closed")
        with self._settled:
            self._settled.notify_all()

    def _look(self) -> None:
        now = time.monotonic()
        if now >= self._look_at_s:
            self._look_at_s = now + LOOK_S
            with self.guard("kill"):
                self.live.halted = self._kill_file.look()

    def _round(self, delivery: Courier | Scribe) -> None:
        pause = _AFTER_ERROR_S
        with self.guard("send"), self._work:
            pause = delivery.tick(hurry=self._flushes > 0)
        if self._nothing_waits():
            with self._settled:
                self._settled.notify_all()
        elif self._flushes and len(self.inbox):
            return
        self._sleeping = not len(self.inbox)
        if not (self._sleeping and len(self.inbox)):  # something may have come just before
            self._bell.wait(min(pause, LOOK_S))
        self._sleeping = False
        self._bell.clear()

    def _say_what_is_left(self) -> None:
        counters = self.counters
        spooled = sum(n for name, n in counters.items() if name.startswith("spooled."))
        lost = sum(n for name, n in counters.items() if name.endswith((".closed", ".no_key")))
        if lost:
            logger.warning(
                "AgentGym ends with %d items that no daemon at %s took", lost, self.config.endpoint
            )
        elif spooled and self.way is Way.WIRE:
            logger.info(
                "AgentGym leaves %d items below %s; the daemon takes them from there",
                spooled,
                self.config.home,
            )

    # ---- fork

    def after_fork_in_child(self) -> None:
        """Threads, files and what was recorded so far are the parent's."""
        if self._delivery is not None:
            self._delivery.after_fork_in_child()
        self.guard.after_fork_in_child()
        self._begin()
        self.live.follow(False)
        if self.way is Way.NONE:
            self.live.forget()


def _close_at_exit(reference: weakref.ref[Sender]) -> None:
    """Processes of multiprocessing end without `atexit`; they have finalisers of their own."""
    atexit.register(_close, reference)
    processes = sys.modules.get("multiprocessing.process")
    utilities = sys.modules.get("multiprocessing.util")
    if processes is not None and utilities is not None and processes.parent_process() is not None:
        utilities.Finalize(None, _close, args=(reference,), exitpriority=100)


def _close(reference: weakref.ref[Sender]) -> None:
    sender = reference()
    if sender is not None:
        with sender.guard("exit"):
            sender.close(sender.config.exit_timeout_s)
