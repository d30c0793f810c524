"""CrewAI's own crews and agents on its own client, and views of what was recorded and sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool

from agentgym.items import SpanItem
from agentgym.testing import ChatReply, ChatRequest, LLMServer, ToolCall, say
from agentgym.testing.llm_brain import is_tool_result
from agentgym.testing.recording import RecordingGym
from agentgym.trajectory import Tool

# CrewAI reads deprecated fields of its own whenever an agent is made.
QUIET = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@tool("lookup_order")
def lookup_order(order: str) -> str:
    """Looks up an order."""
    return f"order {order} was sent"


@tool("refund")
def refund(order: str) -> str:
    """Refunds an order."""
    if order == "broken":
        raise ValueError("no such order")
    return f"refunded {order}"


@tool("escalate")
def escalate(order: str, urgency: int = 1) -> str:
    """Hands an order to a person."""
    return f"escalated {order}"


DESK = (lookup_order, refund, escalate)
SHAPES = {"order": {"type": "string"}}
TOOLS = (
    Tool("lookup_order", "Looks up an order.", {"properties": SHAPES, "required": ["order"]}),
    Tool("refund", "Refunds an order.", {"properties": SHAPES, "required": ["order"]}),
    Tool(
        "escalate",
        "Hands an order to a person.",
        {"properties": {**SHAPES, "urgency": {"type": "integer"}}, "required": ["order"]},
    ),
)


class Model:
    """Calls the first of its wanted tools that it is shown, once, then repeats the result."""

    def __init__(self, *wanted: str, arguments: dict[str, Any] | None = None) -> None:
        self.wanted = wanted
        self.arguments = arguments or {"order": "7"}

    def reply(self, request: ChatRequest) -> ChatReply:
        results = [m for m in request.messages if is_tool_result(m)]
        if results or not request.tools:
            return say(f"It says: {[m['content'] for m in results]}")
        shown = [spec.name for spec in request.tools]
        name = next((name for name in self.wanted if name in shown), shown[0])
        return ChatReply(tool_calls=(ToolCall(name, json.dumps(self.arguments)),))


class Play:
    """Answers by what a request contains."""

    def __init__(self, reply: Callable[[ChatRequest], ChatReply]) -> None:
        self.reply = reply


def model(server: LLMServer, **settings: Any) -> LLM:
    return LLM(model="openai/gpt-4o", base_url=server.base_url, api_key="none", **settings)


def clerk(server: LLMServer, *, role: str = "Clerk", **settings: Any) -> Agent:
    settings.setdefault("tools", list(DESK))
    settings.setdefault("llm", model(server))
    return Agent(role=role, goal="help", backstory="kind", **settings)


def crew(server: LLMServer, **settings: Any) -> Crew:
    agent = clerk(server)
    task = Task(description="Order {order} is late", expected_output="a text", agent=agent)
    return Crew(agents=[agent], tasks=[task], **settings)


def gym_for(mode: str = "steer", **settings: Any) -> RecordingGym:
    settings.setdefault("explore", "false")  # sampling keeps 2 % for leaving the agent alone
    gym = RecordingGym("desk", mode=mode, **settings)
    return gym


def spans(gym: RecordingGym, operation: str) -> list[SpanItem]:
    found = [s for s in gym.sink.spans if s.attributes["gen_ai.operation.name"] == operation]
    return sorted(found, key=lambda span: span.start_ns)


def shown(server: LLMServer) -> list[list[str]]:
    return [[t["function"]["name"] for t in r.body.get("tools", ())] for r in server.requests]


def bodies(serve: Any, gym: RecordingGym | None) -> list[bytes]:
    server = serve(Model("refund"))
    desk = crew(server)
    if gym is not None:
        gym.force(TOOLS, "escalate", "clerk", control_share=gym.config.control_share or 0.0)
        gym.attach(desk)
    desk.kickoff({"order": "7"})
    desk.kickoff_for_each([{"order": "8"}])
    return [request.body_bytes for request in server.requests]
