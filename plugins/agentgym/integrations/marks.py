"""Which tools say of themselves that what they do cannot be taken back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_destructive(tool: Any) -> bool:
    """Whether a tool carries the mark: `destructive`, or MCP's annotations.

    MCP reads a missing `destructiveHint` as true; here only a spoken one counts, or nearly every
    tool of every server would be protected.
    """
    places = [tool, *(_of(tool, name) for name in ("metadata", "annotations"))]
    places.append(_of(places[1], "annotations"))
    places.append(_of(_of(tool, "_tool"), "annotations"))  # AutoGen keeps the server's own entry
    return any(map(_says, places))


def _says(marks: Any) -> bool:
    if _of(marks, "destructive") is True:
        return True
    return _of(marks, "destructiveHint") is True and _of(marks, "readOnlyHint") is not True


def _of(thing: Any, name: str) -> Any:
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)
