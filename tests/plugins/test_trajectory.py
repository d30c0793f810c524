"""Tools, decisions and names as plain data."""

from __future__ import annotations

import pytest

from agentgym.trajectory import Arm, ArmKind, Decision, Tool, slug

SCHEMA = {
    "type": "object",
    "properties": {"order": {"type": "string"}, "fast": {"type": "boolean"}},
    "required": ["order"],
}


def test_a_fingerprint_is_over_what_a_caller_must_know() -> None:
    """Frameworks add titles, defaults, descriptions and white space of their own."""
    decorated = {
        "title": "Args",
        "properties": {
            "fast": {"type": "boolean", "title": "Fast", "default": False},
            "order": {"type": "string", "description": "which"},
        },
        "required": ["order"],
        "additionalProperties": False,
    }

    one = Tool("refund", "Pays  back.\n", SCHEMA)

    assert one.fingerprint == Tool("refund", "Pays back.", decorated).fingerprint
    assert len(one.fingerprint) == 8


@pytest.mark.parametrize(
    "other",
    [
        Tool("refund2", "Pays back.", SCHEMA),
        Tool("refund", "Pays nothing back.", SCHEMA),
        Tool("refund", "Pays back.", {}),
        Tool("refund", "Pays back.", SCHEMA | {"required": ["order", "fast"]}),
        Tool("refund", "Pays back.", SCHEMA | {"properties": {"order": {"type": "integer"}}}),
    ],
)
def test_another_name_text_or_shape_is_another_tool(other: Tool) -> None:
    assert Tool("refund", "Pays back.", SCHEMA).fingerprint != other.fingerprint


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": None},
        {"properties": {"a": None}, "required": None},
        {"properties": {1: {"type": ["string", "null"]}, "b": {}}, "required": [{"odd": 1}]},
    ],
)
def test_odd_schemas_have_a_fingerprint_too(schema: dict[str, object]) -> None:
    assert len(Tool("t", "bad \ud800 text", schema).fingerprint) == 8


def test_protection_is_no_part_of_a_tools_identity() -> None:
    assert Tool("a", protected=True) == Tool("a")
    assert Tool("a", protected=True).fingerprint == Tool("a").fingerprint


def test_a_decision_knows_its_arm_and_propensity() -> None:
    support = (Arm(ArmKind.DEFER, (), 0.4, 0.3), Arm(ArmKind.FORCE, (2,), 0.6, 0.7))

    decision = Decision(support, 1, 0.05, 0.02, 0.02, 5, greedy=False)

    assert decision.taken.tools == (2,)
    assert decision.propensity == 0.7


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Support Desk", "support-desk"),
        ("support_desk!", "support-desk"),
        ("  Zoë's  agent ", "zoë-s-agent"),
        ("客服", "客服"),
        ("--", ""),
    ],
)
def test_a_slug_keeps_names_apart(name: str, expected: str) -> None:
    assert slug(name) == expected
