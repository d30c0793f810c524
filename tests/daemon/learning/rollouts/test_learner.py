"""Rounds of learning from rollouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agentgym.policy import snapshot
from agentgym_daemon.learning.rollouts.history import History
from agentgym_daemon.learning.rollouts.learner import (
    Learner,
    LearnerOptions,
    Outcome,
    encoder_of,
    mean_reward,
)
from agentgym_daemon.learning.rollouts.served import Served
from agentgym_daemon.learning.rollouts.session import ReadRun
from agentgym_daemon.learning.settings import LearningSettings

OPTIONS = LearnerOptions(agent="desk", settings=LearningSettings(rounds=3), encoder="none")
Run = Callable[..., ReadRun]


def outcomes(finished_run: Run, first: int, version: Served | None = None) -> list[Outcome]:
    """Thirty runs; every third fails visibly."""
    return [
        Outcome(finished_run(n, error=n % 3 == 0, version=version), float(n % 3 > 0), n)
        for n in range(first, first + 30)
    ]


def test_each_round_trains_from_the_version_before_it(finished_run: Run, tmp_path: Path) -> None:
    learner = Learner(tmp_path, History(), OPTIONS)
    assert learner.serving.version == ""
    first = learner.learn(outcomes(finished_run, 1), failed=2)
    second = learner.learn(outcomes(finished_run, 100, Served(learner.serving)))

    assert (first.version, first.rollouts, first.failed, first.unrewarded) == ("r-000001", 32, 2, 0)
    assert (first.policy, first.control) == (None, pytest.approx(2 / 3))
    assert second.policy == pytest.approx(2 / 3, abs=0.2)
    assert second.report["trajectories"] > first.report["trajectories"]
    assert second.report["gradient_steps_of_parent"] > 0
    served = snapshot.parse(learner.serving.data, learner.serving.sha256)
    assert served.version == learner.serving.version
    assert served.manifest["parent"] == "r-000001"
    assert served.manifest["lineage"]["engine"] == "lightning"


def test_a_rejected_candidate_is_not_served(finished_run: Run, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    Learner(tmp_path / "first", History(), OPTIONS).learn(outcomes(finished_run, 1))
    # Nothing may change: no candidate that learned anything can pass.
    settings = replace(OPTIONS.settings, max_kl=-1.0, max_changed=-1.0)
    start = tmp_path / "first" / "r-000001.safetensors"
    learner = Learner(tmp_path, History(), replace(OPTIONS, settings=settings, start=start))
    before = learner.serving

    done = learner.learn(outcomes(finished_run, 100))

    assert not done.accepted
    assert done.reasons
    assert learner.serving is before


def test_nothing_to_learn_from_is_said(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="none of 3 rollouts"):
        Learner(tmp_path, History(), OPTIONS).learn([], failed=3)


def test_it_starts_from_a_version_that_there_is(finished_run: Run, tmp_path: Path) -> None:
    first = Learner(tmp_path, History(), OPTIONS)
    first.learn(outcomes(finished_run, 1))
    path = tmp_path / "r-000001.safetensors"

    second = Learner(tmp_path, History(), replace(OPTIONS, start=path))

    assert second.serving.version == "r-000001"
    assert second.serving.data == path.read_bytes()


def test_scope_and_key_come_from_the_snapshot(finished_run: Run, tmp_path: Path) -> None:
    first = Learner(tmp_path, History(), OPTIONS)
    first.learn(outcomes(finished_run, 1))

    second = Learner(tmp_path, History(tmp_path / "rollouts.snapshot"), LearnerOptions())

    assert second.serving.agent == "desk"
    assert second.serving.feature_key == first.serving.feature_key
    assert second.serving.encoder == "none"


def test_encoders_and_means() -> None:
    assert [encoder_of(schema) for schema in (0, 1, 2, 3)] == [
        "default",
        "none",
        "default",
        "minilm",
    ]
    assert mean_reward([]) is None
