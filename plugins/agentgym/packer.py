"""Recorded items as encoded entries in the outbox: once, on the sender's thread.

Task texts become features here, which takes the install's key. Until it is known tasks, and the
steps that name no feature schema, are held in memory; a text itself never leaves the process.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agentgym.buffer import size_of
from agentgym.encode import features_entry, reward_entry, span_entry, step_entry, tool_entry
from agentgym.items import Item, RewardItem, SpanItem, StepItem, TaskItem
from agentgym.ledger import KIND
from agentgym.outbox import Outbox
from agentgym.trajectory import Tool

if TYPE_CHECKING:
    from agentgym.policy.features import Featuriser

logger = logging.getLogger(__name__)

_REMEMBERED_TOOLS = 10_000
_MAX_CHARS = 8192  # what the features read of a text
_UNKNOWN_SCHEMA = 0


class Packer:
    """Encodes items into one outbox; one that cannot be encoded takes no siblings along."""

    def __init__(
        self,
        outbox: Outbox,
        features: Callable[[], Featuriser | None],
        *,
        held_bytes: int,
    ) -> None:
        self.outbox = outbox
        self.held_bytes = held_bytes
        self._features = features
        self._held: deque[TaskItem | StepItem] = deque()
        self._held_size = 0
        self._known_tools: set[bytes] = set()
        self._said: set[str] = set()

    def pack(self, items: Iterable[Item]) -> None:
        """Encodes items, and those that waited for the features as soon as they are known."""
        features = self._features()
        if features is not None and self._held:
            self._release(features)
        for item in items:
            self._one(item, features)
        while self._held_size > self.held_bytes:
            self._give_up(self._unhold())

    def forget_tools(self) -> None:
        """The daemon may not know the tools any more: they travel again."""
        self._known_tools.clear()

    @property
    def holding(self) -> int:
        """Items that wait for the features to be known."""
        return len(self._held)

    def finish(self, *, may_compute: Callable[[], bool]) -> None:
        """Encodes or gives up what is held; texts are only read while there is time."""
        features = self._features()
        while self._held:
            item = self._unhold()
            if features is not None and (isinstance(item, StepItem) or may_compute()):
                self._one(item, features)
            else:
                self._give_up(item)

    # ---- holding

    def _hold(self, item: TaskItem | StepItem) -> None:
        if isinstance(item, TaskItem) and len(item.text) > _MAX_CHARS:
            item = replace(item, text=item.text[:_MAX_CHARS])
        self._held.append(item)
        self._held_size += size_of(item)

    def _unhold(self) -> TaskItem | StepItem:
        item = self._held.popleft()
        self._held_size -= size_of(item)
        return item

    def _release(self, features: Featuriser) -> None:
        for _ in range(len(self._held)):
            self._one(self._unhold(), features)

    def _give_up(self, item: TaskItem | StepItem) -> None:
        if isinstance(item, StepItem):
            # Nothing was decided in it, and what happened is known all the same.
            if not self._done(item, lambda: self._step(item, _UNKNOWN_SCHEMA)):
                self.outbox.ledger.dropped({"decisions": 1}, "unencodable")
        else:
            self.outbox.ledger.dropped({"features": 1}, "no_key")

    # ---- encoding

    def _one(self, item: Item, features: Featuriser | None) -> None:
        if self._done(item, lambda: self._pack(item, features)):
            return
        self.outbox.ledger.dropped({KIND[type(item)]: 1}, "unencodable")

    def _pack(self, item: Item, features: Featuriser | None) -> None:
        match item:
            case SpanItem():
                self.outbox.add("spans", item.trajectory_id, span_entry(item))
            case StepItem():
                schema = item.feature_schema or (features.schema if features else _UNKNOWN_SCHEMA)
                if schema:
                    self._step(item, schema)
                else:
                    self._hold(item)
            case TaskItem():
                self._task(item, features)
            case RewardItem():
                self.outbox.add("rewards", item.trajectory_id, reward_entry(_with_key(item)))

    def _step(self, item: StepItem, schema: int) -> None:
        for tool in item.offered:
            if tool.fingerprint not in self._known_tools:
                self._done(tool, functools.partial(self._tool, tool))
        self.outbox.add("decisions", item.trajectory_id, step_entry(item, schema))

    def _task(self, item: TaskItem, features: Featuriser | None) -> None:
        vector, schema = item.vector, item.feature_schema
        if vector is None:
            if features is None:
                self._hold(item)
                return
            vector, schema = features(item.text), features.schema
        entry = features_entry(item.trajectory_id, item.features_id, vector, schema)
        self.outbox.add("features", item.trajectory_id, entry)

    def _tool(self, tool: Tool) -> None:
        entry = tool_entry(tool)
        if len(self._known_tools) >= _REMEMBERED_TOOLS:
            self._known_tools.clear()
        self._known_tools.add(tool.fingerprint)
        self.outbox.add_tool(entry)

    def _done(self, thing: Any, work: Callable[[], None]) -> bool:
        try:
            work()
        except Exception:
            kind = type(thing).__name__
            if kind not in self._said:
                self._said.add(kind)
                logger.warning("AgentGym: a %s could not be encoded", kind, exc_info=True)
            return False
        return True


def _with_key(item: RewardItem) -> RewardItem:
    """The same reward, made recognisable when it is sent again.

    By trajectory the daemon recognises it itself; by key it would go to whichever trajectory is the
    latest by then.
    """
    if item.idempotency_key or item.trajectory_id:
        return item
    said = f"{item.key}|{item.agent}|{item.name}|{item.source}|{item.value!r}|{item.time_ns}"
    digest = hashlib.sha256(said.encode("utf-8", "replace")).hexdigest()[:24]
    return replace(item, idempotency_key=digest)
