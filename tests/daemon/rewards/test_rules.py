"""Rules over what a run did: a small vocabulary, and errors that say what is known."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from agentgym_daemon.errors import ConfigError
from agentgym_daemon.rewards.rules import apply, parse

RUN: dict[str, Any] = {
    "tool_errors": 1,
    "tool_calls": 3,
    "steps": 2,
    "tokens": 1200,
    "duration_s": 4.5,
    "attributes": {"tenant": "acme", "vip": True},
    "calls": [{"tool": "find_order"}, {"tool": "refund"}],
}


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ("tool_errors > 0", True),
        ("tool_errors == 0", False),
        ("tokens <= 1200 and duration_s < 5", True),
        ("steps != 2", False),
        ("called refund", True),
        ("called escalate", False),
        ("not called escalate and tool_calls >= 3", True),
        ("attribute tenant == acme", True),
        ("attribute tenant == 'other'", False),
        ("attribute vip == true", True),
        ("attribute missing == acme", False),
    ],
)
def test_a_rule_holds_if_all_its_clauses_do(when: str, holds: bool) -> None:
    rules = parse(json.dumps([{"when": when, "value": 0.5}]))

    assert apply(rules, RUN) == ({"outcome": (0.5, when)} if holds else {})


def test_the_first_rule_of_a_name_decides() -> None:
    rules = parse(
        json.dumps(
            [
                {"when": "tool_errors > 9", "value": 0},
                {"when": "called refund", "value": 1},
                {"when": "tool_calls > 0", "value": 0.25},
                {"when": "tokens > 1000", "value": 0, "name": "thrift"},
            ]
        )
    )

    assert {name: value for name, (value, _) in apply(rules, RUN).items()} == {
        "outcome": 1.0,
        "thrift": 0.0,
    }


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("nonsense", "expected a list of tables"),
        ('{"when": "steps > 1"}', "expected a list of tables"),
        ('[{"when": "steps > 1"}]', "rule 1: expected a table with when and value"),
        ('[{"when": "steps > 1", "value": 2}]', "expected a number in [0, 1], got 2"),
        ('[{"when": "steps > 1", "value": true}]', "expected a number in [0, 1], got True"),
        ('[{"when": "steps > 1", "value": 1, "then": 2}]', "got 'then'"),
        ('[{"when": "__import__(\'os\') > 1", "value": 1}]', "expected clauses joined by 'and'"),
        ('[{"when": "steps > many", "value": 1}]', "got 'steps > many'"),
        ('[{"when": "steps > inf", "value": 1}]', "got 'steps > inf'"),
        ('[{"when": "colour == 1", "value": 1}]', "or one of tool_errors"),
        ('[{"when": "", "value": 1}]', "rule 1: when: got ''"),
    ],
)
def test_a_rule_that_cannot_be_read_is_named(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse(setting)
