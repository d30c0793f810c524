"""A support agent on LangChain that learns which tool to use."""

from __future__ import annotations

import argparse
import os

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from agentgym import AgentGym


@tool
def order_status(order: str) -> str:
    """Says where an order is now."""
    return f"Order {order} left the warehouse this morning."


@tool
def refund_order(order: str) -> str:
    """Pays an order back to the customer."""
    return f"Order {order} is paid back."


@tool
def open_ticket(subject: str) -> str:
    """Hands the customer over to a person."""
    return f"Ticket 1001 is open: {subject}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Answers one customer.")
    parser.add_argument("question", nargs="?", default="Where is my order 7?")
    parser.add_argument("--base-url", default=os.environ.get("OPENAI_BASE_URL"))
    parser.add_argument("--model", default="gpt-4o-mini")
    options = parser.parse_args()

    llm = ChatOpenAI(model=options.model, base_url=options.base_url)
    tools = [order_status, refund_order, open_ticket]
    gym = AgentGym(agent="order-desk")
    agent = create_agent(llm, tools, middleware=[gym])

    answer = agent.invoke({"messages": [{"role": "user", "content": options.question}]})
    print(answer["messages"][-1].content)


if __name__ == "__main__":
    main()
