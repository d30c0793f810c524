"""What an agent is asked, what its model answers, and the four ways to run it."""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.tools import BaseTool, tool

from agentgym.testing import call_tool as call
from agentgym.testing import say

ASK = {"messages": [{"role": "user", "content": "Where is order 7?"}]}
SCRIPT = (call("look_up", {"query": "7"}), say("Here it is."))
WAYS = ["invoke", "ainvoke", "stream", "astream"]


def waiting_tool() -> tuple[asyncio.Event, BaseTool]:
    """A tool that never ends, and what tells that it has begun."""
    started = asyncio.Event()

    @tool
    async def wait(query: str) -> str:
        """Waits for ever."""
        started.set()
        await asyncio.Event().wait()
        return ""

    return started, wait


async def run(agent: Any, how: str, ask: Any = ASK) -> str:
    """Runs an agent in one of LangChain's four ways; returns its last message."""
    if how == "invoke":
        return str((await asyncio.to_thread(agent.invoke, ask))["messages"][-1].content)
    if how == "ainvoke":
        return str((await agent.ainvoke(ask))["messages"][-1].content)
    if how == "stream":
        return str([*agent.stream(ask, stream_mode="values")][-1]["messages"][-1].content)
    tokens = [chunk async for chunk, _ in agent.astream(ask, stream_mode="messages")]
    return "".join(str(c.content) for c in tokens if c.type == "AIMessageChunk")
