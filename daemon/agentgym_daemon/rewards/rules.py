"""Rewards without code: rules over what a run did, in a small vocabulary.

    when     := clause { " and " clause }
    clause   := field comparison number | ["not "] "called " tool | "attribute " name " == " text
    field    := tool_errors | tool_calls | steps | tokens | duration_s
    comparison := == | != | < | <= | > | >=

Of the rules with one name, the first that holds gives the reward.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentgym_daemon.errors import ConfigError
from agentgym_daemon.rewards.facts import DEFAULT_NAME
from agentgym_daemon.rewards.view import View, tools_called

FIELDS = ("tool_errors", "tool_calls", "steps", "tokens", "duration_s")
_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_MEASURED = re.compile(r"(\w+)\s*(==|!=|<=|>=|<|>)\s*(\S+)")
_ATTRIBUTE = re.compile(r"attribute\s+(\S+)\s*==\s*(.+)")
_CALLED = re.compile(r"(not\s+)?called\s+(\S+)")
_EXPECTED = (
    "expected clauses joined by 'and': 'called TOOL', 'not called TOOL', 'attribute NAME == TEXT', "
    f"or one of {', '.join(FIELDS)} with ==, !=, <, <=, > or >= and a number"
)
Condition = Callable[[View], bool]


@dataclass(frozen=True, slots=True)
class Rule:
    """If every condition holds, a run gets the value under the name."""

    text: str
    conditions: tuple[Condition, ...]
    value: float
    name: str

    def holds(self, run: View) -> bool:
        """Whether all conditions do."""
        return all(condition(run) for condition in self.conditions)


def parse(setting: str) -> tuple[Rule, ...]:
    """The rules in the setting `reward_rules`; raises ConfigError naming the rule."""
    if not setting.strip():
        return ()
    try:
        tables = json.loads(setting)
    except ValueError as error:
        raise ConfigError(f"reward_rules: expected a list of tables; {error}") from error
    if not isinstance(tables, list):
        raise ConfigError(f"reward_rules: expected a list of tables, got {setting!r}")
    return tuple(_rule(number, table) for number, table in enumerate(tables, start=1))


def apply(rules: Sequence[Rule], run: View) -> dict[str, tuple[float, str]]:
    """Value and text of the rule that decides, by name of the reward."""
    found: dict[str, tuple[float, str]] = {}
    for rule in rules:
        if rule.name not in found and rule.holds(run):
            found[rule.name] = (rule.value, rule.text)
    return found


def _rule(number: int, table: Any) -> Rule:
    place = f"reward_rules, rule {number}"
    if not isinstance(table, dict) or not {"when", "value"} <= table.keys():
        raise ConfigError(f"{place}: expected a table with when and value, got {table!r}")
    if unknown := sorted(table.keys() - {"when", "value", "name"}):
        raise ConfigError(f"{place}: expected when, value and name, got {unknown[0]!r}")
    value, name, when = table["value"], table.get("name", DEFAULT_NAME), table["when"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigError(f"{place}: value: expected a number in [0, 1], got {value!r}")
    if not isinstance(name, str) or not name or not isinstance(when, str):
        raise ConfigError(f"{place}: expected texts for when and name, got {table!r}")
    try:
        conditions = tuple(_condition(clause.strip()) for clause in re.split(r"\s+and\s+", when))
    except ValueError as error:
        raise ConfigError(f"{place}: when: got {error}; {_EXPECTED}") from error
    return Rule(when, conditions, float(value), name)


def _condition(clause: str) -> Condition:
    if match := _ATTRIBUTE.fullmatch(clause):
        name, wanted = match[1], match[2].strip().strip("'\"")
        return lambda run: _text(run["attributes"].get(name)) == wanted
    if match := _CALLED.fullmatch(clause):
        tool, expected = match[2], not match[1]
        return lambda run: (tool in tools_called(run)) == expected
    match = _MEASURED.fullmatch(clause)
    if not match or match[1] not in FIELDS:
        raise ValueError(repr(clause))
    field, compare, number = match[1], _COMPARISONS[match[2]], _number(match[3], clause)
    return lambda run: compare(run[field], number)


def _number(text: str, clause: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(repr(clause)) from None
    if not math.isfinite(number):
        raise ValueError(repr(clause))
    return number


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)
