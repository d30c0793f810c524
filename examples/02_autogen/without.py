"""A weather desk of one AutoGen agent, as it was before AgentGym: compare with main.py."""

from __future__ import annotations

import argparse
import asyncio

from autogen_agentchat.agents import AssistantAgent
from autogen_ext.models.openai import OpenAIChatCompletionClient


async def forecast(city: str) -> str:
    """Tells what the weather will be like in a city tomorrow."""
    return f"sunny in {city} tomorrow"


async def current_weather(city: str) -> str:
    """Tells what the weather is like in a city now."""
    return f"raining in {city} now"


async def main(base_url: str, task: str) -> str:
    client = OpenAIChatCompletionClient(model="gpt-4o", base_url=base_url, api_key="none")
    agent = AssistantAgent(
        "desk",
        model_client=client,
        tools=[current_weather, forecast],
        max_tool_iterations=3,
    )
    result = await agent.run(task=task)
    await client.close()
    return result.messages[-1].to_text()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", required=True, help="an OpenAI-compatible server")
    parser.add_argument("--task", default="Bonn")
    options = parser.parse_args()
    print(asyncio.run(main(options.base_url, options.task)))
