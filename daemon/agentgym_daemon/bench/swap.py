"""`bench swap`: from the promotion of a policy to the moment when a running agent has it in force.

A real daemon and a real agent process; two versions take turns, each downloaded and verified anew.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from agentgym.cli.client import Client
from agentgym.config import resolve
from agentgym.errors import DaemonError
from agentgym.policy.features import TextHasher
from agentgym.policy.parameters import Parameters
from agentgym.policy.snapshot import digest
from agentgym.proto.v1 import common_pb2, policy_pb2
from agentgym_daemon.bench.episodes import tools_of
from agentgym_daemon.bench.frame import Report
from agentgym_daemon.bench.placing import Placed, place, untaught
from agentgym_daemon.encoders.choice import featuriser_of

_AGENT = "bench"
_PATIENCE_S = 30.0
_CHILD_SWAPS = 5
_CHILD_PATIENCE_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How often, and how large."""
    parser.add_argument("--swaps", type=int, default=300, help="promotions of each round")
    parser.add_argument("--tools", type=int, default=50, help="that the policies know")


def run(arguments: argparse.Namespace) -> Report:
    """Percentiles of the time until a promotion is in force."""
    runs = [_round(arguments) for _ in range(arguments.rounds)]
    units = {"published_p50_ms": "ms", "published_p99_ms": "ms", "published_max_ms": "ms"}
    units |= {"asked_p50_ms": "ms", "asked_p99_ms": "ms", "snapshot_kb": "KiB"}
    missing = ["writing a new version's file and fact, which come before its promotion"]
    if all("child_max_ms" in found for found in runs):
        units |= {"child_p50_ms": "ms", "child_max_ms": "ms"}
    else:
        missing.append("a forked child on the pointer route: it did not follow")
    return Report(
        name="swap",
        units=units,
        runs=runs,
        goals={"published_p99_ms": "<= 20 (aim 5)", "child_max_ms": "<= 2000"},
        not_measured=missing,
    )


def _round(arguments: argparse.Namespace) -> dict[str, float]:
    home = Path(tempfile.mkdtemp(prefix="ag-", dir="/tmp"))  # short: a socket's path is limited
    try:
        files = place(home, _two_policies(arguments.tools))
        with _daemon(home), _agent(home) as agent:
            swaps = _Swaps(home, agent, files)
            agent.wait("agent", ready=True)
            figures = swaps.measure(arguments.swaps)
            figures["snapshot_kb"] = statistics.mean(map(len, files.values())) / 1024
            return figures | swaps.measure_child(_CHILD_SWAPS)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _two_policies(tools: int) -> list[Placed]:
    features = featuriser_of("default", TextHasher(b"bench"))
    scope = common_pb2.Scope(agent=_AGENT, agent_name=_AGENT, feature_schema=features.schema)
    prior = untaught(tools_of(tools), features)
    return [Placed(scope, _random(prior, seed), live=False) for seed in range(2)]


def _random(prior: Parameters, seed: int) -> Parameters:
    rng = np.random.default_rng(seed)
    tensors = {
        name: (tensor + rng.normal(0.0, 0.1, tensor.shape)).astype(np.float32)
        for name, tensor in prior.tensors.items()
    }
    return Parameters(prior.tools, prior.names, tensors)


class _Swaps:
    """Promotes the versions in turn and waits until the agent has each in force."""

    def __init__(self, home: Path, agent: _Agent, files: dict[str, bytes]) -> None:
        self._client = Client(resolve({"home": home, "agent": _AGENT}))
        self._agent = agent
        self._versions = [(version, digest(data)) for version, data in files.items()]
        self._count = 0

    def _promote(self) -> tuple[int, int, str]:
        """Start and end of the call, and what should be in force after it."""
        version, sha256 = self._versions[self._count % len(self._versions)]
        self._count += 1
        request = policy_pb2.PromoteRequest(version=version, reason="bench")
        began = time.monotonic_ns()
        self._client.call(self._client.policies.Promote, request)
        return began, time.monotonic_ns(), sha256

    def measure(self, swaps: int) -> dict[str, float]:
        """Percentiles over `swaps` promotions; the first, which also encodes, is left out."""
        asked, published = [], []
        for number in range(swaps + 1):
            began, ended, sha256 = self._promote()
            at = self._agent.wait("agent", sha256=sha256)["at"]
            if number:
                asked.append((at - began) / 1e6)
                # The answer may arrive later than the policy itself.
                published.append(max(0.0, (at - ended) / 1e6))
        return {
            "asked_p50_ms": statistics.median(asked),
            "asked_p99_ms": _percentile(asked, 0.99),
            "published_p50_ms": statistics.median(published),
            "published_p99_ms": _percentile(published, 0.99),
            "published_max_ms": max(published),
        }

    def measure_child(self, swaps: int) -> dict[str, float]:
        """The same for a child of the agent's process; nothing if it does not follow."""
        self._agent.tell("fork")
        try:
            self._agent.wait("child", timeout_s=_CHILD_PATIENCE_S, ready=True)
            took = []
            for _ in range(swaps):
                _, ended, sha256 = self._promote()
                said = self._agent.wait("child", timeout_s=_CHILD_PATIENCE_S, sha256=sha256)
                took.append((said["at"] - ended) / 1e6)
        except TimeoutError:
            return {}
        return {"child_p50_ms": statistics.median(took), "child_max_ms": max(took)}


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


class _Agent:
    """The agent's process, and what it says."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.popen = popen
        self._said: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self._said.put(json.loads(line))

    def tell(self, line: str) -> None:
        """A line on its stdin."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(line.encode() + b"\n")
        self.popen.stdin.flush()

    def wait(self, who: str, *, timeout_s: float = _PATIENCE_S, **wanted: Any) -> dict[str, Any]:
        """The next thing said by `who` with these fields; what comes before it is passed over."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                said = self._said.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise TimeoutError(f"{who} did not say {wanted} in {timeout_s:g} s") from None
            if said["who"] == who and all(said.get(k) == v for k, v in wanted.items()):
                return said


@contextmanager
def _agent(home: Path) -> Iterator[_Agent]:
    with subprocess.Popen(
        [sys.executable, "-m", "agentgym_daemon.bench.swapping", _AGENT],
        env={**os.environ, "AGENTGYM_HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as popen:
        try:
            yield _Agent(popen)
        finally:
            os.killpg(popen.pid, signal.SIGKILL)  # its child too


@contextmanager
def _daemon(home: Path) -> Iterator[None]:
    with (
        (home / "daemon.err").open("wb") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "agentgym_daemon", "serve", "--home", str(home)], stderr=errors
        ) as popen,
    ):
        try:
            _wait_until_ready(home, popen)
            yield
        finally:
            popen.terminate()


def _wait_until_ready(home: Path, popen: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline and popen.poll() is None:
        with suppress(DaemonError), Client(resolve({"home": home, "agent": _AGENT})) as client:
            client.call(client.policies.List, policy_pb2.ListPoliciesRequest())
            return
        time.sleep(0.05)
    raise RuntimeError(f"the daemon does not answer: {(home / 'daemon.err').read_text()[-2000:]}")
