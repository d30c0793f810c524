"""What is encoded and not acked yet, in order: a batch on its way, the spool, a bounded buffer.

    packer ──> buffer ──────────────> batch ──> daemon      connected, nothing in the spool
                  └──> spool ──> batch ──> daemon           after an absence, oldest first

A batch that waits long for its ack lies in the spool too, at its front. Owned by the sender thread
(or whoever holds the sender's lock); knows neither threads nor gRPC.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from agentgym.ledger import Counts, Ledger
from agentgym.spool.record import Record
from agentgym.spool.spool import Position, Spool

logger = logging.getLogger(__name__)

CHUNK_BYTES = 2**20
"""About the size of a batch; servers refuse messages above 4 MiB unless told otherwise."""
_ENTRY_BYTES = 80  # what an entry costs beside its own bytes
_REMEMBERED_DROPS = 10_000
_RETRY_S = 5.0
NO_TRAJECTORY = b""


@dataclass(slots=True)
class Batch:
    """Records that are on their way to the daemon; `end` is their place in the spool, if any."""

    records: list[Record]
    end: Position | None = None
    stored: int = 0
    """How many of the records, from the first, lie in the spool too."""

    @property
    def counts(self) -> Counter[str]:
        """Items by kind."""
        return _sum(self.records)

    @property
    def stored_counts(self) -> Counter[str]:
        """Items that count as spooled."""
        return _sum(self.records[: self.stored])

    def body(self, part: str) -> list[bytes]:
        """One part of all records."""
        return [record.parts[part] for record in self.records if part in record.parts]


@dataclass(slots=True)
class _Group:
    parts: dict[str, list[bytes]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    size: int = 0

    def take(self, limit_bytes: int) -> tuple[dict[str, bytes], Counter[str], int]:
        """Joined parts of at most about `limit_bytes`, their counts, and the size given back."""
        counts: Counter[str] = Counter()
        taken: dict[str, bytes] = {}
        size = 0
        for kind in list(self.parts):
            entries, n = self.parts[kind], 0
            while n < len(entries) and (not size or size + len(entries[n]) <= limit_bytes):
                size += len(entries[n]) + _ENTRY_BYTES
                n += 1
            if n:
                taken[kind], counts[kind] = b"".join(entries[:n]), n
            if n < len(entries):
                self.parts[kind] = entries[n:]
                break
            del self.parts[kind]
        self.counts -= counts
        self.size -= size
        return taken, counts, size


class Outbox:
    """One process's facts on their way; `batch` is the one that is being sent."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        agent_prefix: bytes,
        limit_bytes: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ledger = ledger
        self.limit_bytes = limit_bytes
        self.spool: Spool | None = None
        self.batch: Batch | None = None
        self.bytes = 0
        self.sequence = 0
        self.on_gap: Callable[[], None] = lambda: None
        """Called when tools may have been dropped, so that they travel again."""
        self._agent = agent_prefix
        self._monotonic = monotonic
        self._groups: OrderedDict[bytes, _Group] = OrderedDict()
        self._tools: list[bytes] = []
        self._popped: deque[Record] = deque()  # taken from the groups and not used after all
        self._dropped: OrderedDict[bytes, str] = OrderedDict()
        self._broken_until_s = 0.0
        self._said = False

    # ---- in

    def add(self, kind: str, trajectory_id: bytes, entry: bytes) -> None:
        """Takes one encoded item."""
        if reason := self._dropped.get(trajectory_id):
            self.ledger.dropped({kind: 1}, reason)
            return
        group = self._groups.get(trajectory_id)
        if group is None:
            group = self._groups[trajectory_id] = _Group()
        group.parts.setdefault(kind, []).append(entry)
        group.counts[kind] += 1
        size = len(entry) + _ENTRY_BYTES
        group.size += size
        self.bytes += size
        if trajectory_id == NO_TRAJECTORY:
            self._groups.move_to_end(NO_TRAJECTORY)  # behind the trajectories it may mean

    def add_tool(self, entry: bytes) -> None:
        """Takes a catalogue entry; it goes before all that was added."""
        self._tools.append(entry)
        self.bytes += len(entry)

    def shrink(self) -> None:
        """Above the limit of memory the oldest trajectories go, whole, and are counted."""
        while self.bytes > self.limit_bytes and (record := self._pop()) is not None:
            self.ledger.dropped(record.counts, "buffer_full")
            self.forget({record.trajectory_id}, "buffer_full")
            if "catalogue" in record.parts:
                self.on_gap()
            elif group := self._groups.pop(record.trajectory_id, None):
                self.bytes -= group.size
                self.ledger.dropped(group.counts, "buffer_full")

    def forget(self, trajectory_ids: Iterable[bytes], reason: str) -> None:
        """Drops what will still come of these trajectories."""
        for trajectory_id in trajectory_ids:
            if trajectory_id != NO_TRAJECTORY:
                self._dropped[trajectory_id] = reason
        while len(self._dropped) > _REMEMBERED_DROPS:
            self._dropped.popitem(last=False)

    # ---- out

    @property
    def idle(self) -> bool:
        """Whether nothing waits, in memory or in the spool."""
        return not (self.batch or self._popped or self._groups or self._tools) and self.spool_empty

    @property
    def spool_empty(self) -> bool:
        """Whether no record lies on disk."""
        return self.spool is None or self.spool.empty

    def next_batch(self) -> Batch | None:
        """The batch to be sent now: the one that is not done, else from the spool, else new."""
        if self.batch is None and self.spool is not None and not self.spool.empty:
            records, end = self.spool.read(CHUNK_BYTES)
            if records:
                self.batch = Batch(records, end, len(records))
            else:
                self.spool.acked(end)
        if self.batch is None and self.spool_empty:
            records = self._take(CHUNK_BYTES)
            self.batch = Batch(records) if records else None
        return self.batch

    def settle(self, acked: Counts, dropped: Mapping[str, Counts]) -> None:
        """The batch is done: the daemon took it, or refused parts of it for good."""
        batch, self.batch = self.batch, None
        if batch is None:
            return
        self.ledger.settled(acked, dropped, batch.stored_counts)
        if batch.end is not None and self.spool is not None:
            self.spool.acked(batch.end)

    def settle_part(self, acked: Counts, dropped: Mapping[str, Counts]) -> None:
        """Parts of a batch that lies in memory alone are done; the rest will be given up."""
        batch = self.batch
        if batch is not None and not batch.stored:
            self.ledger.settled(acked, dropped, {})
            left = batch.counts - Counter(acked)
            for counts in dropped.values():
                left -= Counter(counts)
            batch.records = [Record(NO_TRAJECTORY, {}, left)]

    def next_sequence(self) -> int:
        """Rises by one per call and per record."""
        self.sequence += 1
        return self.sequence

    # ---- to disk

    def store(self, *, last: bool = False) -> bool:
        """Brings what memory holds to the spool, oldest first; False if it cannot be used now.

        `last` stores a batch even behind what is newer than it.
        """
        spool = self.spool
        if spool is None or (self._monotonic() < self._broken_until_s and not last):
            return False
        record: Record | None = None
        try:
            self._store_batch(spool, last=last)
            while (record := self._pop()) is not None:
                spool.append(record, self.next_sequence())
                self.ledger.spooled(record.counts)
            self._said = False
        except OSError as error:
            if record is not None:
                self._put_back(record)
            self._broken(spool, error)
            return False
        return True

    def _store_batch(self, spool: Spool, *, last: bool) -> None:
        batch = self.batch
        if batch is None or batch.stored == len(batch.records):
            return
        if not (spool.empty or batch.stored or last):
            return  # it was cut off from the spool by the cap; what is newer lies there already
        for record in batch.records[batch.stored :]:
            spool.append(record, self.next_sequence(), taken=True)
            batch.stored += 1
            batch.end = spool.end
            self.ledger.spooled(record.counts)

    def _broken(self, spool: Spool, error: OSError) -> None:
        self._broken_until_s = self._monotonic() + _RETRY_S
        with contextlib.suppress(OSError):
            spool.rotate()
        if not self._said:
            self._said = True
            logger.warning(
                "AgentGym cannot write below %s (%s); what cannot be sent waits in memory, at most "
                "%d bytes of it, above which the oldest trajectories are dropped; make room there, "
                "or set spool=off",
                spool.root,
                error,
                self.limit_bytes,
            )

    def detach(self) -> None:
        """The spool is about to drop its front: a batch of it lives on in memory."""
        batch = self.batch
        if batch is not None and batch.end is not None and self.spool is not None:
            self.spool.acked(batch.end)
            self.ledger.unspooled(batch.stored_counts)
            batch.end, batch.stored = None, 0

    def spool_dropped(self, counts: Counter[str], trajectory_ids: set[bytes], reason: str) -> None:
        """The spool gave these up."""
        self.ledger.dropped(counts, reason, spooled=True)
        self.forget(trajectory_ids, reason)
        self.on_gap()

    def give_up(self, reason: str) -> None:
        """Drops what is in memory alone."""
        batch, self.batch = self.batch, None
        if batch is not None:
            self.ledger.dropped(_sum(batch.records[batch.stored :]), reason)
        while (record := self._pop()) is not None:
            self.ledger.dropped(record.counts, reason)

    # ---- records

    def _take(self, limit_bytes: int) -> list[Record]:
        records: list[Record] = []
        size = 0
        while size < limit_bytes and (record := self._pop()) is not None:
            if size and size + record.size > limit_bytes:
                self._put_back(record)
                break
            records.append(record)
            size += record.size
        return records

    def _pop(self) -> Record | None:
        """The next record: the tools, or the oldest trajectory, a long one in pieces."""
        if self._popped:
            record = self._popped.popleft()
            self.bytes -= record.size
            return record
        if self._tools:
            return Record(NO_TRAJECTORY, {"catalogue": self._agent + b"".join(self._take_tools())})
        if not self._groups:
            return None
        trajectory_id, group = next(iter(self._groups.items()))
        parts, counts, size = group.take(CHUNK_BYTES)
        self.bytes -= size
        if not group.parts:
            del self._groups[trajectory_id]
        return Record(trajectory_id, parts, counts)

    def _take_tools(self) -> list[bytes]:
        taken, self._tools = self._tools, []
        self.bytes -= sum(map(len, taken))
        return taken

    def _put_back(self, record: Record) -> None:
        self._popped.appendleft(record)
        self.bytes += record.size


def _sum(records: Iterable[Record]) -> Counter[str]:
    total: Counter[str] = Counter()
    for record in records:
        total.update(record.counts)
    return total
