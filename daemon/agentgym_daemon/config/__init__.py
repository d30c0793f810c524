"""Settings of the daemon: argument, then environment, then daemon.toml, then default.

Declared once, in `table`. The file is $AGENTGYM_HOME/daemon.toml, one `name = value` per setting.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from agentgym_daemon.config.parsers import shares
from agentgym_daemon.config.table import SETTINGS, STAGES, Aggregation, Engine, Setting
from agentgym_daemon.errors import ConfigError

__all__ = [
    "FILE_NAME",
    "RELOADABLE",
    "SETTINGS",
    "STAGES",
    "Aggregation",
    "DaemonConfig",
    "Engine",
    "Setting",
    "changed",
    "reloaded",
    "resolve",
    "shares",
]

FILE_NAME = "daemon.toml"


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """All settings of one daemon, resolved and checked."""

    home: Path
    listen: str | None
    control_share: float
    stage: str
    canary_share: float
    temperature: float
    floor: float
    defer_floor: float
    top_k: int
    stale_after_s: int
    encoder: str
    encoder_dir: Path | None
    learning: str
    retrain_trajectories: int
    retrain_minutes: float
    default_reward: float | None
    default_reward_after_s: float
    reward_aggregation: Aggregation
    reward_weights: str
    reward_hold_s: float
    source_cap: float
    source_caps: str
    cost_weights: str
    reward_rules: str
    reward_function: str
    reward_function_timeout_s: float
    judge_url: str
    judge_model: str
    judge_key_file: Path | None
    judge_key_env: str
    judge_prompt_file: Path | None
    judge_share: float
    judge_calls_per_day: int
    judge_timeout_s: float
    watch: str
    alert_webhook: str
    idle_ttl_s: float
    engine: str
    engine_python: Path | None
    trainer_timeout_s: float
    trainer_memory_bytes: int
    trainer_nice: int
    segment_bytes: int
    retention_days: float
    min_free_bytes: int
    max_backlog_bytes: int
    quota_bytes_per_s: float
    metrics: str | None
    seed: int


RELOADABLE = frozenset(
    (
        "control_share",
        "stage",
        "canary_share",
        "temperature",
        "floor",
        "defer_floor",
        "top_k",
        "stale_after_s",
        "retrain_trajectories",
        "retrain_minutes",
        "learning",
        "seed",
        "default_reward",
        "default_reward_after_s",
        "reward_hold_s",
        "source_cap",
        "source_caps",
        "cost_weights",
        "watch",
        "idle_ttl_s",
        "retention_days",
        "min_free_bytes",
        "max_backlog_bytes",
        "quota_bytes_per_s",
    )
)
"""Settings that a running daemon takes up; the others need a restart."""


def changed(old: DaemonConfig, new: DaemonConfig) -> list[str]:
    """Names of the settings that differ, in the order of the table."""
    return [s.name for s in SETTINGS if getattr(old, s.name) != getattr(new, s.name)]


def reloaded(old: DaemonConfig, new: DaemonConfig) -> DaemonConfig:
    """The old settings with what a running daemon takes up of the new ones."""
    return replace(old, **{name: getattr(new, name) for name in RELOADABLE})


def resolve(arguments: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> DaemonConfig:
    """The configuration from arguments (None = not given), environment, file and defaults.

    Raises ConfigError naming the setting, where its value came from and what was expected.
    """
    environ = os.environ if environ is None else environ
    known = {setting.name for setting in SETTINGS}
    _refuse_unknown(arguments, known, "argument")
    home = Path(_value(SETTINGS[0], arguments.get("home"), environ, {}) or _default_home(environ))
    home = home.expanduser().absolute()
    file = _read_file(home / FILE_NAME)
    _refuse_unknown(file, known - {"home"}, str(home / FILE_NAME))
    values = {
        setting.name: _value(setting, arguments.get(setting.name), environ, file)
        for setting in SETTINGS
    }
    values["home"] = home
    config = DaemonConfig(**{field.name: values[field.name] for field in fields(DaemonConfig)})
    if config.floor + config.defer_floor > 1.0:
        raise ConfigError(
            f"floor + defer_floor: expected at most 1, got {config.floor} + {config.defer_floor}"
        )
    if (config.engine == "lightning") != (config.engine_python is not None):
        raise ConfigError(
            f"engine and engine_python: expected both for lightning and neither for torch, got "
            f"engine {config.engine!r} and engine_python {_or_none(config.engine_python)}"
        )
    return config


def _or_none(path: Path | None) -> str:
    return "none" if path is None else repr(str(path))


def _default_home(environ: Mapping[str, str]) -> Path:
    state = environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "agentgym"


def _refuse_unknown(given: Mapping[str, Any], known: set[str], place: str) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        raise ConfigError(f"{place}: unknown setting {unknown[0]!r}; known: {sorted(known)}")


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); check its permissions"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected TOML such as 'top_k = 5'; {error}") from error


def _value(
    setting: Setting, argument: Any, environ: Mapping[str, str], file: Mapping[str, Any]
) -> Any:
    if argument is not None:
        raw, place = argument, f"argument {setting.name}"
    elif environ.get(setting.env):
        raw, place = environ[setting.env], setting.env
    elif setting.name in file:
        raw, place = file[setting.name], f"{FILE_NAME}: {setting.name}"
    else:
        return setting.default
    try:
        return setting.parse(_text(raw))
    except ValueError as error:
        raise ConfigError(f"{place}: got {raw!r}; {error}. {setting.help}") from error


def _text(raw: Any) -> str:
    """A value as the command line and the environment would give it."""
    match raw:
        case dict():
            return ",".join(f"{name}={value}" for name, value in raw.items())
        case list():
            return json.dumps(raw)
    return str(raw)
