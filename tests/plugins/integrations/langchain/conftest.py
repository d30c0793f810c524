"""Agents on LangChain's own OpenAI client, a stub in place of the provider, and what they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Protocol

import pytest
from langchain_core.tools import BaseTool, tool
from langchain_openai import ChatOpenAI

from agentgym.integrations.langchain.frames import FRAMES
from agentgym.integrations.langchain.offered import from_objects
from agentgym.items import SpanItem
from agentgym.testing import Brain, LLMServer, ScriptedBrain
from agentgym.testing.recording import RecordingGym
from agentgym.trajectory import Tool

AGENT = "desk"


class Bench(Protocol):
    """Starts a stub for each script or brain and makes clients of it."""

    def __call__(
        self, *replies: Any, brain: Brain | None = None
    ) -> tuple[LLMServer, ChatOpenAI]: ...


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A stub that plays the replies, and a model that talks to it."""
    with ExitStack() as stack:

        def start(*replies: Any, brain: Brain | None = None) -> tuple[LLMServer, ChatOpenAI]:
            server = LLMServer(brain or ScriptedBrain(replies), keep_alive=False)
            stack.enter_context(server)
            llm = ChatOpenAI(
                model="gpt-4o", base_url=server.base_url, api_key="test", max_retries=0
            )
            return server, llm

        yield start


@pytest.fixture(autouse=True)
def no_open_frames() -> Iterator[None]:
    """No run of LangChain may stay open, whatever a test did to it."""
    before = len(FRAMES)
    yield
    assert len(FRAMES) == before


@tool
def look_up(query: str) -> str:
    """Looks an order up."""
    return f"order {query}"


@tool
def refund(query: str) -> str:
    """Pays money back."""
    return f"refunded {query}"


@pytest.fixture
def tools() -> list[BaseTool]:
    """Two tools that always work."""
    return [look_up, refund]


@pytest.fixture
def catalogue(tools: list[BaseTool]) -> tuple[Tool, ...]:
    """The same tools as the policy knows them."""
    return from_objects(tools)


@pytest.fixture
def make_gym(catalogue: tuple[Tool, ...]) -> Callable[..., RecordingGym]:
    """A gym whose policy wants `refund` first, at every step without exploration."""

    def make(mode: str = "steer", agent: str = AGENT, **settings: Any) -> RecordingGym:
        gym = RecordingGym(agent, mode=mode, **{"explore": False, **settings})
        gym.force(catalogue, "refund", agent)
        return gym

    return make


@pytest.fixture
def gym(make_gym: Callable[..., RecordingGym]) -> RecordingGym:
    """A steering gym."""
    return make_gym()


@pytest.fixture
def check_tree() -> Callable[[RecordingGym], list[SpanItem]]:
    """Checks that every trajectory has one root, ended, and that every parent exists."""

    def check(gym: RecordingGym) -> list[SpanItem]:
        spans = gym.sink.spans
        ids = {span.span_id for span in spans}
        assert len(ids) == len(spans)
        assert all(span.parent_id in ids for span in spans if span.parent_id)
        roots = Counter(span.trajectory_id for span in spans if not span.parent_id)
        assert set(roots.values()) == {1}
        assert {span.trajectory_id for span in spans} == set(roots)
        assert sorted(gym.sink.ended) == sorted(roots)
        assert all(span.trajectory_id in roots for span in spans)
        return spans

    return check
