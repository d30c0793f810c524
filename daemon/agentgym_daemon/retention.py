"""Deletes old trajectories, rows and records together, and gives their space back.

The mark in the log comes first; applying it deletes the rows (also in a rebuild). Then the log's
files are rewritten without what expired, and a receipt is written. A crash between any two steps
is healed by the next run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from agentgym.proto.v1 import log_pb2
from agentgym_daemon.clock import Clock
from agentgym_daemon.ingest.disk import DISK, remove
from agentgym_daemon.ingest.log import SegmentLog
from agentgym_daemon.ingest.segments import Segment
from agentgym_daemon.ingest.thinning import Thinning
from agentgym_daemon.store.database import Store
from agentgym_daemon.store.expire import expirable, first_offsets, pending, receipt, reward_ids
from agentgym_daemon.store.rows import Entry, TraceDecoder

EVERY_S = 3600.0
LONGEST_SEGMENT_S = 86400.0
"""A segment is closed after a day even if it is not full, so that its records can expire."""
_DAY_NS = 86_400 * 10**9

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Freed:
    """What one run deleted."""

    trajectories: int = 0
    spans: int = 0
    log_bytes: int = 0


class Retention:
    """Looks once an hour for what is too old; used on the event loop."""

    def __init__(
        self,
        log: SegmentLog,
        store: Store,
        *,
        decode: TraceDecoder,
        append: Callable[[log_pb2.LogRecord], Awaitable[int]],
        caught_up: Callable[[], Awaitable[bool]],
        clock: Clock,
        days: float,
    ) -> None:
        self.days = days
        """0: everything is kept."""
        self._log = log
        self._store = store
        self._append = append
        self._caught_up = caught_up
        self._clock = clock
        self._due = clock.monotonic()
        self._newest: dict[Path, int] = {}
        self._thorough = True
        self._thinning = Thinning(decode, begun=self._begun, given=self._given)

    async def run_due(self) -> Freed | None:
        """Runs if an hour has passed since the last time; None if nothing was due."""
        if not self.days or self._clock.monotonic() < self._due:
            return None
        self._due = self._clock.monotonic() + EVERY_S
        return await self.run(self._clock.now_ns() - int(self.days * _DAY_NS))

    async def run(self, cutoff_ns: int) -> Freed:
        """Deletes ended trajectories of which nothing was received since `cutoff_ns`."""
        await asyncio.to_thread(self._close_old_segment, cutoff_ns)
        boundary, before_ns = await asyncio.to_thread(self._boundary, cutoff_ns)
        if not boundary or not await self._caught_up():
            return Freed()
        if await asyncio.to_thread(self._expirable, before_ns):
            mark = log_pb2.Retention(before_unix_nano=before_ns)
            await self._append(log_pb2.LogRecord(retention=mark))
            self._thorough = True
            if not await self._caught_up():
                return Freed()  # the next run goes on from here
        freed = await asyncio.to_thread(self._free, boundary, cutoff_ns)
        return await self._write_receipt(freed)

    async def _write_receipt(self, log_bytes: int) -> Freed:
        with self._store.reading() as cursor:
            deleted = pending(cursor)
        if deleted is None:
            return Freed(log_bytes=log_bytes)
        fact = receipt(deleted, log_bytes=log_bytes)
        await self._append(log_pb2.LogRecord(retention=fact))
        _logger.info(
            "retention deleted %d trajectories with %d spans and freed %d bytes of the log",
            deleted.trajectories,
            deleted.spans,
            log_bytes,
        )
        return Freed(deleted.trajectories, deleted.spans, log_bytes)

    def _close_old_segment(self, cutoff_ns: int) -> None:
        oldest = _received(self._log.first_behind(self._log.active.start))
        age_ns = self._clock.now_ns() - int(LONGEST_SEGMENT_S * 10**9)
        if 0 < oldest < max(cutoff_ns, age_ns):
            self._log.rotate().result()
            self._log.wait_sealed()

    def _boundary(self, cutoff_ns: int) -> tuple[int, int]:
        """Where the segments end that are older than the cutoff as a whole, and up to which time.

        A trajectory of which nothing was received since then lies in them and in no later one.
        """
        boundary = 0
        for segment in self._log.closed:
            if not segment.sealed or self._newest_of(segment) >= cutoff_ns:
                break
            boundary = segment.end
        following = _received(self._log.first_behind(boundary)) if boundary else 0
        return boundary, min(cutoff_ns, following or cutoff_ns)

    def _newest_of(self, segment: Segment) -> int:
        if segment.path not in self._newest:
            self._newest[segment.path] = _received(self._log.newest(segment))
        return self._newest[segment.path]

    def _expirable(self, before_ns: int) -> int:
        with self._store.reading() as cursor:
            return expirable(cursor, before_ns=before_ns)

    def _free(self, boundary: int, cutoff_ns: int) -> int:
        freed = self._log.thin(boundary, self._thinning.keep, thorough=self._thorough)
        self._thorough = False
        freed += self._log.remove_old_damage(cutoff_ns)
        for path in self._store.path.parent.glob(f"{self._store.path.name}.damaged-*"):
            if path.stat().st_mtime_ns < cutoff_ns:
                remove(DISK, path)
        with self._store.reading() as cursor:
            cursor.execute("CHECKPOINT")
        present = {segment.path for segment in self._log.closed}
        self._newest = {path: at for path, at in self._newest.items() if path in present}
        return freed

    def _begun(self, ids: Sequence[bytes]) -> dict[bytes, int]:
        with self._store.reading() as cursor:
            return first_offsets(cursor, ids)

    def _given(self, ids: Sequence[str]) -> set[str]:
        with self._store.reading() as cursor:
            return reward_ids(cursor, ids)


def _received(entry: Entry | None) -> int:
    """When a record was received; 0 if there is none or it cannot be read."""
    if entry is None:
        return 0
    try:
        return int(log_pb2.LogRecord.FromString(entry[1]).received_unix_nano)
    except DecodeError:
        return 0
