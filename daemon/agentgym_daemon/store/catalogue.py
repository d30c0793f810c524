"""Reads about tools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentgym_daemon.store.database import Cursor, fetch
from agentgym_daemon.store.rows import Scope

_COLUMNS = "fingerprint, name, description, parameters_json"


@dataclass(frozen=True, slots=True)
class StoredTool:
    """A tool as it was offered to a model."""

    fingerprint: bytes
    name: str
    description: str
    parameters_json: str


def tools_of_agent(cursor: Cursor, agent: str) -> list[StoredTool]:
    """Every tool that the agent ever offered, in order of first appearance."""
    rows = fetch(
        cursor,
        f"SELECT {_COLUMNS} FROM tools WHERE agent = ? ORDER BY first_seen_ns, fingerprint",
        [agent],
    )
    return [StoredTool(*row) for row in rows]


def tools_of_scope(cursor: Cursor, scope: Scope) -> list[StoredTool]:
    """Every tool that was ever offered in the scope, in order of first appearance."""
    rows = fetch(
        cursor,
        f"SELECT {_COLUMNS} FROM tools WHERE agent = ? AND fingerprint IN "
        "(SELECT fingerprint FROM scope_tools "
        "WHERE agent = ? AND agent_name = ? AND feature_schema = ?) "
        "ORDER BY first_seen_ns, fingerprint",
        [scope.agent, *scope],
    )
    return [StoredTool(*row) for row in rows]


def tools_by_fingerprint(
    cursor: Cursor, agents: Sequence[str], fingerprints: Sequence[bytes]
) -> list[StoredTool]:
    """Those of the fingerprints that one of the agents is known to offer, each once."""
    rows = fetch(
        cursor,
        f"SELECT DISTINCT {_COLUMNS} FROM tools WHERE agent IN (SELECT unnest(?::VARCHAR[])) "
        "AND fingerprint IN (SELECT unnest(?::BLOB[])) ORDER BY name, fingerprint",
        [list(agents), list(fingerprints)],
    )
    return [StoredTool(*row) for row in rows]
