"""More than one agent, more than one gym: runs below and beside one another."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, tool
from langgraph.graph import END, START, MessagesState, StateGraph

from agentgym import semconv
from agentgym.testing import call_tool as call
from agentgym.testing import say
from agentgym.testing.recording import RecordingGym
from tests.plugins.integrations.langchain.asking import ASK, SCRIPT, run


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_a_nested_agent_is_a_run_below_the_call(
    bench: Any, tools: list[BaseTool], make_gym: Any, check_tree: Any, how: str
) -> None:
    _, llm = bench(call("ask_clerk", {"query": "1"}), *SCRIPT, say("done"))
    gym = make_gym("shadow")
    clerk = create_agent(llm, tools, middleware=[gym], name="Clerk")

    @tool
    async def ask_clerk(query: str) -> str:
        """Asks the clerk."""
        answer = await clerk.ainvoke({"messages": [("user", query)]})
        return str(answer["messages"][-1].content)

    def ask_sync(query: str) -> str:
        return str(clerk.invoke({"messages": [("user", query)]})["messages"][-1].content)

    ask_clerk.func = ask_sync

    await run(create_agent(llm, [ask_clerk], middleware=[gym], name="Boss"), how)

    spans = {span.name: span for span in check_tree(gym)}
    inner = spans["invoke_agent Clerk"]
    assert inner.parent_id == spans["execute_tool ask_clerk"].span_id
    assert inner.attributes[semconv.AGENT_PATH] == "boss/clerk"
    assert {(s.agent_name, s.agent_path) for s in gym.sink.steps} == {
        ("boss", ("boss",)),
        ("clerk", ("boss", "clerk")),
    }


def test_an_unnamed_agent_in_a_named_one_goes_by_the_gyms_name(
    bench: Any, tools: list[BaseTool], make_gym: Any
) -> None:
    _, llm = bench(call("ask", {"query": "1"}), *SCRIPT, say("done"))
    gym = make_gym("shadow")
    inner = create_agent(llm, tools, middleware=[gym])

    @tool
    def ask(query: str) -> str:
        """Asks."""
        return str(inner.invoke({"messages": [("user", query)]})["messages"][-1].content)

    create_agent(llm, [ask], middleware=[gym], name="Boss").invoke(ASK, {"run_name": "run 17"})

    assert {step.agent_path for step in gym.sink.steps} == {("boss",), ("boss", "desk")}


def test_agents_that_are_nodes_of_a_graph_are_runs_below_one_workflow(
    bench: Any, tools: list[BaseTool], make_gym: Any, check_tree: Any
) -> None:
    _, llm = bench(*SCRIPT, *SCRIPT)
    gym = make_gym("shadow")
    graph = StateGraph(MessagesState)
    for name in ("first", "second"):
        graph.add_node(name, create_agent(llm, tools, middleware=[gym], name=name))
    graph.add_edge(START, "first")
    graph.add_edge("first", "second")
    graph.add_edge("second", END)

    graph.compile(name="flow").invoke(ASK)

    spans = {span.name: span for span in check_tree(gym)}
    root = spans["invoke_workflow flow"]
    assert spans["invoke_agent first"].parent_id == root.span_id
    assert spans["invoke_agent second"].parent_id == root.span_id
    assert len(gym.sink.ended) == 1


def test_two_gyms_on_one_agent_record_two_trajectories(
    bench: Any, tools: list[BaseTool], make_gym: Any, check_tree: Any
) -> None:
    _, llm = bench(*SCRIPT)
    one, two = make_gym("shadow"), make_gym("shadow", agent="other")

    create_agent(llm, tools, middleware=[one, two]).invoke(ASK)

    assert len(check_tree(one)) == len(check_tree(two)) == 4
    assert one.sink.ended != two.sink.ended


def test_one_gym_serves_several_agents(
    bench: Any, tools: list[BaseTool], gym: RecordingGym, check_tree: Any
) -> None:
    _, llm = bench(*SCRIPT, *SCRIPT)

    for _ in range(2):
        create_agent(llm, tools, middleware=[gym]).invoke(ASK)

    check_tree(gym)
    assert len(gym.sink.ended) == 2


def test_an_attached_agent_inside_an_unattached_one_is_part_of_one_workflow(
    bench: Any, tools: list[BaseTool], make_gym: Any, check_tree: Any
) -> None:
    _, llm = bench(call("ask", {"query": "1"}), *SCRIPT, say("done"))
    gym = make_gym("shadow")
    inner = create_agent(llm, tools, middleware=[gym])

    @tool
    def ask(query: str) -> str:
        """Asks."""
        return str(inner.invoke({"messages": [("user", query)]})["messages"][-1].content)

    create_agent(llm, [ask]).invoke(ASK)

    assert [s.name for s in check_tree(gym)][-2:] == [
        "invoke_agent desk",
        "invoke_workflow LangGraph",
    ]


def test_a_run_inside_the_users_trajectory_is_part_of_it(
    bench: Any, tools: list[BaseTool], gym: RecordingGym, check_tree: Any
) -> None:
    _, llm = bench(*SCRIPT, *SCRIPT)
    agent = create_agent(llm, tools, middleware=[gym])

    with gym.trajectory("case-1"):
        agent.invoke(ASK)
        agent.invoke(ASK)

    check_tree(gym)
    assert len(gym.sink.ended) == 1
