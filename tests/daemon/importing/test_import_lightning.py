"""Agent Lightning's spans as agentlightning/types/tracer.py (0.2, 0.3) dumps them, and over OTLP.

A reward span is named `agentlightning.annotation` and carries `agentlightning.reward.N.name` and
`.value`; before 0.3 it was `agentlightning.reward` with one number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def dumped(
    shapes: Any, number: int, name: str, attributes: dict[str, Any], **more: Any
) -> dict[str, Any]:
    """One span of an attempt."""
    return {
        "rollout_id": "ro-1",
        "attempt_id": "at-1",
        "sequence_id": number,
        "trace_id": f"{number:032x}",
        "span_id": f"{number:016x}",
        "parent_id": None if number == 1 else f"{1:016x}",
        "name": name,
        "status": {"status_code": "OK", "description": None},
        "attributes": attributes,
        "events": [],
        "links": [],
        "start_time": shapes.t0 / 1e9 + number,
        "end_time": shapes.t0 / 1e9 + number + 0.5,
        "context": None,
        "parent": None,
        "resource": {"attributes": {"service.name": "agentlightning"}, "schema_url": ""},
        **more,
    }


def attempt(shapes: Any) -> list[dict[str, Any]]:
    """AgentOps' tracer names tools by `tool.name`, and turns by the older GenAI names."""
    chat = {
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.prompt.0.role": "user",
        "gen_ai.prompt.0.content": "Where is order 7?",
        "gen_ai.completion.0.role": "assistant",
    }
    call = {"gen_ai.completion.0.tool_calls.0.name": "look_up"}
    return [
        dumped(shapes, 1, "clerk.agent", {"agentops.span.kind": "agent", "agent.name": "clerk"}),
        dumped(shapes, 2, "openai.chat.completion", {**chat, **call}),
        dumped(shapes, 3, "look_up.tool", {"agentops.span.kind": "tool", "tool.name": "look_up"}),
        dumped(
            shapes, 4, "openai.chat.completion", {**chat, "gen_ai.completion.0.content": "done"}
        ),
    ]


def rewarded(shapes: Any, number: int, *values: float, **more: Any) -> dict[str, Any]:
    names = ("primary", "style")
    return dumped(
        shapes,
        number,
        "agentlightning.annotation",
        {
            f"agentlightning.reward.{i}.{part}": what
            for i, value in enumerate(values)
            for part, what in (("name", names[i]), ("value", value))
        },
        **more,
    )


def test_an_attempt_is_a_run_whatever_its_traces(
    make: Callable[..., Any], shapes: Any, outline: Any
) -> None:
    plan = make([*attempt(shapes), rewarded(shapes, 5, 1.0)], agent="desk")

    (trajectory,) = plan.trajectories
    seen = outline(trajectory)
    assert seen.steps == [
        ("clerk", ["look_up"], ["look_up"], []),
        ("clerk", ["look_up"], [], [False]),
    ]
    assert seen.rewards == [1.0]
    assert len(trajectory.spans) == 4


def test_the_last_reward_counts_and_its_first_dimension(
    make: Callable[..., Any], shapes: Any, outline: Any
) -> None:
    steps = [*attempt(shapes), rewarded(shapes, 5, 0.0), rewarded(shapes, 6, 1.0, 0.2)]

    plan = make(steps, agent="desk")

    assert outline(plan.trajectories[0]).rewards == [1.0]
    assert plan.problems.counts == {
        "rewards before the last one of their run": 1,
        "scores that are not mapped: left out, not 0": 1,
    }


@pytest.mark.parametrize("value", [2.5, -1.0])
def test_a_reward_outside_of_the_unit_interval_is_left_out_or_mapped(
    make: Callable[..., Any], shapes: Any, outline: Any, value: float
) -> None:
    spans = [*attempt(shapes), rewarded(shapes, 5, value)]

    plan = make(spans, agent="desk")
    mapped = make(spans, agent="desk", rewards=["primary=-1:2.5"])

    assert outline(plan.trajectories[0]).rewards == []
    assert f"'primary' goes from {value:g}" in next(iter(plan.problems.examples.values()))
    assert outline(mapped.trajectories[0]).rewards == [float(value > 0)]


def test_a_reward_without_times_and_the_form_before_0_3(
    make: Callable[..., Any], shapes: Any, outline: Any
) -> None:
    old = dumped(
        shapes, 5, "agentlightning.reward", {"reward": 0.5}, start_time=None, end_time=None
    )

    plan = make([*attempt(shapes), old], agent="desk")

    assert outline(plan.trajectories[0]).rewards == [0.5]
    assert plan.trajectories[0].rewards[0].time_ns == 0


def test_over_otlp_the_resource_names_the_attempt(
    make: Callable[..., Any], shapes: Any, outline: Any
) -> None:
    labels = {"agentlightning.rollout_id": "ro-1", "agentlightning.attempt_id": "at-1"}
    run = shapes.run(shapes.good, task="Where is order 7?", tool="look_up")
    reward = shapes.span(
        shapes.bad, 7, "agentlightning.annotation", {"agentlightning.reward.0.value": 1.0}
    )

    one = make(shapes.line(run, **labels) + "\n" + shapes.line([reward], **labels))
    linked = {"agentlightning.link.0.key_match": "trace_id"}
    linked |= {"agentlightning.link.0.value_match": shapes.good}
    values = {"agentlightning.reward.0.value": 0.0, **linked}
    two = make(shapes.line([*run, shapes.span(shapes.bad, 7, "agentlightning.annotation", values)]))

    assert [outline(t).rewards for t in one.trajectories] == [[1.0]]
    assert [outline(t).rewards for t in two.trajectories] == [[0.0]]


def test_a_failed_tool_and_rewards_in_the_order_of_their_sequence(
    make: Callable[..., Any], shapes: Any, outline: Any
) -> None:
    agent, first, tool, last = attempt(shapes)
    failed = {**tool, "status": {"status_code": "ERROR", "description": "no such order"}}
    untimed = {"start_time": None, "end_time": None}
    rewards = [rewarded(shapes, 6, 1.0, **untimed), rewarded(shapes, 5, 0.0, **untimed)]

    plan = make([agent, first, failed, last, *rewards], agent="desk")

    assert outline(plan.trajectories[0]).calls == [("look_up", "error")]
    assert outline(plan.trajectories[0]).rewards == [1.0]
    assert "no such order" not in repr(plan.trajectories)
