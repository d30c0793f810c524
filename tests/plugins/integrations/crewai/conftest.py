"""Stubs in place of the provider."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agentgym.testing import LLMServer


@pytest.fixture
def serve() -> Iterator[Callable[[Any], LLMServer]]:
    servers: list[LLMServer] = []

    def start(brain: Any) -> LLMServer:
        servers.append(LLMServer(brain, keep_alive=False).start())
        return servers[-1]

    yield start
    for server in servers:
        server.close()
