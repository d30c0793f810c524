"""Shared by the tests of rollouts: tools, and runs that ask a policy for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agentgym.policy import snapshot
from agentgym.policy.parameters import initial
from agentgym.trajectory import Tool
from agentgym_daemon.learning.rollouts.served import Served, Serving
from agentgym_daemon.learning.rollouts.session import ReadRun, ToolRun, read_run
from tests.manifests import make_manifest

KEY = b"k" * 32
TOOLS = (Tool("track", "Where is it."), Tool("refund", "Money back."), Tool("ticket", "A person."))


@pytest.fixture
def tools() -> tuple[Tool, ...]:
    """Three tools that an agent offers."""
    return TOOLS


def make_served(*, data: bool = True, **changes: Any) -> Served:
    """An untrained version, or none yet."""
    parameters = initial(
        tuple(tool.fingerprint.hex() for tool in TOOLS), tuple(tool.name for tool in TOOLS)
    )
    file = snapshot.dump(parameters, make_manifest("p-7")) if data else b""
    values = {"agent": "desk", "version": "p-7", "feature_key": KEY, "control_share": 0.0}
    values |= {"data": file, "sha256": snapshot.digest(file), **changes}
    return Served(Serving(**values))


@pytest.fixture
def served() -> Callable[..., Served]:
    """Makes a version that decides."""
    return make_served


@pytest.fixture
def finished_run() -> Callable[..., ReadRun]:
    """Makes a run with one call and an answer, as its spans tell it."""

    def make(number: int, *, error: bool = False, version: Served | None = None) -> ReadRun:
        run = ToolRun(
            version or make_served(data=False), "Where is it?", number.to_bytes(16, "big")
        )
        step = run.step(TOOLS)
        step.called(step.tool or "track", error=error)
        run.step(TOOLS).answered()
        read = read_run((span.name, span.attributes) for span in run.spans())
        assert read is not None
        return read

    return make
