"""Settings: argument, then environment, then default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentgym.config import CAPTURE_ENV, SETTINGS, Mode, resolve
from agentgym.errors import ConfigError


def test_defaults_hold_where_nothing_is_said() -> None:
    config = resolve({}, {"XDG_STATE_HOME": "/state"})

    assert config.agent == "agent"
    assert config.mode is Mode.STEER
    assert config.home == Path("/state/agentgym")
    assert config.endpoint == "unix:/state/agentgym/daemon.sock"
    assert config.token_file == Path("/state/agentgym/token")
    assert config.explore
    assert not any((config.disabled, config.block_hidden, config.capture_content))


def test_an_argument_beats_the_environment_which_beats_the_default() -> None:
    environ = {"AGENTGYM_AGENT": "from-environment", "AGENTGYM_MODE": "shadow"}

    config = resolve({"agent": "from-argument", "mode": None}, environ)

    assert config.agent == "from-argument"
    assert config.mode is Mode.SHADOW


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
def test_every_setting_can_come_from_the_environment(setting: Any) -> None:
    samples = {
        "mode": "advise",
        "home": "/somewhere",
        "disabled": "yes",
        "explore": "off",
        "control_share": "0.25",
        "protected": "a, b",
        "features": "off",
        "encoder_wait_s": "0.5",
        "stale_after_s": "7.5",
        "buffer_bytes": "65536",
        "spool": "off",
        "spool_bytes": "65536",
        "exit_timeout_s": "0",
        "seed": "3",
        "block_hidden": "1",
        "hint_text": "true",
        "max_forced": "4",
        "capture_content": "on",
    }
    text = samples.get(setting.name, "/text")

    value = getattr(resolve({}, {setting.env: text}), setting.name)

    assert value == setting.parse(text)


def test_an_empty_variable_counts_as_not_set() -> None:
    assert resolve({}, {"AGENTGYM_AGENT": "", "AGENTGYM_EXPLORE": ""}).explore


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", "drive"),
        ("explore", "perhaps"),
        ("control_share", "1.5"),
        ("stale_after_s", "0"),
        ("stale_after_s", "inf"),
        ("buffer_bytes", "10"),
        ("spool_bytes", "10"),
        ("encoder_wait_s", "-1"),
        ("exit_timeout_s", "-1"),
        ("exit_timeout_s", "nan"),
        ("features", "some"),
        ("seed", "x"),
    ],
)
def test_a_wrong_value_names_setting_place_and_expectation(name: str, value: str) -> None:
    env = next(s.env for s in SETTINGS if s.name == name)

    with pytest.raises(ConfigError, match=env) as failure:
        resolve({}, {env: value})

    assert repr(value) in str(failure.value)
    with pytest.raises(ConfigError, match=f"argument {name}"):
        resolve({name: value}, {})


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown setting 'colour'"):
        resolve({"colour": "red"}, {})


def test_an_agent_needs_a_name() -> None:
    with pytest.raises(ConfigError, match="expected a name"):
        resolve({"agent": ""}, {})


def test_without_features_nothing_but_observing_is_left() -> None:
    assert resolve({"features": "off", "mode": "steer"}, {}).mode is Mode.OBSERVE


@pytest.mark.parametrize(
    ("value", "captured"),
    [("true", True), ("span_only", True), ("no_content", False), ("", False), ("huh", False)],
)
def test_the_otel_switch_captures_content_unless_ours_says_otherwise(
    value: str, captured: bool
) -> None:
    environ = {CAPTURE_ENV: value}

    assert resolve({}, environ).capture_content is captured
    assert resolve({"capture_content": False}, environ).capture_content is False


def test_a_list_of_protected_tools_is_taken_as_it_is() -> None:
    assert resolve({"protected": ["a", "b"]}, {}).protected == ("a", "b")


def test_a_user_without_a_home_directory_still_gets_a_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_home(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)

    assert resolve({}, {}).home.name == "agentgym"
