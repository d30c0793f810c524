"""The suite of the second engine, where Agent Lightning is installed: .venv-lightning, `make test`.

Elsewhere none of it is collected: Agent Lightning 0.3 shares no environment with CrewAI
(docs/adr/0001).
"""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentgym.proto.v1 import common_pb2
from agentgym.testing import make_preferences
from agentgym.trajectory import Tool
from agentgym_daemon.learning.rollouts.history import History
from agentgym_daemon.learning.rollouts.served import Served, Serving
from agentgym_daemon.learning.rollouts.session import ToolRun, read_run, trajectory_id_of
from agentgym_daemon.scenarios.support_desk import requests
from agentgym_daemon.scenarios.support_desk.desk import Desk, DeskError
from agentgym_daemon.scenarios.support_desk.requests import Request
from agentgym_daemon.scenarios.support_desk.tools import TOOLS

INSTALLED = importlib.util.find_spec("agentlightning") is not None
if INSTALLED:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what its dependencies do at import is not ours
        import torch

        import agentgym_daemon.learning.lightning  # noqa: F401
    torch.set_num_threads(1)  # as the trainer's process does; more only wait for each other
else:
    collect_ignore_glob = ["test_*.py"]

KEY = b"a key of this install"
MAX_TURNS = 8
CATALOGUE = tuple(Tool(tool.name, tool.description, tool.schema) for tool in TOOLS)


class DeskBrain:
    """A frozen model at the support desk: a fixed ranking per slot, one retry after an error."""

    def __init__(self, slots: Sequence[Sequence[str]]) -> None:
        self._slots, self._done, self._tried = slots, 0, list[str]()

    def choose(self) -> str | None:
        """The tool to call, or None to answer."""
        if self._done >= len(self._slots):
            return None
        return next(tool for tool in self._slots[self._done] if tool not in self._tried)

    def count(self, tool: str, *, error: bool) -> None:
        """Learns how a call went."""
        self._tried.append(tool)
        if not error or len(self._tried) > 1:
            self._done += 1
            self._tried.clear()


class DeskWorld:
    """The support desk for rollouts: some of its requests, and an agent that is often wrong."""

    def __init__(self, count: int, *, seed: int = 0) -> None:
        self.tasks: list[Request] = list(requests.train()[:count])
        self.tools = CATALOGUE
        self._preferences = make_preferences(self.tasks, TOOLS, seed=seed)
        self._seed = seed

    def serve(self, request: Request, run: ToolRun) -> float:
        """One run of the agent; returns whether every call of it was right."""
        desk, brain = Desk(seed=self._seed), DeskBrain(self._preferences[request.text])
        checker = desk.open(request)
        for _ in range(MAX_TURNS):
            step = run.step(self.tools)
            name = step.tool or brain.choose()
            if name is None:
                step.answered()
                break
            try:
                desk.execute(name, dict.fromkeys(_parameters(name), "x"))
                error = False
            except DeskError:
                error = True
            brain.count(name, error=error)
            step.called(name, error=error)
        checker.finish()
        return float(checker.success)

    def write_snapshot(self, path: Path) -> Path:
        """A snapshot file with one unsteered run per task."""
        served, messages, tools = Served(Serving("desk", feature_key=KEY)), [], {}
        for number, task in enumerate(self.tasks):
            run = ToolRun(served, task.text, trajectory_id_of(f"{self._seed}:{number}"))
            reward = self.serve(task, run)
            read = read_run((span.name, span.attributes) for span in run.spans())
            assert read is not None
            tools.update((tool.fingerprint, tool) for tool in read.catalogue.tools)
            messages.append(read.training(reward, time.time_ns()))
        History().write(
            path,
            messages,
            scope=common_pb2.Scope(agent="desk", feature_schema=served.feature_schema),
            feature_key=KEY,
            tools=tools,
            parent="",
            versions=(),
        )
        return path


def _parameters(name: str) -> tuple[str, ...]:
    return tuple(next(tool.parameters for tool in TOOLS if tool.name == name))


@pytest.fixture(scope="session")
def desk_world() -> Callable[..., DeskWorld]:
    """Makes a support desk for rollouts."""
    return DeskWorld


@pytest.fixture(scope="session")
def snapshot_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot of 60 unsteered runs."""
    return DeskWorld(60).write_snapshot(tmp_path_factory.mktemp("snapshot") / "snapshot")


@pytest.fixture(scope="session")
def job(snapshot_file: Path) -> Callable[..., dict[str, Any]]:
    """Makes a job of the trainer."""

    def make(out: Path, **changes: Any) -> dict[str, Any]:
        return {
            "id": 1,
            "snapshot": str(snapshot_file),
            "parent": None,
            "out": str(out),
            "version": "p-000001",
            "created_unix_nano": 7,
            "seed": 3,
            "settings": {"rounds": 8},
            **changes,
        }

    return make
