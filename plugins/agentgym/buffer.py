"""Bounded memory between the agent and the sender: drops whole oldest trajectories, and counts.

The conservation law: produced = acked + pending + dropped (spans; decisions and rewards likewise).
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque

from agentgym.items import Item, RewardItem, SpanItem, StepItem, TaskItem

_BASE_BYTES = 600  # rough size of one item with its attributes
_REMEMBERED_DROPS = 10_000


def kind_of(item: Item) -> str:
    """The counter an item belongs to."""
    match item:
        case SpanItem():
            return "spans"
        case StepItem():
            return "decisions"
        case TaskItem():
            return "features"
        case RewardItem():
            return "rewards"


def size_of(item: Item) -> int:
    """Approximate bytes that an item holds."""
    match item:
        case SpanItem(attributes=attributes):
            return _BASE_BYTES + sum(len(v) for v in attributes.values() if isinstance(v, str))
        case TaskItem(text=text):
            return _BASE_BYTES + len(text)
    return _BASE_BYTES


class Buffer:
    """Items grouped by trajectory, oldest first; `put` takes no longer than a dict access."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self.counters: Counter[str] = Counter()
        self.wake = threading.Event()
        self._groups: OrderedDict[bytes, deque[Item]] = OrderedDict()
        self._dropped: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, item: Item) -> None:
        """Takes one item; above the limit the oldest trajectory goes, whole."""
        with self._lock:
            self.counters[f"produced.{kind_of(item)}"] += 1
            if item.trajectory_id and item.trajectory_id in self._dropped:
                self.counters[f"dropped.{kind_of(item)}.buffer_full"] += 1
                return
            self._groups.setdefault(item.trajectory_id, deque()).append(item)
            self.bytes += size_of(item)
            while self.bytes > self.limit_bytes and self._groups:
                self._drop_oldest()
        self.wake.set()

    def end(self, trajectory_id: bytes) -> None:
        """A trajectory is complete: worth waking the sender."""
        self.wake.set()

    def _drop_oldest(self) -> None:
        trajectory_id, items = self._groups.popitem(last=False)
        for item in items:
            self.bytes -= size_of(item)
            self.counters[f"dropped.{kind_of(item)}.buffer_full"] += 1
        if trajectory_id:
            self._dropped[trajectory_id] = None
            while len(self._dropped) > _REMEMBERED_DROPS:
                self._dropped.popitem(last=False)

    def take(self, limit: int) -> list[Item]:
        """Up to about `limit` items, in order; they count as pending until `acked` or `lost`."""
        taken: list[Item] = []
        with self._lock:
            while self._groups and len(taken) < limit:
                _, items = self._groups.popitem(last=False)
                taken.extend(items)
            self.bytes -= sum(size_of(item) for item in taken)
            if not self._groups:
                self.wake.clear()
        return taken

    def clear(self, reason: str) -> None:
        """Drops everything, counted under `reason`."""
        for item in self.take(1 << 60):
            self.count("dropped", item, reason)

    def count(self, what: str, item: Item, reason: str = "") -> None:
        """Counts an item that left the buffer as acked or dropped."""
        with self._lock:
            self.counters[f"{what}.{kind_of(item)}" + (f".{reason}" if reason else "")] += 1

    def reset_after_fork(self) -> None:
        """In a forked child: what the parent produced is the parent's to send."""
        self._lock = threading.Lock()
        self.wake = threading.Event()
        self._groups.clear()
        self._dropped.clear()
        self.counters.clear()
        self.bytes = 0
