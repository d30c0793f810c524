"""Spans with attributes (OTLP, Phoenix, Agent Lightning) as neutral spans and scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agentgym import semconv
from agentgym.trajectory import Tool
from agentgym_daemon.importing import messages
from agentgym_daemon.importing.model import Asked, Loaded, Score, SourceSpan
from agentgym_daemon.ingest import foreign
from agentgym_daemon.ingest.foreign import Kind

_UNNAMED = ("unknown_service", "agentlightning")
"""Service names that SDKs make up."""


@dataclass(frozen=True, slots=True)
class RawSpan:
    """A span as any OTel-shaped source has it; `attributes` flat or nested, or both."""

    run: str
    id: str
    parent: str
    name: str
    start_ns: int
    end_ns: int
    failed: bool
    attributes: Mapping[str, Any]
    events: Sequence[tuple[str, int, Mapping[str, Any]]] = ()
    """(name, unix nanoseconds, attributes)."""
    resource: Mapping[str, Any] = field(default_factory=dict)


def add(loaded: Loaded, raw: RawSpan, *, origin: str) -> None:
    """Adds a span, and the judgements that travelled on it."""
    nested = foreign.tree(raw.attributes)
    if raw.name in (foreign.LIGHTNING_SPAN, foreign.LIGHTNING_REWARD):
        loaded.scores += _lightning(raw, nested)
        return
    loaded.spans.append(_span(raw, nested, origin))
    loaded.scores += _feedback(raw, nested)
    loaded.scores += _evaluations(raw)


def _span(raw: RawSpan, nested: Mapping[str, Any], origin: str) -> SourceSpan:
    kind = foreign.kind(nested)
    is_tool, is_model = kind is Kind.TOOL, kind is Kind.LLM
    finish = _reasons(foreign.first(nested, "finish_reasons"))
    return SourceSpan(
        run=raw.run,
        id=raw.id,
        parent=raw.parent,
        kind=kind,
        name=raw.name,
        start_ns=raw.start_ns,
        end_ns=raw.end_ns,
        error=_error(raw, nested),
        agent_name=_agent_name(nested, kind),
        service=_service(raw.resource),
        conversation=_text(foreign.first(nested, "conversation")),
        tool=(_text(foreign.first(nested, "tool")) or raw.name) if is_tool else "",
        call_id=_text(foreign.first(nested, "call_id")) if is_tool else "",
        model=_text(foreign.first(nested, "model")) if is_model else "",
        provider=_text(foreign.first(nested, "provider")) if is_model else "",
        input_tokens=count_of(foreign.first(nested, "input_tokens")) if is_model else 0,
        output_tokens=count_of(foreign.first(nested, "output_tokens")) if is_model else 0,
        offered=_offered(nested) if kind is not Kind.TOOL else None,
        called=_called(nested) if is_model else None,
        answered=_answered(nested) if is_model else (),
        stopped=bool(finish) and finish <= {"stop", "end_turn", "length"},
        task=_task(nested),
        definition=_definition(nested, raw.name) if is_tool else None,
        origin=origin,
        ours=semconv.TRAJECTORY_ID in raw.attributes or semconv.AGENT in raw.attributes,
    )


def _error(raw: RawSpan, nested: Mapping[str, Any]) -> str:
    named = _text(foreign.first(nested, "error"))
    if named or not raw.failed:
        return named
    thrown = (_text(values.get("exception.type")) for _, _, values in raw.events)
    return next(filter(None, thrown), "error")


def _agent_name(nested: Mapping[str, Any], kind: Kind) -> str:
    if kind not in (Kind.AGENT, Kind.WORKFLOW):
        return _text(foreign.at(nested, semconv.AGENT_NAME) or foreign.at(nested, "agent.name"))
    return _text(foreign.first(nested, "agent_name"))


def _service(resource: Mapping[str, Any]) -> str:
    project = _text(resource.get("openinference.project.name"))
    service = _text(resource.get("service.name"))
    return project or ("" if service.startswith(_UNNAMED) else service)


def _offered(nested: Mapping[str, Any]) -> tuple[Tool, ...] | None:
    found = map(messages.tools, foreign.candidates(nested, "tools"))
    return next((tools for tools in found if tools is not None), None)


def _called(nested: Mapping[str, Any]) -> tuple[Asked, ...] | None:
    found = map(messages.asked, foreign.candidates(nested, "output"))
    return next((calls for calls in found if calls is not None), None)


def _answered(nested: Mapping[str, Any]) -> tuple[str, ...]:
    found = map(messages.answered, foreign.candidates(nested, "input"))
    return next((answers for answers in found if answers), ())


def _task(nested: Mapping[str, Any]) -> str:
    found = map(messages.task, foreign.candidates(nested, "input"))
    return next((task for task in found if task), "")


def _definition(nested: Mapping[str, Any], name: str) -> Tool | None:
    description = _text(foreign.first(nested, "description"))
    schema = messages.decoded(foreign.at(nested, "tool.json_schema"))
    made = messages.tools([schema]) if isinstance(schema, Mapping) else None
    if made:
        return made[0]
    tool = _text(foreign.first(nested, "tool")) or name
    return Tool(tool, description) if description else None


def _lightning(raw: RawSpan, nested: Mapping[str, Any]) -> Iterator[Score]:
    """Agent Lightning 0.3: a list of dimensions, the first is the reward; before: one number.

    A link by `trace_id` names a run other than the span's own.
    """
    links = foreign.at(nested, "agentlightning.link")
    for link in links if isinstance(links, list) else ():
        if isinstance(link, Mapping) and link.get("key_match") == "trace_id":
            raw = replace(raw, run=_text(link.get("value_match")) or raw.run)
    found = foreign.at(nested, foreign.LIGHTNING_REWARD)
    if isinstance(found, list):
        for number, dimension in enumerate(found):
            if isinstance(dimension, Mapping):
                name = _text(dimension.get("name")) or "primary"
                yield _score(raw, name, dimension, number=number, final=number == 0)
    elif (value := foreign.at(nested, "reward")) is not None:
        yield _score(raw, "primary", {"value": value}, number=0, final=True)


def _feedback(raw: RawSpan, nested: Mapping[str, Any]) -> Iterator[Score]:
    for path, prefix, whole in foreign.FEEDBACK:
        found = foreign.at(nested, path)
        for number, entry in enumerate(found if isinstance(found, list) else ()):
            inner = entry.get(prefix, entry) if isinstance(entry, Mapping) else None
            if isinstance(inner, Mapping):
                name = _text(inner.get("name"))
                yield _score(raw, name, inner, number=number, mark=path, whole=whole)


def _evaluations(raw: RawSpan) -> Iterator[Score]:
    for number, (name, time_ns, values) in enumerate(raw.events):
        if name == semconv.EVALUATION_EVENT:
            inner = {
                "score": values.get(semconv.EVALUATION_SCORE),
                "label": values.get("gen_ai.evaluation.score.label"),
            }
            called = _text(values.get(semconv.EVALUATION_NAME)) or "evaluation"
            yield _score(raw, called, inner, number=number, mark="event", time_ns=time_ns)


def _score(
    raw: RawSpan,
    name: str,
    values: Mapping[str, Any],
    *,
    number: int,
    final: bool = False,
    mark: str = "reward",
    whole: bool = False,
    time_ns: int = 0,
) -> Score:
    value = values.get("score", values.get("value"))
    return Score(
        run=raw.run,
        span="" if final or whole else raw.id,
        name=name,
        value=number_of(value),
        label=_text(values.get("label")),
        source=_text(values.get("annotator_kind")),
        time_ns=time_ns or raw.end_ns or raw.start_ns,
        id=f"{raw.id}/{mark}/{number}",
        final=final,
    )


def number_of(value: Any) -> float | None:
    """A recorded number, whatever its type; None if it is none."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return float(value) if isinstance(value, bool | int | float) else None


def _reasons(value: Any) -> set[str]:
    found = messages.decoded(value)
    if isinstance(found, str):
        return {found.lower()}
    return {str(reason).lower() for reason in found} if isinstance(found, list) else set()


def count_of(value: Any) -> int:
    """A recorded number as a count; 0 if it is none."""
    number = number_of(value)
    return int(number) if number is not None and 0 <= number < 2**53 else 0


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
