"""Twins: what they are trained on, by which of them a run is judged, and their files."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentgym.policy.parameters import Parameters
from agentgym.policy.snapshot import Snapshot
from agentgym.trajectory import Tool
from agentgym_daemon.learning import crossfit, twin_files
from agentgym_daemon.learning.crossfit import HALVES, Fitted
from agentgym_daemon.learning.dataset import Dataset, Trajectory, read_dataset
from agentgym_daemon.learning.evaluation import targets
from agentgym_daemon.learning.evaluation.logged import decided
from agentgym_daemon.learning.settings import LearningSettings
from agentgym_daemon.learning.train import train, train_with_twins
from tests.manifests import make_manifest

SETTINGS = LearningSettings(rounds=10)
MANIFEST = make_manifest()
TOOLS = [Tool("track_order", "Find a parcel."), Tool("issue_refund", "Pay money back.")]
TEXTS = {"track_order": ["where is it", "parcel"], "issue_refund": ["money", "charged twice"]}


@pytest.fixture(scope="module")
def data(world_class: Any, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """120 runs of the bare agent, and 120 under a first version, which is not the parent."""
    requests = [world_class.request_class(t, (n,)) for n, texts in TEXTS.items() for t in texts]
    world, rng = world_class(requests, TOOLS, seed=0), random.Random(0)
    folder = tmp_path_factory.mktemp("twins")
    for _ in range(120):
        world.episode(rng.choice(requests), None)
    policy, _ = train(read_dataset(world.write(folder / "a")), None, settings=SETTINGS, seed=0)
    for _ in range(120):
        world.episode(rng.choice(requests), policy, "p-1")
    return read_dataset(world.write(folder / "b"))


def same(a: Parameters, b: Parameters) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a.tensors)


def fitted(data: Dataset) -> Fitted:
    return train_with_twins(data, None, settings=SETTINGS, seed=0)[0]


def retold(data: Dataset, half: int, rng: random.Random) -> Dataset:
    """The runs of a half swap their rewards, so that all that adds up stays as it was."""
    swapped = [
        i
        for i, t in enumerate(data.trajectories)
        if t.half() == half and not t.held_out(SETTINGS.held_out_in) and not t.failed_visibly
    ]
    rewards = [data.trajectories[i].reward for i in swapped]
    rng.shuffle(rewards)
    runs = list(data.trajectories)
    for i, reward in zip(swapped, rewards, strict=True):
        runs[i] = replace(runs[i], reward=reward)
    return replace(data, trajectories=tuple(runs))


def test_a_run_is_in_one_half_for_good_and_the_halves_are_alike() -> None:
    runs = [Trajectory(bytes([i, j] * 8), 1.0, (), 0) for i in range(30) for j in range(30)]

    assert sum(run.half() for run in runs) == pytest.approx(450, abs=50)
    assert [run.half() for run in runs] == [replace(run, reward=0.0).half() for run in runs]
    # Being held out says nothing of the half.
    assert sum(run.half() for run in runs if run.held_out(10)) == pytest.approx(45, abs=20)


@pytest.mark.parametrize("half", range(HALVES))
def test_a_twin_never_hears_of_its_half(data: Dataset, half: int) -> None:
    other = retold(data, half, random.Random(half))

    before, after = fitted(data), fitted(other)

    assert same(before.twins[half], after.twins[half])
    assert not same(before.twins[1 - half], after.twins[1 - half])
    assert not same(before.policy, after.policy)


def test_a_twin_goes_on_from_the_twin_of_its_own_half(data: Dataset) -> None:
    first = fitted(data)
    crossed = Fitted(first.policy, (first.twins[1], first.twins[0]))

    second, _ = train_with_twins(data, first, settings=SETTINGS, seed=1)
    wrong, _ = train_with_twins(data, crossed, settings=SETTINGS, seed=1)
    anew, _ = train_with_twins(data, Fitted(first.policy), settings=SETTINGS, seed=1)

    assert same(second.policy, wrong.policy)
    assert not same(second.twins[0], wrong.twins[0])
    # Its parent has none: it starts from nothing, for the parent has seen every run.
    assert same(anew.twins[0], train_with_twins(data, None, settings=SETTINGS, seed=1)[0].twins[0])


def test_the_policy_is_the_same_with_and_without_twins(data: Dataset) -> None:
    alone, _ = train(data, None, settings=SETTINGS, seed=0)

    assert same(alone, fitted(data).policy)


def test_every_run_is_judged_by_the_one_that_was_not_trained_on_it(data: Dataset) -> None:
    version, runs = fitted(data), decided(data.trajectories)
    judge = crossfit.target(version, data, runs, held_out_in=SETTINGS.held_out_in)
    whole, *twins = (targets.policy(p, data) for p in (version.policy, *version.twins))
    seen = set()

    for run in runs:
        by = "held out" if run.held_out(SETTINGS.held_out_in) else run.half()
        seen.add(by)
        expected = whole if by == "held out" else twins[run.half()]
        for step in run.steps:
            if step.gradient is not None:
                assert judge(step, step.gradient) == expected(step, step.gradient)

    assert seen == {"held out", 0, 1}


def test_files_of_twins_are_kept_while_they_are_needed(data: Dataset, tmp_path: Path) -> None:
    version, folder = fitted(data), tmp_path / "twins"
    snapshot = Snapshot("p-000001", "", version.policy, MANIFEST)

    assert twin_files.load(None, snapshot).twins == ()
    assert twin_files.load(folder, snapshot).twins == ()
    for name in ("p-000001", "p-000002"):
        twin_files.save(folder, name, version.twins, MANIFEST)
    loaded = twin_files.load(folder, snapshot)
    twin_files.keep_only(folder, {"p-000001"})

    assert all(map(same, loaded.twins, version.twins))
    assert {path.name.split(".")[0] for path in folder.iterdir()} == {"p-000001"}
    assert len(list(folder.iterdir())) == HALVES


def test_damaged_files_of_twins_are_said_and_not_used(
    data: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version = fitted(data)
    twin_files.save(tmp_path, "p-000001", version.twins, MANIFEST)
    (tmp_path / "p-000001.1.safetensors").write_bytes(b"torn")

    loaded = twin_files.load(tmp_path, Snapshot("p-000001", "", version.policy, MANIFEST))

    assert loaded == Fitted(version.policy)
    assert "the twins of p-000001 cannot be used" in caplog.text
