"""Recorded messages and tool definitions in the shapes that providers and tracers give them.

Known: OpenAI chat (`tool_calls[].function.name`), Anthropic (`tool_use`, `tool_result`), the GenAI
conventions (`parts`), OpenInference (`message.*`, `tool_call.*`), OpenLLMetry (`tool_calls[].name`)
and LangChain's dumps (`kwargs`, `data`, `type`: human). What is unknown reads as nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agentgym.trajectory import Tool
from agentgym_daemon.importing.model import Asked

_ROLES = {"human": "user", "ai": "assistant", "model": "assistant", "function": "tool"}
_WRAPPERS = ("message", "kwargs", "data")
_LISTS = ("messages", "choices", "generations", "output")
_TEXTS = ("input", "question", "query", "task", "prompt", "text", "content", "user_input")
"""Keys under which an agent's task stands where its input is an object without messages."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message, as far as it matters here; `answers` are ids, else names, of answered calls."""

    role: str
    text: str
    calls: tuple[Asked, ...]
    answers: tuple[str, ...]


def decoded(value: Any) -> Any:
    """The value, or what it holds if it is JSON in a string."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def messages(value: Any) -> list[Message]:
    """The messages in a value; empty if it holds none."""
    return list(_messages(decoded(value), depth=0))


def _messages(value: Any, *, depth: int) -> Iterator[Message]:
    if depth > 8:
        return
    if isinstance(value, list):
        for item in value:
            yield from _messages(decoded(item), depth=depth + 1)
    elif isinstance(value, Mapping):
        yield from _of_object(value, depth=depth)


def _of_object(value: Mapping[str, Any], *, depth: int) -> Iterator[Message]:
    role = _role(value)
    if role:
        yield _message(role, value)
        return
    for name in _LISTS:
        if isinstance(value.get(name), list):
            yield from _messages(value[name], depth=depth + 1)
            return
    for name in _WRAPPERS:
        if isinstance(value.get(name), Mapping):
            # LangChain says who speaks beside the wrapper, or in the name of the class.
            inner = dict(value[name])
            path = value.get("id")
            if isinstance(path, list) and path:
                inner.setdefault(
                    "type", str(path[-1]).removesuffix("Chunk").removesuffix("Message")
                )
            elif isinstance(value.get("type"), str):
                inner.setdefault("type", value["type"])
            yield from _messages(inner, depth=depth + 1)
            return


def _role(value: Mapping[str, Any]) -> str:
    role = value.get("role")
    if not isinstance(role, str):
        role = value.get("type")
        known = ("human", "ai", "system", "tool", "function", "user", "assistant")
        if not isinstance(role, str) or role.lower() not in known:
            return ""
        if not {"content", "tool_calls", "parts", "additional_kwargs"} & set(value):
            return ""
    role = role.lower()
    return _ROLES.get(role, role)


def _message(role: str, value: Mapping[str, Any]) -> Message:
    texts: list[str] = []
    calls: list[Asked] = []
    answers: list[str] = []
    for part in _parts(value):
        if isinstance(part, str):
            texts.append(part)
            continue
        match part.get("type"):
            case "tool_call" | "tool_use" | "function_call":
                calls.append(_asked(part))
            case "tool_call_response" | "tool_result":
                answers.append(_text(part.get("id") or part.get("tool_use_id")))
            case _:
                texts.append(_text(part.get("text") or part.get("content")))
    extra = value.get("additional_kwargs")
    for holder in (value, extra if isinstance(extra, Mapping) else {}):
        if not calls:
            calls += _calls_of(holder)
    if role == "tool":
        answers.append(_text(value.get("tool_call_id") or value.get("name") or value.get("id")))
    return Message(
        role,
        "\n".join(filter(None, texts)),
        tuple(call for call in calls if call.tool),
        tuple(filter(None, answers)),
    )


def _parts(value: Mapping[str, Any]) -> Iterator[str | Mapping[str, Any]]:
    for name in ("parts", "content", "contents"):
        content = value.get(name)
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):
            for part in content:
                inner = part.get("message_content") if isinstance(part, Mapping) else None
                part = inner if isinstance(inner, Mapping) else part
                if isinstance(part, str | Mapping):
                    yield part


def _calls_of(holder: Mapping[str, Any]) -> list[Asked]:
    found = decoded(holder.get("tool_calls"))
    if isinstance(found, Mapping):
        found = [found]
    if isinstance(found, list) and found:
        return [_asked(decoded(call)) for call in found]
    legacy = holder.get("function_call")
    if isinstance(legacy, Mapping):
        return [_asked(legacy)]
    name = holder.get("function_call_name")
    return [Asked(name, "")] if isinstance(name, str) else []


def _asked(call: Any) -> Asked:
    if not isinstance(call, Mapping):
        return Asked("", "")
    inner = call.get("tool_call")
    call = inner if isinstance(inner, Mapping) else call
    function = call.get("function")
    name = function.get("name") if isinstance(function, Mapping) else call.get("name")
    return Asked(_text(name), _text(call.get("id") or call.get("call_id")))


def asked(value: Any) -> tuple[Asked, ...] | None:
    """The calls that a model's output asks for; None if nothing of it is a message."""
    found = messages(value)
    if not found:
        return None
    return tuple(call for message in found if message.role != "tool" for call in message.calls)


