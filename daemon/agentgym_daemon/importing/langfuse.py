"""Langfuse: traces with observations and scores, as its API or its blob storage export gives them.

API (fern/apis/server/definition/commons.yml of langfuse/langfuse, TraceWithFullDetails): camelCase,
`observations` and `scores` inside the trace; pages as {"data": [...]}. Blob storage (Langfuse docs,
"Blob Storage Export Field Reference"): snake_case rows of traces, observations (enriched or not)
and scores, in files of their own; give them together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentgym_daemon.importing import messages, raw
from agentgym_daemon.importing.model import Asked, ImportFileError, Loaded, Score, SourceSpan
from agentgym_daemon.importing.times import unix_ns
from agentgym_daemon.ingest.foreign import Kind

_KINDS = {"GENERATION": Kind.LLM, "TOOL": Kind.TOOL, "AGENT": Kind.AGENT}
_ROOT = "trace-root"
"""Id of the span that stands for the trace itself, above its observations."""
_Row = Mapping[str, Any]


def recognises(record: Any) -> bool:
    """Whether a record of a file is a trace, an observation or a score of Langfuse."""
    row = next(_rows([record]), None)
    return isinstance(row, Mapping) and (_is_score(row) or _is_observation(row) or _is_trace(row))


def load(records: Sequence[Any], origin: str) -> Loaded:
    """The spans and scores of a file; what has no id or start is counted."""
    loaded = Loaded()
    for row in _rows(records):
        if not isinstance(row, Mapping):
            loaded.problems.add("records of no known kind", repr(row)[:40])
        elif _is_score(row):
            _add_score(loaded, row)
        elif _is_observation(row):
            _add_observation(loaded, row, origin)
        elif _is_trace(row):
            _add_trace(loaded, row, origin)
        else:
            loaded.problems.add("records of no known kind", ", ".join(sorted(row)[:5]))
    return loaded


def _rows(records: Sequence[Any]) -> Iterator[Any]:
    for record in records:
        if isinstance(record, list):
            yield from _rows(record)
        elif isinstance(record, Mapping) and isinstance(record.get("data"), list):
            yield from _rows(record["data"])
        elif isinstance(record, Mapping) and isinstance(record.get("trace"), Mapping):
            inner = {name: record[name] for name in ("observations", "scores") if name in record}
            yield record if _is_score(record) else {**record["trace"], **inner}
        else:
            yield record


def _get(row: _Row, camel: str) -> Any:
    """A field under its name in the API or in the export."""
    if camel in row:
        return row[camel]
    return row.get("".join(f"_{c.lower()}" if c.isupper() else c for c in camel))


def _is_score(row: _Row) -> bool:
    has_value = "value" in row or _get(row, "stringValue") is not None
    return has_value and "name" in row and _get(row, "dataType") is not None


def _is_observation(row: _Row) -> bool:
    return "type" in row and _get(row, "startTime") is not None and "id" in row


def _is_trace(row: _Row) -> bool:
    return "id" in row and "timestamp" in row and "type" not in row


def _add_trace(loaded: Loaded, row: _Row, origin: str) -> None:
    trace = _text(row.get("id"))
    observations = row.get("observations")
    parts = observations if isinstance(observations, list) else []
    if any(isinstance(part, str) for part in parts):
        raise ImportFileError(
            f"expected observations as objects, got ids in trace {trace!r}; export each trace with "
            "GET /api/public/traces/ID, or use the blob storage export"
        )
    start = unix_ns(row.get("timestamp"))
    if not (trace and start):
        loaded.problems.add("traces without id or timestamp", f"trace {row.get('name')!r}")
        return
    loaded.spans.append(
        SourceSpan(
            run=trace,
            id=_ROOT,
            parent="",
            kind=Kind.AGENT,
            name=_text(row.get("name")),
            start_ns=start,
            end_ns=max([start, *(_end(part) for part in parts if isinstance(part, Mapping))]),
            conversation=_text(_get(row, "sessionId")),
            task=messages.task(row.get("input")),
            origin=origin,
        )
    )
    for part in parts:
        if isinstance(part, Mapping):
            _add_observation(loaded, {"traceId": trace, **part}, origin)
    scores = row.get("scores")
    for score in scores if isinstance(scores, list) else ():
        if isinstance(score, Mapping):
            _add_score(loaded, {"traceId": trace, **score})


def _end(row: _Row) -> int:
    return unix_ns(_get(row, "endTime")) or unix_ns(_get(row, "startTime"))


def _add_observation(loaded: Loaded, row: _Row, origin: str) -> None:
    trace, start = _text(_get(row, "traceId")), unix_ns(_get(row, "startTime"))
    identifier, kind = _text(row.get("id")), _text(row.get("type")).upper()
    if not (trace and identifier and start):
        loaded.problems.add(
            "observations without trace id, id or start time", f"observation {row.get('name')!r}"
        )
        return
    if kind == "EVENT":
        return  # a point in time: no turn, no call
    ours = _KINDS.get(kind, Kind.OTHER)
    usage = _get(row, "usageDetails") or row.get("usage")
    name = _text(row.get("name"))
    is_model, is_tool = ours is Kind.LLM, ours is Kind.TOOL
    loaded.spans.append(
        SourceSpan(
            run=trace,
            id=identifier,
            parent=_text(_get(row, "parentObservationId")) or _ROOT,
            kind=ours,
            name=name,
            start_ns=start,
            end_ns=unix_ns(_get(row, "endTime")),
            error="error" if row.get("level") == "ERROR" else "",
            agent_name=name if ours is Kind.AGENT else "",
            service=_text(_get(row, "traceName")),
            conversation=_text(_get(row, "sessionId")),
            tool=name if is_tool else "",
            call_id=_call_id(row) if is_tool else "",
            model=_text(row.get("model")) or _text(_get(row, "providedModelName")),
            input_tokens=_tokens(usage, "input") if is_model else 0,
            output_tokens=_tokens(usage, "output") if is_model else 0,
            offered=_offered(row) if not is_tool else None,
            called=_called(row) if is_model else None,
            answered=messages.answered(row.get("input")) if is_model else (),
            task=messages.task(row.get("input")),
            origin=origin,
        )
    )


def _tokens(usage: Any, name: str) -> int:
    return raw.count_of(usage.get(name)) if isinstance(usage, Mapping) else 0


def _call_id(row: _Row) -> str:
    found = messages.answered(row.get("output"))  # LangChain tools give back a tool message
    return found[0] if found else ""


def _offered(row: _Row) -> Any:
    places = (_get(row, "toolDefinitions"), row.get("input"), _get(row, "modelParameters"))
    for place in places:
        value = messages.decoded(place)
        if place is not places[0] and not (isinstance(value, Mapping) and "tools" in value):
            continue
        if found := messages.tools(value):
            return found
    return None


def _called(row: _Row) -> tuple[Asked, ...] | None:
    found = messages.asked(row.get("output"))
    if found is not None:
        return found
    calls = _get(row, "toolCalls")
    if isinstance(calls, list) and calls:
        return messages.asked({"role": "assistant", "tool_calls": calls})
    names = _get(row, "toolCallNames")
    if isinstance(names, list) and names:
        return tuple(Asked(str(name), "") for name in names)
    output = row.get("output")
    return () if isinstance(output, str) and output else None


def _add_score(loaded: Loaded, row: _Row) -> None:
    trace, name = _text(_get(row, "traceId")), _text(row.get("name"))
    if not trace:
        loaded.problems.add("scores that name no trace", f"score {name!r}")
        return
    kind = _text(_get(row, "dataType")).upper() or "NUMERIC"
    # The number of a category is its place in a list, and that of a text nothing at all.
    number = raw.number_of(row.get("value")) if kind in ("NUMERIC", "BOOLEAN") else None
    loaded.scores.append(
        Score(
            run=trace,
            span=_text(_get(row, "observationId")),
            name=name,
            value=number,
            label=_text(_get(row, "stringValue")) if kind == "CATEGORICAL" else "",
            source=_text(row.get("source")),
            time_ns=unix_ns(row.get("timestamp")),
            id=_text(row.get("id")) or f"{trace}/{name}",
        )
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
