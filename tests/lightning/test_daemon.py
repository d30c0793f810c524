"""A daemon with this engine: rollouts are reported to it, and it trains on them by itself."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import agentlightning as agl
import grpc
import pytest

from agentgym import semconv
from agentgym.proto.v1 import policy_pb2, policy_pb2_grpc, trajectory_pb2, trajectory_pb2_grpc
from agentgym_daemon.learning import lightning
from agentgym_daemon.learning.lightning import PolicyStore, ToolPolicyAlgorithm
from agentgym_daemon.learning.rollouts.learner import LearnerOptions, encoder_of
from agentgym_daemon.learning.rollouts.report import Reporter
from agentgym_daemon.learning.settings import LearningSettings

AGENT = "desk-rollouts"
ROLLOUTS = 60


class Client:
    """Calls of a daemon with its token."""

    def __init__(self, home: Path) -> None:
        self.address = f"unix:{home / 'daemon.sock'}"
        self.token = (home / "token").read_text().strip()
        self.channel = grpc.insecure_channel(self.address)
        self._metadata = ((semconv.METADATA_TOKEN, f"Bearer {self.token}"),)
        self._policies = policy_pb2_grpc.PolicyServiceStub(self.channel)
        self._trajectories = trajectory_pb2_grpc.TrajectoryServiceStub(self.channel)

    def policies(self) -> list[policy_pb2.PolicyVersion]:
        request = policy_pb2.ListPoliciesRequest(agent=AGENT)
        return list(self._policies.List(request, metadata=self._metadata, timeout=10).policies)

    def trajectories(self) -> list[trajectory_pb2.TrajectorySummary]:
        request = trajectory_pb2.ListTrajectoriesRequest(agent=AGENT, limit=200)
        answer = self._trajectories.List(request, metadata=self._metadata, timeout=10)
        return list(answer.trajectories)


@pytest.fixture
def client(home: Path) -> Iterator[Client]:
    """A daemon whose engine is Agent Lightning, in this interpreter's environment."""
    command = [
        *(sys.executable, "-m", "agentgym_daemon", "serve", "--home", str(home)),
        *("--engine", "lightning", "--engine-python", sys.executable, "--encoder", "none"),
        *("--retrain-trajectories", str(ROLLOUTS)),
    ]
    process = subprocess.Popen(command, env=dict(os.environ), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "is ready" in line:
                break
        else:
            pytest.fail("the daemon did not start")
        client = Client(home)
        yield client
        client.channel.close()
    finally:
        process.terminate()
        # What it says must be read, or it waits for a reader.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=20)
        process.kill()
        process.wait()


def rewarded_ones(client: Client) -> list[trajectory_pb2.TrajectorySummary]:
    return [summary for summary in client.trajectories() if summary.HasField("reward")]


def until(look: Callable[[], Any], enough: Callable[[Any], bool]) -> Any:
    """What `look` finds as soon as it is enough, or after a minute."""
    deadline = time.monotonic() + 60
    while not enough(found := look()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


class ReportedAgent(agl.LitAgent):
    """An agent at the support desk; every tenth rollout breaks."""

    def __init__(self, world: Any) -> None:
        super().__init__()
        self.world = world

    def rollout(self, task: Any, resources: Any, rollout: Any) -> float:
        with lightning.tool_run(resources, rollout, task=task.text) as run:
            reward: float = self.world.serve(task, run)
        if self.world.tasks.index(task) % 10 == 9:
            raise ConnectionError("after all")
        return reward


@pytest.mark.e2e
def test_reported_rollouts_teach_the_daemon(client: Client, desk_world: Callable[..., Any]) -> None:
    world = desk_world(ROLLOUTS + 10)
    reporter = Reporter(client.address, token=client.token, agent=AGENT)
    key, schema = reporter.features()
    algorithm = ToolPolicyAlgorithm(
        LearnerOptions(
            agent=AGENT,
            feature_key=key,
            encoder=encoder_of(schema),
            settings=LearningSettings(rounds=5),
        ),
        batch=len(world.tasks),
    )

    lightning.trainer(algorithm, PolicyStore(reporter=reporter)).fit(
        ReportedAgent(world), world.tasks
    )
    reporter.close()

    assert dict(reporter.counts) == {"reported": ROLLOUTS + 10}
    expected = len(world.tasks) - 7
    rewarded = until(lambda: rewarded_ones(client), lambda found: len(found) == expected)
    assert len(rewarded) == expected
    assert len(client.trajectories()) == len(world.tasks)
    assert algorithm.rounds[0].failed == 7
    mean = sum(summary.reward for summary in rewarded) / len(rewarded)
    assert mean == pytest.approx(algorithm.rounds[0].control)

    known = until(client.policies, bool)
    assert [version.version for version in known] == ["p-000001"]
    lineage = json.loads(known[0].manifest_json)["lineage"]
    assert lineage["engine"] == "lightning"
    assert lineage["trajectories"] >= ROLLOUTS
