"""Hostile or broken values brought into bounds; what was changed is named on the span.

A request may hold any bytes that fit a message. A span whose ids are in order is kept, whatever
else it says: clocks that cannot be right become the time of receipt, and what is too long is cut.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from agentgym import semconv

MAX_TEXT = 64 * 1024
"""Characters of one attribute value, name or status message."""
MAX_ATTRIBUTES = 1024
"""Attributes of a span, events of a span, and entries of a list or map among its values."""
DAY_NS = 86_400 * 10**9
MAX_AGE_NS = 366 * DAY_NS
"""Older than any spool; past runs that are imported say so and are exempt."""
MAX_AHEAD_NS = DAY_NS
"""A clock may run ahead by a time zone's mistake."""

START, END, NAME, ATTRIBUTES = "start", "end", "name", "attributes"
"""What `agentgym.clamped` names besides keys of attributes."""


class Times(NamedTuple):
    """When a span began and ended, in bounds, and which of it had to be changed."""

    start_ns: int
    end_ns: int
    clamped: tuple[str, ...] = ()


def times(start_ns: int, end_ns: int, *, received_ns: int) -> Times:
    """The times of a span; `received_ns` 0 means that any clock is right."""
    if received_ns and not -MAX_AGE_NS <= start_ns - received_ns <= MAX_AHEAD_NS:
        duration_ns = end_ns - start_ns
        kept_ns = duration_ns if 0 <= duration_ns <= DAY_NS else 0
        return Times(received_ns, received_ns + kept_ns, (START, END))
    if not end_ns:
        return Times(start_ns, start_ns)  # it did not end, which is no fault of a clock
    if end_ns < start_ns or (received_ns and end_ns - received_ns > MAX_AHEAD_NS):
        return Times(start_ns, start_ns, (END,))
    return Times(start_ns, end_ns)


def attributes(values: dict[str, Any]) -> dict[str, Any]:
    """The attributes within all bounds, with the keys of those that were cut under `clamped`."""
    clamped: list[str] = list(values.pop(semconv.CLAMPED, ()))
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if len(kept) == MAX_ATTRIBUTES:
            clamped.append(ATTRIBUTES)
            break
        bounded = _bounded(value)
        short = key[:MAX_TEXT]
        if bounded is not value or short is not key:
            clamped.append(key[:256])
        kept[short] = bounded
    if clamped:
        kept[semconv.CLAMPED] = list(dict.fromkeys(clamped))
    return kept


def text(value: str) -> str:
    """A text of at most `MAX_TEXT` characters; the same object if it was short enough."""
    return value if len(value) <= MAX_TEXT else value[:MAX_TEXT]


def _bounded(value: Any) -> Any:
    """The value within bounds; the same object if it was within them already."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list):
        items = [_bounded(item) for item in value[:MAX_ATTRIBUTES]]
        return value if _same(items, value) else items
    if isinstance(value, dict):
        keys = list(value)[:MAX_ATTRIBUTES]
        cut = {text(key): _bounded(value[key]) for key in keys}
        same = len(cut) == len(value) and all(
            key in value and cut[key] is value[key] for key in cut
        )
        return value if same else cut
    return value


def _same(items: list[Any], others: list[Any]) -> bool:
    return len(items) == len(others) and all(a is b for a, b in zip(items, others, strict=True))
