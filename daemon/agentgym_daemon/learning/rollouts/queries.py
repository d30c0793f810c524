"""What a LightningStore answers when it is asked: rollouts, attempts, spans, resources, workers.

Without Agent Lightning: its types come in as `types`, from the one module that imports it. What
came before, from the daemon's snapshot, is found beside what happened here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentgym_daemon.learning.rollouts.history import History
from agentgym_daemon.learning.rollouts.ledger import Ledger
from agentgym_daemon.learning.rollouts.records import (
    AttemptRecord,
    ResourcesRecord,
    RolloutRecord,
    select,
)
from agentgym_daemon.learning.rollouts.session import PlainSpan

_SNAPSHOT_ATTEMPT = "snapshot"


class StoreQueries:
    """The reading half of the store; signatures as in agentlightning/store/base.py of 0.3."""

    types: Any
    """The module `agentlightning`."""

    def __init__(self, ledger: Ledger, history: History) -> None:
        self.ledger, self.history = ledger, history
        self._config = self.types.RolloutConfig()

    async def statistics(self) -> Any:
        rollouts = self.ledger.rollouts()
        return {
            "name": type(self).__name__,
            "total_rollouts": len(rollouts),
            "total_attempts": sum(len(self.ledger.attempts(r.rollout_id)) for r in rollouts),
            "total_spans": sum(len(self.ledger.spans(r.rollout_id)) for r in rollouts),
            "total_resources": len(self.ledger.resources),
            "total_workers": len(self.ledger.workers),
        }

    async def query_rollouts(
        self,
        *,
        status_in: Sequence[str] | None = None,
        rollout_id_in: Sequence[str] | None = None,
        rollout_id_contains: str | None = None,
        filter_logic: str = "and",
        sort_by: str | None = None,
        sort_order: str = "asc",
        limit: int = -1,
        offset: int = 0,
        status: Sequence[str] | None = None,
        rollout_ids: Sequence[str] | None = None,
    ) -> Any:
        found = select(
            [*self.history.rollouts(self._config), *self.ledger.rollouts()],
            among={
                "status": status_in if status_in is not None else status,
                "rollout_id": rollout_id_in if rollout_id_in is not None else rollout_ids,
            },
            containing={"rollout_id": rollout_id_contains},
            logic=filter_logic,
            sort_by=sort_by,
            order=sort_order,
            limit=limit,
            offset=offset,
        )
        return [self._with_attempt(record) for record in found]

    async def get_rollout_by_id(self, rollout_id: str) -> Any:
        record = self.ledger.rollout(rollout_id)
        if record is not None:
            return self._with_attempt(record)
        past = select(self.history.rollouts(self._config), among={"rollout_id": (rollout_id,)})
        return self.types.Rollout(**vars(past[0])) if past else None

    async def query_attempts(
        self,
        rollout_id: str,
        *,
        sort_by: str | None = "sequence_id",
        sort_order: str = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> Any:
        attempts = self._attempts(rollout_id)
        found = select(attempts, sort_by=sort_by, order=sort_order, limit=limit, offset=offset)
        return [self.types.Attempt(**vars(attempt)) for attempt in found]

    async def get_latest_attempt(self, rollout_id: str) -> Any:
        attempts = self._attempts(rollout_id)
        return self.types.Attempt(**vars(attempts[-1])) if attempts else None

    async def query_spans(
        self,
        rollout_id: str,
        attempt_id: str | None = None,
        *,
        trace_id: str | None = None,
        trace_id_contains: str | None = None,
        span_id: str | None = None,
        span_id_contains: str | None = None,
        parent_id: str | None = None,
        parent_id_contains: str | None = None,
        name: str | None = None,
        name_contains: str | None = None,
        filter_logic: str = "and",
        limit: int = -1,
        offset: int = 0,
        sort_by: str | None = "sequence_id",
        sort_order: str = "asc",
    ) -> Any:
        exact = {"trace_id": trace_id, "span_id": span_id, "parent_id": parent_id, "name": name}
        return select(
            self._spans(rollout_id, attempt_id),
            among={field: None if value is None else (value,) for field, value in exact.items()},
            containing={
                "trace_id": trace_id_contains,
                "span_id": span_id_contains,
                "parent_id": parent_id_contains,
                "name": name_contains,
            },
            logic=filter_logic,
            sort_by=sort_by,
            order=sort_order,
            limit=limit,
            offset=offset,
        )

    async def query_resources(
        self,
        *,
        resources_id: str | None = None,
        resources_id_contains: str | None = None,
        sort_by: str | None = None,
        sort_order: str = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> Any:
        found = select(
            list(self.ledger.resources.values()),
            among={"resources_id": None if resources_id is None else (resources_id,)},
            containing={"resources_id": resources_id_contains},
            sort_by=sort_by,
            order=sort_order,
            limit=limit,
            offset=offset,
        )
        return [self._update(record) for record in found]

    async def query_workers(
        self,
        *,
        status_in: Sequence[str] | None = None,
        worker_id_contains: str | None = None,
        filter_logic: str = "and",
        sort_by: str | None = None,
        sort_order: str = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> Any:
        found = select(
            list(self.ledger.workers.values()),
            among={"status": status_in},
            containing={"worker_id": worker_id_contains},
            logic=filter_logic,
            sort_by=sort_by,
            order=sort_order,
            limit=limit,
            offset=offset,
        )
        return [self.types.Worker(**vars(record)) for record in found]

    async def get_worker_by_id(self, worker_id: str) -> Any:
        record = self.ledger.workers.get(worker_id)
        return None if record is None else self.types.Worker(**vars(record))

    def _attempts(self, rollout_id: str) -> list[AttemptRecord]:
        known = self.ledger.rollout(rollout_id) is not None
        return self.ledger.attempts(rollout_id) if known or not self._past(rollout_id) else []

    def _spans(self, rollout_id: str, attempt_id: str | None) -> list[Any]:
        if self.ledger.rollout(rollout_id) is None and self._past(rollout_id):
            return [
                self._span(plain, rollout_id, number)
                for number, plain in enumerate(self.history.spans(rollout_id), start=1)
            ]
        return self.ledger.spans(rollout_id, attempt_id)

    def _past(self, rollout_id: str) -> bool:
        return rollout_id in self.history.by_id

    def _with_attempt(self, record: RolloutRecord) -> Any:
        attempts = self._attempts(record.rollout_id)
        return (
            self._attempted(record, attempts[-1])
            if attempts
            else self.types.Rollout(**vars(record))
        )

    def _attempted(self, rollout: RolloutRecord, attempt: AttemptRecord) -> Any:
        return self.types.AttemptedRollout(
            **vars(rollout), attempt=self.types.Attempt(**vars(attempt))
        )

    def _update(self, record: ResourcesRecord) -> Any:
        return self.types.ResourcesUpdate(**vars(record))

    def _span(self, plain: PlainSpan, rollout_id: str, number: int) -> Any:
        return self.types.Span.from_attributes(
            attributes=plain.attributes,
            rollout_id=rollout_id,
            attempt_id=_SNAPSHOT_ATTEMPT,
            sequence_id=number,
            name=plain.name,
            start_time=plain.start_s,
            end_time=plain.end_s,
            status=self.types.TraceStatus(status_code="ERROR" if plain.error else "OK"),
        )
