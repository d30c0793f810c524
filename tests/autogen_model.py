"""AutoGen's own client of a stub model, for all suites with AutoGen agents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from autogen_ext.models.openai import OpenAIChatCompletionClient

from agentgym.testing import LLMServer


@asynccontextmanager
async def model(server: LLMServer) -> AsyncIterator[OpenAIChatCompletionClient]:
    """A client that is closed in the end."""
    client = OpenAIChatCompletionClient(model="gpt-4o", base_url=server.base_url, api_key="none")
    try:
        yield client
    finally:
        await client.close()
