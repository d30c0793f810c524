"""The circuit breaker: real decisions of the plugin, the real health code, a tool that breaks."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from agentgym.config import Mode
from agentgym.policy.arms import Exploration
from agentgym.policy.evaluate import Scorer
from agentgym.policy.snapshot import Snapshot
from agentgym.proto.v1 import common_pb2, training_pb2
from agentgym.testing.recording import RecordingGym
from agentgym_daemon.learning.health import Health
from agentgym_daemon.watching import calls_of
from tests.reports import Report
from tests.safety.candidates import mixed
from tests.safety.world import NAME, VERSION, Request, World

CONTROL_SHARE = 0.1
LAG = 5
"""Runs that end between the one that shows something and the agent's hearing of it."""
WARM_UP, OUTAGE, AFTERWARDS = 600, 1_500, 600
PATIENCE = 6_000
NOTICED_WITHIN = 20
ELSEWHERE = 0.8
BACK_WITHIN = 200
pytestmark = [pytest.mark.timeout(900), pytest.mark.no_cover]


@dataclass
class Share:
    """How many of the counted affected requests had a property."""

    of: int = 0
    hits: int = 0

    def add(self, hit: bool) -> None:
        """Counts one."""
        self.of, self.hits = self.of + 1, self.hits + hit

    @property
    def value(self) -> float:
        """The share."""
        assert self.of >= 30, f"{self.of} requests say little"
        return self.hits / self.of


@dataclass
class Outage:
    """What one outage showed; requests are the affected ones that the policy decided."""

    before: Share = field(default_factory=Share)  # called the tool while it worked
    elsewhere: Share = field(default_factory=Share)  # called another one, after 20 errors
    after: Share = field(default_factory=Share)  # called the tool once it was back
    errors: int = 0  # visible ones until it was first found down
    back: int = 0  # affected requests from the recovery to the return
    others: int = 0  # times that a tool which worked was down


class Shop:
    """An agent that explores, and a daemon's view of how its tools do."""

    def __init__(self, seed: int) -> None:
        self.world = world = World(seed=seed, requests=40)
        ends = world.knowing(0.3, seed=seed), world.knowing(1.0, seed=seed)
        self.policy = mixed(*ends, 0.5)
        self._gym = RecordingGym("desk", mode=Mode.STEER, seed=seed)
        self._rng = random.Random(seed)
        self._names = {tool.fingerprint: tool.name for tool in world.tools}
        self._said: deque[tuple[int, Iterable[Any]]] = deque()
        self.health = Health()
        self._now = 0
        self._push(())
        scorer = Scorer(self.policy, world.catalogue)
        first = [
            int(np.argmax(scorer(world.vectors[request[0].text], ()).right[:-1]))
            for request in world.requests
        ]
        self.wanted = int(np.argmax(np.bincount(first)))
        """The tool that is the policy's first choice for the most requests."""
        self._affected = {
            request[0].text
            for request, tool in zip(world.requests, first, strict=True)
            if tool == self.wanted
        }
        self.fingerprint = world.tools[self.wanted].fingerprint

    def _push(self, down: Iterable[Any]) -> None:
        policies = {NAME: Snapshot(VERSION, "0" * 64, self.policy, {})}
        self._gym.live.swap(
            self.world.policy_set(policies, CONTROL_SHARE, Exploration(), down=down)
        )

    def serve(self, rewarded: float) -> tuple[Request, training_pb2.TrainingTrajectory]:
        """One run, rewarded with this probability, and what the daemon makes of it."""
        self._now += 1
        while self._said and self._said[0][0] <= self._now:
            self._push(self._said.popleft()[1])
        request = self._rng.choice(self.world.requests)
        message = self.world.run(self._gym, request, self._rng, self._now)
        if self._rng.random() >= rewarded:
            message.ClearField("reward")
        if self.health.observe(calls_of(message, self._names), self._now):
            self._said.append((self._now + LAG, tuple(self.health.since)))
        return request, message

    def is_affected(self, request: Request, message: training_pb2.TrainingTrajectory) -> bool:
        """Whether a run is one that the policy decided, and whose first choice is the tool."""
        decided = message.decisions[0].assignment == common_pb2.ASSIGNMENT_POLICY
        return decided and request[0].text in self._affected

    def calls(self, message: training_pb2.TrainingTrajectory) -> list[bool]:
        """Whether each call of the tool failed visibly."""
        name = self.world.tools[self.wanted].name
        return [call.error for call in message.calls if call.tool == name]

    @property
    def down(self) -> bool:
        """Whether the tool is down."""
        return self.fingerprint in self.health.since

    def outage(self, *, failing: float, rewarded: float) -> Outage:
        """The tool works, fails visibly so often, and works again."""
        found = Outage()
        for _ in range(WARM_UP):
            request, message = self.serve(1.0)
            if self.is_affected(request, message):
                found.before.add(bool(self.calls(message)))
            found.others += len(self.health.since)
        self._break(found, failing, rewarded)
        while self.down and found.back <= PATIENCE:
            request, _ = self.serve(rewarded)
            found.back += request[0].text in self._affected
        for number in range(LAG + AFTERWARDS):
            request, message = self.serve(rewarded)
            if number >= LAG and self.is_affected(request, message):
                found.after.add(bool(self.calls(message)))
        return found

    def _break(self, found: Outage, failing: float, rewarded: float) -> None:
        self.world.broken = {self.wanted: failing}
        errors = 0
        for _ in range(OUTAGE):
            request, message = self.serve(rewarded)
            called = self.calls(message)
            if errors >= NOTICED_WITHIN and self.is_affected(request, message):
                found.elsewhere.add(not called)
            errors += sum(called)
            if self.down and not found.errors:
                found.errors = errors
            found.others += len(self.health.since) - self.down
        self.world.broken = {}


