"""`bench overhead`: what watching and steering cost a LangChain agent, and what others cost it.

An agent on a fake model (three tool calls, four calls of the model) runs in a process for each way
of watching it; blocks of runs take turns, so that every ratio is of figures taken side by side.
CPU is that of the whole process, sending included. The daemon's own CPU is not the agent's.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentgym_daemon.bench.frame import Report, interpreter
from agentgym_daemon.bench.overhead import processes
from agentgym_daemon.bench.overhead.processes import Agent, agent_arguments, step_arguments

__all__ = ["GOALS", "PEERS", "add_arguments", "figures", "run"]

TOOLS, MANY_TOOLS = 10, 50
PEERS = {
    "openinference": "openinference.instrumentation.langchain",
    "openllmetry": "opentelemetry.instrumentation.langchain",
    "langsmith": "langsmith",
}
"""Other instrumentation, and the module that shows whether it is installed."""
GOALS = {
    "steer_ratio": "<= 1.25",
    "steer_new_task_ratio": "<= 1.45",
    "steer_of_openinference": "<= 0.20",
    "steer_of_openllmetry": "<= 0.20",
    "call_us": "<= 100",
    "call_absent_ratio": "<= 1.2",
    "call_refused_ratio": "<= 1.2",
    "call_black_hole_ratio": "<= 1.2",
    "call_hung_ratio": "<= 1.2",
    "exit_black_hole_ms": "<= 500",
}
_WARM_UP = 20
_EXIT_RUNS = 5
_TURNS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own options."""
    parser.add_argument("--runs", type=int, default=100, help="runs of each agent in a round")
    parser.add_argument(
        "--peers-python",
        type=interpreter,
        metavar="PATH",
        help="interpreter with the peers and the same LangChain; without it they are not measured",
    )


def run(arguments: argparse.Namespace) -> Report:
    """Ratios of CPU to the agent left alone, added CPU, time per tool call, and exits."""
    with ExitStack() as stack:
        bench = _Bench(stack, str(arguments.peers_python or ""))
        missing = bench.start()
        rounds = []
        for _ in range(arguments.rounds):
            rounds.append(figures(bench.blocks(arguments.runs)) | bench.exits())
    return Report(
        name="overhead",
        units={key: _unit(key) for key in dict.fromkeys(k for one in rounds for k in one)},
        runs=rounds,
        not_measured=[*missing, "a model's own time, which is most of a real run"],
        goals=GOALS,
    )


