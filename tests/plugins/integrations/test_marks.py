"""Tools that say of themselves that their effect cannot be taken back, as each framework has it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import StructuredTool
from langchain_openai import ChatOpenAI
from langgraph.prebuilt import create_react_agent
from mcp.types import ToolAnnotations

from agentgym.integrations.marks import is_destructive
from agentgym.testing import LLMServer, ScriptedBrain, say
from agentgym.testing.recording import RecordingGym


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        (SimpleNamespace(), False),
        (SimpleNamespace(destructive=True), True),
        (SimpleNamespace(destructive="no"), False),
        (SimpleNamespace(metadata=None), False),
        (SimpleNamespace(metadata={"destructive": True}), True),
        (SimpleNamespace(metadata={"destructiveHint": True, "readOnlyHint": None}), True),
        (SimpleNamespace(metadata={"destructiveHint": True, "readOnlyHint": True}), False),
        (SimpleNamespace(metadata={"annotations": {"destructiveHint": True}}), True),
        (SimpleNamespace(annotations=ToolAnnotations(destructiveHint=True)), True),
        (SimpleNamespace(annotations=ToolAnnotations(readOnlyHint=False)), False),
        (
            SimpleNamespace(
                _tool=SimpleNamespace(annotations=ToolAnnotations(destructiveHint=True))
            ),
            True,
        ),
        ({"name": "x", "annotations": {"destructiveHint": True}}, True),
    ],
)
def test_which_marks_count(tool: Any, expected: bool) -> None:
    assert is_destructive(tool) is expected


def look_up(query: str) -> str:
    """Looks an order up."""
    return query


def wipe(query: str) -> str:
    """Deletes an account."""
    return query


@pytest.mark.filterwarnings("ignore:create_react_agent has been moved")
@pytest.mark.parametrize("route", ["middleware", "wrap"])
def test_langchain_tools_are_known_by_their_metadata(route: str) -> None:
    gym = RecordingGym("desk")
    marks = {"destructiveHint": True}  # as langchain-mcp-adapters hands them on
    tools = [
        StructuredTool.from_function(look_up),
        StructuredTool.from_function(wipe, metadata=marks),
    ]
    with LLMServer(ScriptedBrain([say("no")]), keep_alive=False) as server:
        llm = ChatOpenAI(model="gpt-4o", base_url=server.base_url, api_key="test", max_retries=0)
        if route == "middleware":
            agent: Any = create_agent(llm, tools, middleware=[gym])
        else:
            agent = create_react_agent(gym.wrap(llm), tools)
        agent.invoke({"messages": [("user", "wipe it")]})

    assert gym.recorder.protected == {"wipe"}
    assert gym.sink.steps[0].allowed == (True, False)


def test_autogen_tools_are_known_by_the_servers_own_entry() -> None:
    pytest.importorskip("autogen_core")
    from autogen_core.tools import FunctionTool, StaticWorkbench

    from agentgym.integrations.autogen.calls import watch_workbench

    gym = RecordingGym("desk")
    wiping, looking = (FunctionTool(f, description="x") for f in (wipe, look_up))
    vars(wiping)["_tool"] = SimpleNamespace(annotations=ToolAnnotations(destructiveHint=True))

    watch_workbench(gym, StaticWorkbench([wiping, looking]))

    assert gym.recorder.protected == {"wipe"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_crewai_tools_are_known_by_a_field() -> None:
    pytest.importorskip("crewai")
    from crewai.tools import BaseTool

    from agentgym.integrations.crewai.offers import destructive

    class Wipe(BaseTool):
        name: str = "Wipe it"
        description: str = "Deletes an account."
        destructive: bool = True

        def _run(self, query: str) -> str:
            return query

    assert destructive(SimpleNamespace(tools=[Wipe()]), None) == ["wipe_it"]
