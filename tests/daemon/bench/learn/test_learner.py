"""What the referee drives: settings and vectors come from the environment."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from agentgym_daemon import encoders
from agentgym_daemon.bench.learn import embedding, learner


@pytest.fixture
def encoder_file() -> Path:
    return Path(str(resources.files(encoders) / "default.safetensors"))


@pytest.fixture(autouse=True)
def _no_vectors_of_another_test() -> None:
    embedding.vectors.cache_clear()


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTGYM_BENCH_SETTINGS", "rounds=7,gate=0")

    made = learner.learner(seed=1)

    assert made.settings.rounds == 7


def test_without_an_encoder_a_task_is_its_n_grams() -> None:
    assert learner.features()("cancel my order").embedding is None


def test_the_product_and_the_bench_see_the_same_task(
    monkeypatch: pytest.MonkeyPatch, encoder_file: Path
) -> None:
    from agentgym.policy.features import TextHasher
    from agentgym_daemon.encoders.choice import featuriser_of

    monkeypatch.setenv("AGENTGYM_ENCODER", "default")
    monkeypatch.setenv("AGENTGYM_BENCH_ENCODER_FILE", str(encoder_file))
    ours, theirs = learner.features(), featuriser_of("default", TextHasher(learner.KEY))

    a, b = (features("cancel my order") for features in (ours, theirs))

    assert a.embedding is not None
    assert b.embedding is not None
    assert np.array_equal(a.embedding.quantised, b.embedding.quantised)
    assert np.array_equal(a.index, b.index)
    assert (ours.schema, ours.embedding_dim) == (theirs.schema, theirs.embedding_dim)


def test_the_peer_gets_vectors_of_the_same_encoder(
    monkeypatch: pytest.MonkeyPatch, encoder_file: Path
) -> None:
    monkeypatch.setenv("AGENTGYM_BENCH_ENCODER_FILE", str(encoder_file))

    vectors = embedding.encode(["cancel my order", "track a parcel", "cancel my order"])

    assert vectors.ndim == 2
    assert np.array_equal(vectors[0], vectors[2])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
