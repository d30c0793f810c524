"""Who may add facts now: readiness, overload, and a quota per sender. Reads always pass.

not ready   storage failed or its disk is nearly full   UNAVAILABLE
overloaded  more waits for the disk, or for the database, than is safe   UNAVAILABLE
over quota  one sender sends more than its share   RESOURCE_EXHAUSTED

Every refusal says when to try again, so that nothing is lost on the other side.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from agentgym_daemon.clock import Clock
from agentgym_daemon.errors import NotReadyError, QuotaError, RefusedForNowError
from agentgym_daemon.rpc.status import Context, refuse

MAX_WAITING_BYTES = 64 * 2**20
"""Requests whose facts are not durable yet; they are held in memory."""
BURST_S = 2.0
"""A sender that was silent may send this much of its quota at once."""
_MAX_SOURCES = 10_000
_LOOK_S = 0.25  # between looks at the disk
_DISK_RETRY_S, _OVERLOAD_RETRY_S, _LONGEST_RETRY_S = 2.0, 0.5, 30.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is taken; 0 switches a limit off."""

    min_free_bytes: int
    max_backlog_bytes: int
    quota_bytes_per_s: float
    max_waiting_bytes: int = MAX_WAITING_BYTES


class Disk:
    """Free space where the daemon keeps its files, and how much has to stay free."""

    def __init__(self, home: Path, wal: Path, clock: Clock) -> None:
        self._home, self._wal, self._clock = home, wal, clock
        self._looked = float("-inf")
        self._free = self._wal_bytes = 0

    def free(self) -> int:
        """Bytes that are free; looked up a few times a second at most."""
        self._look()
        return self._free

    def needed(self, min_free_bytes: int) -> int:
        """Bytes that must stay free: a checkpoint may write the database's WAL twice."""
        self._look()
        return max(min_free_bytes, 2 * self._wal_bytes) if min_free_bytes else 0

    def _look(self) -> None:
        now = self._clock.monotonic()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        found = os.statvfs(self._home)
        self._free = found.f_bavail * found.f_frsize
        try:
            self._wal_bytes = self._wal.stat().st_size
        except OSError:
            self._wal_bytes = 0


class _Buckets:
    """Tokens of the senders that were heard of lately, in bytes; a big request leaves a debt."""

    def __init__(self) -> None:
        self._tokens: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, source: str, size: int, *, rate: float, now: float) -> float:
        """Seconds that the sender has to wait; 0 if the bytes were taken."""
        burst = rate * BURST_S
        left, then = self._tokens.get(source, (burst, now))
        left = min(burst, left + (now - then) * rate)
        wait = 0.0 if left > 0 else (1.0 - left) / rate
        self._tokens[source] = (left - size if not wait else left, now)
        self._tokens.move_to_end(source)
        if len(self._tokens) > _MAX_SOURCES:
            self._tokens.popitem(last=False)
        return wait


class Admission:
    """Decides for every call that adds facts; used on the event loop."""

    def __init__(
        self,
        limits: Limits,
        *,
        disk: Disk,
        broken: Callable[[], str],
        backlog: Callable[[], int],
        clock: Clock,
        count: Callable[[str], None],
        observe: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self.limits = limits
        """Replaced as a whole when settings change."""
        self.waiting_bytes = 0
        self._disk = disk
        self._broken = broken  # why storage takes nothing; empty while it does
        self._backlog = backlog  # bytes of the log that the database lacks
        self._clock = clock
        self._count = count
        self._observe = observe  # seconds from a request to its acknowledgement
        self._buckets = _Buckets()

    def not_ready(self) -> str:
        """Why no fact can be kept; empty while they can."""
        if reason := self._broken():
            return reason
        free, needed = self._disk.free(), self._disk.needed(self.limits.min_free_bytes)
        if free < needed:
            return (
                f"the disk has {free} bytes free, expected at least {needed}; free some space, "
                "or lower min_free_bytes"
            )
        return ""

    def overloaded(self) -> str:
        """Why nothing more is taken for a moment; empty while it is."""
        limits = self.limits
        if 0 < limits.max_waiting_bytes < self.waiting_bytes:
            return f"{self.waiting_bytes} bytes wait for the disk"
        backlog = self._backlog()
        if 0 < limits.max_backlog_bytes < backlog:
            return f"the database is {backlog} bytes behind the log"
        return ""

    def refusal(self, source: str, size: int) -> RefusedForNowError | None:
        """Why a sender's request of this many bytes is not taken now; None if it is."""
        if reason := self.not_ready():
            self._count("refused_not_ready")
            return NotReadyError(f"not ready: {reason}", retry_after_s=_DISK_RETRY_S)
        if reason := self.overloaded():
            self._count("refused_overload")
            return NotReadyError(f"overloaded: {reason}", retry_after_s=_OVERLOAD_RETRY_S)
        rate = self.limits.quota_bytes_per_s
        if rate <= 0:
            return None
        wait_s = self._buckets.take(source, size, rate=rate, now=self._clock.monotonic())
        if not wait_s:
            return None
        self._count("refused_quota")
        return QuotaError(
            f"{source} sends more than {rate:.0f} bytes/s (quota_bytes_per_s); try again later",
            retry_after_s=min(wait_s, _LONGEST_RETRY_S),
        )

    def guarded(self, handler: Any, source: str) -> Any:
        """The same handler, but one that is asked only when its request may come in."""
        if handler is None or handler.unary_unary is None:
            return handler
        answer = handler.unary_unary

        async def admit(request: bytes, context: Context) -> Any:
            size = len(request)
            refusal = self.refusal(_named(source, context.peer()), size)
            if refusal is not None:
                await refuse(context, refusal)
            began = self._clock.monotonic()
            self.waiting_bytes += size
            try:
                response = await answer(request, context)
            finally:
                self.waiting_bytes -= size
            self._observe(self._clock.monotonic() - began)
            return response

        return grpc.unary_unary_rpc_method_handler(
            admit, response_serializer=handler.response_serializer
        )


def _named(source: str, peer: str) -> str:
    """A plugin has an id of its own; other senders are told apart by token and connection."""
    return source if source.startswith("producer ") else f"{source} at {peer}"
