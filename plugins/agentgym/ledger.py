"""Where every item that was ever recorded is now, per kind.

The conservation law: produced = acked + pending + spooled + dropped, at every moment.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping

from agentgym.items import Item, RewardItem, SpanItem, StepItem, TaskItem

KIND: Mapping[type, str] = {
    SpanItem: "spans",
    StepItem: "decisions",
    TaskItem: "features",
    RewardItem: "rewards",
}
"""The counter an item belongs to."""
Counts = Mapping[str, int]


class Ledger:
    """Counters of one process; every move of items between places is one step under the lock."""

    def __init__(self) -> None:
        # Re-entrant: a signal handler may ask for a report while this thread is in one.
        self.lock = threading.RLock()
        self._counts: Counter[str] = Counter()
        self._pending: Counter[str] = Counter()
        self._spooled: Counter[str] = Counter()

    def arrived(self, items: Iterable[Item]) -> None:
        """Items were taken over from the recorder."""
        kinds = Counter(KIND[type(item)] for item in items)
        with self.lock:
            for kind, n in kinds.items():
                self._counts[f"produced.{kind}"] += n
            self._pending.update(kinds)

    def returned(self, counts: Counts) -> None:
        """Takes back `arrived`: the items lie where nobody has taken them over yet."""
        with self.lock:
            for kind, n in counts.items():
                self._counts[f"produced.{kind}"] -= n
                self._pending[kind] -= n

    def dropped(self, counts: Counts, reason: str, *, spooled: bool = False) -> None:
        """Items were given up, from memory or from the spool."""
        self.settled({}, {reason: counts}, counts if spooled else {})

    def settled(self, acked: Counts, dropped: Mapping[str, Counts], spooled: Counts) -> None:
        """Items were acked or dropped; `spooled` of them counted as lying in the spool."""
        with self.lock:
            for kind, n in acked.items():
                self._counts[f"acked.{kind}"] += n
                self._pending[kind] -= n
            for reason, counts in dropped.items():
                for kind, n in counts.items():
                    self._counts[f"dropped.{kind}.{reason}"] += n
                    self._pending[kind] -= n
            self._move(spooled, self._spooled, self._pending)

    def spooled(self, counts: Counts) -> None:
        """Items went from memory to the spool."""
        with self.lock:
            self._move(counts, self._pending, self._spooled)

    def unspooled(self, counts: Counts) -> None:
        """Items are held by memory alone again."""
        with self.lock:
            self._move(counts, self._spooled, self._pending)

    def _move(self, counts: Counts, source: Counter[str], target: Counter[str]) -> None:
        for kind, n in counts.items():
            source[kind] -= n
            target[kind] += n

    @property
    def waiting(self) -> int:
        """Items that the daemon has not acked, in memory or in the spool."""
        with self.lock:
            return self._pending.total() + self._spooled.total()

    @property
    def pending(self) -> int:
        """Items that are in memory alone."""
        with self.lock:
            return self._pending.total()

    def report(self, inbox: Iterable[Item] = ()) -> dict[str, int]:
        """All counters, with items that nobody has taken over yet."""
        with self.lock:
            fresh = Counter(KIND[type(item)] for item in inbox)
            counts = Counter(self._counts)
            for kind, n in fresh.items():
                counts[f"produced.{kind}"] += n
            for name, held in (("pending", self._pending + fresh), ("spooled", self._spooled)):
                counts.update({f"{name}.{kind}": n for kind, n in held.items()})
            return {name: n for name, n in counts.items() if n}
