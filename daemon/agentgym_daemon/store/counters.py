"""Counters that survive a restart, because they are derived from the log."""

from __future__ import annotations

from agentgym_daemon.store.database import Cursor, fetch


def counters(cursor: Cursor) -> dict[str, int]:
    """Every counter that is not zero."""
    return dict(fetch(cursor, "SELECT name, value FROM counters ORDER BY name"))


def producers(cursor: Cursor) -> dict[bytes, int]:
    """The highest sequence that was seen of each sender."""
    return dict(fetch(cursor, "SELECT producer_id, sequence FROM producers"))
