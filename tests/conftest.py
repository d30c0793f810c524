"""What all tests share: an environment of their own and a short directory for sockets."""

from __future__ import annotations

import os
import shutil
import string
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

FOREIGN_PREFIXES = ("AGENTGYM_", "OTEL_", "LANGCHAIN_", "LANGSMITH_", "OPENAI_")
KEPT_PREFIX = "AGENTGYM_TEST_"
"""How much load the fault tests carry: tests/faults/conftest.py."""
QUIET = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "MPLBACKEND": "agg",
    # Stubs and daemons listen on this machine; a proxy of the environment must not be asked.
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}


def _isolate() -> None:
    for name in [name for name in os.environ if name.startswith(FOREIGN_PREFIXES)]:
        if not name.startswith(KEPT_PREFIX):
            del os.environ[name]
    os.environ.update(QUIET)


# At import: fixtures of a wider scope than one test, and the frameworks, read the environment too.
_isolate()

with suppress(ImportError):  # Agent Lightning's environment does without
    from hypothesis import HealthCheck, settings

    # How long an example takes says something about the machine, not about the law.
    settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("tests")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keeps every test away from the AgentGym directory of whoever runs it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def home() -> Iterator[Path]:
    """An AGENTGYM_HOME with a short path: a unix socket's path holds 107 bytes at most."""
    path = Path(tempfile.mkdtemp(prefix="ag-", dir="/tmp"))  # mkdtemp makes it 0700
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def make_encoder() -> Callable[..., bytes]:
    """Files of tiny random encoders: one layer, words spelled letter by letter, 20 numbers."""
    import numpy as np

    from agentgym.policy.encoder.artefact import EncoderConfig, dump, optional, shapes

    vocab = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "refund", "order", *string.ascii_lowercase,
             *(f"##{letter}" for letter in string.ascii_lowercase))  # fmt: skip

    def make(seed: int = 0, output: int = 20) -> bytes:
        config = EncoderConfig(
            name="tiny",
            layers=1,
            width=16,
            heads=2,
            embedding=8,
            intermediate=24,
            output=output,
            max_tokens=32,
            layer_norm_eps=1e-12,
            made_from="random numbers",
        )
        rng = np.random.default_rng(seed)
        tensors = {
            name: (rng.normal(0, shape[-1] ** -0.5, shape) + ("norm" in name)).astype(np.float32)
            for name, shape in shapes(config, len(vocab)).items()
            if name not in optional(config)
        }
        return dump(config, vocab, tensors)

    return make
