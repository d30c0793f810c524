"""Foreign attribute names as ours: one versioned table, read-only.

It knows the GenAI conventions (`gen_ai.*`, new and deprecated names), OpenInference
(github.com/Arize-ai/openinference, spec/semantic_conventions.md), OpenLLMetry
(`traceloop.*`, `llm.request.functions`, opentelemetry-semantic-conventions-ai), AgentOps (which
Agent Lightning traces with), Langfuse's OTel attributes, and Agent Lightning's annotations.

Attributes are looked up in a tree, so that the flat form (`llm.tools.0.tool.json_schema`) and the
nested one ({"llm": {"tools": [...]}}) read alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from agentgym import semconv

MAPPING_VERSION = "1"
"""Raised whenever a name is added to, or read in another way from, the tables below."""


class Kind(StrEnum):
    """What a foreign span is to us."""

    AGENT = semconv.INVOKE_AGENT
    WORKFLOW = semconv.INVOKE_WORKFLOW
    LLM = semconv.CHAT
    TOOL = semconv.EXECUTE_TOOL
    OTHER = ""


KINDS: tuple[tuple[str, Mapping[str, Kind]], ...] = (
    (
        semconv.OPERATION_NAME,
        {
            semconv.CHAT: Kind.LLM,
            "generate_content": Kind.LLM,
            "text_completion": Kind.LLM,
            semconv.EXECUTE_TOOL: Kind.TOOL,
            semconv.INVOKE_AGENT: Kind.AGENT,
            semconv.INVOKE_WORKFLOW: Kind.WORKFLOW,
        },
    ),
    ("openinference.span.kind", {"llm": Kind.LLM, "tool": Kind.TOOL, "agent": Kind.AGENT}),
    (
        "traceloop.span.kind",
        {
            "llm": Kind.LLM,
            "tool": Kind.TOOL,
            "agent": Kind.AGENT,
            "workflow": Kind.WORKFLOW,
        },
    ),
    (
        "agentops.span.kind",
        {
            "llm": Kind.LLM,
            "tool": Kind.TOOL,
            "agent": Kind.AGENT,
            "workflow": Kind.WORKFLOW,
            "session": Kind.WORKFLOW,
        },
    ),
    (
        "langfuse.observation.type",
        {"generation": Kind.LLM, "tool": Kind.TOOL, "agent": Kind.AGENT},
    ),
    ("llm.request.type", {"chat": Kind.LLM, "completion": Kind.LLM}),
)
"""Attributes that say what a span is, with the values that we know (lower case), best first."""

LLM_SIGNS = ("gen_ai.completion", "gen_ai.output.messages", "llm.output_messages", "llm.model_name")
"""What only a model's span has, where nothing says the kind."""

_NAMES: Mapping[str, tuple[str, ...]] = {
    "tool": (semconv.TOOL_NAME, "tool.name", "tool_call.function.name", "traceloop.entity.name"),
    "call_id": (semconv.TOOL_CALL_ID, "tool.id", "tool_call.id"),
    "agent_name": (semconv.AGENT_NAME, "agent.name", "llm.agent.name", "traceloop.entity.name"),
    "model": (
        semconv.RESPONSE_MODEL,
        semconv.REQUEST_MODEL,
        "llm.model_name",
        "llm.response.model",
        "llm.request.model",
    ),
    "provider": (semconv.PROVIDER_NAME, "gen_ai.system", "llm.provider", "llm.system"),
    "input_tokens": (
        semconv.INPUT_TOKENS,
        "gen_ai.usage.prompt_tokens",
        "llm.token_count.prompt",
        "llm.usage.prompt_tokens",
    ),
    "output_tokens": (
        semconv.OUTPUT_TOKENS,
        "gen_ai.usage.completion_tokens",
        "llm.token_count.completion",
        "llm.usage.completion_tokens",
    ),
    "conversation": (
        semconv.CONVERSATION_ID,
        "session.id",
        "langfuse.session.id",
        "traceloop.association.properties.session_id",
    ),
    "error": (semconv.ERROR_TYPE, "exception.type"),
    "finish_reasons": (
        "gen_ai.response.finish_reasons",
        "gen_ai.completion.0.finish_reason",
        "llm.completions.0.finish_reason",
        "llm.finish_reason",
    ),
    "input": (
        semconv.INPUT_MESSAGES,
        "llm.input_messages",
        "gen_ai.prompt",
        "llm.prompts",
        "langfuse.observation.input",
        "input.value",
        "traceloop.entity.input",
    ),
    "output": (
        semconv.OUTPUT_MESSAGES,
        "llm.output_messages",
        "gen_ai.completion",
        "llm.completions",
        "langfuse.observation.output",
        "output.value",
        "traceloop.entity.output",
    ),
    "tools": (
        "gen_ai.tool.definitions",
        "llm.tools",
        "llm.request.functions",
        "gen_ai.request.tools",
        "llm.invocation_parameters",
    ),
    "description": ("gen_ai.tool.description", "tool.description"),
    "parameters": ("tool.parameters", "tool.json_schema"),
}

