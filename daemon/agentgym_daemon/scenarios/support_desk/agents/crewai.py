"""The support desk's agent in CrewAI."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from crewai import LLM, Agent, Crew, Task
from crewai.tools import BaseTool
from pydantic import BaseModel, Field, create_model

from agentgym_daemon.scenarios.support_desk.agents.base import (
    CATALOGUE,
    INSTRUCTIONS,
    MAX_TURNS,
    ModelEndpoint,
)
from agentgym_daemon.scenarios.support_desk.desk import Desk
from agentgym_daemon.scenarios.support_desk.tools import DeskTool

if TYPE_CHECKING:
    from agentgym import AgentGym


class CrewAIAgent:
    """A crew of one agent and one task, kicked off once per request."""

    def __init__(self, endpoint: ModelEndpoint, desk: Desk, gym: AgentGym | None) -> None:
        self._spent = 0
        model = LLM(
            model=f"openai/{endpoint.model}",
            base_url=endpoint.base_url,
            api_key=endpoint.api_key,
        )
        agent = Agent(
            role="Support desk",
            goal="Do what the customer asks for.",
            backstory=INSTRUCTIONS,
            tools=[_tool(tool, desk) for tool in CATALOGUE],
            llm=model,
            max_iter=MAX_TURNS,
            cache=False,
            verbose=False,
        )
        task = Task(description="{request}", expected_output="One sentence.", agent=agent)
        self._crew = Crew(
            agents=[agent], tasks=[task], verbose=False, cache=False, name="support-desk"
        )
        if gym:
            self._crew = gym.attach(self._crew)  # the one line

    def run(self, text: str) -> int:
        """Serves one request."""
        result: Any = self._crew.kickoff(inputs={"request": text})
        before, self._spent = self._spent, int(result.token_usage.total_tokens)
        return self._spent - before  # CrewAI counts over the life of the model client

    def close(self) -> None:
        """Nothing stays open."""


class _Arguments(BaseModel):
    """Arguments of a tool; CrewAI asks for the schema of every tool several times per kickoff."""

    @classmethod
    def model_json_schema(cls, *arguments: Any, **options: Any) -> dict[str, Any]:
        """The schema, made once per way of asking."""
        key = (cls, arguments, tuple(sorted(options.items(), key=str)))
        if key not in _SCHEMAS:
            _SCHEMAS[key] = super().model_json_schema(*arguments, **options)
        return copy.deepcopy(_SCHEMAS[key])


_SCHEMAS: dict[Any, dict[str, Any]] = {}


def _tool(tool: DeskTool, desk: Desk) -> BaseTool:
    fields: dict[str, Any] = {
        name: (str, Field(description=text)) for name, text in tool.parameters.items()
    }

    class _DeskTool(BaseTool):
        def _run(self, **arguments: str) -> str:
            return desk.execute(tool.name, arguments)

    return _DeskTool(
        name=tool.name,
        description=tool.description,
        args_schema=create_model(tool.name, __base__=_Arguments, **fields),
        max_usage_count=None,
    )
