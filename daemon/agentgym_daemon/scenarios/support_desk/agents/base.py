"""What the three agents have in common."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol

from agentgym_daemon.scenarios.support_desk.desk import Desk
from agentgym_daemon.scenarios.support_desk.tools import TOOLS, DeskTool

if TYPE_CHECKING:
    from agentgym import AgentGym

FRAMEWORKS = ("langchain", "autogen", "crewai")
CATALOGUE = TOOLS
INSTRUCTIONS = (
    "You are the support desk of an online shop. Use the tools to do what the customer asks for, "
    "then answer in one sentence."
)
MAX_TURNS = 8
"""Turns of the model per request; the longest task takes three calls, a retry each, an answer."""


@dataclass(frozen=True, slots=True)
class ModelEndpoint:
    """An OpenAI-compatible model."""

    model: str
    base_url: str | None
    api_key: str


class DeskAgent(Protocol):
    """One framework's agent: `run` serves a request and returns the tokens that it took."""

    def run(self, text: str) -> int:
        """Serves one request."""

    def close(self) -> None:
        """Releases clients and loops."""


def typed_function(tool: DeskTool, desk: Desk) -> Callable[..., str]:
    """A function with the tool's own signature and docstring, for frameworks that inspect it."""

    def execute(**arguments: str) -> str:
        return desk.execute(tool.name, arguments)

    parameters = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[str, description]
        )
        for name, description in tool.parameters.items()
    ]
    execute.__name__ = tool.name
    execute.__doc__ = tool.description
    execute.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # read by frameworks
        parameters, return_annotation=str
    )
    execute.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": str}
    return execute


def build(framework: str, endpoint: ModelEndpoint, desk: Desk, gym: AgentGym | None) -> DeskAgent:
    """The agent of one framework, attached to `gym` unless it is None."""
    match framework:
        case "langchain":
            from agentgym_daemon.scenarios.support_desk.agents.langchain import LangChainAgent

            return LangChainAgent(endpoint, desk, gym)
        case "autogen":
            from agentgym_daemon.scenarios.support_desk.agents.autogen import AutoGenAgent

            return AutoGenAgent(endpoint, desk, gym)
        case "crewai":
            from agentgym_daemon.scenarios.support_desk.agents.crewai import CrewAIAgent

            return CrewAIAgent(endpoint, desk, gym)
    raise ValueError(f"expected langchain, autogen or crewai, got {framework!r}")
