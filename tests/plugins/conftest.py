"""A fake daemon, gyms that follow it, and a small set of tools with a policy over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentgym import AgentGym
from agentgym.policy.parameters import Parameters, initial
from agentgym.policy.snapshot import dump
from agentgym.testing.daemon import FakeDaemon
from agentgym.trajectory import Tool
from tests.manifests import make_manifest

TOOLS = (
    Tool("find_order", "Finds an order by its number."),
    Tool("refund_order", "Pays the price of an order back."),
    Tool("cancel_order", "Cancels an order that was not shipped."),
    Tool("open_ticket", "Hands the request over to a person."),
)


def random_parameters(tools: tuple[Tool, ...], seed: int, embedding_dim: int = 0) -> Parameters:
    """A policy whose every tensor differs from its first value."""
    rng = np.random.default_rng(seed)
    parameters = initial(
        tuple(tool.fingerprint.hex() for tool in tools),
        tuple(tool.name for tool in tools),
        embedding_dim,
    )
    for tensor in parameters.tensors.values():
        tensor += rng.normal(0, 0.3, tensor.shape).astype(np.float32)
    return parameters


@pytest.fixture
def tools() -> tuple[Tool, ...]:
    return TOOLS


@pytest.fixture
def parameters() -> Parameters:
    return random_parameters(TOOLS, seed=0)


@pytest.fixture
def make_parameters() -> Callable[..., Parameters]:
    return random_parameters


@pytest.fixture
def make_snapshot() -> Callable[..., bytes]:
    def make(
        version: str = "p-000001", seed: int = 0, *, embedding_dim: int = 0, **manifest: Any
    ) -> bytes:
        manifest.setdefault("scope", {"agent": "agent", "agent_name": "agent"})
        return dump(
            random_parameters(TOOLS, seed, embedding_dim), make_manifest(version, **manifest)
        )

    return make


@pytest.fixture
def daemon(home: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(home) as fake:
        yield fake


@pytest.fixture
def make_gym(home: Path) -> Iterator[Callable[..., AgentGym]]:
    """Gyms on the fake daemon's home; they are closed at the end of the test."""
    made: list[AgentGym] = []

    def make(agent: str = "agent", **settings: Any) -> AgentGym:
        gym = AgentGym(agent, home=home, **settings)
        gym.guard.strict = False
        made.append(gym)
        return gym

    yield make
    for gym in made:
        gym.close(0.0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits between attempts, so that recovery is quick."""
    monkeypatch.setattr("agentgym.courier._BACKOFF_S", (0.01, 0.05))
    monkeypatch.setattr("agentgym.policy.subscriber._BACKOFF_S", (0.01, 0.05))
    monkeypatch.setattr("agentgym.policy.subscriber._OPERATOR_BACKOFF_S", 0.05)


@pytest.fixture
def run_once() -> Callable[..., Any]:
    """Records one trajectory of three spans with one step; returns its run."""

    def record(gym: AgentGym, task: str = "where is my order", **settings: Any) -> Any:
        run = gym.recorder.start_run("agent", framework="test", task=task, **settings)
        turn = run.turn(TOOLS, model="stub")
        turn.finish([("find_order", "call-1")], input_tokens=7, output_tokens=3)
        run.call("find_order", call_id="call-1").finish()
        run.finish()
        return run

    return record
