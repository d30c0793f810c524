"""The life of an agent beside a real daemon, in a world that can change under its feet.

Rewards pass through a `Judge`, which a disaster replaces: what it says reaches the daemon, what is
true does not. What the policies in force are worth is computed from the world's probabilities.
"""

from __future__ import annotations

import copy
import json
import math
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from agentgym import AgentGym
from agentgym.policy.arms import Exploration, distribution, force_arms
from agentgym.policy.evaluate import Catalogue, Scorer
from agentgym.policy.policy_set import PolicySet
from agentgym.proto.v1 import admin_pb2
from agentgym.trajectory import Tool
from tests.faults.processes import DaemonProcess
from tests.safety.world import NAME, Request, Slot, World

AGENT = "desk"
BATCH = 25
SHARP = Exploration(temperature=1e-3, floor=0.0, defer_floor=0.02)
"""Nearly the best arm every time: what is left when nothing is tried out."""
WINDOW = 500
SETTLE = 200

Judge = Callable[["Life", bool], list[tuple[float, dict[str, Any]]]]
"""The rewards of a run, by its true outcome: values, with more arguments of `AgentGym.reward`."""


def honest(_life: Life, success: bool) -> list[tuple[float, dict[str, Any]]]:
    """Says what is true."""
    return [(float(success), {})]


@dataclass(frozen=True, slots=True)
class Look:
    """What the agent's way of choosing is worth at some time."""

    run: int
    alone: float
    sharp: float  # the policies in force without exploring
    drawn: float  # and as they draw
    version: str


@dataclass
class Life:
    """An agent, its daemon, and its world."""

    home: Path
    daemon: DaemonProcess
    world: World
    seed: int
    judge: Judge = honest
    late: int = 0  # runs by which every reward is late
    looks: list[Look] = field(default_factory=list)
    errors: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.gym = AgentGym(AGENT, home=self.home, seed=self.seed)
        self.runs = 0
        self._owed: deque[tuple[int, str, list[tuple[float, dict[str, Any]]]]] = deque()
        assert self.gym.ready(30)

    def go(self, runs: int) -> None:
        """The agent works; after every few runs the daemon may catch up, as it would over days."""
        for _ in range(runs // BATCH):
            self.looks.append(self.look())
            for _ in range(BATCH):
                request = self.rng.choice(self.world.requests)
                success, _, trajectory = self.world.play(self.gym, request, self.rng)
                self.runs += 1
                self._owed.append((self.runs + self.late, trajectory, self.judge(self, success)))
                self._pay()
            assert self.gym.flush(60)
            self.settle()

    def _pay(self) -> None:
        while self._owed and self._owed[0][0] <= self.runs:
            _, trajectory, rewards = self._owed.popleft()
            for value, more in rewards:
                self.gym.reward(value, trajectory=trajectory, **more)

    def settle(self) -> None:
        """Until the daemon has nothing left to do, and the agent heard what came of it."""

        def idle() -> bool:
            status = self.daemon.applied()
            return status.trainer != "training" and all(s.until_training > 0 for s in status.scopes)

        _until(idle)
        live = {s.scope.agent_name: s.live for s in self.status().scopes if s.live}
        _until(lambda: dict(self.gym.status()["policies"]) == live)

    def status(self) -> admin_pb2.StatusResponse:
        """What the daemon says of itself."""
        return self.daemon.status()

    # ---- what it is worth

    def look(self) -> Look:
        """The true value of what the agent does now."""
        policies = self.gym.live.current
        alone = self.world.value(None)
        if policies is None or NAME not in policies.policies:
            return Look(self.runs, alone, alone, alone, "")
        sharp, drawn = (worth(self.world, policies, e) for e in (SHARP, policies.exploration))
        return Look(self.runs, alone, sharp, drawn, policies.version(NAME))

    def worst_window(self) -> float:
        """The least mean of (policy - agent alone) over runs in a row, once it has settled."""
        gaps = [look.sharp - look.alone for look in self.looks if look.run >= SETTLE]
        size = min(len(gaps), WINDOW // BATCH)
        sums = np.convolve(gaps, np.ones(size) / size, mode="valid")
        return float(sums.min())

    def exploring(self) -> float:
        """What exploring cost, per run."""
        return float(np.mean([look.sharp - look.drawn for look in self.looks]))

    def stop(self) -> None:
        """Lets the agent end."""
        self.gym.close()

    # ---- what changes

    def move(self, requests: Sequence[Request], tools: Sequence[Tool] | None = None) -> None:
        """The world becomes another one."""
        world = copy.copy(self.world)
        world.__dict__.pop("_inverse", None)
        world.requests = tuple(requests)
        world.tools = tuple(tools or world.tools)
        world.slots = tuple(slot for request in world.requests for slot in request)
        world.catalogue = Catalogue(world.tools, world.features.exactly)
        world.vectors = {slot.text: world.features.exactly(slot.text) for slot in world.slots}
        self.world = world

    def rights(self, change: Callable[[Slot, int, float], float]) -> None:
        """Changes how likely each tool does each slot: `change(slot, tool, probability)`."""
        self.move(
            [
                tuple(
                    replace(s, right=tuple(change(s, t, p) for t, p in enumerate(s.right)))
                    for s in request
                )
                for request in self.world.requests
            ]
        )


def worth(world: World, policies: PolicySet, exploration: Exploration) -> float:
    """Expected success under a set of policies, with the tools that it leaves out."""
    scorer = Scorer(policies.policies[NAME].parameters, world.catalogue)
    prints = world.catalogue.fingerprints
    down = tuple(i for i, fingerprint in enumerate(prints) if fingerprint in policies.down)
    free = [i not in down for i in range(len(world.tools))]

    def right(slot: Slot) -> float:
        if not any(free):
            return float(np.dot(slot.right, slot.alone))
        evaluation = scorer(world.vectors[slot.text], (), down)
        arms = force_arms(evaluation, free, exploration.top_k)
        chances = distribution(np.array([arm.score for arm in arms]), exploration)
        forced = sum(
            c * slot.right[arm.tools[0]] for arm, c in zip(arms[1:], chances[1:], strict=True)
        )
        return float(chances[0] * np.dot(slot.right, slot.alone) + forced)

    return float(np.mean([math.prod(right(s) for s in request) for request in world.requests]))


def _until(holds: Callable[[], bool], timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "the daemon never settled"
        time.sleep(0.05)


def receipts(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the watch did, by its own receipts, oldest first."""
    changes = [entry["change"] for entry in reversed(entries)]
    return [
        {"kind": change["kind"], **json.loads(change["receipt_json"] or "{}")}
        for change in changes
        if change["actor"] == "watch"
    ]
