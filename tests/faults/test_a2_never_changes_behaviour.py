"""Whatever breaks inside AgentGym, the agent does what it would have done without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool, tool
from langchain_core.utils.function_calling import convert_to_openai_tool

from agentgym import AgentGym
from agentgym.guard import BREAKER_ERRORS
from agentgym.integrations.langchain import turns
from agentgym.integrations.langchain.frames import FRAMES, Frames
from agentgym.integrations.langchain.gym_hooks import GymHooks
from agentgym.integrations.langchain.offered import from_objects
from agentgym.policy.evaluate import Scorer
from agentgym.policy.features import Featuriser
from agentgym.policy.policy_set import PolicySet
from agentgym.recorder import Recorder
from agentgym.testing.recording import RecordingGym, RecordingSink
from agentgym.tree import Call, Run, Turn


class Model(BaseChatModel):
    """Looks up, refunds, looks up a broken order, then says how often each tool answered."""

    @property
    def _llm_type(self) -> str:
        return "seeded"

    def bind_tools(self, tools: Any, *, tool_choice: Any = None, **kwargs: Any) -> Any:
        chosen = {} if tool_choice is None else {"tool_choice": tool_choice}
        return self.bind(tools=[convert_to_openai_tool(t) for t in tools], **chosen)

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        answers = [message for message in messages if message.type == "tool"]
        script = [("look_up", "7"), ("refund", "7"), ("look_up", "broken")]
        if len(answers) < len(script):
            name, query = script[len(answers)]
            call = {"name": name, "args": {"query": query}, "id": f"call-{len(answers)}"}
            message = AIMessage("", tool_calls=[call])
        else:
            message = AIMessage(" | ".join(str(answer.content) for answer in answers))
        return ChatResult(generations=[ChatGeneration(message=message)])


@tool
def look_up(query: str) -> str:
    """Looks an order up."""
    if query == "broken":
        raise ValueError("no such order")
    return f"order {query}"


@tool
def refund(query: str) -> str:
    """Pays money back."""
    return f"refunded {query}"


TOOLS: list[BaseTool] = [look_up, refund]
ENTRIES: list[tuple[Any, str]] = [
    *((Frames, name) for name in ("start", "end", "start_tool", "end_tool", "run_of", "get")),
    *((Recorder, name) for name in ("start_run", "decide", "end", "_allowed", "_features")),
    *((Recorder, name) for name in ("protect", "_fallback")),
    *((Run, name) for name in ("turn", "call", "finish", "done", "asked", "touches")),
    *((Turn, "finish"), (Turn, "may_call"), (Call, "finish"), (GymHooks, "_start_call")),
    *((PolicySet, "decide"), (PolicySet, "catalogue"), (PolicySet, "version")),
    *((Scorer, "__call__"), (Featuriser, "within"), (RecordingSink, "put")),
    *((turns, name) for name in ("offered_in", "identity", "calls_of", "usage_of")),
]


def raises(*args: Any, **kwargs: Any) -> Any:
    raise ZeroDivisionError("ours")


def returns_garbage(*args: Any, **kwargs: Any) -> Any:
    return "garbage"


def recurses(*args: Any, **kwargs: Any) -> Any:
    return recurses(*args, **kwargs)


def runs_out_of_memory(*args: Any, **kwargs: Any) -> Any:
    raise MemoryError


FAILURES = [raises, returns_garbage, recurses, runs_out_of_memory]


def answer_of(gym: AgentGym | None) -> tuple[Any, ...]:
    """What the agent says and does, or how it fails: its tool's error is the user's to see."""
    agent: Any = create_agent(Model(), TOOLS, middleware=[gym] if gym else [])
    messages: list[Any] = []
    try:
        for state in agent.stream({"messages": [("user", "order 7?")]}, stream_mode="values"):
            messages = state["messages"]
    except ValueError as error:
        return repr(error), *map(told, messages)
    return tuple(map(told, messages))


def told(message: BaseMessage) -> tuple[Any, ...]:
    calls = [(c["name"], c["args"], c["id"]) for c in getattr(message, "tool_calls", ())]
    return message.type, message.content, calls, getattr(message, "status", "")


@pytest.fixture
def gym() -> RecordingGym:
    made = RecordingGym("desk", explore=False)
    made.guard.strict = False
    made.force(from_objects(TOOLS), "refund", "desk")
    return made


@pytest.fixture(autouse=True)
def empty_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a broken `Frames` leaves open is thrown away with the test."""
    monkeypatch.setattr(FRAMES, "_open", {})


def test_the_agent_does_the_same_with_agentgym_as_without(gym: RecordingGym) -> None:
    assert answer_of(gym) == answer_of(None)
    assert gym.sink.steps[0].decision is not None


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize(
    ("owner", "name"), ENTRIES, ids=[f"{o.__name__.rpartition('.')[2]}.{n}" for o, n in ENTRIES]
)
def test_no_failure_inside_changes_what_the_agent_does(
    gym: RecordingGym,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    failure: Callable[..., Any],
) -> None:
    expected = answer_of(None)

    monkeypatch.setattr(owner, name, failure)

    for _ in range(3):
        assert answer_of(gym) == expected


@pytest.mark.parametrize("failure", [raises, recurses, runs_out_of_memory])
def test_five_errors_within_a_minute_switch_agentgym_off(
    gym: RecordingGym, monkeypatch: pytest.MonkeyPatch, failure: Callable[..., Any]
) -> None:
    expected = answer_of(None)
    monkeypatch.setattr(Recorder, "decide", failure)
    assert gym.on

    for _ in range(BREAKER_ERRORS):
        answer_of(gym)
    assert not gym.on
    assert sum(gym.guard.errors.values()) >= BREAKER_ERRORS

    monkeypatch.undo()
    before = len(gym.sink.items)
    assert answer_of(gym) == expected
    assert len(gym.sink.items) == before  # nothing is recorded any more


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_the_hosts_own_ways_of_stopping_pass_through(
    gym: RecordingGym, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    def stopped(*args: Any, **kwargs: Any) -> None:
        raise stop

    monkeypatch.setattr(Model, "_generate", stopped)

    with pytest.raises(stop):
        answer_of(gym)
    assert gym.on
