"""OTLP JSON: `{"resourceSpans": [...]}`, one per file or per line.

As the OpenTelemetry Protocol File Exporter and the Collector's file exporter write it
(opentelemetry.io/docs/specs/otel/protocol/file-exporter): ids in hex, 64-bit integers as strings.
The snake_case names of other writers are read too.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentgym_daemon.importing import raw
from agentgym_daemon.importing.model import ImportFileError, Loaded
from agentgym_daemon.importing.times import unix_ns
from agentgym_daemon.ingest import foreign

_ROOTS = ("resourceSpans", "resource_spans")
_HEX = re.compile(r"[0-9a-fA-F]+")
_FAILED = (2, "2", "STATUS_CODE_ERROR", "ERROR")


def recognises(record: Any) -> bool:
    """Whether a record of a file is OTLP traces."""
    if isinstance(record, list) and record:
        record = record[0]
    return isinstance(record, Mapping) and any(name in record for name in _ROOTS)


def load(records: Sequence[Any], origin: str) -> Loaded:
    """The spans of a file; what has no id or start is counted."""
    loaded = Loaded()
    for record in _flat(records):
        if not recognises(record):
            raise ImportFileError(
                f"expected an object with 'resourceSpans' in every line, got {sorted(record)[:5]}; "
                "export traces apart from metrics and logs"
                if isinstance(record, Mapping)
                else f"expected an object with 'resourceSpans', got {type(record).__name__}"
            )
        for span, resource in _spans(record):
            _add(loaded, span, resource, origin)
    return loaded


def _flat(records: Sequence[Any]) -> Iterator[Any]:
    for record in records:
        if isinstance(record, list):
            yield from record
        else:
            yield record


def _spans(record: Mapping[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    for group in _list(record, *_ROOTS):
        resource = group.get("resource")
        labels = attributes(resource) if isinstance(resource, Mapping) else {}
        for scope in _list(group, "scopeSpans", "scope_spans", "instrumentationLibrarySpans"):
            for span in _list(scope, "spans"):
                yield span, labels


def _add(loaded: Loaded, span: Mapping[str, Any], resource: Mapping[str, Any], origin: str) -> None:
    trace, identifier = _id(_get(span, "traceId", "trace_id")), _id(_get(span, "spanId", "span_id"))
    start = unix_ns(_get(span, "startTimeUnixNano", "start_time_unix_nano"))
    if not (trace and identifier and start):
        example = f"span {_get(span, 'name')!r}"
        loaded.problems.add("spans without trace id, span id or start time", example)
        return
    status = span.get("status")
    rollout, attempt = (
        resource.get(name) for name in (foreign.LIGHTNING_ROLLOUT, foreign.LIGHTNING_ATTEMPT)
    )
    raw.add(
        loaded,
        raw.RawSpan(
            run=f"{rollout}/{attempt or ''}" if rollout else trace,
            id=identifier,
            parent=_id(_get(span, "parentSpanId", "parent_span_id")),
            name=str(_get(span, "name") or ""),
            start_ns=start,
            end_ns=unix_ns(_get(span, "endTimeUnixNano", "end_time_unix_nano")),
            failed=isinstance(status, Mapping) and status.get("code") in _FAILED,
            attributes=attributes(span),
            events=[
                (
                    str(_get(event, "name") or ""),
                    unix_ns(_get(event, "timeUnixNano", "time_unix_nano")),
                    attributes(event),
                )
                for event in _list(span, "events")
            ],
            resource=resource,
        ),
        origin=origin,
    )


def attributes(holder: Mapping[str, Any]) -> dict[str, Any]:
    """The `attributes` of an OTLP object as plain values; a plain object stays what it is."""
    found = holder.get("attributes")
    if isinstance(found, Mapping):
        return dict(found)
    return {
        str(pair["key"]): _value(pair.get("value"))
        for pair in _list(holder, "attributes")
        if "key" in pair
    }


def _value(value: Any) -> Any:
    if not isinstance(value, Mapping) or not value:
        return None
    name, inner = next(iter(value.items()))
    match name:
        case "intValue" | "int_value":
            return int(inner) if str(inner).lstrip("-").isdecimal() else None
        case "doubleValue" | "double_value":
            return raw.number_of(inner)
        case "arrayValue" | "array_value":
            return [_value(item) for item in _list(inner, "values")]
        case "kvlistValue" | "kvlist_value":
            return attributes({"attributes": inner.get("values")})
    return inner


def _id(value: Any) -> str:
    """An id in hex; base64, as protobuf's own JSON has it, becomes hex; zeros are none."""
    if not isinstance(value, str) or not value.strip("0"):
        return ""
    if len(value) in (16, 32) and _HEX.fullmatch(value):
        return value.lower()
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return value
    return data.hex() if len(data) in (8, 16) and any(data) else value


def _get(holder: Mapping[str, Any], *names: str) -> Any:
    return next((holder[name] for name in names if name in holder), None)


def _list(holder: Any, *names: str) -> Iterator[Mapping[str, Any]]:
    found = _get(holder, *names) if isinstance(holder, Mapping) else None
    for item in found if isinstance(found, list) else ():
        if isinstance(item, Mapping):
            yield item
