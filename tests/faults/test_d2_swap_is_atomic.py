"""D2: policies are swapped while many threads decide; every decision is of one version."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from agentgym.live import LivePolicies
from agentgym.policy import snapshot
from agentgym.policy.applier import Applier
from agentgym.policy.evaluate import Catalogue, Scorer
from agentgym.policy.features import TextHasher
from agentgym.policy.parameters import Parameters, initial
from agentgym.policy.trust import Trust
from agentgym.proto.v1 import policy_pb2
from agentgym.testing.daemon import FakeDaemon
from agentgym.trajectory import ArmKind, Tool
from tests.manifests import make_manifest

TOOLS = tuple(Tool(f"tool_{i}", f"Does thing {i}.") for i in range(8))
AGENT, KEY = "agent", b"any"
THREADS = 64
VERSIONS = 20  # files in turn; a swap is a swap whether or not the file was in force before
TASK = TextHasher(KEY)("where is my order")


class Files:
    """Snapshot files by version, as `Fetch` gives them."""

    def __init__(self) -> None:
        self.policies = {f"p-{n:06d}": _policy(n) for n in range(1, VERSIONS + 1)}
        self.data = {version: _file(version, p) for version, p in self.policies.items()}

    def snapshot(self, version: policy_pb2.PolicyVersion) -> bytes:
        """The file of a version."""
        return self.data[version.version]

    def encoder(self, sha256: str) -> bytes:
        """There is none."""
        raise AssertionError(sha256)


def _policy(seed: int) -> Parameters:
    rng = np.random.default_rng(seed)
    made = initial(
        tuple(tool.fingerprint.hex() for tool in TOOLS), tuple(tool.name for tool in TOOLS)
    )
    for tensor in made.tensors.values():
        tensor += rng.normal(0.0, 0.3, tensor.shape).astype(np.float32)
    return made


def _file(version: str, policy: Parameters) -> bytes:
    scope = {"agent": AGENT, "agent_name": AGENT, "feature_schema": 1}
    return snapshot.dump(policy, make_manifest(version, scope=scope))


def _update(version: str, data: bytes, home: Path) -> policy_pb2.PolicyUpdate:
    update = policy_pb2.PolicyUpdate()
    update.CopyFrom(FakeDaemon(home).update)
    update.feature_key = KEY
    entry = update.live.add(version=version, sha256=snapshot.digest(data), size=len(data))
    entry.scope.agent = entry.scope.agent_name = AGENT
    entry.scope.feature_schema = 1
    return update


class Deciding(threading.Thread):
    """Decides until it is told to end, and checks every decision against its version."""

    def __init__(self, live: LivePolicies, expected: dict[str, tuple[float, ...]]) -> None:
        super().__init__(daemon=True)
        self._live, self._expected = live, expected
        self.ended = threading.Event()
        self.by_version: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self) -> None:
        """Any exception is a wrong decision too."""
        rng = random.Random(self.ident)
        while not self.ended.is_set():
            try:
                self._decide(rng)
            except Exception as error:  # noqa: BLE001 - shown by the test
                self.wrong.append(repr(error))

    def _decide(self, rng: random.Random) -> None:
        current = self._live.current
        assert current is not None
        catalogue = current.catalogue(TOOLS, None)
        assert catalogue is not None
        decision = current.decide(
            AGENT,
            TASK,
            catalogue,
            (),
            allowed=[True] * len(TOOLS),
            kind=ArmKind.FORCE,
            rng=rng,
        )
        assert decision is not None
        version = current.version(AGENT)
        right = self._expected[version]
        for arm in decision.support[1:]:
            if arm.score != right[arm.tools[0]]:
                self.wrong.append(f"{version}: {arm} is of another version")
        if abs(sum(arm.probability for arm in decision.support) - 1.0) > 1e-6:
            self.wrong.append(f"{version}: propensities of {decision.support}")
        self.by_version[version] += 1


def test_every_decision_is_of_exactly_one_version(
    home: Path, load: Callable[..., int], report: Any
) -> None:
    """1,000 swaps under 64 deciding threads: no mixture, no exception, propensities sum to 1."""
    files, live = Files(), LivePolicies()
    applier = Applier(home, live, Trust(home / "signing.pub", home, AGENT))
    catalogue = Catalogue(TOOLS, TextHasher(KEY))
    expected = {
        version: tuple(Scorer(policy, catalogue)(TASK, ()).right)
        for version, policy in files.policies.items()
    }
    updates = [_update(version, data, home) for version, data in files.data.items()]
    applier.apply(updates[0], files)
    threads = [Deciding(live, expected) for _ in range(THREADS)]
    for thread in threads:
        thread.start()

    swaps = load(1000, 50)
    for number in range(1, swaps + 1):
        applier.apply(updates[number % VERSIONS], files)
    for thread in threads:
        thread.ended.set()
    for thread in threads:
        thread.join(60)

    decided = sum((thread.by_version for thread in threads), Counter[str]())
    wrong = [what for thread in threads for what in thread.wrong]
    report.load.update(swaps=swaps, threads=THREADS)
    report.figures.update(decisions=decided.total(), versions=len(decided), wrong=len(wrong))
    assert wrong == []
    assert len(live.applied) == swaps + 1
    assert len(decided) > 1
    assert all(thread.by_version for thread in threads)
