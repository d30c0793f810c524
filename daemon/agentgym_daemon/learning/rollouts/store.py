"""The other half of a LightningStore: it queues, starts, ends and keeps; and reports what ended.

Without Agent Lightning, as `queries`. Nothing is written to disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from agentgym_daemon.learning.rollouts.history import History
from agentgym_daemon.learning.rollouts.ledger import Ledger
from agentgym_daemon.learning.rollouts.queries import StoreQueries
from agentgym_daemon.learning.rollouts.records import AttemptRecord, RolloutRecord
from agentgym_daemon.learning.rollouts.report import Finished, Reporter
from agentgym_daemon.learning.rollouts.session import (
    RECORD_SPAN,
    PlainSpan,
    read_run,
    trajectory_id_of,
)

_WAIT_S = 0.2  # a longer wait could not be cancelled


class StoreLogic(StoreQueries):
    """All of the store; `PolicyStore` makes a LightningStore of it."""

    unset: Any
    """What stands for an argument that was not given."""

    def __init__(
        self,
        history: History | None = None,
        *,
        reporter: Reporter | None = None,
        name: str = "",
    ) -> None:
        super().__init__(Ledger(name=name, on_finished=self._finished), history or History())
        self.reporter = reporter

    @property
    def capabilities(self) -> Any:
        return {"thread_safe": True, "async_safe": True, "zero_copy": True, "otlp_traces": False}

    async def start_rollout(
        self,
        input: Any,
        mode: str | None = None,
        resources_id: str | None = None,
        config: Any = None,
        metadata: dict[str, Any] | None = None,
        worker_id: str | None = None,
    ) -> Any:
        resources_id = resources_id or self._latest_id()
        fields = {"mode": mode, "resources_id": resources_id, "metadata": metadata}
        started = self.ledger.start(
            input, config=self._copied(config), worker_id=worker_id, **fields
        )
        return self._attempted(*started)

    async def enqueue_rollout(
        self,
        input: Any,
        mode: str | None = None,
        resources_id: str | None = None,
        config: Any = None,
        metadata: dict[str, Any] | None = None,
    ) -> Any:
        fields = {"mode": mode, "resources_id": resources_id, "metadata": metadata}
        queued = self.ledger.enqueue(input, config=self._copied(config), **fields)
        return self.types.Rollout(**vars(queued))

    async def enqueue_many_rollouts(self, rollouts: Sequence[Any]) -> Any:
        return [
            await self.enqueue_rollout(r.input, r.mode, r.resources_id, r.config, r.metadata)
            for r in rollouts
        ]

    async def dequeue_rollout(self, worker_id: str | None = None) -> Any:
        found = self.ledger.dequeue(worker_id)
        return None if found is None else self._attempted(*found)

    async def dequeue_many_rollouts(self, *, limit: int = 1, worker_id: str | None = None) -> Any:
        found = (self.ledger.dequeue(worker_id) for _ in range(limit))
        return [self._attempted(*one) for one in found if one is not None]

    async def start_attempt(self, rollout_id: str, worker_id: str | None = None) -> Any:
        return self._attempted(*self.ledger.retry(rollout_id, worker_id))

    async def add_span(self, span: Any) -> Any:
        return span if self.ledger.add_span(span.rollout_id, span.attempt_id, span) else None

    async def add_many_spans(self, spans: Sequence[Any]) -> Any:
        return [span for span in spans if await self.add_span(span) is not None]

    async def add_otel_span(
        self,
        rollout_id: str,
        attempt_id: str,
        readable_span: Any,
        sequence_id: int | None = None,
    ) -> Any:
        number = sequence_id or self.ledger.sequence(rollout_id, attempt_id)
        span = self.types.Span.from_opentelemetry(readable_span, rollout_id, attempt_id, number)
        return await self.add_span(span)

    async def get_next_span_sequence_id(self, rollout_id: str, attempt_id: str) -> int:
        return self.ledger.sequence(rollout_id, attempt_id)

    async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[Any]) -> Any:
        return [self.ledger.sequence(*pair) for pair in rollout_attempt_ids]

    async def wait_for_rollouts(
        self, *, rollout_ids: Sequence[str], timeout: float | None = None
    ) -> Any:
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            left = min(_WAIT_S, max(0.0, deadline - time.monotonic()))
            ended = await asyncio.to_thread(self.ledger.wait, rollout_ids, left)
            if len(ended) == len(rollout_ids) or time.monotonic() >= deadline:
                return [self.types.Rollout(**vars(record)) for record in ended]

    async def add_resources(self, resources: Mapping[str, Any]) -> Any:
        return self._update(self.ledger.add_resources(resources))

    async def update_resources(self, resources_id: str, resources: Mapping[str, Any]) -> Any:
        return self._update(self.ledger.replace_resources(resources_id, resources))

    async def get_resources_by_id(self, resources_id: str) -> Any:
        record = self.ledger.resources.get(resources_id)
        return None if record is None else self._update(record)

    async def get_latest_resources(self) -> Any:
        record = self.ledger.latest_resources()
        return None if record is None else self._update(record)

    async def update_rollout(self, rollout_id: str, **changes: Any) -> Any:
        return self._with_attempt(self.ledger.update_rollout(rollout_id, self._set(changes)))

    async def update_attempt(self, rollout_id: str, attempt_id: str, **changes: Any) -> Any:
        attempt = self.ledger.update_attempt(rollout_id, attempt_id, self._set(changes))
        return self.types.Attempt(**vars(attempt))

    async def update_worker(self, worker_id: str, heartbeat_stats: Any = None) -> Any:
        stats = None if heartbeat_stats is self.unset else heartbeat_stats
        return self.types.Worker(**vars(self.ledger.heartbeat(worker_id, stats)))

    def _copied(self, config: Any) -> Any:
        return self._config if config is None else config.model_copy(deep=True)

    def _latest_id(self) -> str | None:
        latest = self.ledger.latest_resources()
        return latest.resources_id if latest else None

    def _set(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in changes.items() if value is not self.unset}

    def reward(self, spans: Sequence[Any]) -> float | None:
        """The final reward among spans; raises ValueError where it is not in [0, 1]."""
        reward = self.types.find_final_reward(spans)
        if reward is not None and not 0.0 <= reward <= 1.0:
            raise ValueError(f"expected rewards between 0 and 1, got {reward!r}; scale them")
        return None if reward is None else float(reward)

    def _finished(
        self, rollout: RolloutRecord, attempt: AttemptRecord | None, spans: Sequence[Any]
    ) -> None:
        if self.reporter is None or attempt is None:
            return
        failed = rollout.status != "succeeded"
        try:
            reward = None if failed else self.reward(spans)
        except ValueError:
            reward = None  # the algorithm says so, and ends
        finished = Finished(
            rollout_id=rollout.rollout_id,
            trajectory_id=trajectory_id_of(attempt.attempt_id),
            failed=failed,
            started_s=attempt.start_time,
            ended_s=rollout.end_time or attempt.start_time,
            run=read_run((span.name, span.attributes) for span in spans),
            spans=[
                _plain(span, attempt.start_time)
                for span in spans
                if span.name != RECORD_SPAN and self.types.get_reward_value(span) is None
            ],
            reward=reward,
        )
        self.reporter.put(finished)


def _plain(span: Any, otherwise_s: float) -> PlainSpan:
    start_s = span.start_time or otherwise_s
    failed = span.status.status_code == "ERROR"
    error = (span.status.description or "error") if failed else ""
    return PlainSpan(span.name, span.attributes, start_s, span.end_time or start_s, error)
