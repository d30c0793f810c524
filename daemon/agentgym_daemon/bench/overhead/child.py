"""One agent in a process of its own: `python child.py VARIANT ...`, driven by lines of JSON.

Runs with any interpreter that has LangChain, so it imports nothing of the daemon; each way of
watching the agent (`watching.py`, `peers.py`) lies beside it and is imported only when asked for.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool, StructuredTool
from langchain_core.utils.function_calling import convert_to_openai_tool

CALLS = 3
"""Tool calls of a run; the model is asked once more."""
WORDS = """refund invoice parcel damaged shoes late courier address change cancel order size
exchange gift card balance voucher broken screen warranty repair store pickup delivery date missing
item double charge payment declined newsletter account password locked price match stock""".split()  # noqa: SIM905 - a list reads worse


class FakeModel(BaseChatModel):
    """Asks for the first tool three times, then answers; needs no network and hardly any time."""

    entries: list[dict[str, Any]] = []  # noqa: RUF012 - a pydantic field

    @property
    def _llm_type(self) -> str:
        return "fake"

    def bind_tools(self, tools: Any, *, tool_choice: Any = None, **kwargs: Any) -> Any:
        """Binds the tools in the format of OpenAI, converted once."""
        known = {entry["function"]["name"]: entry for entry in self.entries}
        entries = [
            tool if isinstance(tool, dict) else known.get(tool.name) or self._converted(tool)
            for tool in tools
        ]
        choice = {} if tool_choice is None else {"tool_choice": tool_choice}
        return self.bind(tools=entries, **choice, **kwargs)

    def _converted(self, tool: BaseTool) -> dict[str, Any]:
        self.entries.append(convert_to_openai_tool(tool))
        return self.entries[-1]

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        done = sum(message.type == "tool" for message in messages)
        if done < CALLS:
            name = self.entries[0]["function"]["name"]
            calls = [{"name": name, "args": {"query": "A-17"}, "id": f"call-{done}"}]
            message = AIMessage("", tool_calls=calls)
        else:
            message = AIMessage("Your order is on its way.")
        message.usage_metadata = {"input_tokens": 200, "output_tokens": 20, "total_tokens": 220}
        return ChatResult(generations=[ChatGeneration(message=message)])


def tools_of(count: int) -> list[BaseTool]:
    """Tools that answer at once."""

    def answer(query: str) -> str:
        return f"order {query}: shipped"

    return [
        StructuredTool.from_function(
            answer, name=f"tool_{i}", description=f"Does thing number {i} for an order."
        )
        for i in range(count)
    ]


def tasks(*, new: bool) -> Callable[[], str]:
    """Texts of tasks: another one each time, or always the same."""
    rng = random.Random(7)
    if not new:
        return lambda: "Where is my order A-17, and can you pay the price of the shoes back?"
    return lambda: (
        f"Please help me with {' '.join(rng.sample(WORDS, 8))} for order B-{rng.random()}"
    )


def build(arguments: argparse.Namespace) -> tuple[Any, Any, Callable[[], dict[str, Any]]]:
    """The agent, what each run is given besides the task, and what ends a block of runs."""
    variant: str = arguments.variant
    sys.path.insert(
        0, str(Path(__file__).parent)
    )  # the modules beside this file, without a package
    model, tools = FakeModel(), tools_of(arguments.tools)
    if variant == "none":
        return create_agent(model, tools), {}, dict
    module, _, kind = variant.partition(":")
    watch = importlib.import_module({"agentgym": "watching"}.get(module, "peers"))
    return watch.build(kind, model, tools, arguments)  # type: ignore[no-any-return]


def block(agent: Any, config: Any, task: Callable[[], str], runs: int, end: Any) -> dict[str, Any]:
    """Some runs in a row, with all that they leave to background threads."""
    caller, wall = [], []
    process = time.process_time()
    for _ in range(runs):
        text = task()
        cpu, now = time.thread_time(), time.perf_counter()
        agent.invoke({"messages": [("user", text)]}, config=config)
        caller.append(time.thread_time() - cpu)
        wall.append(time.perf_counter() - now)
    counted = end()
    # a peer counts a block, AgentGym weighs a run
    totals = {name: n / runs for name, n in counted.items() if name in ("spans", "bytes")}
    return {
        "cpu_us": (time.process_time() - process) / runs * 1e6,
        "caller_us": statistics.median(caller) * 1e6,
        "wall_us": statistics.median(wall) * 1e6,
        **counted,
        **({} if "policies" in counted else totals),
    }


def main() -> None:
    """Builds the agent, then obeys one JSON command a line until `end`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("variant")
    parser.add_argument("--home", default="")
    parser.add_argument("--tools", type=int, default=10)
    parser.add_argument("--new-tasks", action="store_true")
    parser.add_argument("--waits", action="store_true", help="begin when the daemon has answered")
    parser.add_argument("--delivers", action="store_true", help="end a block with its delivery")
    arguments = parser.parse_args()
    out, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints must not be read as ours
    agent, config, end = build(arguments)
    task = tasks(new=arguments.new_tasks)
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "end":
            break
        reply = block(agent, config, task, command["runs"], end)
        out.write(json.dumps(reply) + "\n")
        out.flush()
    out.write(json.dumps({"exit_at": time.time()}) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