def answered(value: Any) -> tuple[str, ...]:
    """Ids (else names) of the calls whose results are among a model's input."""
    return tuple(answer for message in messages(value) for answer in message.answers)


def task(value: Any) -> str:
    """What the user wants: the last words of the user among messages, else the text itself."""
    found = messages(value)
    if found:
        said = [m.text for m in found if m.role == "user" and m.text]
        return said[-1] if said else ""
    plain = decoded(value)
    if isinstance(plain, str):
        return plain
    if isinstance(plain, Mapping):
        for name in _TEXTS:
            if isinstance(plain.get(name), str) and plain[name]:
                return str(plain[name])
            if isinstance(plain.get(name), Mapping):
                return task(plain[name])
    return ""


def tools(value: Any) -> tuple[Tool, ...] | None:
    """The tool definitions in a value; None if it holds none."""
    found = decoded(value)
    if isinstance(found, Mapping):
        if isinstance(found.get("tools"), list):
            found = found["tools"]
        elif isinstance(found.get("functions"), list):
            found = found["functions"]
        elif _text(found.get("name")) or isinstance(found.get("function"), Mapping):
            found = [found]
        else:  # Langfuse: name -> definition
            named = ((name, decoded(below)) for name, below in found.items())
            found = [_named(name, below) for name, below in named if _defines(below)]
    if not isinstance(found, list):
        return None
    made = [tool for tool in map(_tool, found) if tool is not None]
    return tuple({tool.name: tool for tool in made}.values()) or None


def _defines(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(
        {"description", "parameters", "input_schema", "function"} & set(value)
    )


def _named(name: str, definition: Mapping[str, Any]) -> Mapping[str, Any]:
    nested = isinstance(definition.get("function"), Mapping)
    return definition if nested else {"name": name, **definition}


def _tool(definition: Any) -> Tool | None:
    definition = decoded(definition)
    if not isinstance(definition, Mapping):
        return None
    inner = definition.get("tool", definition)
    schema = decoded(inner.get("json_schema", inner)) if isinstance(inner, Mapping) else None
    if not isinstance(schema, Mapping):
        return None
    function = schema.get("function")
    function = function if isinstance(function, Mapping) else schema
    name = _text(function.get("name"))
    if not name:
        return None
    shapes = map(
        function.get, ("parameters", "input_schema", "parametersJsonSchema", "inputSchema")
    )
    parameters = next((p for p in map(decoded, shapes) if isinstance(p, Mapping)), {})
    return Tool(name, _text(function.get("description")), dict(parameters))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
