"""The harness of the fault tests: loads, reports, and the parts that are broken on purpose.

One file per row and subject, `test_<row>_<words>.py`. `make test` runs a twentieth of every stated
load; `make torture` runs it whole and writes build/reports/<ROW>.json, which also lets it resume.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
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
from tests.reports import (
    FULL,
    FUZZ_S,
    OUTCOME,
    TIMEOUT_S,
    Report,
    has_passed,
    reporting,
    share_of,
    summarise,
)

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
ROOM = "tests/faults"
ROWS = frozenset(os.environ.get("AGENTGYM_TEST_ROWS", "").upper().split())
_ROW = re.compile(r"test_([a-g]\d+)_\w+\.py")


# ---- loads and reports


@pytest.fixture(scope="session")
def load() -> Callable[..., int]:
    """How much of a stated load this run carries."""
    return share_of


@pytest.fixture(scope="session")
def full() -> bool:
    """Whether this run carries the whole load, on a machine of its own: figures may be asserted."""
    return FULL


@pytest.fixture(scope="session")
def fuzz_s() -> float:
    """Seconds of fuzzing for one target."""
    return FUZZ_S


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Iterator[Report]:
    """Takes a test's promise, load and figures; kept in the row's file when the load is whole."""
    name = row_of(request.node.path)
    yield from reporting(request, name, room=ROOM, make=f"make torture ROWS={name}")


def row_of(path: Path) -> str:
    """The row of the table that a test file stands for."""
    match = _ROW.fullmatch(path.name)
    assert match, f"expected test_<row>_<words>.py, such as test_b1_sigkill.py, got {path.name}"
    return match[1].upper()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Lets the fixture `report` know how its test ended; shows what daemons wrote if it failed."""
    outcome: pytest.TestReport = yield  # type: ignore[misc,assignment]
    if outcome.when == "call":
        item.stash[OUTCOME] = outcome.passed
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
            item.add_marker(pytest.mark.timeout(TIMEOUT_S), append=False)
            if has_passed(row, item.name, ROOM):
                dropped.append(item)
    items[:] = [item for item in items if item not in dropped]
    config.hook.pytest_deselected(items=dropped)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what the reports say, after a run of the whole load."""
    rows = [row_of(path) for path in HERE.glob("test_*.py")]
    summarise(terminalreporter, rows, "fault tests at full load")


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
