"""Past runs in the shapes of the tools that recorded them, written by hand after their documents.

The same two runs each time, of an agent that offers three tools: one finds an order by the right
tool and answers; one calls a wrong tool, which fails, and gives up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentgym_daemon.importing import files, plan
from agentgym_daemon.importing.judging import parse
from agentgym_daemon.importing.model import Loaded

T0 = 1_700_000_000_000_000_000
"""Unix nanoseconds at which the first run begins."""
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {"query": {"type": "string"}},
                "required": ["query"],
            },
        },
    }
    for name, description in (
        ("look_up", "Looks an order up."),
        ("refund", "Pays money back."),
        ("escalate", "Hands an order to a person."),
    )
]
GOOD, BAD = "a1" * 16, "b2" * 16
"""Trace ids of the two runs."""


def iso(offset_s: float) -> str:
    """A time of the first run, as ISO 8601."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(T0 / 1e9 + offset_s, UTC).isoformat().replace("+00:00", "Z")


def key_values(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    """Attributes as OTLP JSON: integers travel as strings."""

    def value(item: Any) -> dict[str, Any]:
        match item:
            case bool():
                return {"boolValue": item}
            case int():
                return {"intValue": str(item)}
            case float():
                return {"doubleValue": item}
            case list():
                return {"arrayValue": {"values": [value(one) for one in item]}}
        return {"stringValue": str(item)}

    return [{"key": name, "value": value(item)} for name, item in attributes.items()]


def otlp_span(
    trace: str, number: int, name: str, attributes: dict[str, Any], **more: Any
) -> dict[str, Any]:
    """A span as the Collector's file exporter writes it, a second after the one before."""
    start = T0 + number * 10**9
    span = {
        "traceId": trace,
        "spanId": f"{trace[:2]}{number:014x}",
        "parentSpanId": f"{trace[:2]}{1:014x}" if number > 1 else "",
        "name": name,
        "kind": 1,
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(start + 5 * 10**8),
        "attributes": key_values(attributes),
        "status": {},
    }
    return {**span, **more}


def otlp_line(spans: Sequence[dict[str, Any]], service: str = "desk", **labels: str) -> str:
    """One line of the Collector's file."""
    resource = key_values({"service.name": service, **labels}) if service else []
    group = {
        "resource": {"attributes": resource},
        "scopeSpans": [{"scope": {"name": "test"}, "spans": list(spans)}],
    }
    return json.dumps({"resourceSpans": [group]})


def genai_run(trace: str, *, task: str, tool: str, failed: bool = False) -> list[dict[str, Any]]:
    """A run by the GenAI conventions: agent, turn, call, turn."""

    def messages(role: str, *parts: dict[str, Any]) -> str:
        return json.dumps([{"role": role, "parts": list(parts)}])

    definitions = json.dumps([one["function"] | {"type": "function"} for one in TOOLS])
    asked = {"type": "tool_call", "id": "call_1", "name": tool, "arguments": {"query": "7"}}
    chat = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.tool.definitions": definitions,
        "gen_ai.input.messages": messages("user", {"type": "text", "content": task}),
    }
    said = messages("assistant", {"type": "text", "content": "done"})
    error = {"error.type": "TimeoutError"} if failed else {}
    return [
        otlp_span(
            trace,
            1,
            "invoke_agent clerk",
            {
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.agent.name": "Clerk",
                "gen_ai.conversation.id": f"ticket-{trace[0]}",
            },
            endTimeUnixNano=str(T0 + 6 * 10**9),
        ),
        otlp_span(
            trace,
            2,
            "chat gpt-4o",
            {**chat, "gen_ai.output.messages": messages("assistant", asked)},
        ),
        otlp_span(
            trace,
            3,
            f"execute_tool {tool}",
            {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": tool,
                "gen_ai.tool.call.id": "call_1",
                **error,
            },
            status={"code": 2} if failed else {},
        ),
        otlp_span(trace, 4, "chat gpt-4o", {**chat, "gen_ai.output.messages": said}),
    ]


def with_evaluation(
    spans: list[dict[str, Any]], value: float, name: str = "task_success"
) -> list[dict[str, Any]]:
    """The run with an evaluation event on its root."""
    event = {
        "name": "gen_ai.evaluation.result",
        "timeUnixNano": str(T0 + 9 * 10**9),
        "attributes": key_values(
            {"gen_ai.evaluation.name": name, "gen_ai.evaluation.score.value": value}
        ),
    }
    return [{**spans[0], "events": [event]}, *spans[1:]]


def otlp_file() -> str:
    """Both runs, judged, as JSON lines."""
    good = with_evaluation(genai_run(GOOD, task="Where is order 7?", tool="look_up"), 1.0)
    bad = genai_run(BAD, task="Give me my money back", tool="look_up", failed=True)
    return otlp_line(good) + "\n" + otlp_line(with_evaluation(bad, 0.0)) + "\n"


class Shapes:
    """The builders, handed to tests as one thing."""

    t0, tools, good, bad = T0, TOOLS, GOOD, BAD
    iso = staticmethod(iso)
    span = staticmethod(otlp_span)
    line = staticmethod(otlp_line)
    run = staticmethod(genai_run)
    judged = staticmethod(with_evaluation)
    both = staticmethod(otlp_file)


@pytest.fixture
def shapes() -> type[Shapes]:
    """Builders of past runs as OTLP JSON."""
    return Shapes


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Loaded]:
    """Reads texts as files, all together."""

    def load(*texts: Any, format: str = "auto") -> Loaded:
        parts = []
        for number, text in enumerate(texts):
            path = tmp_path / f"traces-{number}.json"
            path.write_text(text if isinstance(text, str) else json.dumps(text))
            parts.append(files.read(path, format).loaded)
        return Loaded.of(parts)

    return load


@pytest.fixture
def make(read: Callable[..., Loaded]) -> Callable[..., plan.Plan]:
    """What importing texts would do."""

    def planned(
        *texts: Any, rewards: Sequence[str] = (), format: str = "auto", **options: Any
    ) -> plan.Plan:
        mappings = tuple(map(parse, rewards))
        return plan.make(read(*texts, format=format), plan.Options(mappings=mappings, **options))

    return planned


class Outline:
    """A past trajectory in few words."""

    def __init__(self, trajectory: Any) -> None:
        self.trajectory = trajectory
        self.rewards = [reward.value for reward in trajectory.rewards]
        self.steps = [
            (
                step.agent_name,
                [tool.name for tool in step.offered],
                list(step.called),
                [past.error for past in step.history],
            )
            for step in trajectory.steps
        ]
        self.calls = [
            (span.name.removeprefix("execute_tool "), span.error)
            for span in trajectory.spans
            if span.name.startswith("execute_tool")
        ]
        self.tasks = [task.text for task in trajectory.tasks]


@pytest.fixture
def outline() -> type[Outline]:
    """Puts a trajectory in few words."""
    return Outline
