"""Settings of the learner as text: "pg_weight=0,gate=0", for ablations."""

from __future__ import annotations

from agentgym_daemon.learning.settings import LearningSettings

SETTINGS_ENV = "AGENTGYM_BENCH_SETTINGS"

_GATES = {"gate=0": False, "gate=1": True}


def overrides(text: str) -> tuple[LearningSettings, bool]:
    """Learning settings, and whether the gate judges; raises ValueError for what cannot be set."""
    parts = [part.replace(" ", "") for part in text.split(",")]
    gate = all(_GATES.get(part, True) for part in parts)
    values = LearningSettings.parse(",".join(part for part in parts if part not in _GATES))
    settings = LearningSettings.of(values)
    _ = settings.exploration  # refuses a distribution that cannot be
    return settings, gate
