"""The support desk's agent in AutoGen."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from autogen_agentchat.agents import AssistantAgent
from autogen_core import CancellationToken
from autogen_core.tools import FunctionTool
from autogen_ext.models.openai import OpenAIChatCompletionClient

from agentgym_daemon.scenarios.support_desk.agents.base import (
    CATALOGUE,
    INSTRUCTIONS,
    MAX_TURNS,
    ModelEndpoint,
    typed_function,
)
from agentgym_daemon.scenarios.support_desk.desk import Desk

if TYPE_CHECKING:
    from agentgym import AgentGym


class AutoGenAgent:
    """`AssistantAgent` with several tool iterations, in an event loop of its own."""

    def __init__(self, endpoint: ModelEndpoint, desk: Desk, gym: AgentGym | None) -> None:
        self._loop = asyncio.new_event_loop()
        extra: dict[str, Any] = {"base_url": endpoint.base_url} if endpoint.base_url else {}
        self._client = OpenAIChatCompletionClient(
            model=endpoint.model, api_key=endpoint.api_key, **extra
        )
        self._agent = AssistantAgent(
            "support_desk",
            model_client=gym.wrap(self._client) if gym else self._client,  # the one line
            tools=[
                FunctionTool(typed_function(tool, desk), tool.description, name=tool.name)
                for tool in CATALOGUE
            ],
            system_message=INSTRUCTIONS,
            max_tool_iterations=MAX_TURNS,
        )

    def run(self, text: str) -> int:
        """Serves one request."""
        return self._loop.run_until_complete(self._run(text))

    async def _run(self, text: str) -> int:
        before = self._client.total_usage()
        spent = before.prompt_tokens + before.completion_tokens
        await self._agent.run(task=text)
        await self._agent.on_reset(CancellationToken())
        after = self._client.total_usage()
        return after.prompt_tokens + after.completion_tokens - spent

    def close(self) -> None:
        """Closes the client and its loop."""
        self._loop.run_until_complete(self._client.close())
        self._loop.close()
