"""The tools that a request offers, from the providers' formats or from the text of a prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from agentgym.trajectory import Tool

_FREE_CHOICES = {None, "auto", "any", "required", True}


def from_request(tools: Any) -> list[tuple[int, Tool]]:
    """Client-side tools of a provider's `tools` list, with their positions in it.

    Tools that the provider runs itself are left out: nobody here can choose them.
    """
    if not isinstance(tools, Sequence):
        return []
    found = ((index, _parse(entry)) for index, entry in enumerate(tools))
    return [(index, tool) for index, tool in found if tool is not None]


def _parse(entry: Any) -> Tool | None:
    if not isinstance(entry, Mapping):
        return None
    for key in ("function", "toolSpec"):  # OpenAI chat, Bedrock
        if isinstance(entry.get(key), Mapping):
            return _from_fields(entry[key])
    if entry.get("type", "function") in ("function", "custom"):  # OpenAI responses, Anthropic
        return _from_fields(entry)
    return None


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
