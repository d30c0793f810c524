"""What a fake model sees and answers, and the brains that play a script or echo.

A brain decides; how its answer travels is llm_wire's business. The desk of the demo is llm_desk.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeAlias

JsonObject: TypeAlias = dict[str, Any]
ToolChoice: TypeAlias = Literal["none", "auto", "required", "function"]

_TEXT_LIMIT = 80
_SCALARS: dict[str, Any] = {"integer": 1, "number": 1.0, "boolean": True, "null": None}


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as it was sent to the model."""

    name: str
    description: str
    parameters: JsonObject = field(hash=False)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for."""

    name: str
    arguments_json: str = "{}"


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One parsed request; `forced_tool` is set exactly when `tool_choice` is "function"."""

    messages: tuple[JsonObject, ...]
    tools: tuple[ToolSpec, ...]
    tool_choice: ToolChoice
    model: str
    raw: JsonObject
    forced_tool: str | None = None

    @property
    def user_text(self) -> str:
        """Text of the last user message, or the empty string."""
        for message in reversed(self.messages):
            if message.get("role") == "user":
                return content_text(message)
        return ""


@dataclass(frozen=True, slots=True)
class ChatReply:
    """What the model says; `delay_s` holds the answer back without blocking other requests."""

    text: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    delay_s: float = 0.0


class Brain(Protocol):
    """Chooses the fake model's answers; it runs on the server's thread and must not block."""

    def reply(self, request: ChatRequest) -> ChatReply: ...


class ScriptExhaustedError(Exception):
    """The agent asked for more answers than the script holds."""


def content_text(message: Mapping[str, Any]) -> str:
    """Return the text of a message whose content is a string, a list of parts or missing."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "\n".join(part for part in parts if isinstance(part, str))
    return ""


def is_tool_result(message: Mapping[str, Any]) -> bool:
    """Tell whether a message carries the result of a tool."""
    return message.get("role") in {"tool", "function"}


def fill_arguments(parameters: Mapping[str, Any], text: str) -> str:
    """Return JSON arguments for the required properties of a schema, the same for the same text."""
    short = " ".join(text.split())[:_TEXT_LIMIT] or "x"
    definitions = parameters.get("$defs") or parameters.get("definitions") or {}
    return json.dumps(_fill_object(parameters, short, definitions), ensure_ascii=False)


def _fill_object(
    schema: Mapping[str, Any], text: str, definitions: Mapping[str, Any]
) -> JsonObject:
    properties = schema.get("properties") or {}
    required = schema.get("required") or ()
    return {name: _fill(properties.get(name, {}), text, definitions) for name in required}


def _fill(schema: Mapping[str, Any], text: str, definitions: Mapping[str, Any]) -> Any:
    if "$ref" in schema:
        # Only local references appear in tool schemas; a dangling one counts as a plain string.
        return _fill(definitions.get(schema["$ref"].rsplit("/", 1)[-1], {}), text, definitions)
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            branches = [branch for branch in schema[key] if branch.get("type") != "null"]
            return _fill(branches[0], text, definitions) if branches else None
    kind = schema.get("type", "string")
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), "null")
    if kind == "object":
        return _fill_object(schema, text, definitions)
    if kind == "array":
        return [_fill(schema.get("items") or {}, text, definitions)]
    return _SCALARS.get(kind, text)


def obey(request: ChatRequest, reply: ChatReply) -> ChatReply:
    """Bend a reply to `tool_choice` and `parallel_tool_calls`, as a provider's decoding does."""
    if not request.tools or request.tool_choice == "none":
        if not reply.tool_calls:
            return reply
        return replace(reply, text=reply.text or "No tool is at hand.", tool_calls=())
    calls = reply.tool_calls
    if request.forced_tool is not None:
        chosen = [call for call in calls if call.name == request.forced_tool][:1]
        calls = tuple(chosen) or (_filled_call(request, request.forced_tool),)
    elif request.tool_choice == "required" and not calls:
        calls = (_filled_call(request, request.tools[0].name),)
    if request.raw.get("parallel_tool_calls") is False:
        calls = calls[:1]
    return reply if calls == reply.tool_calls else replace(reply, text=None, tool_calls=calls)


def _filled_call(request: ChatRequest, name: str) -> ToolCall:
    spec = next(tool for tool in request.tools if tool.name == name)
    return ToolCall(name, fill_arguments(spec.parameters, request.user_text))


class ScriptedBrain:
    """Plays replies in order, from any thread; a callable entry is asked with the request.

    A forced tool still uses up its entry: the call takes the place of what the script had there.
    """

    def __init__(self, replies: Sequence[ChatReply | Callable[[ChatRequest], ChatReply]]) -> None:
        self._replies = tuple(replies)
        self._played = 0
        self._lock = threading.Lock()

    @property
    def remaining(self) -> int:
        """Number of replies not played yet."""
        return len(self._replies) - self._played

    def reply(self, request: ChatRequest) -> ChatReply:
        with self._lock:
            if not self.remaining:
                raise ScriptExhaustedError(
                    f"Expected at most {len(self._replies)} requests, got one more; its last user "
                    f"message is {request.user_text[:_TEXT_LIMIT]!r}. Add a reply to the script."
                )
            entry = self._replies[self._played]
            self._played += 1
        return obey(request, entry if isinstance(entry, ChatReply) else entry(request))


class EchoToolBrain:
    """Calls the first tool it is sent once per user message, then repeats the tool's result."""

    def reply(self, request: ChatRequest) -> ChatReply:
        result = None
        for message in reversed(request.messages):
            if message.get("role") == "user":
                break
            if result is None and is_tool_result(message):
                result = content_text(message)
        if result is not None:
            return ChatReply(text=f"{request.user_text} -> {result}")
        if not request.tools:
            return ChatReply(text=request.user_text)
        name = request.forced_tool or request.tools[0].name
        return obey(request, ChatReply(tool_calls=(_filled_call(request, name),)))


def say(text: str) -> ChatReply:
    """Answer with text."""
    return ChatReply(text=text)


def call_tool(name: str, arguments: Mapping[str, Any] | None = None) -> ChatReply:
    """Call one tool natively."""
    return ChatReply(tool_calls=(ToolCall(name, json.dumps(dict(arguments or {}))),))


def react(thought: str, tool: str, tool_input: str) -> ChatReply:
    """Call a tool in the text format of zero-shot ReAct, which CrewAI's text mode shares."""
    return say(f"Thought: {thought}\nAction: {tool}\nAction Input: {tool_input}")


def react_final(text: str) -> ChatReply:
    """Finish in the text format of zero-shot ReAct."""
    return say(f"Thought: I now know the final answer\nFinal Answer: {text}")


def conversational(tool: str, tool_input: str) -> ChatReply:
    """Call a tool in the text format of conversational ReAct."""
    return react("Do I need to use a tool? Yes", tool, tool_input)


def conversational_final(text: str) -> ChatReply:
    """Finish in the text format of conversational ReAct."""
    return say(f"Thought: Do I need to use a tool? No\nAI: {text}")


def structured_chat(thought: str, tool: str, arguments: Mapping[str, Any]) -> ChatReply:
    """Call a tool in the JSON-blob format of structured chat."""
    return _blob(thought, {"action": tool, "action_input": dict(arguments)})


def structured_chat_final(text: str) -> ChatReply:
    """Finish in the JSON-blob format of structured chat."""
    return _blob("I know what to respond", {"action": "Final Answer", "action_input": text})


def _blob(thought: str, action: JsonObject) -> ChatReply:
    return say(f"Thought: {thought}\nAction:\n```json\n{json.dumps(action, indent=2)}\n```")
