"""Settings of the daemon: argument, then environment, then daemon.toml, then default.

Declared once, here. The file is $AGENTGYM_HOME/daemon.toml, one `name = value` per setting.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from agentgym_daemon.encoders import SCHEMAS
from agentgym_daemon.errors import ConfigError

FILE_NAME = "daemon.toml"
Aggregation = Literal["last", "mean", "median", "min"]
"""How several rewards of a trajectory become one."""
Engine = Literal["torch", "lightning"]
"""What trains: this interpreter's torch, or Agent Lightning in one of its own (docs/adr/0001)."""
STAGES = ("observe", "shadow", "canary", "live")
WATCHES = ("act", "tell", "off")
"""The rungs of an agent's ladder, lowest first."""
_LOOPBACK = frozenset(("127.0.0.1", "localhost", "[::1]"))


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its field in `DaemonConfig`, environment variable, parser, default and help."""

    name: str
    env: str
    parse: Callable[[str], Any]
    default: Any
    help: str


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


def shares(text: str) -> dict[str, float]:
    """The numbers in NAME=NUMBER,..., as a checked setting holds them."""
    parts = [part.rpartition("=") for part in text.split(",") if part.strip()]
    return {name.strip(): float(value) for name, _, value in parts}


def _shares(high: float, *names: str) -> Callable[[str], str]:
    """NAME=NUMBER,... with numbers from 0; one form for all ways of writing the same."""
    number = _number(0.0, high)

    def parse(text: str) -> str:
        found: dict[str, float] = {}
        for part in filter(str.strip, text.split(",")):
            name, equals, value = (piece.strip() for piece in part.rpartition("="))
            if not (name and equals):
                raise ValueError(f"expected NAME=NUMBER,..., got {part.strip()!r}")
            if names and name not in names:
                raise ValueError(f"expected one of {', '.join(names)}, got {name!r}")
            if name in found:
                raise ValueError(f"{name!r} is there twice")
            found[name] = number(value)
        return ",".join(f"{name}={value:g}" for name, value in sorted(found.items()))

    return parse


def _url(what: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text and not re.match(r"https?://[^/\s]+", text):
            raise ValueError(f"expected {what}")
        return text

    return parse


def _watch(text: str) -> str:
    if text not in WATCHES:
        raise ValueError(f"expected one of {', '.join(WATCHES)}")
    return text


def _number(low: float, high: float, *, above: bool = False) -> Callable[[str], float]:
    expected = f"expected a number {'above' if above else 'from'} {low:g}" + (
        f" to {high:g}" if high < float("inf") else ""
    )

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(expected) from None
        if (
            not (low < value if above else low <= value)
            or not value <= high
            or value == float("inf")
        ):
            raise ValueError(expected)
        return value

    return parse


def _integer(low: int) -> Callable[[str], int]:
    expected = f"expected a whole number of at least {low}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(expected) from None
        if value < low:
            raise ValueError(expected)
        return value

    return parse


def _optional_reward(text: str) -> float | None:
    return None if text.lower() in ("none", "off") else _number(0.0, 1.0)(text)


def _aggregation(text: str) -> str:
    if text not in get_args(Aggregation):
        raise ValueError(f"expected one of {', '.join(get_args(Aggregation))}")
    return text


def _encoder(text: str) -> str:
    if text not in SCHEMAS:
        raise ValueError(f"expected one of {', '.join(SCHEMAS)}")
    return text


def _engine(text: str) -> str:
    if text not in get_args(Engine):
        raise ValueError(f"expected one of {', '.join(get_args(Engine))}")
    return text


def _program(text: str) -> Path:
    path = Path(text).expanduser().absolute()
    if not (path.is_file() and os.access(path, os.X_OK)):
        raise ValueError("expected the path of a program, such as .venv-lightning/bin/python")
    return path


def _stage(text: str) -> str:
    if text not in STAGES:
        raise ValueError(f"expected one of {', '.join(STAGES)}")
    return text


def _inner_share(text: str) -> float:
    value = _number(0, 1, above=True)(text)
    if value >= 1.0:
        raise ValueError("expected a number between 0 and 1, without them")
    return value


def _listen(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("expected HOST:PORT, such as 127.0.0.1:4319")
    if host not in _LOOPBACK:
        raise ValueError(
            f"expected a loopback host ({', '.join(sorted(_LOOPBACK))}): TCP is not encrypted, "
            "so it never leaves this machine; use an SSH tunnel or an OTel Collector"
        )
    return text


_INFINITY = float("inf")

SETTINGS: tuple[Setting, ...] = (
    Setting(
        "home",
        "AGENTGYM_HOME",
        str,
        None,
        "The daemon's directory; default $XDG_STATE_HOME/agentgym.",
    ),
    Setting(
        "listen",
        "AGENTGYM_DAEMON_LISTEN",
        _listen,
        None,
        "Also listen on TCP, HOST:PORT on loopback; default: only the unix socket.",
    ),
    Setting(
        "control_share",
        "AGENTGYM_DAEMON_CONTROL_SHARE",
        _number(0, 1),
        0.10,
        "Share of trajectories that run without the policy, for comparison.",
    ),
    Setting(
        "stage",
        "AGENTGYM_DAEMON_STAGE",
        _stage,
        "live",
        "How far agents may go whose stage nobody set: observe, shadow, canary or live.",
    ),
    Setting(
        "canary_share",
        "AGENTGYM_DAEMON_CANARY_SHARE",
        _inner_share,
        0.05,
        "Share of units that get the policy at the stage canary, unless the step there names one.",
    ),
    Setting(
        "temperature",
        "AGENTGYM_DAEMON_TEMPERATURE",
        _number(0, _INFINITY, above=True),
        0.1,
        "Temperature of sampling, in units of reliability.",
    ),
    Setting(
        "floor",
        "AGENTGYM_DAEMON_FLOOR",
        _number(0, 1),
        0.02,
        "Probability that is spread evenly over the tool arms.",
    ),
    Setting(
        "defer_floor",
        "AGENTGYM_DAEMON_DEFER_FLOOR",
        _number(0.02, 1),
        0.02,
        "Least probability of leaving the agent alone.",
    ),
    Setting(
        "top_k",
        "AGENTGYM_DAEMON_TOP_K",
        _integer(1),
        5,
        "Number of tools between which the policy samples.",
    ),
    Setting(
        "stale_after_s",
        "AGENTGYM_DAEMON_STALE_AFTER_S",
        _integer(1),
        86_400,
        "Seconds without contact after which agents stop using a policy.",
    ),
    Setting(
        "encoder",
        "AGENTGYM_DAEMON_ENCODER",
        _encoder,
        "default",
        "How texts become features: default, minilm (needs its weights) or none (n-grams only).",
    ),
    Setting(
        "encoder_dir",
        "AGENTGYM_DAEMON_ENCODER_DIR",
        Path,
        None,
        "Directory with all-MiniLM-L6-v2, for --encoder minilm; default: its installed package.",
    ),
    Setting(
        "learning",
        "AGENTGYM_DAEMON_LEARNING",
        str,
        "",
        "Settings of the learner other than its defaults, NAME=VALUE,...; see How it learns.",
    ),
    Setting(
        "retrain_trajectories",
        "AGENTGYM_DAEMON_RETRAIN_TRAJECTORIES",
        _integer(1),
        100,
        "Train after this many new closed rewarded trajectories, or 8 % more where that is more.",
    ),
    Setting(
        "retrain_minutes",
        "AGENTGYM_DAEMON_RETRAIN_MINUTES",
        _number(0, _INFINITY, above=True),
        30.0,
        "Train after this many minutes if there is anything new.",
    ),
    Setting(
        "default_reward",
        "AGENTGYM_DAEMON_DEFAULT_REWARD",
        _optional_reward,
        None,
        "Reward of a trajectory that got none in time, 0 to 1; 'off' leaves it unrewarded.",
    ),
    Setting(
        "default_reward_after_s",
        "AGENTGYM_DAEMON_DEFAULT_REWARD_AFTER_S",
        _number(0, _INFINITY),
        86_400.0,
        "Seconds after its end when the default reward is given.",
    ),
    Setting(
        "reward_aggregation",
        "AGENTGYM_DAEMON_REWARD_AGGREGATION",
        _aggregation,
        "last",
        "How several rewards of a trajectory become one: last, mean, median or min.",
    ),
    Setting(
        "reward_weights",
        "AGENTGYM_DAEMON_REWARD_WEIGHTS",
        _shares(_INFINITY),
        "",
        "How much a source counts in mean and median, SOURCE=WEIGHT,...; 1 unless set, 0: never.",
    ),
    Setting(
        "reward_hold_s",
        "AGENTGYM_DAEMON_REWARD_HOLD_S",
        _number(0, _INFINITY),
        0.0,
        "Seconds after its arrival for which a reward is shown but not learned from.",
    ),
    Setting(
        "source_cap",
        "AGENTGYM_DAEMON_SOURCE_CAP",
        _number(0, 1, above=True),
        0.1,
        "Largest share of the training weight that one source of rewards may have.",
    ),
    Setting(
        "source_caps",
        "AGENTGYM_DAEMON_SOURCE_CAPS",
        _shares(1),
        "user=1",
        "Caps of single sources, SOURCE=SHARE,...; 1 is no cap.",
    ),
    Setting(
        "cost_weights",
        "AGENTGYM_DAEMON_COST_WEIGHTS",
        _shares(_INFINITY, "tokens_per_1k", "second", "call"),
        "",
        "What a success loses by its cost, KIND=WEIGHT,... of tokens_per_1k, second and call.",
    ),
    Setting(
        "reward_rules",
        "AGENTGYM_DAEMON_REWARD_RULES",
        str,
        "",
        "Rewards without code, a list of {when, value, name}; see Rewards.",
    ),
    Setting(
        "reward_function",
        "AGENTGYM_DAEMON_REWARD_FUNCTION",
        str,
        "",
        "Your function from a run to its reward: MODULE:NAME, PATH.py:NAME or an entry point.",
    ),
    Setting(
        "reward_function_timeout_s",
        "AGENTGYM_DAEMON_REWARD_FUNCTION_TIMEOUT_S",
        _number(0, _INFINITY, above=True),
        10.0,
        "Seconds that it may take for one run; then its process is ended.",
    ),
    Setting(
        "judge_url",
        "AGENTGYM_DAEMON_JUDGE_URL",
        _url("the base of an OpenAI-compatible API, such as http://host/v1"),
        "",
        "Base of the OpenAI-compatible API of an LLM judge; empty: no judge.",
    ),
    Setting(
        "judge_model",
        "AGENTGYM_DAEMON_JUDGE_MODEL",
        str,
        "",
        "The judge's model.",
    ),
    Setting(
        "judge_key_file",
        "AGENTGYM_DAEMON_JUDGE_KEY_FILE",
        Path,
        None,
        "File with the API key of the judge.",
    ),
    Setting(
        "judge_key_env",
        "AGENTGYM_DAEMON_JUDGE_KEY_ENV",
        str,
        "OPENAI_API_KEY",
        "Environment variable with the API key, where there is no file.",
    ),
    Setting(
        "judge_prompt_file",
        "AGENTGYM_DAEMON_JUDGE_PROMPT_FILE",
        Path,
        None,
        "What the judge is told instead of the built-in prompt.",
    ),
    Setting(
        "judge_share",
        "AGENTGYM_DAEMON_JUDGE_SHARE",
        _number(0, 1),
        1.0,
        "Share of the trajectories that are judged.",
    ),
    Setting(
        "judge_calls_per_day",
        "AGENTGYM_DAEMON_JUDGE_CALLS_PER_DAY",
        _integer(0),
        1000,
        "Calls of the judge in a day, by UTC; 0: none.",
    ),
    Setting(
        "judge_timeout_s",
        "AGENTGYM_DAEMON_JUDGE_TIMEOUT_S",
        _number(0, _INFINITY, above=True),
        30.0,
        "Longest call of the judge, in seconds.",
    ),
    Setting(
        "watch",
        "AGENTGYM_DAEMON_WATCH",
        _watch,
        "act",
        "What the watch does when a live policy gets worse: act (roll back), tell, or off.",
    ),
    Setting(
        "alert_webhook",
        "AGENTGYM_DAEMON_ALERT_WEBHOOK",
        _url("a URL to which alerts are posted, such as https://host/hook"),
        "",
        "Alerts are posted there as JSON, besides the daemon's own log; empty: only there.",
    ),
    Setting(
        "idle_ttl_s",
        "AGENTGYM_DAEMON_IDLE_TTL_S",
        _number(0, _INFINITY, above=True),
        300.0,
        "Seconds without news after which an open trajectory is closed as incomplete.",
    ),
    Setting(
        "engine",
        "AGENTGYM_DAEMON_ENGINE",
        _engine,
        "torch",
        "What trains: torch, or lightning (Agent Lightning 0.3, needs engine_python).",
    ),
    Setting(
        "engine_python",
        "AGENTGYM_DAEMON_ENGINE_PYTHON",
        _program,
        None,
        "Python of the environment with agentgym[daemon,lightning]; only for the engine lightning.",
    ),
    Setting(
        "trainer_timeout_s",
        "AGENTGYM_DAEMON_TRAINER_TIMEOUT_S",
        _number(0, _INFINITY, above=True),
        600.0,
        "Longest training run, in seconds.",
    ),
    Setting(
        "trainer_memory_bytes",
        "AGENTGYM_DAEMON_TRAINER_MEMORY_BYTES",
        _integer(2**28),
        8 * 2**30,
        "Address space of the trainer process, in bytes.",
    ),
    Setting(
        "trainer_nice",
        "AGENTGYM_DAEMON_TRAINER_NICE",
        _integer(0),
        19,
        "Scheduling priority of the trainer process; 19 gives way to everything else.",
    ),
    Setting(
        "segment_bytes",
        "AGENTGYM_DAEMON_SEGMENT_BYTES",
        _integer(4096),
        64 * 2**20,
        "Size at which a segment of the log is sealed and compressed.",
    ),
    Setting(
        "retention_days",
        "AGENTGYM_DAEMON_RETENTION_DAYS",
        _number(0, _INFINITY),
        30.0,
        "Days after which trajectories are deleted, rows and log together; 0 keeps them.",
    ),
    Setting(
        "min_free_bytes",
        "AGENTGYM_DAEMON_MIN_FREE_BYTES",
        _integer(0),
        512 * 2**20,
        "Free disk space below which nothing more is taken; 0 = no limit.",
    ),
    Setting(
        "max_backlog_bytes",
        "AGENTGYM_DAEMON_MAX_BACKLOG_BYTES",
        _integer(0),
        2**30,
        "Bytes that the database may lag behind the log before agents are told to wait; "
        "0 = no limit.",
    ),
    Setting(
        "quota_bytes_per_s",
        "AGENTGYM_DAEMON_QUOTA_BYTES_PER_S",
        _number(0, _INFINITY),
        float(32 * 2**20),
        "Bytes per second that one sender may send, with bursts of two seconds; 0 = no limit.",
    ),
    Setting(
        "metrics",
        "AGENTGYM_DAEMON_METRICS",
        _listen,
        None,
        "Serve /metrics, /livez and /readyz over HTTP, HOST:PORT on loopback; default: off.",
    ),
    Setting(
        "seed",
        "AGENTGYM_DAEMON_SEED",
        _integer(0),
        0,
        "Seed of training, for repeatable experiments.",
    ),
)
