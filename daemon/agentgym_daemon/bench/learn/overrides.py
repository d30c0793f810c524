"""Settings of the learner as text: "pg_weight=0,gate=0", for ablations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentgym_daemon.learning.settings import LearningSettings

SETTINGS_ENV = "AGENTGYM_BENCH_SETTINGS"

_GATE = "gate"


def overrides(text: str) -> tuple[LearningSettings, bool]:
    """Learning settings, and whether the gate judges; raises ValueError for what cannot be set."""
    default = LearningSettings()
    kinds: dict[str, Callable[[str], Any]] = {
        name: type(value) for name, value in default.plain().items()
    }
    kinds[_GATE] = lambda value: bool(int(value))
    values: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = part.partition("=")
        if name not in kinds:
            raise ValueError(f"expected NAME=VALUE with NAME of {', '.join(kinds)}; got {part!r}")
        try:
            values[name] = kinds[name](value)
        except ValueError:
            raise ValueError(f"{name}: expected a number, got {value!r}") from None
    gate = bool(values.pop(_GATE, True))
    settings = LearningSettings.of(values)
    _ = settings.exploration  # refuses a distribution that cannot be
    return settings, gate