FEEDBACK: tuple[tuple[str, str, bool], ...] = (
    ("evaluations", "evaluation", False),
    ("annotations", "annotation", False),
    ("trace.annotations", "annotation", True),
    ("trace.evaluations", "evaluation", True),
)
"""OpenInference's lists of judgements: where they lie, the prefix of an entry, of the whole run."""

LIGHTNING_SPAN = "agentlightning.annotation"
LIGHTNING_REWARD = "agentlightning.reward"
"""A list of {name, value} on an annotation span; before 0.3 the name of the span itself."""
LIGHTNING_ROLLOUT = "agentlightning.rollout_id"
LIGHTNING_ATTEMPT = "agentlightning.attempt_id"


def tree(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as nested dicts and lists; where a name is also a prefix, the longer wins."""
    root: dict[str, Any] = {}
    for name in sorted(attributes, key=lambda name: str(name).count("."), reverse=True):
        _put(root, str(name).split("."), _nested(attributes[name]))
    return {name: _listed(value) for name, value in root.items()}


def at(nested: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; None where there is none, or it is empty."""
    found: Any = nested
    for part in path.split("."):
        if isinstance(found, Mapping):
            found = found.get(part)
        elif isinstance(found, Sequence) and not isinstance(found, str) and part.isdecimal():
            found = found[int(part)] if int(part) < len(found) else None
        else:
            return None
    return None if found in ("", [], {}) else found


def first(nested: Mapping[str, Any], field: str) -> Any:
    """The value of one of our fields by the best of its foreign names; None if it has none."""
    return next(
        (v for v in map(lambda name: at(nested, name), _NAMES[field]) if v is not None), None
    )


def candidates(nested: Mapping[str, Any], field: str) -> Iterable[Any]:
    """All values that one of our fields has, best first: what cannot be parsed may be passed by."""
    for name in _NAMES[field]:
        value = at(nested, name)
        if value is not None:
            yield value


def kind(nested: Mapping[str, Any]) -> Kind:
    """What a span is to us: by the best convention that has a kind for it, else by its looks."""
    said = [(at(nested, name), kinds) for name, kinds in KINDS]
    for value, kinds in said:
        if isinstance(value, str) and value.lower() in kinds:
            return kinds[value.lower()]
    if any(isinstance(value, str) for value, _ in said):
        return Kind.OTHER
    if any(at(nested, sign) is not None for sign in LLM_SIGNS):
        return Kind.LLM
    return Kind.TOOL if at(nested, semconv.TOOL_NAME) is not None else Kind.OTHER


def _put(root: dict[str, Any], parts: Sequence[str], value: Any) -> None:
    for part in parts[:-1]:
        below = root.setdefault(part, {})
        if not isinstance(below, dict):
            return
        root = below
    known = root.get(parts[-1])
    if known is None:
        root[parts[-1]] = value
    elif isinstance(known, dict) and isinstance(value, dict):
        for name, below in value.items():
            _put(known, [name], below)


def _nested(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tree(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_nested(item) for item in value]
    return value


def _listed(value: Any) -> Any:
    """Dicts whose keys are 0, 1, 2 ... as lists, all the way down."""
    if not isinstance(value, dict):
        return value
    listed = {name: _listed(below) for name, below in value.items()}
    if listed and all(name.isdecimal() for name in listed):
        return [listed[name] for name in sorted(listed, key=int)]
    return listed
