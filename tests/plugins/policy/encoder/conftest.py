"""A tiny random encoder, its file, and all-MiniLM-L6-v2 where it is installed."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agentgym.errors import EncoderError
from agentgym.policy.encoder import minilm
from agentgym.policy.encoder.artefact import EncoderConfig, dump, optional, shapes

VOCAB = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "refund", "the", "order", "play", "##ing", "—"),
    *string.ascii_lowercase,
    *(f"##{letter}" for letter in string.ascii_lowercase),
    *string.punctuation,
)
CONFIG = EncoderConfig(
    name="tiny",
    layers=2,
    width=24,
    heads=3,
    embedding=16,
    intermediate=40,
    output=20,
    max_tokens=12,
    layer_norm_eps=1e-12,
    made_from="random numbers",
)


@pytest.fixture
def vocab() -> tuple[str, ...]:
    return VOCAB


@pytest.fixture
def config() -> EncoderConfig:
    return CONFIG


def random_tensors(config: EncoderConfig, seed: int = 7) -> dict[str, NDArray[Any]]:
    """Every tensor as float32, of a size that keeps the numbers about 1."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, NDArray[Any]] = {}
    for name, shape in shapes(config, len(VOCAB)).items():
        if name not in optional(config):
            value = rng.normal(0, shape[-1] ** -0.5, shape)
            tensors[name] = (value + ("norm" in name)).astype(np.float32)
    return tensors


@pytest.fixture
def make_tensors() -> Callable[[EncoderConfig], dict[str, NDArray[Any]]]:
    return random_tensors


@pytest.fixture(scope="session")
def make_file() -> Callable[..., bytes]:
    """A valid file; changed sizes are given by name."""

    def make(**changes: Any) -> bytes:
        config = dataclasses.replace(CONFIG, **changes)
        return dump(config, VOCAB, random_tensors(config))

    return make


@pytest.fixture(scope="session")
def minilm_directory() -> Path:
    try:
        return minilm.find()
    except EncoderError:
        pytest.skip(f"{minilm.DISTRIBUTION} is not installed")
