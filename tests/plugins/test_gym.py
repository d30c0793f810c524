"""The public face: what it accepts, and that it stays out of the way."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from agentgym import AgentGym
from agentgym.errors import ConfigError, UnsupportedError
from agentgym.testing.recording import RecordingGym
from agentgym.trajectory import Tool


def test_construction_does_no_io(home: Path) -> None:
    before = threading.active_count()

    gym = AgentGym("desk", home=home / "not there", endpoint="203.0.113.1:1")

    assert threading.active_count() == before
    assert not (home / "not there").exists()
    assert gym.status()["counters"] == {}
    assert gym.on


def test_a_wrong_setting_is_said_at_once() -> None:
    with pytest.raises(ConfigError, match="argument mode"):
        AgentGym("desk", mode="fly")


def test_what_no_integration_knows_is_refused() -> None:
    gym = AgentGym("desk")

    for take in (gym.wrap, gym.attach):
        with pytest.raises(UnsupportedError, match="expected a LangChain, AutoGen or CrewAI"):
            take(object())


def test_switched_off_everything_is_a_no_op(home: Path, tools: tuple[Tool, ...]) -> None:
    gym = AgentGym("desk", disabled=True, home=home)
    thing = object()

    assert gym.wrap(thing) is thing
    assert gym.attach(thing) is thing
    with gym.trajectory() as run:
        run.turn(tools).finish()
    gym.reward(7.0)

    assert not gym.on
    assert not gym.ready(0.0)
    assert gym.flush(0.0)
    assert gym.status()["counters"] == {}
    gym.close()


def test_an_error_inside_a_trajectory_is_the_users_and_is_recorded() -> None:
    gym = RecordingGym()

    with pytest.raises(KeyError), gym.trajectory(name="checkout"):
        raise KeyError("mine")

    [span] = gym.sink.spans
    assert span.name == "invoke_workflow checkout"
    assert span.error == "KeyError"


def test_a_failure_of_ours_at_the_end_of_a_trajectory_stays_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gym = RecordingGym()
    gym.guard.strict = False

    def broken(_: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(gym.sink, "put", broken)
    with gym.trajectory():
        answer = 42
    with pytest.raises(ZeroDivisionError), gym.trajectory():
        raise ZeroDivisionError

    assert answer == 42
    assert gym.guard.errors == {"trajectory": 2}


def test_a_failure_of_ours_in_a_reward_is_counted_as_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    gym = RecordingGym()
    gym.guard.strict = False

    def broken(_: object) -> None:
        raise OSError("ours")

    monkeypatch.setattr(gym.sink, "put", broken)

    gym.reward(1.0, key="k")

    assert gym.guard.errors == {"reward": 1}


def test_an_open_breaker_switches_off() -> None:
    gym = RecordingGym()

    gym.guard.open = True

    assert not gym.on
    assert gym.status()["on"] is False
