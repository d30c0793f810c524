"""A source of rewards that lies a hundred times as often as the others speak (E2)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentgym.policy.parameters import Parameters
from agentgym_daemon.learning.dataset import read_dataset
from agentgym_daemon.learning.settings import LearningSettings
from agentgym_daemon.learning.train import train
from agentgym_daemon.store.caps import Caps, factors
from tests.daemon.learning.help_desk import build_world

HONEST, EACH, TIMES = 19, 20, 100
SETTINGS = replace(LearningSettings(), rounds=40)


def play(world: Any, count: int) -> list[Any]:
    """What so many more runs of the bare agent recorded."""
    before = len(world.recorded)
    for number in range(count):
        world.episode(world.requests[number % len(world.requests)], None)
    return list(world.recorded[before:])


def learned(world: Any, messages: list[Any], path: Path) -> tuple[Parameters, Any]:
    world.recorded = messages
    return train(
        read_dataset(world.write(path, window=len(messages))), None, settings=SETTINGS, seed=0
    )


def test_a_flood_of_lies_stays_under_its_cap_and_moves_the_policy_little(
    world_class: Any, tmp_path: Path
) -> None:
    world = build_world(world_class, 3)
    honest, lies = play(world, HONEST * EACH), play(world, EACH * TIMES)
    for message in lies:
        message.reward = 1.0 - message.reward
    clean, _ = learned(world, honest, tmp_path / "clean")
    fooled, _ = learned(world, [*honest, *lies], tmp_path / "fooled")

    masses = Counter({f"honest-{number}": EACH for number in range(HONEST)}, liar=len(lies))
    factor = factors(masses, Caps())
    for message in lies:
        message.weight = factor["liar"]
    capped, report = learned(world, [*honest, *lies], tmp_path / "capped")

    trained = {source: mass * factor[source] for source, mass in masses.items()}
    assert trained["liar"] / sum(trained.values()) <= 0.1 + 1e-9
    assert all(factor[source] == 1.0 for source in masses if source != "liar")
    assert report.weight < 1.2 * len(honest)
    value = {
        name: world.reliability(policy, world.requests)
        for name, policy in (("clean", clean), ("capped", capped), ("fooled", fooled))
    }
    assert value["capped"] >= value["clean"] - 0.02
    assert value["fooled"] < value["clean"] - 0.1
