"""The support desk's agent in LangChain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain.agents import create_agent
from langchain_core.tools import BaseTool, StructuredTool, ToolException
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from agentgym_daemon.scenarios.support_desk.agents.base import (
    CATALOGUE,
    INSTRUCTIONS,
    MAX_TURNS,
    ModelEndpoint,
)
from agentgym_daemon.scenarios.support_desk.desk import Desk, DeskError
from agentgym_daemon.scenarios.support_desk.tools import DeskTool

if TYPE_CHECKING:
    from agentgym import AgentGym


class LangChainAgent:
    """`create_agent` with native tool calling."""

    def __init__(self, endpoint: ModelEndpoint, desk: Desk, gym: AgentGym | None) -> None:
        model = ChatOpenAI(
            model=endpoint.model,
            base_url=endpoint.base_url,
            api_key=SecretStr(endpoint.api_key),
        )
        middleware: list[Any] = [gym] if gym else []
        self._agent: Any = create_agent(
            model,
            [_tool(tool, desk) for tool in CATALOGUE],
            system_prompt=INSTRUCTIONS,
            name="support-desk",
            middleware=middleware,  # the one line
        )

    def run(self, text: str) -> int:
        """Serves one request."""
        state = self._agent.invoke(
            {"messages": [("user", text)]}, config={"recursion_limit": 4 * MAX_TURNS}
        )
        usages = (getattr(message, "usage_metadata", None) for message in state["messages"])
        return sum(usage["total_tokens"] for usage in usages if usage)

    def close(self) -> None:
        """Nothing stays open."""


def _tool(tool: DeskTool, desk: Desk) -> BaseTool:
    def execute(**arguments: str) -> str:
        try:
            return desk.execute(tool.name, arguments)
        except DeskError as error:
            raise ToolException(str(error)) from error

    return StructuredTool(
        name=tool.name,
        description=tool.description,
        args_schema=tool.schema,
        func=execute,
        handle_tool_error=True,
    )
