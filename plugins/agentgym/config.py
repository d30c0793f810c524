"""Settings of the plugin: argument, then environment, then default; declared once, here."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from agentgym.errors import ConfigError

CAPTURE_ENV = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""The OTel GenAI switch for prompts, arguments and results."""


_LEAST_BUFFER = 2**16


class Mode(StrEnum):
    """What AgentGym may do to the agent."""

    OBSERVE = "observe"
    SHADOW = "shadow"
    ADVISE = "advise"
    STEER = "steer"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its field in `Config`, environment variable, parser, default and help."""

    name: str
    env: str
    parse: Callable[[str], Any]
    default: Any
    help: str


def _bool(text: str) -> bool:
    match text.strip().lower():
        case "1" | "true" | "yes" | "on":
            return True
        case "" | "0" | "false" | "no" | "off":
            return False
    raise ValueError("expected 1, true, yes, on or 0, false, no, off")


def _capture(text: str) -> bool:
    # Both generations of the OTel switch; an unknown word means no content.
    return text.strip().lower() in {"true", "span_only", "event_only", "span_and_event"}


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _probability(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise ValueError("expected a number between 0 and 1")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise ValueError("expected a positive number")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.0 <= value < float("inf"):
        raise ValueError("expected 0 or a positive number")
    return value


def _bytes(text: str) -> int:
    value = int(text)
    if value < _LEAST_BUFFER:
        raise ValueError(f"expected at least {_LEAST_BUFFER}")
    return value


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError("expected a whole number of at least 1")
    return value


def _features(text: str) -> str:
    if text not in ("on", "off"):
        raise ValueError("expected 'on' or 'off'")
    return text


def _default_home(environ: Mapping[str, str]) -> Path:
    # "~" is expanded later, without failing where there is no home directory.
    return Path(environ.get("XDG_STATE_HOME") or "~/.local/state") / "agentgym"


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # no home directory
        return path


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "agent", "AGENTGYM_AGENT", str, "agent", "Name under which the agent's policy is kept."
    ),
    Setting("mode", "AGENTGYM_MODE", Mode, Mode.STEER, "observe, shadow, advise or steer."),
    Setting(
        "home",
        "AGENTGYM_HOME",
        Path,
        None,
        "Directory shared with the daemon; default $XDG_STATE_HOME/agentgym.",
    ),
    Setting(
        "endpoint",
        "AGENTGYM_ENDPOINT",
        str,
        None,
        "The daemon's address, unix:PATH or HOST:PORT; default unix:$AGENTGYM_HOME/daemon.sock.",
    ),
    Setting(
        "token_file",
        "AGENTGYM_TOKEN_FILE",
        Path,
        None,
        "File with the bearer token; default $AGENTGYM_HOME/token.",
    ),
    Setting(
        "trusted_key_file",
        "AGENTGYM_TRUSTED_KEY_FILE",
        Path,
        None,
        "File with the public keys whose policies are taken; default $AGENTGYM_HOME/signing.pub.",
    ),
    Setting(
        "disabled",
        "AGENTGYM_DISABLED",
        _bool,
        False,
        "Switches AgentGym off: the agent runs as if it were not there.",
    ),
    Setting(
        "explore",
        "AGENTGYM_EXPLORE",
        _bool,
        True,
        "Sample arms; off takes the best arm and marks the trajectory pinned.",
    ),
    Setting(
        "control_share",
        "AGENTGYM_CONTROL_SHARE",
        _probability,
        None,
        "Share of trajectories that run without the policy; default: the daemon's.",
    ),
    Setting(
        "protected",
        "AGENTGYM_PROTECTED",
        _names,
        (),
        "Comma-separated tools that are never forced and never explored.",
    ),
    Setting(
        "block_hidden",
        "AGENTGYM_BLOCK_HIDDEN",
        _bool,
        False,
        "Veto calls of tools that were not shown (advise) or not forced (steer).",
    ),
    Setting(
        "hint_text",
        "AGENTGYM_HINT_TEXT",
        _bool,
        False,
        "Give text agents a hint in their prompt; they take no forced tool.",
    ),
    Setting(
        "max_forced",
        "AGENTGYM_MAX_FORCED",
        _at_least_one,
        10,
        "Forced steps per agent run, after which the agent is left alone.",
    ),
    Setting(
        "features",
        "AGENTGYM_FEATURES",
        _features,
        "on",
        "'off' records no task features, which means observe only.",
    ),
    Setting(
        "encoder_wait_s",
        "AGENTGYM_ENCODER_WAIT_S",
        _seconds,
        0.03,
        "Longest time that a step waits for the features of its texts; then it is not decided.",
    ),
    Setting(
        "capture_content",
        "AGENTGYM_CAPTURE_CONTENT",
        _bool,
        None,
        f"Record prompts, arguments and results; default: {CAPTURE_ENV}, else off.",
    ),
    Setting(
        "stale_after_s",
        "AGENTGYM_STALE_AFTER_S",
        _positive,
        None,
        "Seconds without contact after which a policy is not used; default: the daemon's (24 h).",
    ),
    Setting(
        "buffer_bytes",
        "AGENTGYM_BUFFER_BYTES",
        _bytes,
        8 * 2**20,
        "Memory for what is not sent yet and cannot be spooled; whole oldest trajectories are "
        "dropped above it.",
    ),
    Setting(
        "spool",
        "AGENTGYM_SPOOL",
        _bool,
        True,
        "Keep what cannot be sent in files below $AGENTGYM_HOME/spool until the daemon takes it.",
    ),
    Setting(
        "spool_bytes",
        "AGENTGYM_SPOOL_BYTES",
        _bytes,
        256 * 2**20,
        "Largest size of this process's spool; whole oldest trajectories are dropped above it.",
    ),
    Setting(
        "exit_timeout_s",
        "AGENTGYM_EXIT_TIMEOUT_S",
        _seconds,
        0.5,
        "Longest time that sending may delay the exit of the process; 0 = none.",
    ),
    Setting(
        "seed",
        "AGENTGYM_SEED",
        int,
        None,
        "Seed of assignment and sampling, for repeatable experiments; default: random.",
    ),
)


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of one `AgentGym`, resolved and checked."""

    agent: str
    mode: Mode
    home: Path
    endpoint: str
    token_file: Path
    trusted_key_file: Path
    disabled: bool
    explore: bool
    control_share: float | None
    protected: tuple[str, ...]
    block_hidden: bool
    hint_text: bool
    max_forced: int
    features: str
    encoder_wait_s: float
    capture_content: bool
    stale_after_s: float | None
    buffer_bytes: int
    spool: bool
    spool_bytes: int
    exit_timeout_s: float
    seed: int | None


