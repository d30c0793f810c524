"""What every benchmark returns: its runs, medians with spread, and what it did not measure."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Report:
    """Runs of one benchmark; each run maps a metric to its value.

    Every metric of `units` stands in at least one run; a peer that is not installed stands in none,
    and among `not_measured` instead. `goals` are texts such as "<= 1.25".
    """

    name: str
    units: Mapping[str, str]
    runs: Sequence[Mapping[str, float]]
    not_measured: Sequence[str] = ()
    goals: Mapping[str, str] = field(default_factory=dict)

    def as_json(self, command: str) -> dict[str, Any]:
        """The report as it is written to a file."""
        return {
            "name": self.name,
            "command": command,
            "machine": machine(),
            "runs": [dict(run) for run in self.runs],
            "metrics": {key: self._metric(key) for key in self.units},
            "not_measured": list(self.not_measured),
        }

    def _metric(self, key: str) -> dict[str, Any]:
        values = [run[key] for run in self.runs if key in run]
        return {
            "median": statistics.median(values),
            "min": min(values),
            "max": max(values),
            "unit": self.units[key],
            **({"goal": self.goals[key]} if key in self.goals else {}),
        }


def interpreter(text: str) -> Path:
    """An option's path of a Python interpreter; links stay, because environments are made of them.

    Raises ArgumentTypeError if there is none.
    """
    path = Path(text).absolute()
    if not os.access(path, os.X_OK):
        raise argparse.ArgumentTypeError(f"expected a Python interpreter, nothing runs at {path}")
    return path


def machine() -> dict[str, Any]:
    """Where the figures come from, and how fast that machine is just now."""
    began = time.process_time()
    total = 0
    for number in range(1_000_000):
        total += number
    return {
        "million_additions_ms": round((time.process_time() - began) * 1e3, 1),
        "system": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
    }
