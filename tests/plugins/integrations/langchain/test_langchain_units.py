"""A unit in the metadata of a run: it keeps its assignment, and stays a pseudonym."""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent
from langchain_core.tools import BaseTool

from agentgym import semconv
from agentgym.assignment import point_of
from agentgym.testing import say
from agentgym.testing.recording import RecordingGym
from agentgym.trajectory import Assignment


def test_the_unit_of_the_config_decides(bench: Any, tools: list[BaseTool]) -> None:
    units = [f"customer-{i}" for i in range(6)]
    _, llm = bench(*[say("Here it is.")] * len(units))
    gym = RecordingGym("desk", control_share="0.5")
    agent = create_agent(llm, tools, middleware=[gym])

    for unit in units:
        agent.invoke(
            {"messages": [("user", "Where is order 7?")]}, {"metadata": {"agentgym_unit": unit}}
        )

    expected = [
        Assignment.POLICY if point_of("desk", unit) < 0.5 else Assignment.CONTROL for unit in units
    ]
    assert [step.assignment for step in gym.sink.steps] == expected
    assert set(expected) == {Assignment.POLICY, Assignment.CONTROL}
    assert not any("customer" in str(item) for item in gym.sink.items)
    assert all(semconv.UNIT not in span.attributes for span in gym.sink.spans)  # no key is known
