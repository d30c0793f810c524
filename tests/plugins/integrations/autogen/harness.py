"""AutoGen's own agents on its own OpenAI client, and views of what was recorded and sent."""

from __future__ import annotations

from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import TaskResult

from agentgym import semconv
from agentgym.items import SpanItem
from agentgym.testing import LLMServer
from agentgym.testing.recording import RecordingGym
from agentgym.trajectory import Tool

CITY = {"properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = (Tool("weather", "Tells the weather.", CITY), Tool("news", "Tells the news.", CITY))
TURN_CALL_TURN = [
    [
        "invoke_agent assistant",
        ["chat gpt-4o", ["execute_tool weather"]],
        ["chat gpt-4o"],
    ]
]


def weather(city: str) -> str:
    """Tells the weather."""
    if city == "Atlantis":
        raise LookupError("no such city")
    return f"sunny in {city}"


async def news(city: str) -> str:
    """Tells the news."""
    return f"no news in {city}"


def build(
    client: Any, gym: RecordingGym | None = None, route: str = "wrap", **options: Any
) -> AssistantAgent:
    """An agent as a user would build it; without a gym the uninstrumented one."""
    settings: dict[str, Any] = {"tools": [weather, news], "max_tool_iterations": 3, **options}
    name = settings.pop("name", "assistant")
    wrapped = gym.wrap(client) if gym and route == "wrap" else client
    agent = AssistantAgent(name, model_client=wrapped, **settings)
    return gym.attach(agent) if gym and route == "attach" else agent


def member(name: str, client: Any, **options: Any) -> AssistantAgent:
    tools: list[Any] = [weather, news]
    return AssistantAgent(name, model_client=client, **{"tools": tools, **options})


def pair(client: Any) -> list[Any]:
    return [member("first", client), member("second", client)]


def answer(result: TaskResult) -> str:
    return result.messages[-1].to_text()


def bodies(server: LLMServer) -> list[bytes]:
    return [request.body_bytes for request in server.requests]


def shown(server: LLMServer, index: int = 0) -> list[str]:
    return [tool["function"]["name"] for tool in server.requests[index].body["tools"]]


def choice(server: LLMServer, index: int = 0) -> Any:
    return server.requests[index].body.get("tool_choice")


def named(gym: RecordingGym, operation: str) -> list[SpanItem]:
    return [s for s in gym.sink.spans if s.attributes[semconv.OPERATION_NAME] == operation]


def agents(gym: RecordingGym) -> set[str]:
    return {s.attributes[semconv.AGENT_PATH] for s in named(gym, semconv.INVOKE_AGENT)}


def outline(gym: RecordingGym, parent: bytes = b"") -> list[Any]:
    """The tree of the spans, as nested lists of names in the order of their starts."""
    children = [span for span in gym.sink.spans if span.parent_id == parent]
    return [
        [span.name, *outline(gym, span.span_id)]
        for span in sorted(children, key=lambda span: span.start_ns)
    ]
