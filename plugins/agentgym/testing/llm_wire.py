"""OpenAI's chat-completions JSON: requests parsed and checked, replies and errors rendered.

No sockets and no choices here. Bytes out are a pure function of bytes in and the brain's reply.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from agentgym.testing.llm_brain import (
    ChatReply,
    ChatRequest,
    JsonObject,
    ToolChoice,
    ToolSpec,
    content_text,
)

# Alias to dated name: OpenAI answers with the latter, and clients check it.
MODELS = {"gpt-4o": "gpt-4o-2024-08-06", "gpt-4o-mini": "gpt-4o-mini-2024-07-18"}
# A constant, because the same request has to give the same bytes.
_CREATED = 1_700_000_000
_CHARACTERS_PER_TOKEN = 4
_FRAGMENT_CHARACTERS = 24

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class ApiError(Exception):
    """An answer other than 200; a brain raises it to play a failing provider.

    `retry` tells OpenAI's client whether to try again; None leaves that to the status.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.retry = retry

    def to_json(self) -> bytes:
        """Return the body that OpenAI sends with an error."""
        fields = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return _encode({"error": fields}).encode()


def parse_body(body: bytes) -> JsonObject:
    """Return the JSON object of a body; anything else is a 400."""
    try:
        parsed = json.loads(body)
    except ValueError as error:
        raise ApiError(
            400, f"We could not parse the JSON body of your request. ({error})"
        ) from error
    if not isinstance(parsed, dict):
        raise ApiError(400, f"Expected a JSON object as the body, got {type(parsed).__name__}.")
    return parsed


def parse_chat(raw: JsonObject) -> ChatRequest:
    """Check a chat-completions request and return it typed."""
    model, messages = raw.get("model"), raw.get("messages")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "you must provide a model parameter", param="model")
    if not isinstance(messages, list) or not messages:
        raise _invalid("messages", "a non-empty array of messages", messages)
    if not all(isinstance(message, dict) and "role" in message for message in messages):
        raise _invalid("messages", "objects with a role", messages)
    tools = _parse_tools(raw.get("tools"))
    choice, forced = _parse_tool_choice(raw.get("tool_choice"), tools)
    return ChatRequest(tuple(messages), tools, choice, model, raw, forced)


def _invalid(param: str, expected: str, got: object) -> ApiError:
    return ApiError(400, f"Invalid '{param}': expected {expected}, got {got!r:.200}.", param=param)


def _parse_tools(tools: Any) -> tuple[ToolSpec, ...]:
    if tools is None:
        return ()
    if not isinstance(tools, list):
        raise _invalid("tools", "an array of tools", tools)
    if not tools:
        raise _invalid("tools", "at least one tool, or no such field", tools)
    return _tools_of(_encode(tools))


# An agent sends the same tools at every turn, and checking thirty of them costs more than the rest.
@lru_cache(maxsize=256)
def _tools_of(tools_json: str) -> tuple[ToolSpec, ...]:
    specs = []
    for position, tool in enumerate(json.loads(tools_json)):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise _invalid(f"tools[{position}]", "a function tool with a name", tool)
        description = function.get("description") or ""
        specs.append(ToolSpec(function["name"], description, function.get("parameters") or {}))
    return tuple(specs)


def _parse_tool_choice(choice: Any, tools: tuple[ToolSpec, ...]) -> tuple[ToolChoice, str | None]:
    if choice is None:
        return ("auto" if tools else "none"), None
    if not tools:
        raise ApiError(
            400,
            "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are "
            "specified.",
            param="tool_choice",
        )
    if choice in ("none", "auto", "required"):
        return choice, None
    name = _forced_name(choice)
    if name is None:
        raise _invalid("tool_choice", "none, auto, required or a function's name", choice)
    if all(tool.name != name for tool in tools):
        raise ApiError(
            400, f"Tool choice '{name}' not found in 'tools' parameter.", param="tool_choice"
        )
    return "function", name


