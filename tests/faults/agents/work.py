"""An agent that records runs and ends in one of many ways; says in JSON what it did."""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import time
from typing import Any

from agentgym import AgentGym


def say(**facts: Any) -> None:
    """One line for the test."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def record(gym: AgentGym, key: str, calls: int) -> str:
    """One finished run with this many calls; gives its trajectory id."""
    run = gym.recorder.start_run("desk", framework="test", key=key)
    for number in range(calls):
        run.call("look_up", call_id=f"call-{number}").finish()
    trajectory_id = run.trajectory.id.hex()
    run.finish()
    return trajectory_id


def rss_bytes() -> int:
    """Resident memory now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def stream(gym: AgentGym, options: argparse.Namespace) -> None:
    """Records until it is killed, and says all the time what it has on disk."""
    number = 0
    while True:
        for _ in range(10):
            record(gym, f"{options.agent}-{number}", options.calls)
            number += 1
        say(runs=number, counters=gym.status()["counters"])
        time.sleep(0.01)


def outage(gym: AgentGym, options: argparse.Namespace) -> None:
    """Records while the daemon is away; then waits until it is back, and for its acks."""
    record(gym, "warm-up", options.calls)
    time.sleep(1.0)
    before = peak = rss_bytes()
    pause_s = (options.calls + 1) / options.rate
    due = time.monotonic()
    for number in range(1, options.runs):
        record(gym, f"run-{number:08d}", options.calls)
        if number % 50 == 0:
            peak = max(peak, rss_bytes())
        due += pause_s
        if due > time.monotonic():
            time.sleep(max(0.0, due - time.monotonic()))
    deadline = time.monotonic() + 20
    while gym.status()["counters"].get("pending.spans") and time.monotonic() < deadline:
        time.sleep(0.05)
    say(growth=max(peak, rss_bytes()) - before, counters=gym.status()["counters"])
    sys.stdin.readline()  # the daemon is back
    flushed = gym.flush(float(sys.stdin.readline()))
    say(flushed=flushed, counters=gym.status()["counters"])


def wait() -> None:
    """Waits for a signal; in steps, for one that comes right before a sleep does not end it."""
    for _ in range(600):
        time.sleep(0.1)


def end(gym: AgentGym, options: argparse.Namespace) -> None:
    """Records and ends as it is told to."""
    ids = [record(gym, f"run-{n}", options.calls) for n in range(options.runs)]
    if options.settle:
        gym.flush(options.settle)
    if options.end in ("sigterm-handled", "sigterm"):
        if options.end == "sigterm-handled":
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        say(ids=ids, pid=os.getpid())
        wait()
    if options.end == "sigint":
        # Tests that were started in the background of a shell inherit that it is ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        say(ids=ids, pid=os.getpid())
        wait()
    say(ids=ids, ending=time.monotonic())
    if options.end == "exit":
        sys.exit(3)
    if options.end == "raise":
        raise RuntimeError("the agent's own")


def main() -> None:
    """Reads the command line and works."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=["end", "outage", "stream"])
    parser.add_argument("--agent", default="worker")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--rate", type=float, default=1e9, help="spans per second")
    parser.add_argument("--settle", type=float, default=0.0)
    parser.add_argument("--end", default="normal")
    options = parser.parse_args()
    gym = AgentGym(options.agent)
    {"end": end, "outage": outage, "stream": stream}[options.work](gym, options)


if __name__ == "__main__":
    main()
