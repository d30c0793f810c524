"""A LitAgent of Agent Lightning whose choice of tools is trained by AgentGym, under agl.Trainer."""

from __future__ import annotations

import argparse
import itertools
from typing import Any

from agentgym.trajectory import Tool
from agentgym_daemon.learning import lightning
from agentgym_daemon.learning.rollouts.learner import LearnerOptions

agl = lightning.agl  # imported there so that no dependency of it asks the network
TOOLS = (
    Tool("order_status", "Says where an order is now."),
    Tool("refund_order", "Pays an order back to the customer."),
    Tool("stock_level", "Says how many pieces of a product are left."),
    Tool("opening_hours", "Says when a shop is open."),
    Tool("open_ticket", "Hands the customer over to a person."),
)
REQUESTS = {
    "order_status": ("Where is my order {}?", "Has {} been shipped yet?", "When does {} arrive?"),
    "refund_order": ("I want my money back for {}", "Please refund {}", "{} broke, pay me back"),
    "stock_level": ("Do you have any {} left?", "Is {} in stock?", "How many {} are there?"),
    "opening_hours": ("Is the shop in {} open today?", "When does {} close?", "Hours of {}?"),
    "open_ticket": ("Let me speak to a person about {}", "A human, please, {}", "{}: call me"),
}
SUBJECTS = ("1017", "lamp 3", "the Bonn desk", "A-88", "a red chair", "Graz", "my parcel", "4455")


def tasks() -> list[dict[str, str]]:
    """Requests, each with the tool that it needs."""
    return [
        {"text": text.format(subject), "needs": tool}
        for tool, texts in REQUESTS.items()
        for text, subject in itertools.product(texts, SUBJECTS)
    ]


def model(text: str) -> str:
    """Stands for your LLM: it takes every question about a thing for one about an order."""
    return "order_status" if "?" in text or "lamp" in text else "open_ticket"


class ShopAgent(agl.LitAgent[dict[str, str]]):
    """One request, one call of a tool."""

    def rollout(self, task: dict[str, str], resources: Any, rollout: Any) -> float:
        with lightning.tool_run(resources, rollout, task=task["text"]) as run:
            step = run.step(TOOLS)
            name = step.tool or model(task["text"])  # None: the policy leaves it to the model
            step.called(name)
            run.step(TOOLS).answered()
        return float(name == task["needs"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains an agent's choice of tools.")
    parser.add_argument("--passes", type=int, default=6, help="how often each request is served")
    options = parser.parse_args()

    requests = tasks()
    train, unseen = requests[::2], requests[1::2]
    algorithm = lightning.ToolPolicyAlgorithm(
        LearnerOptions(agent="shop"), batch=len(train), passes=options.passes
    )
    lightning.trainer(algorithm).fit(ShopAgent(), train, val_dataset=unseen)

    for done in algorithm.rounds:
        under = "-" if done.policy is None else f"{done.policy:.2f}"
        alone = "-" if done.control is None else f"{done.control:.2f}"
        print(f"{done.version}: {done.rollouts} rollouts, policy {under}, model alone {alone}")
    print(f"unseen requests with the last version: {algorithm.validation:.2f}")


if __name__ == "__main__":
    main()
