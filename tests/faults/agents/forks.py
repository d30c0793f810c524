"""An agent whose work its children do: forked, spawned, pre-forked; says in JSON what they did."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from agentgym import AgentGym

AGENT = "forker"
RUNS = 5
CALLS = 2


def say(**facts: Any) -> None:
    """One line for the test; short enough to be written in one piece."""
    os.write(1, (json.dumps(facts) + "\n").encode())


def record(gym: AgentGym, runs: int = RUNS) -> list[str]:
    """Finished runs; gives their trajectory ids."""
    ids = []
    for _ in range(runs):
        run = gym.recorder.start_run("desk", framework="test")
        for number in range(CALLS):
            run.call("look_up", call_id=str(number)).finish()
        ids.append(run.trajectory.id.hex())
        run.finish()
    return ids


def report(gym: AgentGym, role: str, ids: list[str]) -> None:
    """Says what this process knows of what it recorded."""
    say(role=role, pid=os.getpid(), ids=ids, counters=gym.status()["counters"])


def child_of(gym: AgentGym) -> None:
    """What a child does that has its parent's gym."""
    report(gym, "child", record(gym))


def fresh_child() -> None:
    """What a child does that has nothing of its parent's."""
    child_of(AgentGym(AGENT))


def with_own_gym(_gym: AgentGym) -> None:
    """What a forked child does that makes a gym of its own."""
    fresh_child()


def os_fork(work: Callable[[], None]) -> Callable[[], int]:
    """A child by os.fork that ends as a script does; gives what waits for its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            work()
            AgentGymAtExit.run()
        except BaseException:  # noqa: BLE001 - the test shall see whatever it is
            traceback.print_exc()
            code = 1
        finally:
            os._exit(code)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class AgentGymAtExit:
    """What the interpreter does at the end of a child that returns from its main function."""

    @staticmethod
    def run() -> None:
        """Runs the exit functions, as sys.exit would."""
        import atexit

        atexit._run_exitfuncs()


def process(method: str, work: Callable[..., None], *arguments: Any) -> Callable[[], int]:
    """A child by multiprocessing."""
    made = multiprocessing.get_context(method).Process(target=work, args=arguments)
    made.start()

    def wait() -> int:
        made.join()
        return int(made.exitcode or 0)

    return wait


def children(method: str, gym: AgentGym, count: int) -> list[Callable[[], int]]:
    """Starts children by a method."""
    if method in ("spawn", "forkserver"):
        return [process(method, fresh_child) for _ in range(count)]
    if method == "fork":
        return [process(method, child_of, gym) for _ in range(count)]
    if method == "own":
        return [os_fork(lambda: with_own_gym(gym)) for _ in range(count)]
    return [os_fork(lambda: child_of(gym)) for _ in range(count)]


def main() -> None:
    """Reads the command line and works."""
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=["os", "own", "fork", "spawn", "forkserver"])
    parser.add_argument("--children", type=int, default=2)
    parser.add_argument("--in-flight", action="store_true")
    options = parser.parse_args()
    gym = AgentGym(AGENT)
    ids = record(gym)
    gym.ready(30)
    gym.flush(30)
    stopped = threading.Event()
    busy = threading.Thread(target=keep_sending, args=(gym, stopped, ids))
    if options.in_flight:
        busy.start()
    codes = [wait() for wait in children(options.method, gym, options.children)]
    stopped.set()
    if options.in_flight:
        busy.join()
    ids += record(gym)
    flushed = gym.flush(30)
    report(gym, "parent", ids)
    say(role="end", codes=codes, flushed=flushed, errors=gym.status()["errors"])
    sys.exit(0)


def keep_sending(gym: AgentGym, stopped: threading.Event, ids: list[str]) -> None:
    """Keeps calls under way while others fork."""
    while not stopped.is_set():
        ids += record(gym, 1)
        stopped.wait(0.005)


if __name__ == "__main__":
    main()
