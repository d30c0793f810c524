"""From a step on the wire back to its probabilities, without any difference."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgym.messages import step_message
from agentgym.policy.arms import Exploration, decide, force_arms, show_arms
from agentgym.policy.evaluate import Catalogue, CatalogueCache, Scorer
from agentgym.policy.features import GRAMS_ONLY, Embedding, Featuriser, TextHasher, TextVector
from agentgym.policy.messages import features_message
from agentgym.policy.parameters import Parameters, initial
from agentgym.policy.policy_set import PolicySet
from agentgym.policy.snapshot import Snapshot
from agentgym.proto.v1 import decision_pb2
from agentgym.testing.recording import RecordingGym
from agentgym.trajectory import ArmKind, Decision, Fallback, PastCall, Tool

POOL = tuple(
    Tool(f"tool_{i}", f"does thing {i} with orders, parcel {i * 7} and refunds") for i in range(9)
)
KEY = b"installation"


DIMENSIONS = 12
SCHEMAS = (1, 7)


def encode(text: str) -> np.ndarray:
    """A fake encoder: pure in the text, of unit length."""
    seed = zlib.crc32(text.encode("utf-8", "replace"))
    vector = np.random.default_rng(seed).normal(size=DIMENSIONS)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def featuriser(schema: int) -> Featuriser:
    hasher = TextHasher(KEY)
    return (
        Featuriser(hasher)
        if schema == 1
        else Featuriser(hasher, encode, schema=schema, dim=DIMENSIONS)
    )


def learned(seed: int, schema: int) -> Parameters:
    rng = np.random.default_rng(seed)
    made = initial(
        tuple(t.fingerprint.hex() for t in POOL[:7]),
        tuple(t.name for t in POOL[:7]),
        featuriser(schema).embedding_dim,
    )
    for tensor in made.tensors.values():
        tensor += rng.normal(0, 0.5, tensor.shape).astype(np.float32)
    return made


PARAMETERS = {schema: learned(1, schema) for schema in SCHEMAS}


def policies(
    exploration: Exploration | None = None, schema: int = 1, down: Sequence[Tool] = ()
) -> PolicySet:
    features = featuriser(schema)
    snapshot = Snapshot("p-000001", "0" * 64, PARAMETERS[schema], {})
    return PolicySet(
        features=features,
        catalogues=CatalogueCache(features),
        exploration=exploration or Exploration(),
        control_share=0.0,
        stale_after_s=3600.0,
        policies={"agent": snapshot},
        down=frozenset(tool.fingerprint for tool in down),
    )


def recomputed(
    record: decision_pb2.DecisionRecord, features: decision_pb2.TaskFeatures
) -> list[float]:
    """What the daemon does: from bytes, the catalogue and the snapshot to probabilities."""
    schema = features.feature_schema
    x = TextVector(
        np.array(features.index, np.uint32),
        np.frombuffer(features.quantised, np.uint8),
        features.scale,
        Embedding(np.frombuffer(features.embedding, np.int8), features.embedding_scale)
        if features.embedding
        else None,
    )
    by_fingerprint = {tool.fingerprint: tool for tool in POOL}
    offered = tuple(by_fingerprint[f] for f in record.offered)
    history = [PastCall(c.tool, c.error) for c in record.history]
    scorer = Scorer(PARAMETERS[schema], Catalogue(offered, featuriser(schema)))
    estimate = scorer(x, history, record.down)
    allowed = list(record.allowed) or [True] * len(offered)
    free = [ok and i not in record.down for i, ok in enumerate(allowed)]
    arms = force_arms if record.support[-1].kind == decision_pb2.Arm.KIND_FORCE else show_arms
    exploration = Exploration(record.temperature, record.floor, record.defer_floor, record.top_k)
    rng = None if record.greedy else random.Random(0)
    again = decide(arms(estimate, free, record.top_k), exploration, rng)
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
    schema=st.sampled_from(SCHEMAS),
    down=st.sets(st.sampled_from(POOL), max_size=2),
)
def test_the_daemon_recomputes_every_decision_exactly(
    text: str,
    offered: list[Tool],
    protected: set[int],
    mode: str,
    explore: bool,
    error: bool,
    seed: int,
    schema: int,
    down: set[Tool],
) -> None:
    names = [POOL[i].name for i in protected]
    gym = RecordingGym(mode=mode, explore=explore, seed=seed, protected=names)
    gym.live.swap(policies(Exploration(0.07, 0.03, top_k=4), schema, tuple(down)))
    run = gym.recorder.start_run("agent", framework="test", task=text)
    for _ in range(2):
        turn = run.turn(offered)
        turn.finish([(offered[0].name, "")])
        run.call(offered[0].name).finish(error="ToolError" if error else "")
    run.finish()
    task = gym.sink.tasks[0]
    assert task.vector is not None
    features = features_message(
        task.trajectory_id, task.features_id, task.vector, task.feature_schema
    )
    sent_features = decision_pb2.TaskFeatures.FromString(features.SerializeToString())

    for item in gym.sink.steps:
        message = step_message(item, GRAMS_ONLY)
        sent = decision_pb2.DecisionRecord.FromString(message.SerializeToString())

        assert sent.scope.feature_schema == sent_features.feature_schema == schema
        if item.decision is None:  # every tool was down or protected
            assert item.fallback is Fallback.PROTECTED
            continue

        logged = [arm.probability for arm in sent.support]
        assert recomputed(sent, sent_features) == logged
        assert sent.arm_propensity == logged[sent.arm]
        assert sent.features_id == task.features_id


def choose(
    policies: PolicySet,
    *,
    offered: Sequence[Tool] = POOL[:4],
    allowed: Sequence[bool] = (True,) * 4,
    kind: ArmKind = ArmKind.FORCE,
    rng: random.Random | None = None,
) -> Decision | None:
    catalogue = policies.catalogue(offered, None)
    assert catalogue is not None
    task = policies.features("x")
    return policies.decide("agent", task, catalogue, [], allowed=allowed, kind=kind, rng=rng)


@pytest.mark.parametrize("kind", [ArmKind.FORCE, ArmKind.SHOW])
def test_nothing_is_decided_where_every_tool_is_protected(kind: ArmKind) -> None:
    assert choose(policies(), allowed=[False] * 4, kind=kind, rng=random.Random(0)) is None


@pytest.mark.parametrize("kind", [ArmKind.FORCE, ArmKind.SHOW])
def test_a_tool_that_is_down_is_no_arm_and_named(kind: ArmKind) -> None:
    working = choose(policies(), kind=kind)
    assert working is not None
    best = working.support[1].tools[0]

    decision = choose(policies(down=[POOL[best]]), kind=kind)

    assert decision is not None
    assert decision.down == (best,)
    if kind is ArmKind.FORCE:
        assert best not in {tool for arm in decision.support for tool in arm.tools}
    else:  # it is neither promoted nor hidden
        assert all(arm.tools[-1] == best for arm in decision.support[1:])
    assert decision.support[0].score < working.support[0].score


def test_nothing_is_decided_where_the_other_tools_are_down() -> None:
    decision = choose(policies(down=POOL[:3]), allowed=[True, True, True, False])

    assert decision is None


def test_a_tool_that_is_down_is_tried_now_and_then() -> None:
    rng, down = random.Random(1), policies(down=POOL[:1])

    decisions = [choose(down, rng=rng) for _ in range(1000)]

    tried = sum(decision is not None and decision.down == () for decision in decisions)
    assert 25 <= tried <= 80  # PROBE_SHARE of them


def test_a_tool_that_is_down_and_not_offered_changes_nothing() -> None:
    assert choose(policies(down=POOL[5:])) == choose(policies())


def test_an_unknown_agent_has_no_version() -> None:
    known = policies()

    assert known.version("agent") == "p-000001"
    assert known.version("someone-else") == ""
