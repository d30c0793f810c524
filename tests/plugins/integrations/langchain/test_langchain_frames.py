"""Beginnings and ends of LangChain's runs, however they come."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from langchain.agents import create_agent
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.prebuilt import create_react_agent
from langgraph.types import Command, interrupt

from agentgym import semconv
from agentgym.integrations.langchain import frames
from agentgym.testing import call_tool, say
from agentgym.testing.recording import RecordingGym

LATE = """
import sys
from agentgym import AgentGym
gym = AgentGym(agent="desk")
assert "langchain_core" not in sys.modules
assert not hasattr(gym, "wrap_model_call")
assert isinstance(gym, AgentGym)
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.language_models.fake_chat_models import FakeListChatModel
assert isinstance(gym, AgentMiddleware)
agent = create_agent(FakeListChatModel(responses=["hello"]), [], middleware=[gym])
assert agent.invoke({"messages": [("user", "hi")]})["messages"][-1].content == "hello"
assert gym.status()["counters"].get("produced.spans") == 2, gym.status()
"""


def test_a_gym_made_before_langchain_was_imported_works(home: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", LATE],
        env={"AGENTGYM_HOME": str(home), "AGENTGYM_EXIT_TIMEOUT_S": "0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("route", ["middleware", "wrap"])
def test_an_interrupt_for_a_person_is_no_failure_and_going_on_is_a_new_trajectory(
    bench: Any, make_gym: Any, check_tree: Any, route: str
) -> None:
    @tool
    def ask_boss(query: str) -> str:
        """Asks a person."""
        return f"boss says {interrupt(query)}"

    _, llm = bench(call_tool("ask_boss", {"query": "may I?"}), say("done"))
    gym = make_gym("shadow")
    saver = InMemorySaver()
    if route == "middleware":
        agent: Any = create_agent(llm, [ask_boss], middleware=[gym], checkpointer=saver)
    else:
        with pytest.warns(DeprecationWarning, match="create_react_agent"):
            agent = create_react_agent(gym.wrap(llm), [ask_boss], checkpointer=saver)
    config: Any = {"configurable": {"thread_id": "t"}}

    agent.invoke({"messages": [("user", "go")]}, config)
    result = agent.invoke(Command(resume="yes"), config)

    assert result["messages"][-2].content == "boss says yes"
    spans = check_tree(gym)
    first = next(span for span in spans if span.name == "execute_tool ask_boss")
    assert first.attributes[semconv.INCOMPLETE] == "cancelled"
    assert {span.error for span in spans if not span.parent_id} == {""}
    assert {s.attributes[semconv.TRAJECTORY_KEY] for s in spans if not s.parent_id} == {"t"}


def test_runs_that_never_end_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_FRAMES", 3)
    known = frames.Frames()
    ids = [uuid4() for _ in range(5)]

    for run_id in ids:
        known.start(run_id, None, "chain")

    assert [known.get(run_id) is not None for run_id in ids] == [False, False, True, True, True]


def test_the_end_of_the_outermost_run_ends_what_is_left_inside() -> None:
    known = frames.Frames()
    root, chain, a_tool = (uuid4() for _ in range(3))
    known.start(root, None, "graph")
    known.start(chain, root, "node")
    known.start_tool(a_tool, chain, "look_up", call_id="", inputs=None)

    known.end(root)

    assert len(known) == 0


def test_events_of_unknown_runs_change_nothing() -> None:
    known = frames.Frames()
    nobody = UUID(int=0)

    known.end(nobody)
    known.end_tool(nobody)
    known.prompt(nobody, {"kwargs": {"partial_variables": {"tools": "", "tool_names": ""}}})
    known.start_tool(uuid4(), None, "look_up", call_id="", inputs=None)
    known.start_tool(uuid4(), nobody, "look_up", call_id="", inputs=None)

    assert len(known) == 2


def test_runs_of_agents_that_nobody_attached_leave_no_trace(
    bench: Any, tools: list[BaseTool], gym: RecordingGym
) -> None:
    _, llm = bench(call_tool("look_up", {"query": "1"}), say("done"))
    gym.wrap(llm)  # the handler is installed now

    create_agent(llm, tools).invoke({"messages": [("user", "go")]})
    RunnableLambda(str).invoke(1)

    assert gym.sink.items == []
