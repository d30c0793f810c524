"""The table of all settings: name, environment variable, what it may be, default, help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from agentgym_daemon.config import parsers
from agentgym_daemon.encoders import SCHEMAS

Aggregation = Literal["last", "mean", "median", "min"]
"""How several rewards of a trajectory become one."""
Engine = Literal["torch", "lightning"]
"""What trains: this interpreter's torch, or Agent Lightning in one of its own (docs/adr/0001)."""
STAGES = ("observe", "shadow", "canary", "live")
"""The rungs of an agent's ladder, lowest first."""
WATCHES = ("act", "tell", "off")
"""What the watch may do when a live policy gets worse."""
_INFINITY = float("inf")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its field in `DaemonConfig`, environment variable, parser, default and help."""

    name: str
    env: str
    parse: Callable[[str], Any]
    default: Any
    help: str


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
        parsers.listen,
        None,
        "Also listen on TCP, HOST:PORT on loopback; default: only the unix socket.",
    ),
    Setting(
        "control_share",
        "AGENTGYM_DAEMON_CONTROL_SHARE",
        parsers.number(0, 1),
        0.10,
        "Share of trajectories that run without the policy, for comparison.",
    ),
    Setting(
        "stage",
        "AGENTGYM_DAEMON_STAGE",
        parsers.one_of(STAGES),
        "live",
        "How far agents may go whose stage nobody set: observe, shadow, canary or live.",
    ),
    Setting(
        "canary_share",
        "AGENTGYM_DAEMON_CANARY_SHARE",
        parsers.inner_share,
        0.05,
        "Share of units that get the policy at the stage canary, unless the step there names one.",
    ),
    Setting(
        "temperature",
        "AGENTGYM_DAEMON_TEMPERATURE",
        parsers.number(0, _INFINITY, above=True),
        0.1,
        "Temperature of sampling, in units of reliability.",
    ),
    Setting(
        "floor",
        "AGENTGYM_DAEMON_FLOOR",
        parsers.number(0, 1),
        0.02,
        "Probability that is spread evenly over the tool arms.",
    ),
    Setting(
        "defer_floor",
        "AGENTGYM_DAEMON_DEFER_FLOOR",
        parsers.number(0.02, 1),
        0.02,
        "Least probability of leaving the agent alone.",
    ),
    Setting(
        "top_k",
        "AGENTGYM_DAEMON_TOP_K",
        parsers.integer(1),
        5,
        "Number of tools between which the policy samples.",
    ),
    Setting(
        "stale_after_s",
        "AGENTGYM_DAEMON_STALE_AFTER_S",
        parsers.integer(1),
        86_400,
        "Seconds without contact after which agents stop using a policy.",
    ),
    Setting(
        "encoder",
        "AGENTGYM_DAEMON_ENCODER",
        parsers.one_of(SCHEMAS),
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
        parsers.integer(1),
        100,
        "Train after this many new closed rewarded trajectories, or 8 % more where that is more.",
    ),
    Setting(
        "retrain_minutes",
        "AGENTGYM_DAEMON_RETRAIN_MINUTES",
        parsers.number(0, _INFINITY, above=True),
        30.0,
        "Train after this many minutes if there is anything new.",
    ),
    Setting(
        "default_reward",
        "AGENTGYM_DAEMON_DEFAULT_REWARD",
        parsers.optional_reward,
        None,
        "Reward of a trajectory that got none in time, 0 to 1; 'off' leaves it unrewarded.",
    ),
    Setting(
        "default_reward_after_s",
        "AGENTGYM_DAEMON_DEFAULT_REWARD_AFTER_S",
        parsers.number(0, _INFINITY),
        86_400.0,
        "Seconds after its end when the default reward is given.",
    ),
    Setting(
        "reward_aggregation",
        "AGENTGYM_DAEMON_REWARD_AGGREGATION",
        parsers.one_of(get_args(Aggregation)),
        "last",
        "How several rewards of a trajectory become one: last, mean, median or min.",
    ),
    Setting(
        "reward_weights",
        "AGENTGYM_DAEMON_REWARD_WEIGHTS",
        parsers.weights(_INFINITY),
        "",
        "How much a source counts in mean and median, SOURCE=WEIGHT,...; 1 unless set, 0: never.",
    ),
    Setting(
        "reward_hold_s",
        "AGENTGYM_DAEMON_REWARD_HOLD_S",
        parsers.number(0, _INFINITY),
        0.0,
        "Seconds after its arrival for which a reward is shown but not learned from.",
    ),
    Setting(
        "source_cap",
        "AGENTGYM_DAEMON_SOURCE_CAP",
        parsers.number(0, 1, above=True),
        0.1,
        "Largest share of the training weight that one source of rewards may have.",
    ),
    Setting(
        "source_caps",
        "AGENTGYM_DAEMON_SOURCE_CAPS",
        parsers.weights(1),
        "user=1",
        "Caps of single sources, SOURCE=SHARE,...; 1 is no cap.",
    ),
    Setting(
        "cost_weights",
        "AGENTGYM_DAEMON_COST_WEIGHTS",
        parsers.weights(_INFINITY, "tokens_per_1k", "second", "call"),
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
        parsers.number(0, _INFINITY, above=True),
        10.0,
        "Seconds that it may take for one run; then its process is ended.",
    ),
    Setting(
        "judge_url",
        "AGENTGYM_DAEMON_JUDGE_URL",
        parsers.url("the base of an OpenAI-compatible API, such as http://host/v1"),
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
        parsers.number(0, 1),
        1.0,
        "Share of the trajectories that are judged.",
    ),
    Setting(
        "judge_calls_per_day",
        "AGENTGYM_DAEMON_JUDGE_CALLS_PER_DAY",
        parsers.integer(0),
        1000,
        "Calls of the judge in a day, by UTC; 0: none.",
    ),
    Setting(
        "judge_timeout_s",
        "AGENTGYM_DAEMON_JUDGE_TIMEOUT_S",
        parsers.number(0, _INFINITY, above=True),
        30.0,
        "Longest call of the judge, in seconds.",
    ),
    Setting(
        "watch",
        "AGENTGYM_DAEMON_WATCH",
        parsers.one_of(WATCHES),
        "act",
        "What the watch does when a live policy gets worse: act (roll back), tell, or off.",
    ),
    Setting(
        "alert_webhook",
        "AGENTGYM_DAEMON_ALERT_WEBHOOK",
        parsers.url("a URL to which alerts are posted, such as https://host/hook"),
        "",
        "Alerts are posted there as JSON, besides the daemon's own log; empty: only there.",
    ),
    Setting(
        "idle_ttl_s",
        "AGENTGYM_DAEMON_IDLE_TTL_S",
        parsers.number(0, _INFINITY, above=True),
        300.0,
        "Seconds without news after which an open trajectory is closed as incomplete.",
    ),
    Setting(
        "engine",
        "AGENTGYM_DAEMON_ENGINE",
        parsers.one_of(get_args(Engine)),
        "torch",
        "What trains: torch, or lightning (Agent Lightning 0.3, needs engine_python).",
    ),
    Setting(
        "engine_python",
        "AGENTGYM_DAEMON_ENGINE_PYTHON",
        parsers.program,
        None,
        "Python of the environment with agentgym[daemon,lightning]; only for the engine lightning.",
    ),
    Setting(
        "trainer_timeout_s",
        "AGENTGYM_DAEMON_TRAINER_TIMEOUT_S",
        parsers.number(0, _INFINITY, above=True),
        600.0,
        "Longest training run, in seconds.",
    ),
    Setting(
        "trainer_memory_bytes",
        "AGENTGYM_DAEMON_TRAINER_MEMORY_BYTES",
        parsers.integer(2**28),
        8 * 2**30,
        "Address space of the trainer process, in bytes.",
    ),
    Setting(
        "trainer_nice",
        "AGENTGYM_DAEMON_TRAINER_NICE",
        parsers.integer(0),
        19,
        "Scheduling priority of the trainer process; 19 gives way to everything else.",
    ),
    Setting(
        "segment_bytes",
        "AGENTGYM_DAEMON_SEGMENT_BYTES",
        parsers.integer(4096),
        64 * 2**20,
        "Size at which a segment of the log is sealed and compressed.",
    ),
    Setting(
        "retention_days",
        "AGENTGYM_DAEMON_RETENTION_DAYS",
        parsers.number(0, _INFINITY),
        30.0,
        "Days after which trajectories are deleted, rows and log together; 0 keeps them.",
    ),
    Setting(
        "min_free_bytes",
        "AGENTGYM_DAEMON_MIN_FREE_BYTES",
        parsers.integer(0),
        512 * 2**20,
        "Free disk space below which nothing more is taken; 0 = no limit.",
    ),
    Setting(
        "max_backlog_bytes",
        "AGENTGYM_DAEMON_MAX_BACKLOG_BYTES",
        parsers.integer(0),
        2**30,
        "Bytes that the database may lag behind the log before agents are told to wait; "
        "0 = no limit.",
    ),
    Setting(
        "quota_bytes_per_s",
        "AGENTGYM_DAEMON_QUOTA_BYTES_PER_S",
        parsers.number(0, _INFINITY),
        float(32 * 2**20),
        "Bytes per second that one sender may send, with bursts of two seconds; 0 = no limit.",
    ),
    Setting(
        "metrics",
        "AGENTGYM_DAEMON_METRICS",
        parsers.listen,
        None,
        "Serve /metrics, /livez and /readyz over HTTP, HOST:PORT on loopback; default: off.",
    ),
    Setting(
        "seed",
        "AGENTGYM_DAEMON_SEED",
        parsers.integer(0),
        0,
        "Seed of training, for repeatable experiments.",
    ),
)
