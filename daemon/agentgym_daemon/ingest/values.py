"""OTLP attribute values as plain Python and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

import orjson
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from agentgym_daemon.store.rows import MAX_BIGINT


def attributes_of(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    """Attributes by their keys; of a key that is there twice, the last value."""
    found: dict[str, Any] = {}
    for pair in pairs:
        value = pair.value
        # By far the most frequent kind, and an unset or empty text is told apart below.
        text = value.string_value
        found[pair.key] = text or _value(value)
    return found


def to_json(attributes: dict[str, Any]) -> bytes:
    """The attributes as JSON, in UTF-8; the standard library takes ten times as long."""
    return orjson.dumps(attributes)


def text_of(value: Any) -> str | None:
    """A value as text for a column; an empty one is none."""
    if value is None or isinstance(value, str):
        return value or None
    return json.dumps(value)


def count_of(value: Any) -> int | None:
    """A value as a number of something; None if it cannot be one."""
    if value.__class__ is int:
        return value if 0 <= value <= MAX_BIGINT else None
    if isinstance(value, str) and value.isdecimal() and len(value) <= 19:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value <= MAX_BIGINT else None


def identifier_of(value: Any) -> bytes | None:
    """The id of a decision, from hex."""
    if not isinstance(value, str) or len(value) != 16:
        return None
    try:
        return bytes.fromhex(value)
    except ValueError:
        return None


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    match kind:
        case "string_value" | "int_value" | "bool_value":
            return getattr(value, kind)
        case "double_value":
            number = value.double_value
            return number if math.isfinite(number) else str(number)
        case "bytes_value":
            return value.bytes_value.hex()
        case "array_value":
            return [_value(item) for item in value.array_value.values]
        case "kvlist_value":
            return attributes_of(value.kvlist_value.values)
    return None
