"""Settings of the daemon: precedence, and messages that say what to do."""

from __future__ import annotations

import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from agentgym_daemon.config import FILE_NAME, SETTINGS, DaemonConfig, resolve
from agentgym_daemon.errors import ConfigError


def test_every_setting_is_a_field_with_help_and_an_environment_variable() -> None:
    assert [setting.name for setting in SETTINGS] == [field.name for field in fields(DaemonConfig)]
    for setting in SETTINGS:
        assert setting.help.endswith(".")
        assert re.fullmatch(r"AGENTGYM_[A-Z_]+", setting.env)


def test_an_argument_wins_over_environment_file_and_default(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("top_k = 3\nseed = 3\nsegment_bytes = 5000\n")
    environ = {"AGENTGYM_HOME": str(tmp_path), "AGENTGYM_DAEMON_TOP_K": "2"}

    config = resolve({"top_k": 1}, environ)

    assert config.top_k == 1
    assert resolve({}, environ).top_k == 2
    assert config.seed == 3
    assert config.segment_bytes == 5000
    assert config.control_share == 0.10


def test_the_default_directory_follows_xdg_state_home(tmp_path: Path) -> None:
    assert resolve({}, {"XDG_STATE_HOME": str(tmp_path)}).home == tmp_path / "agentgym"
    assert resolve({}, {}).home == Path.home() / ".local" / "state" / "agentgym"


def test_a_default_reward_can_be_switched_off_by_word(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("default_reward = 0.5\n")

    assert resolve({"home": tmp_path}, {}).default_reward == 0.5
    assert resolve({"home": tmp_path, "default_reward": "off"}, {}).default_reward is None


@pytest.mark.parametrize("listen", ["127.0.0.1:4319", "localhost:0", "[::1]:4319"])
def test_loopback_addresses_may_be_listened_on(tmp_path: Path, listen: str) -> None:
    assert resolve({"home": tmp_path, "listen": listen}, {}).listen == listen


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("listen", "0.0.0.0:4319", "expected a loopback host"),
        ("listen", "4319", "expected HOST:PORT"),
        ("listen", "127.0.0.1:70000", "expected HOST:PORT"),
        ("control_share", "1.5", "expected a number from 0 to 1"),
        ("control_share", "nan", "expected a number from 0 to 1"),
        ("control_share", "much", "expected a number from 0 to 1"),
        ("temperature", "0", "expected a number above 0"),
        ("retrain_minutes", "inf", "expected a number above 0"),
        ("defer_floor", "0.01", "expected a number from 0.02 to 1"),
        ("top_k", "0", "expected a whole number of at least 1"),
        ("top_k", "2.5", "expected a whole number of at least 1"),
        ("default_reward", "2", "expected a number from 0 to 1"),
        ("reward_aggregation", "max", "expected one of last, mean, median, min"),
        ("encoder", "bert", "expected one of none, default, minilm"),
    ],
)
def test_a_bad_value_names_the_setting_and_what_is_expected(
    tmp_path: Path, name: str, value: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"argument {name}: got '{value}'")) as caught:
        resolve({"home": tmp_path, name: value}, {})

    assert message in str(caught.value)


def test_a_bad_environment_variable_is_named(tmp_path: Path) -> None:
    environ = {"AGENTGYM_HOME": str(tmp_path), "AGENTGYM_DAEMON_SEED": "x"}

    with pytest.raises(ConfigError, match="AGENTGYM_DAEMON_SEED: got 'x'"):
        resolve({}, environ)


def test_the_encoder_is_a_setting_like_any_other(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("encoder = 'minilm'\nencoder_dir = '/models'\n")

    config = resolve({"home": tmp_path}, {})

    assert (config.encoder, config.encoder_dir) == ("minilm", Path("/models"))
    assert resolve({}, {}).encoder == "default"
    assert resolve({}, {"AGENTGYM_DAEMON_ENCODER": "none"}).encoder == "none"


def test_floors_must_leave_room_for_the_policy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"floor \+ defer_floor"):
        resolve({"home": tmp_path, "floor": 0.6, "defer_floor": 0.6}, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("top_k = ", "expected TOML"),
        ("topk = 5\n", "unknown setting 'topk'"),
        ("home = '/x'\n", "unknown setting 'home'"),
        ("top_k = 'many'\n", "daemon.toml: top_k: got 'many'"),
    ],
)
def test_a_bad_file_says_where_and_what(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)

    with pytest.raises(ConfigError, match=re.escape(message)):
        resolve({"home": tmp_path}, {})


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()

    with pytest.raises(ConfigError, match="cannot be read"):
        resolve({"home": tmp_path}, {})


def test_an_unknown_argument_lists_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="unknown setting 'colour'"):
        resolve({"colour": "red"}, {})


def test_the_second_engine_needs_its_interpreter(tmp_path: Path) -> None:
    chosen = {"home": tmp_path, "engine": "lightning"}

    config = resolve({**chosen, "engine_python": sys.executable}, {})

    assert str(config.engine_python) == sys.executable
    with pytest.raises(ConfigError, match="expected both for lightning"):
        resolve(chosen, {})
    with pytest.raises(ConfigError, match="neither for torch"):
        resolve({"home": tmp_path, "engine_python": sys.executable}, {})
    with pytest.raises(ConfigError, match="expected one of torch, lightning"):
        resolve({"home": tmp_path, "engine": "verl"}, {})
    with pytest.raises(ConfigError, match="expected the path of a program"):
        resolve({**chosen, "engine_python": tmp_path}, {})
