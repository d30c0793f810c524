"""Agent Lightning's spans as it dumps them: one object per span with rollout_id and attempt_id.

agentlightning/types/tracer.py of microsoft/agent-lightning (0.2 and 0.3): times are seconds,
`status` is {"status_code", "description"}, `attributes` are flat. A run is an attempt of a rollout,
whose traces may come from several places. Its reward is the last annotation's first dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentgym_daemon.importing import raw
from agentgym_daemon.importing.model import Loaded
from agentgym_daemon.importing.times import unix_ns


def recognises(record: Any) -> bool:
    """Whether a record of a file is a span, or a list of spans, of Agent Lightning."""
    span = next(_spans([record]), None)
    return isinstance(span, Mapping) and "rollout_id" in span and "span_id" in span


def load(records: Sequence[Any], origin: str) -> Loaded:
    """The spans of a file; what has no id or start is counted."""
    loaded = Loaded()
    for span in _spans(records):
        _add(loaded, span, origin)
    return loaded


def _spans(records: Sequence[Any]) -> Iterator[Any]:
    for record in records:
        if isinstance(record, list):
            yield from _spans(record)
        elif isinstance(record, Mapping) and isinstance(record.get("spans"), list):
            yield from _spans(record["spans"])
        else:
            yield record


def _add(loaded: Loaded, span: Any, origin: str) -> None:
    if not isinstance(span, Mapping):
        loaded.problems.add("records that are no spans", repr(span)[:40])
        return
    rollout, identifier = span.get("rollout_id"), span.get("span_id")
    # A virtual span (a reward that was only reported) may have no times of its own.
    start, end = unix_ns(span.get("start_time")), unix_ns(span.get("end_time"))
    is_reward = str(span.get("name")).startswith("agentlightning.")
    if not (rollout and identifier and (start or end or is_reward)):
        loaded.problems.add(
            "spans without rollout id, span id or start time", f"span {span.get('name')!r}"
        )
        return
    status, resource = span.get("status"), span.get("resource")
    attributes = span.get("attributes")
    labels = resource.get("attributes") if isinstance(resource, Mapping) else None
    raw.add(
        loaded,
        raw.RawSpan(
            run=f"{rollout}/{span.get('attempt_id') or ''}",
            id=str(identifier),
            parent=str(span.get("parent_id") or ""),
            name=str(span.get("name") or ""),
            start_ns=start or end,
            # Reports without times keep their order among each other.
            end_ns=end or (raw.count_of(span.get("sequence_id")) if is_reward else 0),
            failed=isinstance(status, Mapping) and status.get("status_code") == "ERROR",
            attributes=attributes if isinstance(attributes, Mapping) else {},
            events=list(_events(span.get("events"))),
            resource=labels if isinstance(labels, Mapping) else {},
        ),
        origin=origin,
    )


def _events(found: Any) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    for event in found if isinstance(found, list) else ():
        if isinstance(event, Mapping):
            values = event.get("attributes")
            yield (
                str(event.get("name") or ""),
                unix_ns(event.get("timestamp")),
                values if isinstance(values, Mapping) else {},
            )