@dataclass
class _Bench:
    """All that runs side by side."""

    stack: ExitStack
    peers_python: str
    agents: dict[str, Agent] = field(default_factory=dict)
    homes: dict[str, Path] = field(default_factory=dict)

    def start(self) -> list[str]:
        """Starts daemons and warm agents, then breaks what is to be broken."""
        self.homes = {
            name: self.stack.enter_context(processes.directory())
            for name in ("up", "absent", "refused", "black_hole", "hung")
        }
        daemons = {
            name: self.stack.enter_context(processes.running_daemon(self.homes[name], MANY_TOOLS))
            for name in ("up", "refused", "hung")
        }
        self.stack.enter_context(processes.black_hole(self.homes["black_hole"]))
        self._add("none", agent_arguments("none"))
        self._add("noop", agent_arguments("peer:noop"))
        self._add("noop_middleware", agent_arguments("peer:middleware"))
        for mode in ("observe", "shadow", "advise", "steer"):
            self._add(mode, self._watched(mode, "up"))
        self._add("steer_new_task", [*self._watched("steer", "up"), "--new-tasks"])
        for name in ("absent", "refused", "black_hole", "hung"):
            self._add(f"steer_{name}", self._watched("steer", name))
        for name, home in self.homes.items():
            self._add(f"step_{name}", step_arguments(home, *self._waits(name)))
        missing = self._start_peers()
        daemons["refused"].kill()
        daemons["hung"].stop_the_process()
        return missing

    def _waits(self, name: str) -> list[str]:
        return ["--waits"] if name in ("up", "refused", "hung") else []

    def _watched(self, mode: str, name: str) -> list[str]:
        options = ["--tools", str(TOOLS), "--home", str(self.homes[name])]
        delivers = ["--delivers"] if name == "up" else []
        return agent_arguments(f"agentgym:{mode}", *options, *self._waits(name), *delivers)

    def _add(self, name: str, arguments: list[str], python: str = sys.executable) -> None:
        child = self.stack.enter_context(processes.agent(arguments, python))
        child.run(
            _WARM_UP
        )  # one after the other: twenty frameworks at once would stall the machine
        self.agents[name] = child

    def _start_peers(self) -> list[str]:
        found = [name for name in PEERS if self._has(PEERS[name])]
        if found:
            self._add("peers_none", agent_arguments("none"), self.peers_python)
        for name in found:
            self._add(name, agent_arguments(f"peer:{name}"), self.peers_python)
        return [
            f"{name}: not in the interpreter of --peers-python"
            for name in PEERS
            if name not in found
        ]

    def _has(self, module: str) -> bool:
        if not self.peers_python:
            return False
        command = [self.peers_python, "-c", f"import {module}"]
        return not subprocess.run(command, capture_output=True, check=False).returncode

    def blocks(self, runs: int) -> dict[str, dict[str, float]]:
        """What each agent's runs cost; all take several turns, because machines change speed."""
        count = min(runs, _TURNS)
        turns = [
            {name: child.run(runs // count) for name, child in self.agents.items()}
            for _ in range(count)
        ]
        return {name: _mean([turn[name] for turn in turns]) for name in self.agents}

    def exits(self) -> dict[str, float]:
        """What leaving takes longer than without AgentGym, in milliseconds."""
        took = {}
        for name in ("none", "up", "black_hole"):
            watched = name != "none"
            arguments = self._watched("steer", name) if watched else agent_arguments("none")
            with processes.agent(arguments) as child:
                child.run(_EXIT_RUNS)
                took[name] = child.exit_s() * 1e3
        return {
            "exit_ms": took["up"] - took["none"],
            "exit_black_hole_ms": took["black_hole"] - took["none"],
        }


def _mean(blocks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: statistics.mean(block[key] for block in blocks) for key in blocks[0]}


def figures(blocks: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The metrics of one round."""
    base = blocks["none"]["cpu_us"]
    found = {"none_us": base}
    watched = [name for name in blocks if "cpu_us" in blocks[name] and name not in PEERS]
    for name in watched:
        if name not in ("none", "peers_none"):
            found[f"{name}_ratio"] = blocks[name]["cpu_us"] / base
            found[f"{name}_added_us"] = blocks[name]["cpu_us"] - base
    for peer in (name for name in PEERS if name in blocks):
        added = blocks[peer]["cpu_us"] - blocks["peers_none"]["cpu_us"]
        found[f"{peer}_ratio"] = blocks[peer]["cpu_us"] / blocks["peers_none"]["cpu_us"]
        found[f"{peer}_added_us"] = added
        found[f"steer_of_{peer}"] = found["steer_added_us"] / added
    for name in ("steer", *PEERS):
        for what in ("spans", "bytes", "decided"):
            if what in blocks.get(name, {}):
                found[f"{name}_{what}"] = blocks[name][what]
    return found | _steps(blocks)


def _steps(blocks: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    up = blocks["step_up"]["call_us"]
    found = {"call_us": up, "call_decided": blocks["step_up"]["decided"]}
    for name in ("absent", "refused", "black_hole", "hung"):
        found[f"call_{name}_ratio"] = blocks[f"step_{name}"]["call_us"] / up
    return found


def _unit(key: str) -> str:
    if key.endswith("_ratio") or "_of_" in key:
        return "x"
    return next((unit for unit in ("us", "ms") if key.endswith(f"_{unit}")), "per run")
