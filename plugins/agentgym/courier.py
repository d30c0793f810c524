"""Delivery over gRPC, one call at a time; while that does not work, to the spool, and back from it.

A daemon that does not answer never stops the sender's thread: calls are futures, and what waits
longer than `SLOW_S` for an ack lies on disk.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agentgym import forking
from agentgym.buffer import Inbox
from agentgym.config import Config
from agentgym.delivery import Delivery
from agentgym.guard import Guard
from agentgym.live import LivePolicies

if TYPE_CHECKING:
    import grpc

    from agentgym.transport import Call, Wire

GATHER_S = 0.2
"""How long items gather before they are encoded and sent."""
SLOW_S = 0.5
"""After so long without an ack, or without a daemon, what waits is written to the spool."""
REPORT_S = 10.0
IDLE_S = 1.0
_MANY = 512  # items that need not gather any longer
_BACKOFF_S = (0.1, 5.0)
_PROGRESS_S = 0.1  # at the end: longest wait for one ack
_GOODBYE_S = 0.03
_jitter = random.Random()  # of our own: the host may have seeded the global one


class Link:
    """The thread that imports grpc, opens the channel and follows the policies."""

    def __init__(
        self,
        make: Callable[[], Wire],
        guard: Guard,
        *,
        on_ready: Callable[[], None],
        on_reconnect: Callable[[], None],
    ) -> None:
        self.wire: Wire | None = None
        self._make = make
        self._guard = guard
        self._on_ready = on_ready
        self._on_reconnect = on_reconnect
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agentgym-link", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        forking.opens_channel()
        self._thread.start()

    def _run(self) -> None:
        with self._guard("link"):
            with forking.importing(grpc=True):
                wire = self._make()
            self.wire = wire
            if self._stop.is_set():
                wire.close()
                return
            wire.follow(self._stop, on_ready=self._on_ready, on_reconnect=self._on_reconnect)

    @property
    def connected(self) -> bool:
        """Whether the daemon's stream is up."""
        return self.wire is not None and self.wire.connected

    def close(self) -> None:
        """Ends the channel; the thread follows."""
        self._stop.set()
        if self.wire is not None:
            self.wire.close()


