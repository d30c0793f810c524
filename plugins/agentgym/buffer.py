"""What the recorder hands over, until the sender takes it: one append per item, no lock.

The sender empties it a few times a second. Should it not get to that (a starved thread, an import
that hangs), whole oldest trajectories are dropped above the limit, and counted.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable

from agentgym.items import Item, SpanItem, TaskItem
from agentgym.ledger import KIND, Ledger

_BASE_BYTES = 800  # rough size of one item with its attributes
_FIRST_LOOK = 1024


def size_of(item: Item) -> int:
    """Approximate bytes that an item holds."""
    match item:
        case SpanItem(attributes=attributes):
            return _BASE_BYTES + sum(len(v) for v in attributes.values() if isinstance(v, str))
        case TaskItem(text=text):
            return _BASE_BYTES + len(text)
    return _BASE_BYTES


def kinds(items: Iterable[Item]) -> Counter[str]:
    """How many of each kind."""
    return Counter(KIND[type(item)] for item in items)


class Inbox:
    """Items in order of their ends; any thread puts, one drains."""

    def __init__(self, limit_bytes: int, ledger: Ledger) -> None:
        self.limit_bytes = limit_bytes
        self.ledger = ledger
        self.on_shed: Callable[[set[bytes]], None] | None = None
        """Told which trajectories were dropped, so that their later items are too."""
        self._items: deque[Item] = deque()
        self._look_at = _FIRST_LOOK
        self._closed = ""

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> None:
        """Takes one item."""
        self._items.append(item)
        if len(self._items) > self._look_at:
            self._crowded()
        if self._closed:
            self.close(self._closed)

    def drain(self, limit: int = 1 << 60) -> list[Item]:
        """Up to `limit` items, in order; from here on they count as pending."""
        with self.ledger.lock:
            n = min(len(self._items), limit)
            taken = [self._items.popleft() for _ in range(n)]
            self.ledger.arrived(taken)
        if not self._items:
            self._look_at = _FIRST_LOOK
        return taken

    def close(self, reason: str) -> None:
        """Drops all that is here and all that will come, counted under `reason`."""
        self._closed = reason
        self.ledger.dropped(kinds(self.drain()), reason)

    def report(self) -> dict[str, int]:
        """All counters of the ledger, with what lies here."""
        with self.ledger.lock:
            return self.ledger.report(self._items.copy())  # one step under the GIL

    def _crowded(self) -> None:
        # Weighed only now and then: more than a `len` for every item would cost the host.
        with self.ledger.lock:
            sizes: Counter[bytes] = Counter()
            for item in self._items.copy():
                sizes[item.trajectory_id] += size_of(item)
            if sizes.total() > self.limit_bytes:
                self._shed(sizes)
            self._look_at = max(_FIRST_LOOK, 2 * len(self._items))

    def _shed(self, sizes: Counter[bytes]) -> None:
        doomed, excess = set(), sizes.total() - self.limit_bytes // 2
        for trajectory_id, size in sizes.items():  # in order of their first item
            if excess <= 0:
                break
            doomed.add(trajectory_id)
            excess -= size
        items = self.drain()
        self._items.extendleft(
            reversed([item for item in items if item.trajectory_id not in doomed])
        )
        lost = kinds(item for item in items if item.trajectory_id in doomed)
        self.ledger.returned(kinds(items) - lost)
        self.ledger.dropped(lost, "buffer_full")
        if self.on_shed is not None:
            self.on_shed(doomed)
