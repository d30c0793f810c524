"""Agents whose tools stand in the prompt: watched and shadowed, hinted only on request."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_classic.agents import (
    AgentExecutor,
    create_react_agent,
    create_structured_chat_agent,
)
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.tools import BaseTool

from agentgym import semconv
from agentgym.config import Mode
from agentgym.testing import react, react_final, say, structured_chat, structured_chat_final
from agentgym.testing.recording import RecordingGym
from agentgym.trajectory import Assignment

REACT = PromptTemplate.from_template(
    "Answer. You have these tools:\n\n{tools}\n\nAction: one of [{tool_names}]\n\n"
    "Question: {input}\nThought:{agent_scratchpad}"
)
CONVERSATION = PromptTemplate.from_template(
    "TOOLS:\n------\n{tools}\n\nAction: one of [{tool_names}]\n\n"
    "Previous conversation:\n{chat_history}\n\nNew input: {input}\n{agent_scratchpad}"
)
STRUCTURED = ChatPromptTemplate.from_messages(
    [
        ("system", "Tools:\n\n{tools}\n\nAnswer with a JSON blob; action is one of {tool_names}."),
        ("human", "{input}\n\n{agent_scratchpad}"),
    ]
)
ASK = {"input": "order 7?", "chat_history": ""}


def zero_shot(llm: Any, tools: list[BaseTool]) -> Any:
    return AgentExecutor(agent=create_react_agent(llm, tools, REACT), tools=tools)


def conversational(llm: Any, tools: list[BaseTool]) -> Any:
    return AgentExecutor(agent=create_react_agent(llm, tools, CONVERSATION), tools=tools)


def structured(llm: Any, tools: list[BaseTool]) -> Any:
    return AgentExecutor(agent=create_structured_chat_agent(llm, tools, STRUCTURED), tools=tools)


TEXT = (react("look", "look_up", "7"), react_final("Here it is."))
BLOB = (structured_chat("look", "look_up", {"query": "7"}), structured_chat_final("Here it is."))
KINDS = [
    pytest.param(zero_shot, TEXT, id="zero-shot"),
    pytest.param(conversational, TEXT, id="conversational"),
    pytest.param(structured, BLOB, id="structured chat"),
]


async def run(agent: Any, how: str) -> str:
    match how:
        case "invoke":
            return str(agent.invoke(ASK)["output"])
        case "ainvoke":
            return str((await agent.ainvoke(ASK))["output"])
    return str([part async for part in agent.astream(ASK)][-1]["output"])


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "astream"])
@pytest.mark.parametrize("route", ["wrap", "attach", "callbacks", "wrap and attach"])
@pytest.mark.parametrize(("kind", "script"), KINDS)
async def test_a_text_agent_is_shadowed_and_its_bytes_stay(
    bench: Any,
    tools: list[BaseTool],
    gym: RecordingGym,
    check_tree: Any,
    kind: Any,
    script: Any,
    route: str,
    how: str,
) -> None:
    server, llm = bench(*script, *script)
    without = await run(kind(llm, tools), how)
    match route:
        case "wrap":
            agent = kind(gym.wrap(llm), tools)
        case "attach":
            agent = gym.attach(kind(llm, tools))
        case "callbacks":
            agent = kind(llm, tools).with_config(callbacks=[gym])
        case _:
            agent = gym.attach(kind(gym.wrap(llm), tools))

    with_gym = await run(agent, how)

    bodies = [request.body_bytes for request in server.requests]
    assert bodies[:2] == bodies[2:]
    assert without == with_gym == "Here it is."
    first, last = gym.sink.steps
    assert [tool.name for tool in first.offered] == ["look_up", "refund"]
    assert [tool.description for tool in first.offered] == [
        "Looks an order up.",
        "Pays money back.",
    ]
    assert (first.called, last.called) == (("look_up",), ())
    assert {step.assignment for step in gym.sink.steps} == {Assignment.SHADOW}
    assert [past.error for past in last.history] == [False]
    chat, execute, _, root = check_tree(gym)
    assert (execute.name, execute.parent_id) == ("execute_tool look_up", chat.span_id)
    assert root.attributes[semconv.AGENT_NAME] == "desk"
    assert {task.text for task in gym.sink.tasks} == {"order 7?"}


def test_a_hint_is_given_only_on_request(
    bench: Any, tools: list[BaseTool], make_gym: Any, catalogue: Any
) -> None:
    server, llm = bench(*TEXT)
    gym = make_gym("steer", hint_text=True)

    gym.attach(zero_shot(gym.wrap(llm), tools)).invoke(ASK)

    system, human = server.requests[0].body["messages"]
    assert system["role"] == "system"
    assert "'refund'" in system["content"]
    assert "order 7?" in human["content"]
    assert gym.sink.steps[0].force == "hint"
    assert gym.sink.steps[0].mode is Mode.ADVISE


def test_an_answer_that_cannot_be_parsed_ends_its_turn(
    bench: Any, tools: list[BaseTool], gym: RecordingGym, check_tree: Any
) -> None:
    _, llm = bench(say("I just talk."))

    with pytest.raises(ValueError, match="parsing error"):
        zero_shot(gym.wrap(llm), tools).invoke(ASK)

    assert [step.called for step in gym.sink.steps] == [()]
    check_tree(gym)


def test_a_completion_model_is_watched(
    tools: list[BaseTool], gym: RecordingGym, check_tree: Any
) -> None:
    from langchain_core.language_models.fake import FakeListLLM

    llm = FakeListLLM(responses=[str(reply.text) for reply in TEXT])

    assert gym.attach(zero_shot(llm, tools)).invoke(ASK)["output"] == "Here it is."

    assert [step.called for step in gym.sink.steps] == [("look_up",), ()]
    check_tree(gym)
