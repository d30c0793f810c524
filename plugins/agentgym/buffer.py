"""Bounded memory between the agent and the sender: drops whole oldest trajectories, and counts.

The conservation law, per kind of item: produced = acked + pending + dropped.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque

from agentgym.items import Item, RewardItem, SpanItem, StepItem, TaskItem

_BASE_BYTES = 600  # rough size of one item with its attributes
_REMEMBERED_DROPS = 10_000
_NO_TRAJECTORY = b""  # rewards by key: the daemon finds their trajectory


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
        self.pending: Counter[str] = Counter()
        self._groups: OrderedDict[bytes, deque[Item]] = OrderedDict()
        self._dropped: OrderedDict[bytes, None] = OrderedDict()
        self._closed = ""
        # Re-entrant: a signal handler or finaliser may end a run while this thread is in `put`.
        self._settled = threading.Condition(threading.RLock())

    def put(self, item: Item) -> None:
        """Takes one item; above the limit the oldest trajectory goes, whole."""
        with self._settled:
            kind = kind_of(item)
            self.counters[f"produced.{kind}"] += 1
            self.pending[kind] += 1
            if self._closed:
                self.count("dropped", item, self._closed)
                return
            if item.trajectory_id in self._dropped:
                self.count("dropped", item, "buffer_full")
                return
            self._groups.setdefault(item.trajectory_id, deque()).append(item)
            if item.trajectory_id == _NO_TRAJECTORY:
                self._groups.move_to_end(_NO_TRAJECTORY)  # behind the trajectories it may mean
            self.bytes += size_of(item)
            while self.bytes > self.limit_bytes and self._groups:
                self._drop_oldest()
        self.wake.set()

    def _drop_oldest(self) -> None:
        trajectory_id, items = self._groups.popitem(last=False)
        for item in items:
            self.bytes -= size_of(item)
            self.count("dropped", item, "buffer_full")
        if trajectory_id != _NO_TRAJECTORY:
            self._dropped[trajectory_id] = None
            while len(self._dropped) > _REMEMBERED_DROPS:
                self._dropped.popitem(last=False)

    def take(self, limit: int) -> list[Item]:
        """Up to about `limit` items, in order; they stay pending until they are counted."""
        taken: list[Item] = []
        with self._settled:
            while self._groups and len(taken) < limit:
                _, items = self._groups.popitem(last=False)
                taken.extend(items)
            self.bytes -= sum(size_of(item) for item in taken)
            if not self._groups:
                self.wake.clear()
        return taken

    def count(self, what: str, item: Item, reason: str = "") -> None:
        """Counts a pending item as acked or dropped."""
        with self._settled:
            kind = kind_of(item)
            self.counters[f"{what}.{kind}" + (f".{reason}" if reason else "")] += 1
            self.pending[kind] -= 1
            if not self.pending.total():
                self._settled.notify_all()

    def wait_settled(self, timeout_s: float) -> bool:
        """Waits until nothing is pending; False on timeout."""
        with self._settled:
            return self._settled.wait_for(lambda: not self.pending.total(), timeout_s)

    def close(self, reason: str) -> None:
        """Drops all that is here and all that will come, counted under `reason`."""
        with self._settled:
            self._closed = reason
            for item in self.take(1 << 60):
                self.count("dropped", item, reason)

    def report(self) -> dict[str, int]:
        """All counters, for people and tests."""
        with self._settled:
            waiting = {f"pending.{kind}": n for kind, n in self.pending.items() if n}
            return dict(self.counters) | waiting

    def reset_after_fork(self, closed: str) -> None:
        """In a forked child: what the parent produced is the parent's to send."""
        limit_bytes = self.limit_bytes
        Buffer.__init__(self, limit_bytes)
        self._closed = closed