class Courier(Delivery):
    """The sender's work, a little of it per `tick`; one thread."""

    def __init__(
        self,
        config: Config,
        live: LivePolicies,
        inbox: Inbox,
        producer_id: bytes,
        *,
        guard: Guard,
        ring: Callable[[], None],
        on_ready: Callable[[], None],
    ) -> None:
        super().__init__(config, live, inbox, producer_id)
        self.guard = guard
        self._ring = ring
        self._producer_id = producer_id
        self._reconnected = False
        self._on_ready = on_ready
        self._calls: deque[Call] = deque()
        self._acked: Counter[str] = Counter()
        self._refused: dict[str, Counter[str]] = {}
        self._future: grpc.Future[Any] | None = None
        self._waiting_since_s: float | None = None
        self._away_since_s = self.now()
        self._gather_until_s: float | None = None
        self._retry_at_s = 0.0
        self._delay_s = _BACKOFF_S[0]
        self._report_at_s = self.now() + REPORT_S
        self._reported: dict[str, int] = {}
        self._saying: Any = None  # a call that nobody holds is cancelled by grpc
        self.link = Link(self._wire, guard, on_ready=self._ready, on_reconnect=self._reconnect)

    def start(self) -> None:
        """Begins to connect."""
        self.link.start()

    def _wire(self) -> Wire:
        from agentgym.transport import Wire

        return Wire(self.config, self.live, self._producer_id, self.head)

    def _ready(self) -> None:
        self._on_ready()
        self._ring()

    def _reconnect(self) -> None:
        self._reconnected = True

    # ---- a round

    def tick(self, *, hurry: bool) -> float:
        """Does what is due; returns the seconds until something is due again."""
        now = self.now()
        if self._reconnected:
            # The daemon may be another one, or may have lost its catalogue; and it is worth a try.
            self._reconnected, self._retry_at_s = False, now
            self.packer.forget_tools()
        if self._gathered(now, hurry=hurry):
            self.pack()
        self._advance(now)
        self._keep(now)
        self._report_counters(now)
        return self._pause(now)

    def _gathered(self, now: float, *, hurry: bool) -> bool:
        if not len(self.inbox):
            self._gather_until_s = None
            return self.packer.holding > 0 and self.live.current is not None
        if self._gather_until_s is None:
            self._gather_until_s = now + GATHER_S
        if hurry or len(self.inbox) >= _MANY or now >= self._gather_until_s:
            self._gather_until_s = None if len(self.inbox) <= _MANY else now
            return True
        return False

    def _pause(self, now: float) -> float:
        pause = IDLE_S if self.outbox.idle else GATHER_S
        if self._gather_until_s is not None:
            pause = min(pause, self._gather_until_s - now)
        if self.outbox.batch is not None and self._future is None:
            pause = min(pause, self._retry_at_s - now)
        return max(pause, 0.0)

    # ---- to the daemon

    def _advance(self, now: float) -> None:
        if self._future is not None:
            if not self._future.done():
                return
            future, self._future = self._future, None
            self._answered(future, now)
        wire = self.link.wire
        if wire is None or not wire.connected or now < self._retry_at_s:
            return
        while not self._calls:
            if self.outbox.next_batch() is None:
                self._waiting_since_s = None
                return
            self._calls.extend(wire.calls(self.outbox))
            if not self._calls:
                self.outbox.settle({}, {})
        if self._waiting_since_s is None:
            self._waiting_since_s = now
        self._future = wire.start(self._calls[0], self._ring)
        if self._future is None:
            self._back_off(now, None)

    def _answered(self, future: Any, now: float) -> None:
        wire = self.link.wire
        if wire is None:
            return
        call = self._calls[0]
        answer = wire.answer(call, future)
        if not answer.done:
            self._back_off(now, answer.retry_s)
            return
        self._calls.popleft()
        self._waiting_since_s, self._delay_s = None, _BACKOFF_S[0]
        if call.kind == "catalogue":
            if answer.refused:
                self.packer.forget_tools()
        else:
            self._acked[call.kind] += call.n - sum(answer.refused.values())
            for reason, n in answer.refused.items():
                self._refused.setdefault(reason, Counter())[call.kind] += n
        if not self._calls:
            acked, refused = self._acked, self._refused
            self._acked, self._refused = Counter(), {}
            self.outbox.settle(acked, refused)

    def _settle_calls(self) -> None:
        """The calls of a broken-off batch that were answered count as they were answered."""
        if self.outbox.batch is not None:
            self.outbox.settle_part(self._acked, self._refused)
            self._acked, self._refused = Counter(), {}

    def _back_off(self, now: float, asked_s: float | None) -> None:
        if asked_s is None:
            asked_s = self._delay_s * _jitter.uniform(0.5, 1.0)
            self._delay_s = min(2 * self._delay_s, _BACKOFF_S[1])
        else:
            asked_s *= _jitter.uniform(1.0, 1.2)  # not all at the same moment
        self._retry_at_s = now + asked_s

    # ---- to the spool

    @property
    def healthy(self) -> bool:
        """Whether the daemon is there and answers."""
        return self.link.connected and not self._slow(self.now())

    def _slow(self, now: float) -> bool:
        return self._waiting_since_s is not None and now - self._waiting_since_s > SLOW_S

    def _keep(self, now: float) -> None:
        if self.link.connected:
            self._away_since_s = now
            away = False
        else:
            away = now - self._away_since_s > SLOW_S
            if away:
                self.look_for_features()
        crowded = self.outbox.bytes > self.outbox.limit_bytes // 2
        if away or crowded or self._slow(now) or not self.outbox.spool_empty:
            self.store()

    # ---- reports

    def _report_counters(self, now: float) -> None:
        if now >= self._report_at_s and self.link.connected:
            self._report_at_s = now + REPORT_S
            self._saying = self._send_report(last=False)

    def _send_report(self, *, last: bool) -> Any:
        counters, wire = self.inbox.report(), self.link.wire
        if wire is None or counters == self._reported:
            return None
        self._reported = counters
        on = not (self.config.disabled or self.guard.open)
        return wire.report(counters, on=on, pid=os.getpid(), last=last)

    # ---- the end

    def finish(self, deadline_s: float, bell: threading.Event) -> None:
        """Sends what is left to a daemon that answers; else to the spool, at once."""
        self.pack_all()
        if not self.healthy:
            self.outbox.store(last=True)
        if self.packer.holding and self.now() - self._away_since_s < SLOW_S:
            self._wait(bell, min(deadline_s, self.now() + _PROGRESS_S), lambda: self.link.connected)
        self.end(deadline_s)
        if self.link.connected and not self._slow(self.now()):
            self._drain(deadline_s, bell, patience_s=_PROGRESS_S)
        if not self.outbox.idle and not self.outbox.store(last=True):
            # There is no spool: all of the time is for the daemon.
            self._drain(deadline_s, bell, patience_s=deadline_s)
        if self.outbox.spool is None:
            self._settle_calls()
        self.leave()
        if self.healthy and deadline_s > self.now():
            self._say_goodbye(deadline_s, bell)
        self.link.close()

    def _drain(self, deadline_s: float, bell: threading.Event, *, patience_s: float) -> None:
        progress, left = self.now(), (0, 0)
        while not self.outbox.idle:
            now = self.now()
            if (self.ledger.waiting, len(self._calls)) != left:
                progress, left = now, (self.ledger.waiting, len(self._calls))
            if now >= min(deadline_s, progress + patience_s):
                return
            self._advance(now)
            bell.clear()
            if self._future is None or not self._future.done():
                bell.wait(min(0.02, max(0.0, deadline_s - now)))

    def _say_goodbye(self, deadline_s: float, bell: threading.Event) -> None:
        future = self._send_report(last=True)
        if future is not None:
            self._wait(bell, min(deadline_s, self.now() + _GOODBYE_S), future.done)

    def _wait(self, bell: threading.Event, until_s: float, condition: Callable[[], bool]) -> None:
        while not condition() and (left := until_s - self.now()) > 0:
            bell.wait(min(0.01, left))
