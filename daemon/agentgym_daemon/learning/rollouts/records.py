"""The rows of the ledger; fields are named as in Agent Lightning 0.3 (types/core.py).

`select` answers the queries that its store promises.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Row = TypeVar("Row")


@dataclass
class RolloutRecord:
    """One task for the agent."""

    rollout_id: str
    input: Any
    start_time: float
    config: Any
    mode: str | None = None
    resources_id: str | None = None
    status: str = "queuing"
    end_time: float | None = None
    metadata: dict[str, Any] | None = None


@dataclass
class AttemptRecord:
    """One try at a rollout."""

    rollout_id: str
    attempt_id: str
    sequence_id: int
    start_time: float
    status: str = "preparing"
    end_time: float | None = None
    worker_id: str | None = None
    last_heartbeat_time: float | None = None
    metadata: dict[str, Any] | None = None


@dataclass
class ResourcesRecord:
    """One set of resources; `version` counts how often this set was overwritten."""

    resources_id: str
    create_time: float
    update_time: float
    version: int
    resources: dict[str, Any]


@dataclass
class WorkerRecord:
    """One runner."""

    worker_id: str
    status: str = "unknown"
    heartbeat_stats: dict[str, Any] | None = None
    last_heartbeat_time: float | None = None
    last_dequeue_time: float | None = None
    last_busy_time: float | None = None
    last_idle_time: float | None = None
    current_rollout_id: str | None = None
    current_attempt_id: str | None = None


def select(
    rows: Iterable[Row],
    *,
    among: Mapping[str, Collection[Any] | None] | None = None,
    containing: Mapping[str, str | None] | None = None,
    logic: str = "and",
    sort_by: str | None = None,
    order: str = "asc",
    limit: int = -1,
    offset: int = 0,
) -> list[Row]:
    """Rows that pass all filters (or, with logic "or", any), sorted and cut.

    `among` names allowed values and `containing` a part of a text, per field; None is no filter.
    """
    allowed = {name: values for name, values in (among or {}).items() if values is not None}
    parts = {name: part for name, part in (containing or {}).items() if part is not None}

    def passes(row: Row) -> bool:
        verdicts = [getattr(row, name) in values for name, values in allowed.items()]
        verdicts += [part in (getattr(row, name) or "") for name, part in parts.items()]
        return not verdicts or (any(verdicts) if logic == "or" else all(verdicts))

    found = [row for row in rows if passes(row)]
    if sort_by is not None:
        # None sorts first, as the least that can be.
        found.sort(
            key=lambda row: ((value := getattr(row, sort_by)) is not None, value),
            reverse=order == "desc",
        )
    end = None if limit < 0 else offset + limit
    return found[offset:end]
