"""What of a snapshot file may be learned from, and how."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgym.policy.features import GRAMS_ONLY, Featuriser, TextHasher
from agentgym.proto.v1 import common_pb2, decision_pb2, training_pb2
from agentgym.trajectory import ArmKind, Assignment, Fallback, Tool
from agentgym_daemon.learning.dataset import (
    Dataset,
    gradient_arm,
    left_alone,
    read_dataset,
    text_vector,
)

TOOLS = (Tool("track_order", "Find a parcel."), Tool("issue_refund", "Pay back."), Tool("ask"))


def record(**changes: Any) -> decision_pb2.DecisionRecord:
    """A sampled steer step that forced tool 1, changed as asked."""
    values: dict[str, Any] = {
        "decision_id": b"decision",
        "mode": common_pb2.MODE_STEER,
        "assignment": int(Assignment.POLICY),
        "fallback": int(Fallback.NONE),
        "policy_version": "p-1",
        "offered": [t.fingerprint for t in TOOLS],
        "arm": 1,
        "arm_propensity": 0.75,
        "temperature": 0.05,
        "floor": 0.02,
        "defer_floor": 0.02,
        "features_id": b"task",
        "completed": True,
    }
    support = changes.pop("support", ((ArmKind.DEFER, (), 0.25), (ArmKind.FORCE, (1,), 0.75)))
    message = decision_pb2.DecisionRecord(**{**values, **changes})
    for kind, tools, probability in support:
        message.support.add(kind=int(kind), tools=tools, score=0.5, probability=probability)
    return message


def features(**changes: Any) -> decision_pb2.TaskFeatures:
    values: dict[str, Any] = {
        "features_id": b"task",
        "feature_schema": GRAMS_ONLY,
        "index": [3, 9],
        "quantised": b"\x10\xff",
        "scale": 0.5,
    }
    return decision_pb2.TaskFeatures(**{**values, **changes})


def read(
    tmp_path: Path,
    trajectory: training_pb2.TrainingTrajectory,
    world_class: Any,
    *,
    schema: int = GRAMS_ONLY,
    **header: Any,
) -> Dataset:
    message = training_pb2.TrainingHeader(
        trajectories=1,
        feature_key=b"k",
        scope=common_pb2.Scope(feature_schema=schema),
        **header,
    )
    for tool in TOOLS:
        message.tools.add(
            fingerprint=tool.fingerprint, name=tool.name, description=tool.description
        )
    path = tmp_path / "snapshot"
    world_class.write_messages(path, [message.SerializeToString(), trajectory.SerializeToString()])
    return read_dataset(path)


def run(
    decision: decision_pb2.DecisionRecord,
    *calls: tuple[str, bool],
    vectors: tuple[decision_pb2.TaskFeatures, ...] | None = None,
    reward: float | None = 1.0,
) -> training_pb2.TrainingTrajectory:
    message = training_pb2.TrainingTrajectory(
        trajectory_id=b"t" * 16,
        reward=reward,
        decisions=[decision],
        features=(features(),) if vectors is None else vectors,
    )
    for name, error in calls:
        message.calls.add(decision_id=decision.decision_id, tool=name, error=error)
    return message


def test_a_sampled_policy_step_is_a_gradient_step() -> None:
    arm = gradient_arm(record(), (4, 5, 6))

    assert arm is not None
    assert (arm.arm, arm.propensity, arm.version) == (1, 0.75, "p-1")
    assert arm.support[1].tools == (5,)


def test_the_gradient_of_an_advise_step_is_the_show_arms() -> None:
    shown = ((ArmKind.DEFER, (), 0.25), (ArmKind.SHOW, (0, 2), 0.75))

    arm = gradient_arm(record(mode=common_pb2.MODE_ADVISE, support=shown), (4, 5, 6))

    assert arm is not None
    assert arm.support[1].kind is ArmKind.SHOW
    assert arm.support[1].tools == (4, 6)


BAD = {
    "control": {"assignment": int(Assignment.CONTROL)},
    "shadow": {"assignment": int(Assignment.SHADOW)},
    "pinned": {"assignment": int(Assignment.PINNED)},
    "unassigned": {"assignment": int(Assignment.NONE)},
    "fallback": {"fallback": int(Fallback.TIMEOUT)},
    "protected": {"fallback": int(Fallback.PROTECTED)},
    "observe mode": {"mode": common_pb2.MODE_OBSERVE},
    "shadow mode": {"mode": common_pb2.MODE_SHADOW},
    "greedy": {"greedy": True},
    "no version": {"policy_version": ""},
    "no arm": {"arm": -1},
    "arm outside": {"arm": 2},
    "no support": {"support": ()},
    "no defer": {"support": ((ArmKind.FORCE, (0,), 0.25), (ArmKind.FORCE, (1,), 0.75))},
    "an arm without tools": {"support": ((ArmKind.DEFER, (), 0.25), (ArmKind.FORCE, (), 0.75))},
    "an unknown tool": {"support": ((ArmKind.DEFER, (), 0.25), (ArmKind.FORCE, (7,), 0.75))},
    "a probability of 0": {"support": ((ArmKind.DEFER, (), 0.0), (ArmKind.FORCE, (1,), 1.0))},
    "probabilities not adding up": {
        "support": ((ArmKind.DEFER, (), 0.1), (ArmKind.FORCE, (1,), 0.75))
    },
    "another propensity": {"arm_propensity": 0.7},
    "no temperature": {"temperature": 0.0},
    "a defer floor below the law": {"defer_floor": 0.01},
    "a negative floor": {"floor": -0.1},
}


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD.keys())
def test_no_other_step_is_a_gradient_step(changes: dict[str, Any]) -> None:
    assert gradient_arm(record(**changes), (4, 5, 6)) is None


@settings(max_examples=300, deadline=None)
@given(
    assignment=st.sampled_from(Assignment),
    fallback=st.sampled_from(Fallback),
    mode=st.sampled_from(
        [
            common_pb2.MODE_UNSPECIFIED,
            common_pb2.MODE_OBSERVE,
            common_pb2.MODE_SHADOW,
            common_pb2.MODE_ADVISE,
            common_pb2.MODE_STEER,
        ]
    ),
    greedy=st.booleans(),
    arm=st.integers(-1, 2),
    probability=st.sampled_from([0.0, 0.02, 0.5, 0.98]),
    logged=st.sampled_from([0.0, 0.02, 0.5, 0.98]),
    version=st.sampled_from(["", "p-1"]),
)
def test_only_what_a_policy_sampled_is_a_gradient_step(
    assignment: Assignment,
    fallback: Fallback,
    mode: common_pb2.Mode,
    greedy: bool,
    arm: int,
    probability: float,
    logged: float,
    version: str,
) -> None:
    support = ((ArmKind.DEFER, (), 1 - probability), (ArmKind.FORCE, (1,), probability))
    message = record(
        assignment=int(assignment),
        fallback=int(fallback),
        mode=mode,
        greedy=greedy,
        arm=arm,
        arm_propensity=logged,
        policy_version=version,
        support=support,
    )

    found = gradient_arm(message, (0, 1, 2))

    if found is not None:
        assert assignment is Assignment.POLICY
        assert fallback is Fallback.NONE
        assert mode in (common_pb2.MODE_ADVISE, common_pb2.MODE_STEER)
        assert not greedy
        assert version
        assert found.propensity == support[arm][2] > 0


def test_the_agent_was_left_alone_unless_an_arm_was_applied() -> None:
    defer = {"arm": 0, "arm_propensity": 0.25}

    assert left_alone(record(**defer))
    assert left_alone(record(assignment=int(Assignment.CONTROL)))
    assert left_alone(record(fallback=int(Fallback.STALE)))
    assert left_alone(record(mode=common_pb2.MODE_SHADOW))
    assert left_alone(record(arm=-1))
    assert not left_alone(record())
    assert not left_alone(record(assignment=int(Assignment.PINNED)))


def test_executed_tools_are_matched_by_name_within_the_offered(
    tmp_path: Path, world_class: Any
) -> None:
    calls = (("issue_refund", True), ("track_order", False), ("issue_refund", False))

    dataset = read(tmp_path, run(record(), *calls), world_class)

    (step,) = dataset.trajectories[0].steps
    names = lambda columns: sorted(dataset.names[c] for c in columns)  # noqa: E731
    assert names(step.called) == ["issue_refund", "track_order"]
    assert names(step.failed) == ["issue_refund"]
    assert not step.responded
    assert dataset.trajectories[0].failed_visibly


def test_a_step_without_a_call_is_a_response(tmp_path: Path, world_class: Any) -> None:
    (step,) = read(tmp_path, run(record()), world_class).trajectories[0].steps

    assert step.responded
    assert step.called == ()


@pytest.mark.parametrize(
    "decision", [record(completed=False), record(called=["ask"])], ids=["cancelled", "vetoed"]
)
def test_a_step_of_which_nothing_came_is_no_step(
    decision: decision_pb2.DecisionRecord, tmp_path: Path, world_class: Any
) -> None:
    trajectory = read(tmp_path, run(decision), world_class).trajectories[0]

    assert trajectory.steps == ()
    assert trajectory.unscored == 0


UNSCORED = {
    "features are off": run(record(), ("ask", False), vectors=()),
    "another schema": run(record(), ("ask", False), vectors=(features(feature_schema=2),)),
    "a tool that was never offered": run(record(), ("magic", False)),
    "an offered tool without a text": run(record(offered=[b"12345678"]), ("ask", False)),
    "nothing offered": run(record(offered=[]), ("ask", False)),
    "a tool offered twice": run(record(offered=[TOOLS[2].fingerprint] * 2), ("ask", False)),
    "a mask of another length": run(record(allowed=[True]), ("ask", False)),
}


@pytest.mark.parametrize("trajectory", UNSCORED.values(), ids=UNSCORED.keys())
def test_a_step_that_cannot_be_recomputed_is_counted_as_unscored(
    trajectory: training_pb2.TrainingTrajectory, tmp_path: Path, world_class: Any
) -> None:
    found = read(tmp_path, trajectory, world_class).trajectories[0]

    assert found.steps == ()
    assert found.unscored == 1


def test_a_missing_reward_is_not_a_zero(tmp_path: Path, world_class: Any) -> None:
    without = run(record(), ("ask", False), reward=None)
    zero = run(record(), ("ask", False), reward=0.0)

    assert read(tmp_path, without, world_class).trajectories[0].reward is None
    assert read(tmp_path, zero, world_class).trajectories[0].reward == 0.0


@pytest.mark.parametrize(
    "changes",
    [
        {"index": [9, 3]},
        {"index": [3, 4096]},
        {"index": [3]},
        {"scale": float("nan")},
        {"scale": -1.0},
        {"feature_schema": 7},
        {"embedding": b"\x01"},
        {"embedding_scale": float("nan")},
    ],
    ids=str,
)
def test_features_that_are_no_vector_of_the_schema_are_not_used(changes: dict[str, Any]) -> None:
    assert text_vector(features(**changes), GRAMS_ONLY, 0) is None


EMBEDDED = {"feature_schema": 7, "embedding": b"\x81\x00\x7f", "embedding_scale": 0.5}


def test_features_with_an_embedding_are_read_to_the_bit() -> None:
    x = text_vector(features(**EMBEDDED), 7, 3)

    assert x is not None
    assert x.embedding is not None
    assert x.embedding.values().tolist() == [-0.5, 0.0, 0.5]
    assert x.values().tolist() == [16 * 0.5 / 255, 0.5]


@pytest.mark.parametrize(
    "changes",
    [
        {"embedding": b""},
        {"embedding": b"\x01\x02\x03\x04"},
        {"embedding_scale": float("inf")},
        {"feature_schema": 1},
    ],
    ids=str,
)
def test_an_embedding_that_is_none_of_the_schema_is_not_used(changes: dict[str, Any]) -> None:
    assert text_vector(features(**(EMBEDDED | changes)), 7, 3) is None


def test_a_file_of_a_schema_with_an_encoder_is_read_with_it(
    tmp_path: Path, world_class: Any
) -> None:
    asked = []

    def featuriser(key: bytes, schema: int) -> Featuriser:
        asked.append((key, schema))
        encode = lambda text: np.full(3, len(text), np.float32)  # noqa: E731
        return Featuriser(TextHasher(key), encode, schema=schema, dim=3)

    read(tmp_path, run(record(), vectors=(features(**EMBEDDED),)), world_class, schema=7)

    dataset = read_dataset(tmp_path / "snapshot", featuriser=featuriser)

    assert asked == [(b"k", 7)]
    assert dataset.universe.embedding_dim == dataset.features.embedding_dim == 3
    (step,) = dataset.trajectories[0].steps
    assert step.x.embedding is not None


def test_what_was_weighed_and_what_was_left_out_are_kept(tmp_path: Path, world_class: Any) -> None:
    support = (
        (ArmKind.DEFER, (), 0.25),
        (ArmKind.FORCE, (1,), 0.75),
        (ArmKind.FORCE, (9,), 0.0),
        (ArmKind.SHOW, (0, 1), 0.0),
    )

    dataset = read(tmp_path, run(record(support=support, down=[2, 5])), world_class)

    (step,) = dataset.trajectories[0].steps
    assert [dataset.names[i] for i in step.down] == ["ask"]
    assert {dataset.names[i]: p for i, p in step.scores.items()} == {"issue_refund": 0.5}


def test_features_without_entries_are_an_empty_task() -> None:
    x = text_vector(features(index=[], quantised=b""), GRAMS_ONLY, 0)

    assert x is not None
    assert len(x.index) == 0


@pytest.mark.parametrize("cut", [1, 5])
def test_a_cut_off_file_is_refused(cut: int, tmp_path: Path, world_class: Any) -> None:
    read(tmp_path, run(record()), world_class)
    path = tmp_path / "snapshot"
    path.write_bytes(path.read_bytes()[:-cut])

    with pytest.raises(ValueError, match="cut off at byte"):
        read_dataset(path)


def test_a_file_with_missing_trajectories_is_refused(tmp_path: Path, world_class: Any) -> None:
    header = training_pb2.TrainingHeader(trajectories=3)
    world_class.write_messages(tmp_path / "snapshot", [header.SerializeToString()])

    with pytest.raises(ValueError, match="expected 3 trajectories, got 0"):
        read_dataset(tmp_path / "snapshot")


def test_an_empty_file_is_an_empty_dataset(tmp_path: Path) -> None:
    (tmp_path / "snapshot").write_bytes(b"")

    dataset = read_dataset(tmp_path / "snapshot", extra=[("00" * 8, "gone")])

    assert dataset.trajectories == ()
    assert dataset.names == ("gone",)


def test_the_age_of_a_version_counts_from_the_parent(tmp_path: Path, world_class: Any) -> None:
    dataset = read(tmp_path, run(record()), world_class, parent="c", versions=["a", "b", "c", "d"])

    assert [dataset.age(v) for v in ("a", "c", "d", "x")] == [2, 0, 1, None]


def test_a_tenth_of_the_trajectories_is_held_out_for_good(tmp_path: Path, world_class: Any) -> None:
    rng = random.Random(0)
    runs = [run(record()) for _ in range(400)]
    for message in runs:
        message.trajectory_id = rng.randbytes(16)
    header = training_pb2.TrainingHeader(trajectories=400)
    path = tmp_path / "snapshot"
    world_class.write_messages(
        path, [header.SerializeToString(), *(m.SerializeToString() for m in runs)]
    )

    out = [t.held_out(10) for t in read_dataset(path).trajectories]

    assert out == [t.held_out(10) for t in read_dataset(path).trajectories]
    assert 20 <= sum(out) <= 60
