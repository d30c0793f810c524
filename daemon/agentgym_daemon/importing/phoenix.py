"""Phoenix: spans as its REST API lists them, or as rows of its spans dataframe; annotations.

REST (src/phoenix/server/api/routers/v1/spans.py of Arize-ai/phoenix): `context.trace_id`,
`span_kind`, `parent_id`, `start_time`, `status_code`, `attributes` flat or nested. Dataframe
(phoenix/trace/trace_dataset.py): the same as columns, attributes as `attributes.*`; as records,
as JSON lines, or by column, as pandas' to_json writes it. Annotations (routers/v1/annotations.py):
`span_id` or `trace_id`, `name`, `result.score`, `result.label`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentgym_daemon.importing import raw
from agentgym_daemon.importing.model import ImportFileError, Loaded, Score
from agentgym_daemon.importing.times import unix_ns
from agentgym_daemon.ingest import foreign

_PREFIX = "attributes."
_TRACE, _SPAN = "context.trace_id", "context.span_id"


def recognises(record: Any) -> bool:
    """Whether a record of a file is spans or annotations of Phoenix."""
    row = next(_rows([record]), None)
    return isinstance(row, Mapping) and (_is_span(row) or _is_annotation(row))


def load(records: Sequence[Any], origin: str) -> Loaded:
    """The spans and annotations of a file; what has no id or start is counted."""
    loaded = Loaded()
    for row in _rows(records):
        if not isinstance(row, Mapping):
            loaded.problems.add("records that are neither spans nor annotations", repr(row)[:40])
        elif _is_span(row):
            _add_span(loaded, row, origin)
        elif _is_annotation(row):
            loaded.scores.append(_annotation(row))
        else:
            names = ", ".join(sorted(map(str, row))[:5])
            loaded.problems.add("records that are neither spans nor annotations", names)
    return loaded


def _rows(records: Sequence[Any]) -> Iterator[Any]:
    for record in records:
        if isinstance(record, list):
            yield from _rows(record)
        elif isinstance(record, Mapping) and isinstance(record.get("data"), list):
            yield from _rows(record["data"])
        elif isinstance(record, Mapping) and isinstance(record.get(_TRACE), Mapping):
            yield from _by_column(record)
        else:
            yield record


def _by_column(columns: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """{column: {row: value}}; get_spans_dataframe has the span id as the name of the row."""
    for key in columns[_TRACE]:
        row = {
            name: values.get(key) for name, values in columns.items() if isinstance(values, Mapping)
        }
        if not row.get(_SPAN) and len(key) == 16:
            row[_SPAN] = key
        yield row


def _is_span(row: Mapping[str, Any]) -> bool:
    return _TRACE in row or (isinstance(row.get("context"), Mapping) and "span_kind" in row)


def _is_annotation(row: Mapping[str, Any]) -> bool:
    named = "name" in row or "annotation_name" in row
    judged = "result" in row or "result.score" in row or "result.label" in row
    return named and judged and ("span_id" in row or "trace_id" in row)


def _add_span(loaded: Loaded, row: Mapping[str, Any], origin: str) -> None:
    context = row.get("context")
    context = context if isinstance(context, Mapping) else {}
    trace = row.get(_TRACE) or context.get("trace_id")
    identifier = row.get(_SPAN) or context.get("span_id")
    if trace and not identifier:
        raise ImportFileError(
            f"expected a column {_SPAN!r}, got {sorted(row)[:6]}; it is the dataframe's index: "
            "write it with df.reset_index().to_json(path, orient='records', lines=True)"
        )
    start = unix_ns(row.get("start_time"))
    if not (trace and start):
        loaded.problems.add(
            "spans without trace id, span id or start time", f"span {row.get('name')!r}"
        )
        return
    attributes = _attributes(row)
    if isinstance(row.get("span_kind"), str):
        attributes.setdefault("openinference.span.kind", row["span_kind"])
    span = raw.RawSpan(
        run=str(trace),
        id=str(identifier),
        parent=_text(row.get("parent_id")),
        name=_text(row.get("name")),
        start_ns=start,
        end_ns=unix_ns(row.get("end_time")),
        failed=str(row.get("status_code")).upper().endswith("ERROR"),
        attributes=attributes,
        events=list(_events(row.get("events"))),
    )
    raw.add(loaded, span, origin=origin)
    loaded.scores += _columns(span, row)


def _attributes(row: Mapping[str, Any]) -> dict[str, Any]:
    found = row.get("attributes")
    nested = dict(found) if isinstance(found, Mapping) else {}
    flat = {
        name.removeprefix(_PREFIX): value
        for name, value in row.items()
        # A column that other rows use is null or NaN in this one.
        if name.startswith(_PREFIX) and not _missing(value)
    }
    return {**foreign.tree(nested), **flat} if flat else nested


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _events(found: Any) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    for event in found if isinstance(found, list) else ():
        if isinstance(event, Mapping):
            values = event.get("attributes")
            yield (
                _text(event.get("name")),
                unix_ns(event.get("timestamp")),
                values if isinstance(values, Mapping) else {},
            )


def _columns(span: raw.RawSpan, row: Mapping[str, Any]) -> Iterator[Score]:
    """Columns eval.NAME.score and annotation.NAME.label, as Arize's exports have them."""
    judged: dict[tuple[str, str], dict[str, Any]] = {}
    for column, value in row.items():
        prefix, _, rest = column.partition(".")
        name, _, part = rest.rpartition(".")
        if prefix in ("eval", "annotation") and part in ("score", "label") and not _missing(value):
            judged.setdefault((prefix, name), {})[part] = value
    for (prefix, name), values in judged.items():
        yield Score(
            run=span.run,
            span=span.id,
            name=name,
            value=raw.number_of(values.get("score")),
            label=_text(values.get("label")),
            source=prefix,
            time_ns=span.end_ns or span.start_ns,
            id=f"{span.id}/{prefix}/{name}",
        )


def _annotation(row: Mapping[str, Any]) -> Score:
    result = row.get("result")
    result = result if isinstance(result, Mapping) else {}
    name = _text(row.get("name")) or _text(row.get("annotation_name"))
    target = _text(row.get("span_id")) or _text(row.get("trace_id"))
    mark = _text(row.get("id")) or f"{name}/{_text(row.get('identifier'))}"
    return Score(
        run=_text(row.get("trace_id")),
        span=_text(row.get("span_id")),
        name=name,
        value=raw.number_of(result.get("score", row.get("result.score"))),
        label=_text(result.get("label", row.get("result.label"))),
        source=_text(row.get("annotator_kind")),
        time_ns=unix_ns(row.get("updated_at") or row.get("created_at")),
        id=f"{target}/{mark}",
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