@pytest.mark.parametrize(
    ("failing", "rewarded"),
    [(1.0, 1.0), (0.9, 1.0), (1.0, 0.3), (1.0, 0.0)],
    ids=["always", "nine-of-ten", "three-of-ten-rewarded", "never-rewarded-again"],
)
def test_a_tool_that_fails_is_left_alone_and_taken_up_again(
    failing: float, rewarded: float, load: Callable[..., int], report: Report
) -> None:
    """After 20 visible errors >= 80 % go elsewhere; back within 200 affected requests."""
    # Counted are requests whose first choice is the tool and that the policy decided: the control
    # group goes on as if nothing were there.
    seeds = load(40)
    found = [Shop(seed).outage(failing=failing, rewarded=rewarded) for seed in range(seeds)]
    elsewhere = [one.elsewhere.value for one in found]
    before = [one.before.value for one in found]
    after = [one.after.value for one in found]
    back = [one.back for one in found]
    errors = [one.errors for one in found]
    report.load = {"outages": seeds, "failing": failing, "rewarded": rewarded}
    report.figures = {
        "elsewhere_least": round(min(elsewhere), 3),
        "elsewhere_mean": round(float(np.mean(elsewhere)), 3),
        "outages_that_held": sum(share >= ELSEWHERE for share in elsewhere),
        "errors_until_down_median": float(np.median(errors)),
        "errors_until_down_most": max(errors),
        "affected_until_back_median": float(np.median(back)),
        "affected_until_back_most": max(back),
        "used_before": round(float(np.mean(before)), 3),
        "used_after": round(float(np.mean(after)), 3),
        "runs_with_another_tool_down": sum(one.others for one in found),
    }
    # What still works one time in ten is told apart from bad luck later, where a policy is unsure.
    assert (min(elsewhere) if failing == 1.0 else np.mean(elsewhere)) >= ELSEWHERE
    assert max(back) <= BACK_WITHIN
    assert np.mean(after) >= 0.9 * np.mean(before)
    assert min(errors) >= 2
