"""Policies of a wanted value: better and worse ones than an incumbent, in several ways."""

from __future__ import annotations

import numpy as np

from agentgym.policy.parameters import Parameters
from tests.safety.world import World

HALVINGS = 12
WORSE = ("forgets", "misled", "noisy")
"""Ways in which a candidate is worse: it knows less, prefers lures, or is blurred everywhere."""


def mixed(start: Parameters, end: Parameters, share: float) -> Parameters:
    """start + share (end - start)."""
    tensors = {
        name: (tensor + share * (end[name].astype(np.float64) - tensor)).astype(np.float32)
        for name, tensor in start.tensors.items()
    }
    return Parameters(start.tools, start.names, tensors)


def of_value(world: World, start: Parameters, end: Parameters, value: float) -> Parameters:
    """The policy between two whose true value is the wanted one; as near as it gets."""
    low, high = 0.0, 1.0
    rising = world.value(end) > world.value(start)
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        above = world.value(mixed(start, end, middle)) > value
        low, high = (low, middle) if above is rising else (middle, high)
    return mixed(start, end, (low + high) / 2.0)


def better(world: World, incumbent: Parameters, by: float, *, seed: int) -> Parameters:
    """A policy that is on the way from the incumbent to one that knows nearly everything."""
    return of_value(world, incumbent, world.knowing(1.0, seed=seed), world.value(incumbent) + by)


def worse(world: World, incumbent: Parameters, by: float, *, way: str, seed: int) -> Parameters:
    """A policy that lost something of what the incumbent knows."""
    value = world.value(incumbent) - by
    if way == "forgets":
        end = world.knowing(0.0, seed=seed)
    elif way == "misled":
        end = world.knowing(1.0, seed=seed, lured=True)
    else:
        rng = np.random.default_rng(seed)
        noise = {n: np.zeros_like(t) for n, t in incumbent.tensors.items()}
        size = incumbent["tool.weight"].std()
        noise["tool.weight"] = rng.normal(0, 4 * size, noise["tool.weight"].shape).astype("f4")
        end = Parameters(
            incumbent.tools,
            incumbent.names,
            {n: t + noise[n] for n, t in incumbent.tensors.items()},
        )
    return of_value(world, incumbent, end, value)
