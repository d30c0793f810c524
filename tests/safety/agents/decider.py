"""An agent that decides when it is told to, and says in JSON what became of each step."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from agentgym import AgentGym
from agentgym.trajectory import Fallback, Tool
from agentgym.tree import Run, Turn

TOOLS = (
    Tool("look_up", "Looks an order up."),
    Tool("refund", "Pays the price of an order back."),
    Tool("escalate", "Hands the request to a person."),
)
TASK = "where is my order"


def say(facts: Any) -> None:
    """One line for the test."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def told(turn: Turn) -> dict[str, Any]:
    """What the test is to know of a step."""
    return {
        "mode": turn.mode.value,
        "assignment": turn.assignment.name.lower(),
        "probability": turn.assignment_probability,
        "fallback": turn.fallback.name.lower(),
        "forced": turn.forced.name if turn.forced else "",
        "decided": turn.decision is not None,
        "version": turn.policy_version,
    }


def step(run: Run) -> dict[str, Any]:
    """One step of an open run."""
    turn = run.turn(TOOLS)
    turn.finish()
    return told(turn)


class Agent:
    """One gym with its commands; each is a method named in a line of the test's."""

    def __init__(self, name: str) -> None:
        self.gym = AgentGym(name, encoder_wait_s=30.0, max_forced=1_000_000)
        self._open: Run | None = None

    def runs(self, n: int = 1, units: Sequence[str] = ()) -> list[dict[str, Any]]:
        """So many whole runs, or one for each unit."""
        return [self._run(unit) for unit in units or [""] * n]

    def _run(self, unit: str) -> dict[str, Any]:
        run = self.gym.recorder.start_run("desk", framework="test", task=TASK, unit=unit)
        facts = step(run)
        run.finish()
        return facts

    def open(self) -> dict[str, Any]:
        """The first step of a run that stays open."""
        self._open = self.gym.recorder.start_run("desk", framework="test", task=TASK)
        return step(self._open)

    def go_on(self) -> dict[str, Any]:
        """The next step of the open run."""
        assert self._open is not None
        return step(self._open)

    def at(self, stage: str) -> str:
        """Waits until the stage is in force here."""
        while self.gym.status()["stage"] != stage:
            time.sleep(0.01)
        return stage

    def compared(self, experiment: str) -> str:
        """Waits until an experiment runs here, or with '' until none does."""
        while self.gym.status()["experiment"] != experiment:
            time.sleep(0.01)
        return experiment

    def arms(self, experiment: str, units: Sequence[str]) -> list[str]:
        """The arm of each unit, as the host's code asks for it."""
        return [self.gym.arm(experiment, unit=unit) for unit in units]

    def forked_arms(self, experiment: str, units: Sequence[str]) -> list[str]:
        """The same in a child, which has no channel and looks at files."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            with suppress(BaseException):
                while self.gym.status()["experiment"] != experiment:
                    time.sleep(0.01)
                with os.fdopen(writing, "w") as pipe:
                    json.dump(self.arms(experiment, units), pipe)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            found = json.load(pipe)
        os.waitpid(pid, 0)
        return list(found)

    def flush(self) -> bool:
        """Waits until all that was recorded is the daemon's."""
        return self.gym.flush(60.0)

    def until(self, killed: bool, threads: int) -> dict[str, Any]:
        """Runs in many threads until each has seen the kill, or its end; says when and in order.

        A kill that holds for one step must hold for every later one of the same thread.
        """
        seen, wrong = [], []

        def work() -> None:
            for facts in self._each():
                if (facts["fallback"] == Fallback.KILLED.name.lower()) is killed:
                    seen.append(time.monotonic())
                    break
            again = [self._run("")["fallback"] == "killed" for _ in range(20)]
            if again != [killed] * 20:
                wrong.append(again)

        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return {"last": max(seen), "wrong": wrong}

    def _each(self) -> Iterator[dict[str, Any]]:
        while True:
            yield self._run("")
            time.sleep(0.001)

    def variable(self, value: str) -> str:
        """Sets the kill variable, as the host may."""
        os.environ["AGENTGYM_KILL"] = value
        return value

    def fork(self) -> int:
        """Leaves a child that runs until it is killed, and then ends; says its process id."""
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            with suppress(BaseException):
                while os.getppid() == parent:
                    if self._run("")["fallback"] == "killed":
                        os._exit(0)
                    time.sleep(0.01)
            os._exit(1)
        self._child = pid
        return pid

    def reap(self) -> int:
        """Waits for the child; its exit code."""
        return os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])


def main() -> None:
    """Answers each line, `[method, arguments]`, by one line."""
    agent = Agent(sys.argv[1])
    assert agent.gym.ready(120.0)
    say("ready")
    for line in sys.stdin:
        name, arguments = json.loads(line)
        say(getattr(agent, name)(**arguments))


if __name__ == "__main__":
    main()
