"""The calling thread's time for a tool call: `python stepping.py --home DIR`, driven like child.py.

A step as LangChain's integration makes it, without LangChain: the offered tools are read from the
request, scored and decided, the answer and the execution of the tool are recorded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from agentgym import AgentGym
from agentgym.integrations.langchain.offered import from_request

CALLS = 3
_READY_S = 60.0


def entries_of(count: int) -> list[dict[str, Any]]:
    """A request's `tools`, made anew as every binding makes them."""
    return [
        {
            "type": "function",
            "function": {
                "name": f"tool_{i}",
                "description": f"Does thing number {i} for an order.",
                "parameters": {
                    "type": "object",
                    "properties": {"query": {"type": "string"}},
                    "required": ["query"],
                },
            },
        }
        for i in range(count)
    ]


def trajectory(gym: AgentGym, count: int) -> tuple[list[float], int]:
    """CPU seconds of each tool call of one run, in µs, and how many steps were decided."""
    took, decided = [], 0
    run = gym.recorder.start_run("bench", framework="bench", task="Where is my order A-17?")
    for number in range(CALLS):
        request = entries_of(count)
        call_id = f"call-{number}"
        start = time.thread_time()
        offered = from_request(request).tools
        turn = run.turn(offered, model="fake", provider="fake")
        turn.finish([("tool_0", call_id)], input_tokens=200, output_tokens=20)
        call = run.call("tool_0", call_id=call_id, arguments={"query": "A-17"})
        call.finish(result="shipped")
        took.append((time.thread_time() - start) * 1e6)
        decided += turn.decision is not None
    run.finish()
    return took, decided


def main() -> None:
    """Obeys one JSON command a line until `end`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--tools", type=int, default=50)
    parser.add_argument("--waits", action="store_true")
    arguments = parser.parse_args()
    # Nothing random in what is compared: no control group.
    gym = AgentGym("bench", home=arguments.home, control_share=0.0)
    if arguments.waits and not gym.ready(_READY_S):
        raise SystemExit("the daemon did not answer")
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "end":
            break
        took: list[float] = []
        decided = 0
        for _ in range(command["runs"]):
            some, steps = trajectory(gym, arguments.tools)
            took += some
            decided += steps
        reply = {"call_us": statistics.median(took), "decided": decided / command["runs"]}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
