"""The tools of a call as `Tool`s: the tools' own text, equal to the other frameworks' form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from crewai.tools.structured_tool import strip_composite_description_prefix
from crewai.utilities.string_utils import sanitize_tool_name
from pydantic import BaseModel

from agentgym.integrations.marks import is_destructive
from agentgym.trajectory import Tool


def native_offer(specs: Sequence[Mapping[str, Any]], agent: Any, task: Any) -> list[Tool]:
    """The tools of a native call, in the order in which they are sent.

    On the wire CrewAI marks every parameter as required, so the shape comes from the tool itself
    wherever the agent has it.
    """
    own = {sanitize_tool_name(tool.name): tool for tool in agent_tools(agent, task)}
    return [_native(spec, own) for spec in specs]


def text_offer(agent: Any, task: Any) -> list[Tool]:
    """The tools that a text agent reads in its prompt."""
    return [
        _tool(
            sanitize_tool_name(tool.name),
            strip_composite_description_prefix(tool.description),
            tool.args_schema,
        )
        for tool in agent_tools(agent, task)
    ]


def destructive(agent: Any, task: Any) -> list[str]:
    """Names of the tools that say of themselves that their effect cannot be taken back."""
    own = agent_tools(agent, task)
    return [sanitize_tool_name(tool.name) for tool in own if is_destructive(tool)]


def agent_tools(agent: Any, task: Any) -> Sequence[Any]:
    """The tool objects that an agent works with: for a task, those of its executor."""
    executor = getattr(agent, "agent_executor", None) if task is not None else None
    return getattr(executor, "original_tools", None) or getattr(agent, "tools", None) or ()


def _native(spec: Mapping[str, Any], own: Mapping[str, Any]) -> Tool:
    function = spec.get("function", spec)
    name = str(function.get("name", ""))
    description = str(function.get("description") or "")
    schema = getattr(own.get(name), "args_schema", None)
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return _tool(name, description, schema)
    return Tool(name, description, function.get("parameters") or {})


@lru_cache(maxsize=1024)
def _tool(name: str, description: str, schema: type[BaseModel]) -> Tool:
    parameters = schema.model_json_schema()
    definitions = parameters.get("$defs", {})
    properties = {
        key: _resolved(value, definitions)
        for key, value in parameters.get("properties", {}).items()
    }
    return Tool(name, description, {**parameters, "properties": properties})


def _resolved(value: dict[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    target = definitions.get(str(value.get("$ref", "")).rpartition("/")[2], {})
    return {**target, **value}
