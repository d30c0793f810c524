"""The tools that a request offers, from the providers' formats or from the text of a prompt."""

from __future__ import annotations

import marshal
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from agentgym.trajectory import Tool

_FREE_CHOICES = {None, "auto", "any", "required", True}


class Offered(NamedTuple):
    """Tools of a request, and where each stands in its `tools` list."""

    positions: tuple[int, ...]
    tools: tuple[Tool, ...]


NOTHING = Offered((), ())
_MOST_KNOWN = 64
_known: dict[tuple[Any, ...], tuple[Any, Offered]] = {}
"""What requests offered, with copies of the lists that it was read from.

A binding makes its entries anew for every call, and reading one costs thirty times a comparison.
"""


def from_request(tools: Any) -> Offered:
    """Client-side tools of a provider's `tools` list.

    Tools that the provider runs itself are left out: nobody here can choose them. Equal lists give
    the very same tools, so that whoever keeps something about them can go by identity.
    """
    if type(tools) is not list:
        return _read(tools) if isinstance(tools, Sequence) else NOTHING
    key = len(tools), *(str(_fields(entry).get("name")) for entry in (tools[:1] + tools[-1:]))
    try:
        copy, found = _known.get(key, (None, NOTHING))
        # The copy decides: a user may have changed the list itself.
        if copy == tools:
            return found
        copy = marshal.loads(
            marshal.dumps(tools)
        )  # plain data and nothing else, ten times deepcopy
    except (ValueError, RecursionError):
        return _read(tools)
    found = _read(tools)
    if len(_known) >= _MOST_KNOWN:
        _known.clear()
    _known[key] = copy, found
    return found


def _read(tools: Sequence[Any]) -> Offered:
    parsed = ((index, _parse(entry)) for index, entry in enumerate(tools))
    found = [(index, tool) for index, tool in parsed if tool is not None]
    return Offered(tuple(index for index, _ in found), tuple(tool for _, tool in found))


def _parse(entry: Any) -> Tool | None:
    fields = _fields(entry)
    return _from_fields(fields) if fields else None


def _fields(entry: Any) -> Mapping[str, Any]:
    """What an entry says about its tool; empty if the provider runs it itself."""
    if not isinstance(entry, Mapping):
        return {}
    for key in ("function", "toolSpec"):  # OpenAI chat, Bedrock
        if isinstance(entry.get(key), Mapping):
            return entry[key]  # type: ignore[no-any-return]
    # OpenAI responses, Anthropic
    return entry if entry.get("type", "function") in ("function", "custom") else {}


def _from_fields(fields: Mapping[str, Any]) -> Tool | None:
    name = fields.get("name")
    if not isinstance(name, str):
        return None
    schema = fields.get("parameters") or fields.get("input_schema") or fields.get("inputSchema")
    if isinstance(schema, Mapping) and "json" in schema:
        schema = schema["json"]
    parameters = schema if isinstance(schema, Mapping) else {}
    return Tool(name, str(fields.get("description") or ""), parameters)


def is_free(tool_choice: Any) -> bool:
    """Whether a request leaves the choice among its tools open."""
    if isinstance(tool_choice, Mapping):
        return tool_choice.get("type") in ("auto", "any")
    return isinstance(tool_choice, (str, bool, type(None))) and tool_choice in _FREE_CHOICES


def from_objects(tools: Sequence[BaseTool]) -> tuple[Tool, ...]:
    """The tools of an executor."""
    converted = (_parse(convert_to_openai_tool(tool)) for tool in tools)
    return tuple(tool for tool in converted if tool is not None)


def from_prompt(variables: Mapping[str, Any]) -> tuple[Tool, ...]:
    """The tools that a text agent's prompt lists: variables `tools` and `tool_names`.

    Both renderings of LangChain start a tool with its name: `name(signature) - description`, and
    `name - description, args: {...}`.
    """
    text, names = variables.get("tools"), variables.get("tool_names")
    if not (isinstance(text, str) and isinstance(names, str)):
        return ()
    listed = [name.strip(" \t\n\"'[]") for name in names.split(",")]
    starts = [(name, re.search(rf"^{re.escape(name)}(?=\(| - |: )", text, re.M)) for name in listed]
    found = sorted((match.start(), name) for name, match in starts if match and name)
    ends = [*(start for start, _ in found[1:]), len(text)][: len(found)]
    return tuple(
        Tool(name, _description(text[start:end]))
        for (start, name), end in zip(found, ends, strict=True)
    )


def _description(entry: str) -> str:
    _, _, description = entry.partition(" - ")
    return description.rpartition(", args: {")[0].strip() or description.strip()


def protect(tools: Sequence[Tool], names: frozenset[str]) -> tuple[Tool, ...]:
    """The same tools, those named marked as never to be forced."""
    return tuple(replace(tool, protected=True) if tool.name in names else tool for tool in tools)
