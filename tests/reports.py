"""Loads of the long tests, and the reports that they leave: what was promised, loaded, measured.

`make test` carries a twentieth of every stated load. `make torture` and `make statistics` carry it
whole and write build/reports/<name>.json, by which an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "build" / "reports"
SHARE = 20
"""An ordinary run carries this part of the stated load."""
FULL = os.environ.get("AGENTGYM_TEST_LOAD") == "full"
FRESH = os.environ.get("AGENTGYM_TEST_FRESH") == "1"
FUZZ_S = float(os.environ.get("AGENTGYM_TEST_FUZZ_S") or (1800.0 if FULL else 10.0))
TIMEOUT_S = 6 * 3600
_CODE = ("plugins/agentgym", "daemon/agentgym_daemon")


def share_of(full: int, least: int = 3) -> int:
    """How much of a stated load this run carries: all of it, or a twentieth, but `least`."""
    return full if FULL else min(full, max(least, full // SHARE))


@dataclass
class Report:
    """What one test promises, under which load, and what it measured."""

    name: str  # of the file
    test: str
    promise: str = ""
    load: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    passed: bool = False
    seconds: float = 0.0

    def keep(self, room: str, command: str) -> None:
        """Writes the test's part into the file, beside those that ran with the same code."""
        REPORTS.mkdir(parents=True, exist_ok=True)
        with (REPORTS / ".lock").open("w") as lock:  # tests of one file may run side by side
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._keep(REPORTS / f"{self.name}.json", config_key(room), command)

    def _keep(self, path: Path, key: str, command: str) -> None:
        tests = {name: one for name, one in tests_of(self.name).items() if one["key"] == key}
        tests[self.test] = {
            "promise": self.promise,
            "load": self.load,
            "figures": self.figures,
            "passed": self.passed,
            "seconds": round(self.seconds, 2),
            "key": key,
        }
        whole = {
            "row": self.name,
            "pass": all(one["passed"] for one in tests.values()),
            "seconds": round(sum(one["seconds"] for one in tests.values()), 2),
            "command": command,
            "commit": _commit(),
            "machine": _machine(),
            "tests": tests,
        }
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")
        temporary.replace(path)


OUTCOME = pytest.StashKey[bool]()
"""Whether the call of a test passed; a hook of its room notes it."""


def reporting(
    request: pytest.FixtureRequest, name: str, *, room: str, make: str
) -> Iterator[Report]:
    """A fixture's life: a report to fill in, kept if the load is whole; `make` repeats the test."""
    made = Report(name, request.node.name)
    made.promise = (request.node.obj.__doc__ or "").strip()
    began = time.monotonic()
    yield made
    made.seconds = time.monotonic() - began
    made.passed = request.node.stash.get(OUTCOME, False)
    if FULL:
        made.keep(room, make)


def tests_of(name: str) -> dict[str, Any]:
    """What the report of this name says of each of its tests; empty without one."""
    try:
        return dict(json.loads((REPORTS / f"{name}.json").read_text())["tests"])
    except (OSError, ValueError, KeyError):
        return {}


def has_passed(name: str, test: str, room: str) -> bool:
    """Whether a test passed with this code, and need not run again."""
    before = tests_of(name).get(test, {})
    return not FRESH and bool(before.get("passed")) and before.get("key") == config_key(room)


@cache
def config_key(room: str) -> str:
    """Hash of what a report speaks of: both packages, the tests of a room, how long is fuzzed."""
    digest = hashlib.sha256(f"{FUZZ_S}".encode())
    for directory in (*_CODE, room):
        for path in sorted((ROOT / directory).rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


@cache
def _machine() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }


def summarise(terminal: pytest.TerminalReporter, names: Sequence[str], title: str) -> None:
    """Prints what the reports of these names say, after a run of the whole load."""
    if not FULL or not REPORTS.is_dir():
        return
    terminal.section(title)
    for path in sorted(REPORTS.glob("*.json")):
        whole = json.loads(path.read_text())
        if whole["row"] not in names:
            continue
        verdict = "pass" if whole["pass"] else "FAIL"
        terminal.write_line(f"{whole['row']:10}{verdict:6}{whole['seconds']:9.1f} s")
        for name, one in sorted(whole["tests"].items()):
            shown = ", ".join(f"{k}={v}" for k, v in {**one["load"], **one["figures"]}.items())
            terminal.write_line(f"    {'ok  ' if one['passed'] else 'FAIL'}  {name}: {shown}")
