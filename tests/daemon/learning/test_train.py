"""The training loop: determinism, the ratio identity, the trust region, and that it learns."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentgym.policy.features import Featuriser, TextHasher
from agentgym.policy.parameters import Parameters, initial
from agentgym.policy.snapshot import digest, parse
from agentgym.proto.v1 import common_pb2
from agentgym_daemon.learning.crossfit import HALVES, Fitted
from agentgym_daemon.learning.dataset import Dataset, Trajectory, read_dataset
from agentgym_daemon.learning.improve import improve
from agentgym_daemon.learning.proof import Anchors
from agentgym_daemon.learning.settings import LearningSettings
from agentgym_daemon.learning.train import RatioError, train
from tests.daemon.learning.help_desk import SUBJECTS, build_world
from tests.manifests import make_manifest

FAST = LearningSettings(rounds=20)
MANIFEST = make_manifest(scope={})


def play(world: Any, n: int, policy: Parameters | None = None, version: str = "") -> None:
    rng = random.Random(len(world.recorded))
    for _ in range(n):
        world.episode(rng.choice(world.requests), policy, version)


def same(a: Parameters, b: Parameters) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a.tensors)


@pytest.fixture(scope="module")
def first_round(world_class: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Dataset]:
    """120 runs of the bare agent."""
    world = build_world(world_class, 1)
    play(world, 120)
    path = tmp_path_factory.mktemp("first") / "snapshot"
    return world, read_dataset(world.write(path))


@pytest.fixture(scope="module")
def second_round(
    world_class: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Parameters, Dataset]:
    """A first version, and a dataset with 150 runs under it."""
    world = build_world(world_class, 2)
    folder = tmp_path_factory.mktemp("second")
    play(world, 80)
    policy, _ = train(read_dataset(world.write(folder / "a")), None, settings=FAST, seed=0)
    world.versions.append("p-1")
    play(world, 150, policy, "p-1")
    return policy, read_dataset(world.write(folder / "b", parent="p-1"))


def test_training_lowers_the_loss_and_reports_what_it_saw(first_round: Any) -> None:
    _, dataset = first_round

    candidate, report = train(dataset, None, settings=FAST, seed=0)

    assert report.loss_last < report.loss_first
    assert report.trajectories + report.held_out == 120
    assert report.ratio_error is None
    assert report.churn is None
    assert report.gradient_steps == 0
    assert all(np.isfinite(candidate[name]).all() for name in candidate.tensors)


def test_the_same_arguments_give_the_same_bits(first_round: Any) -> None:
    _, dataset = first_round
    small = replace(FAST, batch=16, rounds=5)

    a, _ = train(dataset, None, settings=small, seed=3)
    b, _ = train(dataset, None, settings=small, seed=3)
    c, _ = train(dataset, None, settings=small, seed=4)

    assert same(a, b)
    assert not same(a, c)


def test_the_ratio_is_one_before_the_first_update(second_round: Any) -> None:
    policy, dataset = second_round

    _, report = train(dataset, policy, settings=FAST, seed=0)

    assert report.gradient_steps_of_parent > 100
    assert report.ratio_error is not None
    assert report.ratio_error <= 1e-6


def test_propensities_that_are_not_exact_are_replayed_without_a_gradient(
    second_round: Any,
) -> None:
    policy, dataset = second_round
    off = [
        replace(
            t,
            steps=tuple(
                replace(s, gradient=replace(s.gradient, propensity=s.gradient.propensity * 1.0001))
                if s.gradient
                else s
                for s in t.steps
            ),
        )
        for t in dataset.trajectories
    ]
    inexact = replace(dataset, trajectories=tuple(off))

    candidate, report = train(inexact, policy, settings=FAST, seed=0)
    replayed, _ = train(dataset, policy, settings=replace(FAST, pg_weight=0.0), seed=0)

    assert report.ratio_error == pytest.approx(1e-4, rel=0.05)
    assert report.gradient_steps == 0
    assert same(candidate, replayed)


@pytest.mark.parametrize("mode", [common_pb2.MODE_STEER, common_pb2.MODE_ADVISE])
def test_the_ratio_is_one_where_tools_were_left_out(
    mode: int, world_class: Any, tmp_path: Path
) -> None:
    world = build_world(world_class, 6, mode=mode)
    play(world, 60)
    policy, _ = train(read_dataset(world.write(tmp_path / "a")), None, settings=FAST, seed=0)
    world.versions.append("p-1")
    world.down = {"issue_refund", "reset_password"}
    play(world, 60, policy, "p-1")
    world.down = {"track_order"}
    play(world, 20, policy, "p-1")
    dataset = read_dataset(world.write(tmp_path / "b", parent="p-1"))

    _, report = train(dataset, policy, settings=FAST, seed=0)

    steps = [s for t in dataset.trajectories for s in t.steps if s.down and s.gradient]
    names = {tuple(sorted(dataset.names[i] for i in s.down)) for s in steps}
    assert names == {("issue_refund", "reset_password"), ("track_order",)}
    assert report.gradient_steps_of_parent > 50
    assert report.ratio_error is not None
    assert report.ratio_error <= 1e-6
    blind = replace(
        dataset,
        trajectories=tuple(
            replace(t, steps=tuple(replace(s, down=()) for s in t.steps))
            for t in dataset.trajectories
        ),
    )
    with pytest.raises(RatioError):
        train(blind, policy, settings=FAST, seed=0)


def meaning(text: str) -> np.ndarray:
    """An encoder that knows what the requests and tools are about."""
    vector = np.array([any(w in text for w in words) for words in SUBJECTS.values()], np.float32)
    return (vector + 0.01) / np.linalg.norm(vector + 0.01)


def test_a_schema_with_an_encoder_trains_from_both_and_recomputes_what_was_done(
    world_class: Any, tmp_path: Path
) -> None:
    embedded = {"encode": meaning, "schema": 7, "dim": len(SUBJECTS)}
    world = build_world(world_class, 3, **embedded)

    def featuriser(key: bytes, schema: int) -> Featuriser:
        return Featuriser(TextHasher(key), meaning, schema=schema, dim=len(SUBJECTS))

    def read() -> Dataset:
        return read_dataset(
            world.write(tmp_path / "s", parent="".join(world.versions)), featuriser=featuriser
        )

    def first_calls(policy: Parameters | None) -> float:
        runs = [world.episode(request, policy, greedy=True)[0] for request in world.requests]
        return sum(run.first_attempts[0] for run in runs) / len(runs)

    before = first_calls(None)
    play(world, 80)
    first, report = train(read(), None, settings=FAST, seed=0)
    assert report.steps > 0
    prior = initial(first.tools, first.names, len(SUBJECTS))
    for name in ("meaning.gain", "meaning.map", "tool.embedding", "defer.embedding"):
        assert not np.array_equal(first[name], prior[name])
    world.versions.append("p-1")
    play(world, 80, first, "p-1")

    second, report = train(read(), first, settings=FAST, seed=0)

    assert report.ratio_error is not None
    assert report.ratio_error <= 1e-6
    assert report.gradient_steps_of_parent > 50
    assert first_calls(second) > before + 0.15


def test_what_was_learned_before_a_tool_broke_is_left_out(first_round: Any) -> None:
    _, dataset = first_round
    assert improve(dataset, Anchors(), MANIFEST, settings=FAST, seed=0).report.stale == 0
    column = next(s.called[0] for t in dataset.trajectories for s in t.steps if s.called)
    step = replace(
        dataset.trajectories[0].steps[0], called=(column,), scores={column: 0.95}, alone=False
    )
    worked, failed = replace(step, failed=()), replace(step, failed=(column,))
    last = max(t.closed_unix_nano for t in dataset.trajectories)
    broken = tuple(
        Trajectory(bytes([i]) * 16, float(i < 20), (worked if i < 20 else failed,), 0, last + 1 + i)
        for i in range(30)
    )
    later = replace(dataset, trajectories=(*dataset.trajectories, *broken))

    outcome = improve(later, Anchors(), MANIFEST, settings=FAST, seed=0)

    unconfirmed = replace(later, trajectories=later.trajectories[:-5])
    assert improve(unconfirmed, Anchors(), MANIFEST, settings=FAST, seed=0).report.stale == 0
    told = sum(any(column in step.called for step in t.steps) for t in dataset.trajectories)
    assert 0 < told <= outcome.report.stale < len(later.trajectories)
    assert outcome.receipt.accepted
    assert outcome.sha256 == digest(outcome.data)
    loaded = parse(outcome.data, outcome.sha256)
    assert same(loaded.parameters, outcome.candidate.policy)
    assert len(outcome.candidate.twins) == HALVES
    assert loaded.version == "p-000001"


def test_a_history_that_is_stale_as_a_whole_gives_the_version_that_there_is(
    second_round: Any,
) -> None:
    policy, dataset = second_round
    column = next(s.called[0] for t in dataset.trajectories for s in t.steps if s.called)
    step = replace(dataset.trajectories[-1].steps[0], called=(column,), scores={column: 0.95})
    runs = [
        Trajectory(bytes([i]) * 16, 1.0, (replace(step, down=(column,)),), 0, i) for i in range(20)
    ]
    stale_ones = replace(dataset, trajectories=tuple(runs))

    outcome = improve(
        stale_ones, Anchors(incumbent=Fitted(policy)), MANIFEST, settings=FAST, seed=0
    )

    assert (outcome.report.stale, outcome.report.trajectories) == (20, 0)
    assert same(outcome.candidate.policy, policy)


def test_training_fails_when_propensities_cannot_be_recomputed(second_round: Any) -> None:
    policy, dataset = second_round
    tensors = dict(policy.tensors)
    tensors["similarity.gain"] = policy["similarity.gain"] * np.float32(1.01)
    other = Parameters(policy.tools, policy.names, tensors)

    with pytest.raises(RatioError, match="ratio - 1"):
        train(dataset, other, settings=FAST, seed=0)


def test_data_of_old_versions_serves_replay_only(second_round: Any) -> None:
    policy, dataset = second_round
    versions = ("p-1", *(f"q-{i}" for i in range(FAST.max_age + 1)))
    aged = replace(dataset, versions=versions, parent=versions[-1])
    recent = replace(aged, parent=versions[-2])

    _, old = train(aged, policy, settings=replace(FAST, rounds=1), seed=0)
    _, new = train(recent, policy, settings=replace(FAST, rounds=1), seed=0)

    assert old.gradient_steps == 0
    assert new.gradient_steps > 0
    assert new.gradient_steps_of_parent == 0
    assert new.ratio_error is None


def test_the_trust_region_keeps_a_candidate_near_the_incumbent(second_round: Any) -> None:
    policy, dataset = second_round

    near, tight = train(dataset, policy, settings=replace(FAST, max_kl=0.001), seed=0)
    far, loose = train(dataset, policy, settings=replace(FAST, max_kl=99.0, max_changed=1), seed=0)

    assert loose.beta == 1.0
    assert 0 < tight.beta < 1
    assert tight.churn is not None
    assert tight.churn["kl"] <= 0.001
    moved = [np.abs(p["tool.bias"] - policy["tool.bias"]).max() for p in (near, far)]
    assert moved[0] < moved[1]


def test_a_candidate_that_cannot_come_near_enough_is_the_incumbent(second_round: Any) -> None:
    policy, dataset = second_round

    candidate, report = train(dataset, policy, settings=replace(FAST, max_kl=-1.0), seed=0)

    assert report.beta == 0.0
    assert same(candidate, policy)


def test_control_and_fallback_steps_move_nothing_by_policy_gradient(first_round: Any) -> None:
    _, dataset = first_round
    few = replace(FAST, rounds=3)

    with_pg, _ = train(dataset, None, settings=replace(few, pg_weight=100.0), seed=0)
    without, _ = train(dataset, None, settings=replace(few, pg_weight=0.0), seed=0)

    assert same(with_pg, without)


def test_runs_without_reward_teach_visible_errors_and_nothing_else(
    world_class: Any, tmp_path: Path
) -> None:
    world = build_world(world_class, 5)
    play(world, 40)
    for message in world.recorded:
        message.ClearField("reward")
    quiet = [m for m in world.recorded if not any(call.error for call in m.calls)]
    loud = [m for m in world.recorded if any(call.error for call in m.calls)]

    world.recorded = quiet
    nothing, report = train(
        read_dataset(world.write(tmp_path / "quiet")), None, settings=FAST, seed=0
    )
    world.recorded = loud
    something, _ = train(read_dataset(world.write(tmp_path / "loud")), None, settings=FAST, seed=0)

    prior = initial(nothing.tools, nothing.names)
    assert report.trajectories == 0
    assert same(nothing, prior)
    assert not same(something, prior)


def test_a_new_tool_starts_at_the_prior_and_the_others_keep_what_they_learned(
    second_round: Any,
) -> None:
    policy, dataset = second_round
    fewer = Parameters(
        policy.tools[1:],
        policy.names[1:],
        initial(policy.tools[1:], policy.names[1:]).tensors,
    )
    unversioned = replace(dataset, versions=(), parent="")

    candidate, _ = train(unversioned, fewer, settings=FAST, seed=0)

    assert candidate.tools == dataset.tools


@pytest.mark.parametrize("mode", [common_pb2.MODE_STEER, common_pb2.MODE_ADVISE])
def test_calls_become_clearly_more_reliable_within_a_few_hundred_runs(
    mode: int, world_class: Any, tmp_path: Path
) -> None:
    world = build_world(world_class, 0, mode=mode)
    before = world.reliability(None, world.requests)
    policy, version = None, ""
    for number in range(1, 6):
        play(world, 80, policy, version)
        dataset = read_dataset(world.write(tmp_path / "snapshot", parent=version))
        policy, report = train(dataset, policy, settings=replace(FAST, rounds=30), seed=number)
        version = f"p-{number}"
        world.versions.append(version)
        assert (report.ratio_error or 0.0) <= 1e-6

    after = world.reliability(policy, world.requests)

    # An advised agent still chooses by itself among what it is shown.
    margin = 0.15 if mode == common_pb2.MODE_STEER else 0.0
    assert before < 0.75
    assert after > before + margin
