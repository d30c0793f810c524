"""A support desk in CrewAI: one agent, three tools, one request after the other."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool

from agentgym import AgentGym

REQUESTS = (
    "Where is my parcel? The order is 1042.",
    "The mug of order 7 arrived broken, I want my money back.",
)


@tool("track_order")
def track_order(order: str) -> str:
    """Says where the parcel of an order is."""
    return f"Order {order} is at the depot."


@tool("refund_order")
def refund_order(order: str) -> str:
    """Gives the money of an order back."""
    return f"Order {order} was refunded."


@tool("search_faq")
def search_faq(question: str) -> str:
    """Searches the frequently asked questions."""
    return "Nothing found."


def make_crew(base_url: str) -> Crew:
    """The desk; `base_url` is any server that speaks OpenAI's chat completions."""
    agent = Agent(
        role="Support Desk",
        goal="Solve what the customer asks for",
        backstory="You work for a shop that sells mugs.",
        llm=LLM(model="openai/gpt-4o", base_url=base_url, api_key="none"),
        tools=[search_faq, track_order, refund_order],
    )
    task = Task(description="{request}", expected_output="A short answer", agent=agent)
    return Crew(agents=[agent], tasks=[task])


def main(argv: Sequence[str] | None = None) -> int:
    """Answers each request and prints the answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", required=True, help="http://HOST:PORT/v1")
    options = parser.parse_args(argv)
    crew = make_crew(options.base_url)
    gym = AgentGym(agent="support-desk")
    gym.attach(crew)
    for request in REQUESTS:
        print(crew.kickoff({"request": request}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
