"""The harness of the fault tests: loads, reports, and the parts that are broken on purpose.

One file per row and subject, `test_<row>_<words>.py`. `make test` runs a twentieth of every stated
load; `make torture` runs it whole and writes build/reports/<ROW>.json, which also lets it resume.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.faults.endpoints import faulty
from tests.faults.processes import (
    DaemonProcess,
    daemon,
    descriptors,
    make_daemon,
    producer_metadata,
    run_agent,
    shared_daemon,
)
from tests.faults.sending import otlp, pump, span, traces

__all__ = [
    "daemon",
    "descriptors",
    "faulty",
    "make_daemon",
    "otlp",
    "producer_metadata",
    "pump",
    "run_agent",
    "shared_daemon",
    "span",
    "traces",
]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
REPORTS = ROOT / "build" / "reports"
SHARE = 20
"""An ordinary run carries this part of the stated load."""
FULL = os.environ.get("AGENTGYM_TEST_LOAD") == "full"
FRESH = os.environ.get("AGENTGYM_TEST_FRESH") == "1"
ROWS = frozenset(os.environ.get("AGENTGYM_TEST_ROWS", "").upper().split())
FUZZ_S = float(os.environ.get("AGENTGYM_TEST_FUZZ_S") or (1800.0 if FULL else 10.0))
_TORTURE_TIMEOUT_S = 6 * 3600
_ROW = re.compile(r"test_([a-g]\d+)_\w+\.py")
_PHASES = pytest.StashKey[dict[str, pytest.TestReport]]()


# ---- loads and reports


@pytest.fixture(scope="session")
def load() -> Callable[..., int]:
    """How much of a stated load this run carries: all of it, or a twentieth, but `least`."""

    def share(full: int, least: int = 3) -> int:
        return full if FULL else min(full, max(least, full // SHARE))

    return share


@pytest.fixture(scope="session")
def full() -> bool:
    """Whether this run carries the whole load, on a machine of its own: figures may be asserted."""
    return FULL


@pytest.fixture(scope="session")
def fuzz_s() -> float:
    """Seconds of fuzzing for one target."""
    return FUZZ_S


@dataclass
class Report:
    """What one test of a row promises, under which load, and what it measured."""

    row: str
    test: str
    promise: str = ""
    load: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    passed: bool = False
    seconds: float = 0.0

    def entry(self) -> dict[str, Any]:
        """The test's part of the row's file."""
        return {
            "promise": self.promise,
            "load": self.load,
            "figures": self.figures,
            "passed": self.passed,
            "seconds": round(self.seconds, 2),
            "key": config_key(),
        }


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Iterator[Report]:
    """Takes a test's promise, load and figures; kept in the row's file when the load is whole."""
    made = Report(row_of(request.node.path), request.node.name)
    made.promise = (request.node.obj.__doc__ or "").strip()
    began = time.monotonic()
    yield made
    made.seconds = time.monotonic() - began
    phase = request.node.stash.get(_PHASES, {}).get("call")
    made.passed = phase is not None and phase.passed
    if FULL:
        _keep(made)


def _keep(made: Report) -> None:
    REPORTS.mkdir(parents=True, exist_ok=True)
    path = REPORTS / f"{made.row}.json"
    tests = {name: one for name, one in _tests_of(made.row).items() if one["key"] == config_key()}
    tests[made.test] = made.entry()
    whole = {
        "row": made.row,
        "pass": all(one["passed"] for one in tests.values()),
        "seconds": round(sum(one["seconds"] for one in tests.values()), 2),
        "command": f"make torture ROWS={made.row}",
        "commit": _commit(),
        "machine": _machine(),
        "tests": tests,
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")
    temporary.replace(path)


def _tests_of(row: str) -> dict[str, Any]:
    try:
        return dict(json.loads((REPORTS / f"{row}.json").read_text())["tests"])
    except (OSError, ValueError, KeyError):
        return {}


def row_of(path: Path) -> str:
    """The row of the table that a test file stands for."""
    match = _ROW.fullmatch(path.name)
    assert match, f"expected test_<row>_<words>.py, such as test_b1_sigkill.py, got {path.name}"
    return match[1].upper()


@cache
def config_key() -> str:
    """Hash of what a report speaks of: both packages, these tests, and how long is fuzzed."""
    digest = hashlib.sha256(f"{FUZZ_S}".encode())
    for room in ("plugins/agentgym", "daemon/agentgym_daemon", "tests/faults"):
        for path in sorted((ROOT / room).rglob("*.py")):
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Lets the fixture `report` know how its test ended; shows what daemons wrote if it failed."""
    outcome: pytest.TestReport = yield  # type: ignore[misc,assignment]
    item.stash.setdefault(_PHASES, {})[outcome.when or ""] = outcome
    if outcome.when == "call" and outcome.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, Path) and (value / "daemon.err").is_file():
                text = (value / "daemon.err").read_text(errors="replace")[-8000:]
                outcome.sections.append((f"daemon on {name}", text))
            elif isinstance(value, DaemonProcess):
                outcome.sections.append((f"fixture {name}", value.log))
    return outcome  # type: ignore[return-value]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Chooses rows, gives a whole load its time, and leaves out what has passed with this code."""
    dropped = []
    for item in [item for item in items if HERE in item.path.parents]:
        row = row_of(item.path)
        if ROWS and row not in ROWS:
            dropped.append(item)
        elif FULL:
            item.add_marker(pytest.mark.timeout(_TORTURE_TIMEOUT_S), append=False)
            before = _tests_of(row).get(item.name, {})
            if not FRESH and before.get("passed") and before.get("key") == config_key():
                dropped.append(item)
    items[:] = [item for item in items if item not in dropped]
    config.hook.pytest_deselected(items=dropped)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what the reports say, after a run of the whole load."""
    if not FULL or not REPORTS.is_dir():
        return
    write = terminalreporter.write_line
    terminalreporter.section("fault tests at full load")
    for path in sorted(REPORTS.glob("*.json")):
        whole = json.loads(path.read_text())
        write(f"{whole['row']:4}{'pass' if whole['pass'] else 'FAIL':6}{whole['seconds']:9.1f} s")
        for name, one in sorted(whole["tests"].items()):
            shown = ", ".join(f"{k}={v}" for k, v in {**one["load"], **one["figures"]}.items())
            write(f"    {'ok  ' if one['passed'] else 'FAIL'}  {name}: {shown}")


@pytest.fixture(scope="session")
def percentile() -> Callable[[Sequence[float], float], float]:
    """The value below which a share of the values lies; the nearest one, for few of them."""

    def of(values: Sequence[float], share: float) -> float:
        ordered = sorted(values)
        return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]

    return of


@pytest.fixture(scope="session")
def slope() -> Callable[[Sequence[tuple[float, float]]], float]:
    """Least squares: how much the second number grows with the first."""

    def of(points: Sequence[tuple[float, float]]) -> float:
        x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
        spread = sum((point[0] - x) ** 2 for point in points)
        return sum((a - x) * (b - y) for a, b in points) / spread if spread else 0.0

    return of


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    """Waits for a condition; fails with its words after a generous time."""

    def wait(condition: Callable[[], Any], what: str = "", timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what or condition}"
            time.sleep(0.01)

    return wait
