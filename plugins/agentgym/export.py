"""The sender: one thread that owns the channel, sends what was recorded and follows the policies.

It is started by the first attach, loads numpy and grpc itself, and creates its channel only then.
A forked child whose parent ever had a channel never touches gRPC (grpc does not survive fork); its
agents run as if AgentGym were not there.
"""

from __future__ import annotations

import atexit
import logging
import os
import random
import threading
import time
import weakref
from typing import TYPE_CHECKING

from agentgym.buffer import Buffer
from agentgym.config import Config
from agentgym.guard import Guard
from agentgym.items import Item

if TYPE_CHECKING:
    from agentgym.live import LivePolicies
    from agentgym.transport import Transport

logger = logging.getLogger(__name__)

BATCH_ITEMS = 512
GATHER_S = 0.2
"""How long the sender lets items gather before it sends them."""
_CONNECT_WAIT_S = 0.1
_BACKOFF_S = (0.1, 5.0)
_jitter = random.Random()  # of our own: the host may have seeded the global one
_FLUSH_SHARE = 0.6  # of the time to close; the rest is for the thread to end

_senders: weakref.WeakSet[Sender] = weakref.WeakSet()


class _Process:
    """What is true of this process and, after a fork, of its parent."""

    opened_channel = False
    inherited_channel = False


class Sender:
    """Background delivery for one `AgentGym`; implements the recorder's `Sink`."""

    def __init__(self, config: Config, live: LivePolicies, guard: Guard) -> None:
        self.config = config
        self.live = live
        self.guard = guard
        self.buffer = Buffer(config.buffer_bytes)
        self.ready = threading.Event()
        self._stop = threading.Event()
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._transport: Transport | None = None
        self._abandoned = _Process.inherited_channel
        if self._abandoned:
            self.buffer.close("forked")
        _senders.add(self)

    # ---- the recorder's side

    def put(self, item: Item) -> None:
        """Takes an item; starts the thread if it does not run yet."""
        if self.config.disabled:
            return
        self.buffer.put(item)
        if self._thread is None:
            self.start()

    def end(self, trajectory_id: bytes) -> None:
        """A trajectory is complete; its items are on their way already."""

    def start(self) -> None:
        """Starts the thread, once; does not wait for it."""
        with self._start_lock:
            if self._thread or self._abandoned or self.config.disabled or self._stop.is_set():
                return
            thread = threading.Thread(target=self._run, name="agentgym-sender", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads, or the interpreter is shutting down
                logger.warning("AgentGym cannot send: no thread can be started", exc_info=True)
                self._stop.set()
                self.buffer.close("no_thread")
                return
            self._thread = thread
        atexit.register(_close_at_exit, weakref.ref(self))

    def flush(self, timeout_s: float) -> bool:
        """Waits until everything recorded so far was acked or dropped; False on timeout."""
        self.buffer.wake.set()
        return self.buffer.wait_settled(timeout_s)

    def close(self, timeout_s: float) -> None:
        """Sends what is left within the time, then drops it and stops the thread; idempotent."""
        thread = self._thread
        if thread is None or self._stop.is_set():
            return
        deadline = time.monotonic() + timeout_s
        if timeout_s > 0:
            self.flush(timeout_s * _FLUSH_SHARE)
        if waiting := self.buffer.pending.total():
            logger.warning(
                "AgentGym ends with %d items that no daemon at %s took",
                waiting,
                self.config.endpoint,
            )
        self._stop.set()
        self.buffer.wake.set()
        if self._transport is not None:
            self._transport.close()
        thread.join(max(0.0, deadline - time.monotonic()))

    @property
    def counters(self) -> dict[str, int]:
        """Conservation counters: produced.*, acked.*, dropped.*, pending.*."""
        return self.buffer.report()

    # ---- the thread

    def _run(self) -> None:
        with self.guard("sender"):
            # Heavy imports happen here, off the agent's path.
            from agentgym.transport import Transport

            _Process.opened_channel = True
            transport = self._transport = Transport(self.config, self.live, self.buffer)
            transport.start(self._stop, on_ready=self.ready.set)
            self._loop(transport)
            transport.abandon("closed")
            self.buffer.close("closed")

    def _loop(self, transport: Transport) -> None:
        delay = _BACKOFF_S[0]
        while not self._stop.is_set():
            if not (transport.pending or self.buffer.wake.wait(timeout=1.0)):
                continue
            if self._half_empty():
                self._stop.wait(GATHER_S)
            if not transport.wait_connected(_CONNECT_WAIT_S):
                continue
            if self._send(transport):
                delay = _BACKOFF_S[0]
            else:
                self._stop.wait(delay * _jitter.uniform(0.5, 1.0))
                delay = min(2 * delay, _BACKOFF_S[1])

    def _half_empty(self) -> bool:
        return self.buffer.bytes <= self.buffer.limit_bytes // 2

    def _send(self, transport: Transport) -> bool:
        """One round; False if the daemon could not take it (it is kept and tried again)."""
        delivered = False
        with self.guard("send"):
            if not transport.pending:
                transport.load(self.buffer.take(BATCH_ITEMS))
            delivered = transport.deliver()
        return delivered

    # ---- fork

    def after_fork_in_child(self) -> None:
        """The thread is gone; a channel of the parent must not be touched."""
        self._abandoned = _Process.inherited_channel
        self._start_lock = threading.Lock()
        self._stop, self.ready = threading.Event(), threading.Event()
        self._thread = None
        self.guard.after_fork_in_child()
        self.buffer.reset_after_fork("forked" if self._abandoned else "")
        if self._abandoned:
            self.live.forget()


def _close_at_exit(reference: weakref.ref[Sender]) -> None:
    sender = reference()
    if sender is not None:
        with sender.guard("exit"):
            sender.close(sender.config.exit_timeout_s)


def _after_fork_in_child() -> None:
    _Process.inherited_channel |= _Process.opened_channel
    for sender in list(_senders):
        sender.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
