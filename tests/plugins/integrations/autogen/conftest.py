"""A stub in place of the provider, and the two ways to hand an agent over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agentgym.testing import EchoToolBrain, LLMServer

ROUTES = ("wrap", "attach")


@pytest.fixture(params=ROUTES)
def route(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def echo() -> Iterator[LLMServer]:
    with LLMServer(EchoToolBrain(), keep_alive=False) as server:
        yield server
