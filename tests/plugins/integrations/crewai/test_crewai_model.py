"""The view of a model by itself: what it changes of a call, and what it reads from an answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("crewai")

from crewai import LLM
from crewai.llms.base_llm import BaseLLM
from crewai.tools import tool

from agentgym.integrations.crewai.model import with_hint
from agentgym.integrations.crewai.offers import native_offer
from agentgym.integrations.crewai.scope import Asked, Scope, entered
from agentgym.testing import LLMServer, ScriptedBrain, call_tool, react, say
from agentgym.testing.recording import RecordingGym
from agentgym.trajectory import Tool

TOOL = Tool("refund")
SPECS = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": {}}}
    for name in ("lookup", "refund")
]
TOOLS = [Tool("lookup", "lookup"), Tool("refund", "refund")]


class Owner:
    """Stands for an agent: only its tools are read."""

    id = "1"
    role = "clerk"

    def __init__(self, *tools: Any) -> None:
        self.tools = tools


@pytest.fixture
def gym() -> RecordingGym:
    gym = RecordingGym("desk", explore="false")
    return gym


@pytest.fixture
def server() -> Iterator[LLMServer]:
    with LLMServer(
        ScriptedBrain([call_tool("refund", {"order": "7"})] * 2), keep_alive=False
    ) as server:
        yield server


def scope(gym: RecordingGym, *tools: Any) -> Scope:
    return Scope(gym, gym.recorder.start_run("clerk", framework="crewai", task="7"), Owner(*tools))


def client(server: LLMServer) -> BaseLLM:
    llm: BaseLLM = LLM(model="openai/gpt-4o", base_url=server.base_url, api_key="none")
    return llm


def test_a_hint_joins_the_last_request_and_leaves_the_messages_alone() -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u", "x": 1}]

    hinted = with_hint(messages, TOOL)

    assert hinted[-1] == {
        "role": "user",
        "content": "u\n\nUse the tool refund for your next step.",
        "x": 1,
    }
    assert messages[-1]["content"] == "u"


def test_a_hint_after_a_result_is_a_message_of_its_own() -> None:
    messages = [{"role": "tool", "content": "r", "tool_call_id": "1"}]

    assert [m["role"] for m in with_hint(messages, TOOL)] == ["tool", "user"]


def test_a_hint_joins_a_prompt_that_is_text() -> None:
    assert with_hint("u", TOOL) == "u\n\nUse the tool refund for your next step."


def test_tools_that_the_agent_does_not_have_keep_the_shape_on_the_wire() -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "string"}}}
    spec = {"type": "function", "function": {"name": "remote", "parameters": parameters}}

    (offered,) = native_offer([spec], Owner(), None)

    assert offered == Tool("remote", "", parameters)
    assert offered.parameters == parameters


@pytest.mark.parametrize("positional", [False, True])
def test_a_call_outside_any_run_is_left_alone(
    gym: RecordingGym, server: LLMServer, positional: bool
) -> None:
    model = gym.wrap(client(server))

    answer = model.call("hi", SPECS) if positional else model.call("hi", tools=SPECS)

    assert answer[0].function.name == "refund"
    assert gym.sink.items == []


def test_a_wrapped_model_of_an_agent_that_is_not_attached_says_so(
    gym: RecordingGym, server: LLMServer, caplog: pytest.LogCaptureFixture
) -> None:
    gym.guard.strict = False
    model = gym.wrap(client(server))

    for _ in range(2):
        assert model.call("hi", tools=SPECS, from_agent=Owner())

    assert [m for m in caplog.messages if "gym.attach(crew)" in m] == [caplog.messages[0]]
    assert gym.sink.items == []


def test_a_decision_that_cannot_be_applied_leaves_the_call_as_it_was(
    gym: RecordingGym, server: LLMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gym.force(TOOLS, "lookup", "clerk")
    gym.guard.strict = False
    monkeypatch.setattr("agentgym.integrations.crewai.model.with_hint", None)

    with entered(scope(gym)):
        gym.wrap(client(server)).call("hi", tools=SPECS)

    assert [t["function"]["name"] for t in server.requests[0].body["tools"]] == ["lookup", "refund"]
    assert gym.sink.spans[0].attributes["agentgym.incomplete"] == "error"


async def test_an_async_call_is_narrowed_and_recorded(gym: RecordingGym, server: LLMServer) -> None:
    gym.force(TOOLS, "lookup", "clerk")
    model = gym.wrap(client(server))

    with entered(scope(gym)):
        await model.acall("hi", SPECS)

    body = server.requests[0].body
    assert [t["function"]["name"] for t in body["tools"]] == ["lookup"]
    assert "Use the tool lookup" in body["messages"][-1]["content"]
    assert gym.sink.steps[0].called == ("refund",)
    assert gym.sink.spans[0].attributes["gen_ai.usage.output_tokens"] > 0


async def test_errors_of_an_async_call_go_through(gym: RecordingGym) -> None:
    with LLMServer(ScriptedBrain([]), keep_alive=False) as server:
        model = gym.wrap(client(server))
        with entered(scope(gym)), pytest.raises(Exception, match="Expected at most 0"):
            await model.acall("hi", tools=SPECS)

    assert gym.sink.spans[0].error
    assert not gym.sink.steps[0].completed


async def test_an_async_call_outside_any_run_is_left_alone(
    gym: RecordingGym, server: LLMServer
) -> None:
    await gym.wrap(client(server)).acall("hi", tools=SPECS)

    assert gym.sink.items == []


def test_functions_that_the_provider_calls_itself_count_as_called(
    gym: RecordingGym, server: LLMServer
) -> None:
    model = gym.wrap(client(server))

    with entered(scope(gym)):
        answer = model.call(
            "hi", tools=SPECS, available_functions={"refund": lambda order: f"refunded {order}"}
        )

    assert answer == "refunded 7"
    assert gym.sink.steps[0].called == ("refund",)


def test_a_call_without_tools_is_a_turn_but_no_step(gym: RecordingGym) -> None:
    with LLMServer(ScriptedBrain([say("hello")]), keep_alive=False) as server, entered(scope(gym)):
        gym.wrap(client(server)).call("hi")

    assert [span.name for span in gym.sink.spans] == ["chat gpt-4o"]
    assert gym.sink.steps == []


@pytest.mark.parametrize(
    ("text", "called"),
    [
        (react("so", "refund", '{"order": "7"}').text, ("refund",)),
        (react("so", "refund", "not json").text, ("refund",)),
        ("Thought: done\nFinal Answer: x", ()),
        ("Action without input", ()),
    ],
    ids=["call", "odd input", "answer", "neither"],
)
def test_a_text_agent_is_read_by_crewais_own_parser(
    gym: RecordingGym, text: str, called: tuple[str, ...]
) -> None:
    @tool("refund")
    def refund(order: str) -> str:
        """Refunds."""
        return order

    class Text(type(LLM(model="openai/gpt-4o", api_key="none"))):  # type: ignore[misc]
        def supports_function_calling(self) -> bool:
            return False

    with LLMServer(ScriptedBrain([say(text)]), keep_alive=False) as server:
        model = gym.wrap(Text(model="gpt-4o", base_url=server.base_url, api_key="none"))
        with entered(running := scope(gym, refund)):
            model.call("hi", from_agent=running.owner)

    assert gym.sink.steps[0].called == called


def test_a_call_that_starts_is_found_by_its_arguments_before_its_name(gym: RecordingGym) -> None:
    running = scope(gym)
    first, second = Asked("a", "1", {"x": 1}), Asked("a", "2", {"x": 2})
    running.ask([first, second])

    assert running.take("a", {"x": 2}) is second
    assert running.take("a", {"x": 9}) is first
    assert running.take("a", {"x": 9}) is None
