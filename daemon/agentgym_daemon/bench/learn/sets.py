"""What `bench learn` measures: sets with their episodes, and the rows of the ablations."""

from __future__ import annotations

from dataclasses import dataclass, replace

from agentgym_daemon.errors import ConfigError
from agentgym_daemon.learning.settings import LearningSettings


@dataclass(frozen=True, slots=True)
class Setting:
    """A data set as the referee plays it; `tools` 0 means all of them."""

    name: str
    title: str
    data: str  # NAME.jsonl with NAME.catalogue.jsonl beside it
    episodes: int
    tools: int = 0
    retry: int = 0
    drift: str = ""
    several: bool = False  # a task needs several calls

    @property
    def ceiling(self) -> str:
        """The ceiling that holds here, "" where the world changes; first calls of a retry count."""
        return "" if self.drift else f"{self.data}/{self.tools}/{self.episodes}"

    @property
    def comparable(self) -> bool:
        """Whether peer and ceiling span a gap: one call per task, one chance."""
        return not (self.drift or self.retry or self.several)

    def arguments(self) -> list[str]:
        """The referee's arguments, without paths and seed."""
        given = [f"--episodes={self.episodes}"]
        given += [f"--tools={self.tools}"] if self.tools else []
        given += [f"--retry={self.retry}"] if self.retry else []
        return given + ([f"--drift={self.drift}"] if self.drift else [])


STANDARD = (
    Setting("clinc150", "CLINC150, 150 tools", "clinc150", 10_000),
    Setting("clinc150-retry", "CLINC150, 150 tools, one retry", "clinc150", 10_000, retry=1),
    Setting("clinc30", "CLINC150, 30 confusable tools", "clinc150", 5_000, tools=30),
    Setting("metatool30", "MetaTool, 30 tools", "metatool", 5_000, tools=30),
    Setting("metatool", "MetaTool, 199 tools", "metatool", 10_000),
    Setting("ultratool", "UltraTool, 260 tools, 2 to 5 calls", "ultratool", 10_000, several=True),
    Setting("clinc150-drift", "CLINC150 with drift", "clinc150", 8_000, drift="break,new"),
)

ABLATED = (
    Setting("clinc150-2k", "CLINC150, 150 tools", "clinc150", 2_000),
    Setting("ultratool-2k", "UltraTool, 260 tools", "ultratool", 2_000, several=True),
)


@dataclass(frozen=True, slots=True)
class Arm:
    """One row of the ablations: settings that differ from the default, or no encoder."""

    name: str
    settings: str = ""
    encoder: str = ""  # "" = the one that is measured


_DEFAULT = LearningSettings()


def _times(factor: float, *names: str) -> str:
    """These default settings, scaled."""
    scaled = {name: getattr(_DEFAULT, name) * factor for name in names}
    return ",".join(f"{name}={value:g}" for name, value in scaled.items())


ABLATIONS = (
    Arm("default"),
    Arm("no policy gradient", "pg_weight=0"),
    Arm("a quiet call is no evidence", "quiet_evidence=0"),
    Arm("stopping is no evidence", "stop_weight=0"),
    Arm("rewards taken as exact", "false_success=0.0001,false_failure=0.0001"),
    Arm("no gate", "gate=0"),
    Arm("no embedding", encoder="none"),
    Arm("map of meanings not learned", "rate_map=0"),
    Arm("weights per tool not learned", "rate_weight=0"),
    Arm(
        "prior ten times weaker",
        _times(0.1, *(name for name in _DEFAULT.plain() if name.startswith("l2_"))),
    ),
    Arm("a quarter of the gradient steps", f"rounds={_DEFAULT.rounds // 4}"),
    Arm("almost greedy", _times(0.1, "temperature") + ",floor=0"),
    Arm("three times the temperature", _times(3.0, "temperature")),
)


def chosen(names: str) -> tuple[Setting, ...]:
    """The standard sets with these comma-separated names, all of them for ""."""
    known = {setting.name: setting for setting in STANDARD}
    wanted = [name.strip() for name in names.split(",") if name.strip()] or list(known)
    if unknown := [name for name in wanted if name not in known]:
        raise ConfigError(f"--sets: expected some of {', '.join(known)}; got {unknown[0]!r}")
    return tuple(known[name] for name in dict.fromkeys(wanted))


def shortened(setting: Setting, episodes: int | None) -> Setting:
    """The setting with at most so many episodes."""
    return (
        setting if episodes is None else replace(setting, episodes=min(setting.episodes, episodes))
    )
