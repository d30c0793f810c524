"""Exports with junk in any place: imported without it, or refused by name; never a stack trace."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from agentgym import encode
from agentgym_daemon.importing.model import ImportFileError

JUNK: tuple[Any, ...] = (
    *(None, True, 0, -1, 1e400, 2**70, "", "x", "[", "{}", '[{"role": 1}]', "\ud800", [], {}),
    *([None], [[]], {"0": 1}, {"name": None}, {"message": {"role": "tool"}}, [{"function": 3}]),
)
ROUNDS = 200


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) below a value."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


def langfuse(shapes: Any) -> list[Any]:
    turn = {
        "type": "GENERATION",
        "startTime": shapes.iso(1),
        "input": {"tools": shapes.tools, "messages": [{"role": "user", "content": "Where?"}]},
        "usageDetails": {"input": 1},
        "toolDefinitions": {"refund": '{"description": "Pays."}'},
    }
    call = {"id": "c", "function": {"name": "refund"}}
    return [
        {
            "id": "t",
            "timestamp": shapes.iso(0),
            "observations": [
                {**turn, "id": "1", "output": {"role": "assistant", "tool_calls": [call]}},
                {"id": "2", "type": "TOOL", "name": "refund", "startTime": shapes.iso(2)},
            ],
            "scores": [{"id": "s", "name": "success", "value": 1, "dataType": "BOOLEAN"}],
        }
    ]


def phoenix(shapes: Any) -> list[Any]:
    tool = {"tool.json_schema": json.dumps(shapes.tools[0])}
    call = {"tool_call.function.name": "look_up"}
    return [
        {
            "name": "chat",
            "span_kind": "LLM",
            "context.trace_id": shapes.good,
            "context.span_id": "01" * 8,
            "parent_id": None,
            "start_time": shapes.iso(0),
            "end_time": 1_700_000_001_000,
            "attributes.llm.tools": [tool],
            "attributes.llm.input_messages": [{"message.role": "user", "message.content": "Hi"}],
            "attributes.llm.output_messages": [
                {"message.role": "assistant", "message.tool_calls": [call]}
            ],
            "eval.success.score": 1.0,
        }
    ]


def lightning(shapes: Any) -> list[Any]:
    span = {
        "rollout_id": "r",
        "attempt_id": "a",
        "sequence_id": 1,
        "span_id": "1",
        "name": "openai.chat.completion",
        "status": {"status_code": "ERROR"},
        "attributes": {
            "gen_ai.completion.0.role": "assistant",
            "gen_ai.completion.0.tool_calls.0.name": "refund",
            "gen_ai.prompt.0.role": "user",
            "gen_ai.prompt.0.content": "Where?",
        },
        "events": [{"name": "exception", "attributes": {"exception.type": "E"}}],
        "start_time": 1.7e9,
        "resource": {"attributes": {"service.name": "x"}},
    }
    reward = {"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": 1.0}
    annotation = {**span, "span_id": "2", "name": "agentlightning.annotation"}
    return [span, {**annotation, "attributes": reward}]


SAMPLES: dict[str, Callable[[Any], Any]] = {
    "otlp": lambda shapes: [json.loads(line) for line in shapes.both().splitlines()],
    "langfuse": langfuse,
    "phoenix": phoenix,
    "agentlightning": lightning,
}


@pytest.mark.parametrize("name", SAMPLES)
def test_junk_in_any_place(make: Callable[..., Any], shapes: Any, name: str) -> None:
    rng = random.Random(f"junk {name}")
    sample = SAMPLES[name](shapes)
    whole = make(json.dumps(sample), format=name, agent="desk")
    sound = 0
    for _ in range(ROUNDS):
        broken = copy.deepcopy(sample)
        for _ in range(rng.choice((1, 1, 3))):
            container, key = rng.choice(list(places(broken)))
            container[key] = copy.deepcopy(rng.choice(JUNK))
        with suppress(ImportFileError):
            plan = make(json.dumps(broken), format=name, agent="desk")
            for trajectory in plan.trajectories:
                sound += 1
                for span in trajectory.spans:
                    assert encode.span_entry(span)
                    assert 0 < span.start_ns < span.end_ns < 2**63
                for step in trajectory.steps:
                    assert all(isinstance(called, str) for called in step.called)
                for reward in trajectory.rewards:
                    assert 0.0 <= reward.value <= 1.0

    assert len(whole.trajectories) >= 1
    assert whole.trajectories[0].steps
    assert sound > ROUNDS / 4
