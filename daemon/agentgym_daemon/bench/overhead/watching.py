"""AgentGym on the benchmark's agent, as its README says, in the settings that it ships with."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from langchain.agents import create_agent

from agentgym import AgentGym
from agentgym.encode import span_entry, step_entry
from agentgym.items import Item, SpanItem, StepItem

_READY_S = 60.0


def build(
    mode: str, model: Any, tools: list[Any], arguments: argparse.Namespace
) -> tuple[Any, Any, Callable[[], dict[str, Any]]]:
    """The agent with `middleware=[gym]`; with a daemon, its policy is there before it runs."""
    gym = AgentGym("bench", mode=mode, home=Path(arguments.home))
    middleware: Any = [gym]  # LangChain's protocol, answered without its base class
    agent: Any = create_agent(model, tools, middleware=middleware)
    if arguments.waits and not gym.ready(_READY_S):
        raise SystemExit("the daemon did not answer")
    return agent, {}, Delivered(gym, waits=arguments.delivers)


class Delivered:
    """Ends a block: everything is delivered, then counted; the first one also weighs a run."""

    def __init__(self, gym: AgentGym, *, waits: bool) -> None:
        self.gym = gym
        self.waits = waits
        self._recorded: list[Item] = []
        self._weight: dict[str, float] = {}
        self._put = gym.recorder.sink.put
        gym.recorder.sink.put = self._keep  # type: ignore[method-assign]

    def _keep(self, item: Item) -> None:
        self._recorded.append(item)
        self._put(item)

    def __call__(self) -> dict[str, Any]:
        if self.waits and not self.gym.flush(30.0):
            raise SystemExit("the daemon did not take what was recorded")
        status = self.gym.status()
        reply: dict[str, Any] = {
            "errors": sum(status["errors"].values()),
            "policies": len(status["policies"]),
        }
        if self._recorded:
            self.gym.recorder.sink.put = self._put  # type: ignore[method-assign]
            self._weight = weight(self._recorded)
            self._recorded = []
        return reply | self._weight


def weight(items: list[Item]) -> dict[str, float]:
    """Spans, decided steps and bytes on the wire, per trajectory."""
    spans = [span_entry(item) for item in items if isinstance(item, SpanItem)]
    steps = [item for item in items if isinstance(item, StepItem)]
    runs = len({item.trajectory_id for item in items})
    size = sum(map(len, spans)) + sum(len(step_entry(step, 1)) for step in steps)
    decided = sum(step.decision is not None for step in steps)
    return {"spans": len(spans) / runs, "bytes": size / runs, "decided": decided / runs}
