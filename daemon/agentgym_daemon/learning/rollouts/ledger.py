"""The control plane of rollouts as plain data: queue, attempts, spans, resources and workers.

Any thread may call it; what it returns is a copy. The rules of status are Agent Lightning's
(agentlightning/store/base.py and store/utils.py of 0.3).
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from agentgym_daemon.learning.rollouts.records import (
    AttemptRecord,
    ResourcesRecord,
    RolloutRecord,
    WorkerRecord,
)

QUEUED = frozenset(("queuing", "requeuing"))
FINISHED = frozenset(("succeeded", "failed", "cancelled"))
ENDED = frozenset(("succeeded", "failed", "timeout", "unresponsive"))
"""States in which an attempt has ended; all but the first make a rollout fail or try again."""
KEPT = 20_000
"""Finished rollouts that are kept; older ones are forgotten with their spans."""
KEPT_RESOURCES = 100
"""Sets of resources that are kept: each holds a policy's file."""


@dataclass
class _Entry:
    rollout: RolloutRecord
    attempts: list[AttemptRecord] = field(default_factory=list)
    spans: list[Any] = field(default_factory=list)
    seen: set[tuple[str, str]] = field(default_factory=set)  # (attempt id, span id)
    next_sequence: int = 1


OnFinished = Callable[[RolloutRecord, AttemptRecord | None, Sequence[Any]], None]
"""Told of each finished rollout with its last attempt and that attempt's spans; must not block."""


