"""What a policy's file says of itself, for tests that write such files."""

from __future__ import annotations

from typing import Any


def make_manifest(version: str = "p-000001", **changes: Any) -> dict[str, Any]:
    """The manifest of a first version without a past; `changes` take the place of entries."""
    return {
        "version": version,
        "parent": "",
        "created_unix_nano": 1,
        "scope": {"agent": "desk", "agent_name": "", "feature_schema": 1},
        "lineage": {},
        **changes,
    }
