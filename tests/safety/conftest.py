"""Daemons and agents as processes, from the harness of the fault tests."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentgym.cli import main
from agentgym.proto.v1 import common_pb2
from agentgym.testing.recording import certain
from agentgym_daemon.bench.placing import Placed, place
from tests.faults.conftest import full, load, until
from tests.faults.processes import AgentProcess, DaemonProcess, make_daemon
from tests.reports import FULL, OUTCOME, TIMEOUT_S, Report, has_passed, reporting, summarise
from tests.safety.agents.decider import TOOLS

__all__ = ["full", "load", "make_daemon", "until"]

AGENTS = Path(__file__).parent / "agents"
ROOM = "tests/safety"
SUITES = frozenset(os.environ.get("AGENTGYM_TEST_SUITES", "").lower().split())


class Decider:
    """An agent's process that decides when it is told to."""

    def __init__(self, process: AgentProcess) -> None:
        self.process = process
        assert process.read() == "ready"

    def tell(self, command: str, **arguments: Any) -> None:
        """Gives a command, without waiting for its answer."""
        self.process.tell(json.dumps([command, arguments]))

    def answer(self) -> Any:
        """The answer to the oldest command that is not answered."""
        return self.process.read()

    def ask(self, command: str, **arguments: Any) -> Any:
        """Gives a command and waits for its answer."""
        self.tell(command, **arguments)
        return self.answer()


@pytest.fixture
def make_agent() -> Iterator[Callable[[Path, str], Decider]]:
    """Starts agents on a home; each answers once it has heard of the daemon."""
    made: list[AgentProcess] = []

    def make(home: Path, name: str) -> Decider:
        path = str(AGENTS / "decider")
        made.append(AgentProcess(path, [name], {"AGENTGYM_HOME": str(home)}))
        return Decider(made[-1])

    yield make
    for one in made:
        one.close()


@pytest.fixture
def desk(make_daemon: Callable[..., DaemonProcess], home: Path) -> DaemonProcess:
    """A daemon whose agents `desk` and `other` have a policy that is certain of `refund`."""
    scopes = (
        common_pb2.Scope(agent=agent, agent_name="desk", feature_schema=1)
        for agent in ("desk", "other")
    )
    place(home, [Placed(scope, certain(TOOLS, "refund")) for scope in scopes])
    flags = ("--encoder", "none", "--control-share", "0", "--temperature", "0.001", "--floor", "0")
    return make_daemon(*flags, home=home).start()


@pytest.fixture
def agentgym(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs the command with `--json`; gives its object, and fails where it fails."""

    def run(*arguments: str) -> Any:
        code = main(["--home", str(home), *arguments, "--json"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return json.loads(captured.out)

    return run


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Iterator[Report]:
    """Takes a test's load and figures; kept in the file's report when the load is whole."""
    name = _name_of(request.node.path)
    yield from reporting(request, name, room=ROOM, make=f"make statistics SUITES={name}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Lets the fixture `report` know how its test ended."""
    outcome: pytest.TestReport = yield  # type: ignore[misc,assignment]
    if outcome.when == "call":
        item.stash[OUTCOME] = outcome.passed
    return outcome  # type: ignore[return-value]


def _name_of(path: Path) -> str:
    return path.stem.removeprefix("test_")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Chooses suites, gives a whole load its time, and leaves out what passed with this code."""
    dropped = []
    for item in [item for item in items if AGENTS.parent in item.path.parents]:
        name = _name_of(item.path)
        if SUITES and name not in SUITES:
            dropped.append(item)
        elif FULL:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S), append=False)
            if has_passed(name, item.name, ROOM):
                dropped.append(item)
    items[:] = [item for item in items if item not in dropped]
    config.hook.pytest_deselected(items=dropped)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what the reports say, after a run of the whole load."""
    names = [_name_of(path) for path in AGENTS.parent.glob("test_*.py")]
    summarise(terminalreporter, names, "safety at full load")
