"""What all tests share: an environment of their own and a short directory for sockets."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

FOREIGN_PREFIXES = ("AGENTGYM_", "OTEL_", "LANGCHAIN_", "LANGSMITH_", "OPENAI_")
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
        del os.environ[name]
    os.environ.update(QUIET)


# At import: fixtures of a wider scope than one test, and the frameworks, read the environment too.
_isolate()


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
