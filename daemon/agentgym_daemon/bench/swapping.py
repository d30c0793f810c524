"""The agent's side of `bench swap`: a process that says when which policy was applied.

One JSON line per swap on stdout: who ("agent", or "child" of a fork), `at` of CLOCK_MONOTONIC,
which all processes share, and the sha256 of what is in force.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from agentgym import AgentGym
from agentgym.live import LivePolicies


class _Telling(LivePolicies):
    """Says what it swapped in, once it is in force."""

    who = "agent"

    def swap(self, *new: Any, **how: Any) -> None:
        super().swap(*new, **how)
        at, current = time.monotonic_ns(), self.current
        for snapshot in current.policies.values() if current else ():
            say(self.who, at=at, sha256=snapshot.sha256)


def say(who: str, **said: Any) -> None:
    """One line, in one write: two processes share the pipe."""
    os.write(1, (json.dumps({"who": who, **said}) + "\n").encode())


def main(agent: str) -> None:
    """Follows the daemon of AGENTGYM_HOME until it is killed."""
    gym = AgentGym(agent=agent)
    gym.live.__class__ = _Telling
    if not gym.ready(30.0):
        raise SystemExit(f"no daemon answers at {gym.config.endpoint}")
    say("agent", ready=True)
    if sys.stdin.readline().strip() == "fork" and os.fork() == 0:
        gym.live.who = "child"  # type: ignore[attr-defined]  # its class was changed
        gym.ready(1.0)
        say("child", ready=True)
    while True:
        time.sleep(1.0)


if __name__ == "__main__":
    main(sys.argv[1])
