"""From a step on the wire back to its probabilities, without any difference."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgym.encode import features_message, step_message
from agentgym.policy.arms import Exploration, decide, force_arms, show_arms
from agentgym.policy.evaluate import Catalogue, CatalogueCache, evaluate
from agentgym.policy.features import SparseVector, TextHasher
from agentgym.policy.parameters import Parameters, initial
from agentgym.policy.policy_set import PolicySet
from agentgym.policy.snapshot import Snapshot
from agentgym.proto.v1 import decision_pb2
from agentgym.testing.recording import RecordingGym
from agentgym.trajectory import ArmKind, PastCall, Tool

POOL = tuple(
    Tool(f"tool_{i}", f"does thing {i} with orders, parcel {i * 7} and refunds") for i in range(9)
)
KEY = b"installation"


def learned(seed: int) -> Parameters:
    rng = np.random.default_rng(seed)
    made = initial(tuple(t.fingerprint.hex() for t in POOL[:7]), tuple(t.name for t in POOL[:7]))
    for tensor in made.tensors.values():
        tensor += rng.normal(0, 0.5, tensor.shape).astype(np.float32)
    return made


PARAMETERS = learned(1)


def policies(exploration: Exploration, agent: str = "agent") -> PolicySet:
    hasher = TextHasher(KEY)
    snapshot = Snapshot("p-000001", "0" * 64, PARAMETERS, {})
    return PolicySet(
        hasher, CatalogueCache(hasher), exploration, 0.0, 3600.0, policies={agent: snapshot}
    )


def recomputed(
    record: decision_pb2.DecisionRecord, features: decision_pb2.TaskFeatures
) -> list[float]:
    """What the daemon does: from bytes, the catalogue and the snapshot to probabilities."""
    x = SparseVector(
        np.array(features.index, np.uint32),
        np.frombuffer(features.quantised, np.uint8),
        features.scale,
    )
    by_fingerprint = {tool.fingerprint: tool for tool in POOL}
    offered = tuple(by_fingerprint[f] for f in record.offered)
    history = [PastCall(c.tool, c.error) for c in record.history]
    estimate = evaluate(PARAMETERS, x, Catalogue(offered, TextHasher(KEY)), history)
    allowed = list(record.allowed) or [True] * len(offered)
    arms = force_arms if record.support[-1].kind == decision_pb2.Arm.KIND_FORCE else show_arms
    exploration = Exploration(record.temperature, record.floor, record.defer_floor, record.top_k)
    rng = None if record.greedy else random.Random(0)
    again = decide(arms(estimate, allowed, record.top_k), exploration, rng)
    assert [arm.tools for arm in again.support] == [tuple(a.tools) for a in record.support]
    return [arm.probability for arm in again.support]


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(min_size=1, max_size=120).filter(str.strip),
    offered=st.lists(st.sampled_from(POOL), unique=True, min_size=2, max_size=9),
    protected=st.sets(st.integers(0, 8), max_size=1),
    mode=st.sampled_from(["steer", "advise", "shadow"]),
    explore=st.booleans(),
    error=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_daemon_recomputes_every_decision_exactly(
    text: str,
    offered: list[Tool],
    protected: set[int],
    mode: str,
    explore: bool,
    error: bool,
    seed: int,
) -> None:
    names = [POOL[i].name for i in protected]
    gym = RecordingGym(mode=mode, explore=explore, seed=seed, protected=names)
    gym.live.swap(policies(Exploration(temperature=0.07, floor=0.03, top_k=4)))
    run = gym.recorder.start_run("agent", framework="test", task=text)
    for _ in range(2):
        turn = run.turn(offered)
        turn.finish([(offered[0].name, "")])
        run.call(offered[0].name).finish(error="ToolError" if error else "")
    run.finish()
    task = gym.sink.tasks[0]
    assert task.vector is not None
    features = features_message(task.trajectory_id, task.features_id, task.vector)
    sent_features = decision_pb2.TaskFeatures.FromString(features.SerializeToString())

    for item in gym.sink.steps:
        sent = decision_pb2.DecisionRecord.FromString(step_message(item).SerializeToString())

        logged = [arm.probability for arm in sent.support]
        assert recomputed(sent, sent_features) == logged
        assert sent.arm_propensity == logged[sent.arm]
        assert sent.features_id == task.features_id


@pytest.mark.parametrize("kind", [ArmKind.FORCE, ArmKind.SHOW])
def test_nothing_is_decided_where_every_tool_is_protected(kind: ArmKind) -> None:
    chosen = policies(Exploration()).decide(
        "agent",
        TextHasher(KEY)("x"),
        POOL[:2],
        [],
        allowed=[False, False],
        kind=kind,
        rng=random.Random(0),
    )

    assert chosen is None


def test_an_unknown_agent_has_no_version(make_parameters: Callable[..., Parameters]) -> None:
    known = policies(Exploration())

    assert known.version("agent") == "p-000001"
    assert known.version("someone-else") == ""
