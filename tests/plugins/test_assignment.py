"""Rungs, shares and units: who gets the policy, and that it stays so."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgym import semconv
from agentgym.assignment import assign, limited, point_of
from agentgym.config import Mode
from agentgym.recorder import Turn, active
from agentgym.testing.recording import RecordingGym
from agentgym.trajectory import Assignment, Fallback, Stage, Tool

shares = st.floats(0.0, 1.0)


@pytest.fixture
def staged(tools: tuple[Tool, ...]) -> Callable[..., RecordingGym]:
    """A gym whose policy is certain of `refund_order`, at a stage."""

    def make(
        stage: Stage, agent: str = "agent", *, canary: float = 0.0, control: float = 0.0, **own: Any
    ) -> RecordingGym:
        gym = RecordingGym(agent, **own)
        gym.force(tools, "refund_order", agent, "agent", control_share=control)
        place(gym, stage, canary_share=canary)
        return gym

    return make


def place(gym: RecordingGym, stage: Stage, **changes: Any) -> None:
    """Swaps in the same policies at another stage."""
    current = gym.live.current
    assert current is not None
    gym.live.swap(replace(current, stage=stage, **changes))


def one_turn(gym: RecordingGym, tools: tuple[Tool, ...], **options: Any) -> Turn:
    run = gym.recorder.start_run("agent", framework="test", task="pay me back", **options)
    turn = run.turn(tools)
    turn.finish()
    run.finish()
    return turn


# ---- the rungs


@pytest.mark.parametrize("mode", list(Mode))
def test_a_stage_only_limits(mode: Mode, staged: Callable[..., RecordingGym]) -> None:
    at = {stage: limited(mode, staged(stage).live.current) for stage in Stage}

    assert at[Stage.OBSERVE] is Mode.OBSERVE
    assert at[Stage.SHADOW] is (Mode.OBSERVE if mode is Mode.OBSERVE else Mode.SHADOW)
    assert at[Stage.CANARY] is at[Stage.LIVE] is mode
    assert limited(mode, None) is mode


@pytest.mark.parametrize(
    ("stage", "assignment", "probability", "forced"),
    [
        (Stage.OBSERVE, Assignment.NONE, 1.0, False),
        (Stage.SHADOW, Assignment.SHADOW, 1.0, False),
        (Stage.LIVE, Assignment.POLICY, 0.9, True),
    ],
)
def test_what_a_rung_does(
    stage: Stage,
    assignment: Assignment,
    probability: float,
    forced: bool,
    staged: Callable[..., RecordingGym],
    tools: tuple[Tool, ...],
) -> None:
    gym = staged(stage, control=0.1)

    turn = one_turn(gym, tools, unit="u-1")

    assert point_of("agent", "u-1") < 0.9
    assert (turn.assignment, turn.assignment_probability) == (assignment, probability)
    assert (turn.forced is not None) is forced
    assert gym.sink.steps[0].assignment_probability == probability


def test_at_canary_the_policy_gets_its_share_and_the_rest_is_control(
    staged: Callable[..., RecordingGym], tools: tuple[Tool, ...]
) -> None:
    gym = staged(Stage.CANARY, canary=0.2, control=0.1, control_share=0.5)

    turns = [one_turn(gym, tools) for _ in range(500)]

    drawn = {(t.assignment, t.assignment_probability) for t in turns}
    assert drawn == {(Assignment.POLICY, 0.2), (Assignment.CONTROL, 0.8)}
    assert 0.14 < sum(t.assignment is Assignment.POLICY for t in turns) / 500 < 0.26
    assert all((t.decision is not None) is (t.assignment is Assignment.POLICY) for t in turns)


def test_greedy_runs_get_no_more_than_the_canarys_share(
    staged: Callable[..., RecordingGym], tools: tuple[Tool, ...]
) -> None:
    gym = staged(Stage.CANARY, canary=0.25)

    turns = [one_turn(gym, tools, explore=False) for _ in range(300)]

    drawn = Counter((t.assignment, t.assignment_probability) for t in turns)
    assert set(drawn) == {(Assignment.PINNED, 0.25), (Assignment.CONTROL, 0.75)}
    assert 45 < drawn[Assignment.PINNED, 0.25] < 105


def test_a_trajectory_keeps_the_stage_of_its_root(
    staged: Callable[..., RecordingGym], tools: tuple[Tool, ...]
) -> None:
    gym = staged(Stage.LIVE)
    run = gym.recorder.start_run("agent", framework="test", task="pay me back")

    place(gym, Stage.OBSERVE)

    assert run.turn(tools).forced is tools[1]
    assert one_turn(gym, tools).forced is None


@pytest.mark.parametrize("stage", [Stage.OBSERVE, Stage.SHADOW])
def test_a_nested_agent_stays_below_its_own_rung(
    stage: Stage, staged: Callable[..., RecordingGym], tools: tuple[Tool, ...]
) -> None:
    outer, inner = staged(Stage.LIVE), staged(stage, "billing")
    run = outer.recorder.start_run("agent", framework="test", task="pay me back")

    with active(run):
        nested = inner.recorder.start_run("agent", framework="test", task="pay me back")
        turn = nested.turn(tools)

    assert turn.forced is None
    assert run.turn(tools).forced is tools[1]


def test_a_nested_agent_at_canary_gets_no_more_than_its_share(
    staged: Callable[..., RecordingGym], tools: tuple[Tool, ...]
) -> None:
    outer, inner = staged(Stage.LIVE), staged(Stage.CANARY, "billing", canary=0.1)
    drawn: Counter[tuple[Assignment, float]] = Counter()
    for _ in range(400):
        run = outer.recorder.start_run("agent", framework="test", task="pay me back")
        with active(run):
            nested = inner.recorder.start_run("agent", framework="test", task="pay me back")
        turn = nested.turn(tools)
        drawn[turn.assignment, turn.assignment_probability] += 1
        run.finish()

    assert set(drawn) == {(Assignment.POLICY, 0.1), (Assignment.CONTROL, 0.9)}
    assert 20 <= drawn[Assignment.POLICY, 0.1] <= 64


# ---- units


@given(st.text(), shares, shares)
def test_a_growing_share_takes_the_policy_from_no_unit(unit: str, a: float, b: float) -> None:
    low, high = sorted((a, b))
    point = point_of("agent", unit)

    before, _ = assign(Mode.STEER, point, low, explore=True)
    after, _ = assign(Mode.STEER, point, high, explore=True)

    assert 0.0 <= point < 1.0
    assert not (before is Assignment.POLICY and after is Assignment.CONTROL)


def test_units_are_spread_evenly_and_differ_between_agents() -> None:
    points = [point_of("agent", f"customer-{i}") for i in range(5000)]
    others = [point_of("other", f"customer-{i}") for i in range(5000)]

    assert all(abs(sum(p < s for p in points) / 5000 - s) < 0.03 for s in (0.05, 0.5, 0.95))
    both = sum(p < 0.5 and q < 0.5 for p, q in zip(points, others, strict=True))
    assert abs(both / 5000 - 0.25) < 0.03


def test_a_unit_stands_at_the_same_point_in_every_process() -> None:
    code = "from agentgym.assignment import point_of; print(repr(point_of('agent', 'zoë')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert float(done.stdout) == point_of("agent", "zoë")


def test_a_unit_keeps_its_assignment_and_travels_as_a_pseudonym(
    staged: Callable[..., RecordingGym], tools: tuple[Tool, ...]
) -> None:
    gym = staged(Stage.CANARY, canary=0.5)
    units = [f"customer-{i}" for i in range(40)]

    rounds = [[one_turn(gym, tools, unit=unit).assignment for unit in units] for _ in range(3)]

    assert rounds[0] == rounds[1] == rounds[2]
    assert set(rounds[0]) == {Assignment.POLICY, Assignment.CONTROL}
    roots = [s.attributes for s in gym.sink.spans if semconv.TRAJECTORY_ROOT in s.attributes]
    names = {attributes[semconv.UNIT] for attributes in roots}
    assert len(names) == 40
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in names)
    assert not any("customer" in str(item) for item in gym.sink.items)


def test_without_a_key_nothing_of_the_unit_is_recorded(tools: tuple[Tool, ...]) -> None:
    gym = RecordingGym()

    with gym.trajectory("ticket-1", unit="customer-17"):
        pass

    assert all(semconv.UNIT not in span.attributes for span in gym.sink.spans)
    assert not any("customer-17" in str(item) for item in gym.sink.items)


# ---- kill


@pytest.mark.parametrize("way", ["daemon", "file", "environment"])
def test_a_kill_wins_over_a_run_under_way_and_leaves_its_assignment(
    way: str,
    staged: Callable[..., RecordingGym],
    tools: tuple[Tool, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gym = staged(Stage.LIVE)
    run = gym.recorder.start_run("agent", framework="test", task="pay me back")
    assert run.turn(tools).forced is tools[1]

    if way == "daemon":
        place(gym, Stage.LIVE, killed=True)
    elif way == "file":
        gym.live.halted = True
    else:
        monkeypatch.setenv("AGENTGYM_KILL", "1")

    turn = run.turn(tools)
    assert (turn.fallback, turn.forced) == (Fallback.KILLED, None)
    assert turn.assignment is Assignment.POLICY
    assert one_turn(gym, tools).fallback is Fallback.KILLED
    assert gym.status()["killed"]