def _forced_name(choice: Any) -> str | None:
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def render_models() -> bytes:
    """Return the answer to a listing of models."""
    data = [
        {"id": name, "object": "model", "created": _CREATED, "owned_by": "agentgym"}
        for name in MODELS
    ]
    return _encode({"object": "list", "data": data}).encode()


def render_completion(request: ChatRequest, reply: ChatReply, *, body: bytes) -> bytes:
    """Return the whole answer as one JSON object."""
    digest = hashlib.sha256(body).hexdigest()
    message: JsonObject = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.tool_calls:
        message["tool_calls"] = list(_calls(reply, digest))
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": _finish_reason(reply),
    }
    return _encode(
        _envelope(request, digest, kind="chat.completion")
        | {"choices": [choice], "usage": _usage(request, reply)}
    ).encode()


def render_stream(request: ChatRequest, reply: ChatReply, *, body: bytes) -> bytes:
    """Return the answer as server-sent events, usage last when the request asks for it."""
    digest = hashlib.sha256(body).hexdigest()
    options = request.raw.get("stream_options")
    with_usage = isinstance(options, dict) and options.get("include_usage") is True
    envelope = _envelope(request, digest, kind="chat.completion.chunk")
    if with_usage:
        envelope["usage"] = None
    chunks = [
        envelope | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        for delta, reason in _deltas(reply, digest)
    ]
    if with_usage:
        chunks.append(envelope | {"choices": [], "usage": _usage(request, reply)})
    events = [f"data: {_encode(chunk)}\n\n" for chunk in chunks]
    return "".join([*events, "data: [DONE]\n\n"]).encode()


def _envelope(request: ChatRequest, digest: str, *, kind: str) -> JsonObject:
    return {
        "id": f"chatcmpl-{digest[:24]}",
        "object": kind,
        "created": _CREATED,
        "model": MODELS.get(request.model, request.model),
        "system_fingerprint": None,
    }


def _finish_reason(reply: ChatReply) -> str:
    return "tool_calls" if reply.tool_calls else "stop"


def _calls(reply: ChatReply, digest: str) -> Iterator[JsonObject]:
    for index, call in enumerate(reply.tool_calls):
        function = {"name": call.name, "arguments": call.arguments_json}
        yield {"id": f"call_{digest[24:46]}{index:02d}", "type": "function", "function": function}


def _deltas(reply: ChatReply, digest: str) -> Iterator[tuple[JsonObject, str | None]]:
    yield {"role": "assistant", "content": None if reply.tool_calls else ""}, None
    for fragment in _fragments(reply.text or ""):
        yield {"content": fragment}, None
    for index, call in enumerate(_calls(reply, digest)):
        function = call["function"]
        head = call | {"index": index, "function": function | {"arguments": ""}}
        yield {"tool_calls": [head]}, None
        for fragment in _fragments(function["arguments"]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": fragment}}]}, None
    yield {}, _finish_reason(reply)


def _fragments(text: str) -> Iterator[str]:
    for start in range(0, len(text), _FRAGMENT_CHARACTERS):
        yield text[start : start + _FRAGMENT_CHARACTERS]


def _usage(request: ChatRequest, reply: ChatReply) -> JsonObject:
    prompt = sum(len(content_text(message)) for message in request.messages)
    prompt += sum(
        len(_encode(message["tool_calls"]))
        for message in request.messages
        if message.get("tool_calls")
    )
    prompt += _tools_length(request.tools)
    answer = len(reply.text or "")
    answer += sum(len(call.name) + len(call.arguments_json) for call in reply.tool_calls)
    prompt_tokens = prompt // _CHARACTERS_PER_TOKEN
    completion_tokens = max(1, answer // _CHARACTERS_PER_TOKEN)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


# Cached for the same reason as the parsing; the tuple of one tool list is always the same object.
@lru_cache(maxsize=256)
def _tools_length(tools: tuple[ToolSpec, ...]) -> int:
    return sum(
        len(tool.name) + len(tool.description) + len(_encode(tool.parameters)) for tool in tools
    )