def resolve(arguments: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Config:
    """The configuration from explicit arguments (None = not given), environment and defaults.

    Raises ConfigError naming the setting, where its value came from and what was expected.
    """
    environ = os.environ if environ is None else environ
    unknown = set(arguments) - {s.name for s in SETTINGS}
    if unknown:
        raise ConfigError(
            f"unknown setting {sorted(unknown)[0]!r}; known: {[s.name for s in SETTINGS]}"
        )
    values = {s.name: _value(s, arguments.get(s.name), environ) for s in SETTINGS}
    home = _expanded(Path(values["home"] or _default_home(environ)))
    values["home"] = home
    values["endpoint"] = values["endpoint"] or f"unix:{home / 'daemon.sock'}"
    values["token_file"] = _expanded(Path(values["token_file"] or home / "token"))
    values["trusted_key_file"] = _expanded(Path(values["trusted_key_file"] or home / "signing.pub"))
    if values["capture_content"] is None:
        values["capture_content"] = _capture(environ.get(CAPTURE_ENV, ""))
    if values["features"] == "off":
        values["mode"] = Mode.OBSERVE
    if not values["agent"]:
        raise ConfigError("agent: expected a name, got ''; pass AgentGym(agent='my-agent')")
    return Config(**{f.name: values[f.name] for f in fields(Config)})


def _value(setting: Setting, argument: Any, environ: Mapping[str, str]) -> Any:
    if argument is not None:
        raw, place = argument, f"argument {setting.name}"
    elif environ.get(setting.env):
        raw, place = environ[setting.env], setting.env
    else:
        return setting.default
    try:
        return setting.parse(_text(raw))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{place}: got {raw!r}; {setting.help} ({error})") from error


def _text(raw: Any) -> str:
    if isinstance(raw, (list, tuple)):
        return ",".join(str(item) for item in raw)
    return str(raw)