class Ledger:
    """Rollouts from the queue to their end."""

    def __init__(
        self,
        *,
        name: str = "",
        on_finished: OnFinished | None = None,
        clock: Callable[[], float] = time.time,
        kept: int = KEPT,
    ) -> None:
        self.name = name or secrets.token_hex(8)
        self.workers: dict[str, WorkerRecord] = {}
        self.resources: OrderedDict[str, ResourcesRecord] = OrderedDict()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._queue: deque[str] = deque()
        self._done: deque[str] = deque()
        self._watched: set[str] = set()
        self._latest = ""
        self._count = self._resources_count = 0
        self._kept, self._clock, self._on_finished = kept, clock, on_finished
        self._changed = threading.Condition()

    # ---- rollouts

    def enqueue(self, input: Any, *, config: Any, **fields: Any) -> RolloutRecord:
        """A new rollout at the end of the queue."""
        with self._changed:
            entry = self._new(input, config, fields)
            self._queue.append(entry.rollout.rollout_id)
            return copy(entry.rollout)

    def start(
        self, input: Any, *, config: Any, worker_id: str | None, **fields: Any
    ) -> tuple[RolloutRecord, AttemptRecord]:
        """A new rollout with its first attempt, past the queue."""
        with self._changed:
            return self._attempt(self._new(input, config, fields), worker_id)

    def dequeue(self, worker_id: str | None) -> tuple[RolloutRecord, AttemptRecord] | None:
        """The oldest waiting rollout with a new attempt; None if none waits."""
        with self._changed:
            self._expire()
            if worker_id is not None:
                self._worker(worker_id).last_dequeue_time = self._clock()
            while self._queue:
                entry = self._entries.get(self._queue.popleft())
                if entry is not None and entry.rollout.status in QUEUED:
                    return self._attempt(entry, worker_id)
            return None

    def retry(self, rollout_id: str, worker_id: str | None) -> tuple[RolloutRecord, AttemptRecord]:
        """A further attempt at a known rollout."""
        with self._changed:
            return self._attempt(self._entry(rollout_id), worker_id)

    def update_rollout(self, rollout_id: str, changes: Mapping[str, Any]) -> RolloutRecord:
        """Sets fields of a rollout; a final status ends it, a queueing one queues it again."""
        with self._changed:
            entry = self._entry(rollout_id)
            rest = {name: value for name, value in changes.items() if name != "status"}
            for name, value in rest.items():
                setattr(entry.rollout, name, value)
            if "status" in changes:
                self._move(entry, changes["status"])
            return copy(entry.rollout)

    def rollout(self, rollout_id: str) -> RolloutRecord | None:
        """A rollout; None if it is not known (any more)."""
        with self._changed:
            entry = self._entries.get(rollout_id)
            return copy(entry.rollout) if entry else None

    def rollouts(self) -> list[RolloutRecord]:
        """All rollouts, oldest first."""
        with self._changed:
            return [copy(entry.rollout) for entry in self._entries.values()]

    def wait(self, rollout_ids: Iterable[str], timeout_s: float) -> list[RolloutRecord]:
        """Those of the rollouts that have ended within the time."""
        wanted = list(rollout_ids)
        with self._changed:
            for rollout_id in wanted:
                self._entry(rollout_id)
            self._expire()
            self._changed.wait_for(lambda: self._all_ended(wanted), timeout_s)
            found = (self._entries.get(rollout_id) for rollout_id in wanted)
            return [copy(e.rollout) for e in found if e and e.rollout.status in FINISHED]

    # ---- attempts

    def attempts(self, rollout_id: str) -> list[AttemptRecord]:
        """The attempts at a rollout, oldest first."""
        with self._changed:
            return [copy(attempt) for attempt in self._entry(rollout_id).attempts]

    def update_attempt(
        self, rollout_id: str, attempt_id: str, changes: Mapping[str, Any]
    ) -> AttemptRecord:
        """Sets fields of an attempt, or of the "latest"; the rollout follows its last one."""
        with self._changed:
            entry = self._entry(rollout_id)
            attempt = self._find(entry, attempt_id)
            for name, value in changes.items():
                setattr(attempt, name, value)
            if "status" in changes:
                self._follow(entry, attempt)
            return copy(attempt)

    # ---- spans

    def sequence(self, rollout_id: str, attempt_id: str) -> int:
        """The next number by which the spans of a rollout are ordered, from 1."""
        with self._changed:
            entry = self._entry(rollout_id)
            self._find(entry, attempt_id)
            number, entry.next_sequence = entry.next_sequence, entry.next_sequence + 1
            return number

    def add_span(self, rollout_id: str, attempt_id: str, span: Any) -> bool:
        """Keeps a span, which is a sign of life too; False if its span id is there already."""
        with self._changed:
            entry = self._entry(rollout_id)
            attempt = self._find(entry, attempt_id)
            key = (attempt_id, span.span_id)
            if key in entry.seen:
                return False
            entry.seen.add(key)
            entry.spans.append(span)
            entry.next_sequence = max(entry.next_sequence, span.sequence_id + 1)
            attempt.last_heartbeat_time = self._clock()
            if attempt.status == "preparing":
                attempt.status = "running"
            if entry.rollout.status == "preparing":
                entry.rollout.status = "running"
            return True

    def spans(self, rollout_id: str, attempt_id: str | None = None) -> list[Any]:
        """The spans of a rollout, or of one attempt ("latest": the last one)."""
        with self._changed:
            entry = self._entry(rollout_id)
            if attempt_id is None:
                return list(entry.spans)
            if attempt_id == "latest" and not entry.attempts:
                return []
            wanted = self._find(entry, attempt_id).attempt_id
            return [span for span in entry.spans if span.attempt_id == wanted]

    # ---- resources and workers

    def add_resources(self, resources: Mapping[str, Any]) -> ResourcesRecord:
        """A new set of resources, the latest from now on."""
        with self._changed:
            now = self._clock()
            self._resources_count += 1
            identifier = f"rs-{self.name}-{self._resources_count:06d}"
            record = ResourcesRecord(identifier, now, now, 1, dict(resources))
            self.resources[identifier] = record
            self._latest = identifier
            while len(self.resources) > KEPT_RESOURCES:
                self.resources.popitem(last=False)
            return copy(record)

    def replace_resources(self, resources_id: str, resources: Mapping[str, Any]) -> ResourcesRecord:
        """Overwrites a set of resources and makes it the latest."""
        with self._changed:
            record = self.resources.get(resources_id)
            if record is None:
                raise ValueError(f"expected the id of known resources, got {resources_id!r}")
            record.resources, record.update_time = dict(resources), self._clock()
            record.version += 1
            self._latest = resources_id
            return copy(record)

    def latest_resources(self) -> ResourcesRecord | None:
        """The latest set of resources, if there is one."""
        with self._changed:
            record = self.resources.get(self._latest)
            return copy(record) if record else None

    def heartbeat(self, worker_id: str, stats: dict[str, Any] | None) -> WorkerRecord:
        """Notes a worker's sign of life."""
        with self._changed:
            worker = self._worker(worker_id)
            worker.last_heartbeat_time = self._clock()
            if stats is not None:
                worker.heartbeat_stats = dict(stats)
            return copy(worker)

    # ---- inside the lock

    def _new(self, input: Any, config: Any, fields: Mapping[str, Any]) -> _Entry:
        resources_id = fields.get("resources_id")
        if resources_id is not None and resources_id not in self.resources:
            raise ValueError(f"expected the id of known resources, got {resources_id!r}")
        self._count += 1
        record = RolloutRecord(
            rollout_id=f"ro-{self.name}-{self._count:08d}",
            input=input,
            start_time=self._clock(),
            config=config,
            mode=fields.get("mode"),
            resources_id=resources_id,
            metadata=dict(fields["metadata"]) if fields.get("metadata") else None,
        )
        entry = self._entries[record.rollout_id] = _Entry(record)
        return entry

    def _entry(self, rollout_id: str) -> _Entry:
        entry = self._entries.get(rollout_id)
        if entry is None:
            raise ValueError(f"expected the id of a known rollout, got {rollout_id!r}")
        return entry

    def _find(self, entry: _Entry, attempt_id: str) -> AttemptRecord:
        if attempt_id == "latest" and entry.attempts:
            return entry.attempts[-1]
        for attempt in entry.attempts:
            if attempt.attempt_id == attempt_id:
                return attempt
        raise ValueError(f"expected an attempt at {entry.rollout.rollout_id!r}, got {attempt_id!r}")

    def _attempt(self, entry: _Entry, worker_id: str | None) -> tuple[RolloutRecord, AttemptRecord]:
        rollout = entry.rollout
        number = len(entry.attempts) + 1
        attempt = AttemptRecord(
            rollout_id=rollout.rollout_id,
            attempt_id=f"{rollout.rollout_id}-{number}",
            sequence_id=number,
            start_time=self._clock(),
            worker_id=worker_id,
        )
        entry.attempts.append(attempt)
        rollout.status = "preparing"
        if rollout.config.timeout_seconds or rollout.config.unresponsive_seconds:
            self._watched.add(rollout.rollout_id)
        if worker_id is not None:
            worker = self._worker(worker_id)
            worker.status, worker.last_busy_time = "busy", self._clock()
            worker.current_rollout_id = rollout.rollout_id
            worker.current_attempt_id = attempt.attempt_id
        return copy(rollout), copy(attempt)

    def _worker(self, worker_id: str) -> WorkerRecord:
        return self.workers.setdefault(worker_id, WorkerRecord(worker_id))

    def _follow(self, entry: _Entry, attempt: AttemptRecord) -> None:
        """Moves worker and rollout to where the attempt went."""
        ended = attempt.status in ENDED
        if ended:
            attempt.end_time = attempt.end_time or self._clock()
        if ended and attempt.worker_id is not None:
            worker = self._worker(attempt.worker_id)
            worker.status = "idle" if attempt.status in ("succeeded", "failed") else "unknown"
            worker.last_idle_time = self._clock()
            worker.current_rollout_id = worker.current_attempt_id = None
        if attempt is not entry.attempts[-1] or entry.rollout.status in FINISHED:
            return
        config = entry.rollout.config
        if not ended or attempt.status == "succeeded":
            self._move(entry, attempt.status)
        elif attempt.status in config.retry_condition and attempt.sequence_id < config.max_attempts:
            self._move(entry, "requeuing")
        else:
            self._move(entry, "failed")

    def _move(self, entry: _Entry, status: str) -> None:
        rollout = entry.rollout
        was, rollout.status = rollout.status, status
        if status in QUEUED and was not in QUEUED:
            self._queue.append(rollout.rollout_id)
        if status not in FINISHED or was in FINISHED:
            return
        rollout.end_time = self._clock()
        self._watched.discard(rollout.rollout_id)
        self._done.append(rollout.rollout_id)
        if self._on_finished is not None:
            last = entry.attempts[-1] if entry.attempts else None
            spans = [s for s in entry.spans if last is not None and s.attempt_id == last.attempt_id]
            self._on_finished(copy(rollout), copy(last), spans)
        while len(self._done) > self._kept:
            self._entries.pop(self._done.popleft(), None)
        self._changed.notify_all()

    def _all_ended(self, rollout_ids: Iterable[str]) -> bool:
        # One that was forgotten meanwhile had ended before.
        found = (self._entries.get(rollout_id) for rollout_id in rollout_ids)
        return all(entry is None or entry.rollout.status in FINISHED for entry in found)

    def _expire(self) -> None:
        """Ends attempts that took too long or fell silent; looked at when somebody asks."""
        now = self._clock()
        for rollout_id in tuple(self._watched):
            entry = self._entries[rollout_id]
            attempt, config = entry.attempts[-1], entry.rollout.config
            alive = attempt.last_heartbeat_time or attempt.start_time
            if attempt.status in ENDED:
                continue
            if config.timeout_seconds and now - attempt.start_time > config.timeout_seconds:
                attempt.status = "timeout"
            elif config.unresponsive_seconds and now - alive > config.unresponsive_seconds:
                attempt.status = "unresponsive"
            if attempt.status in ENDED:
                self._follow(entry, attempt)
