"""Row A8: the agent is killed at any instant; what lay on its disk is delivered."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

ALIVE_S = (0.3, 1.5)


def test_what_was_spooled_when_the_agent_was_killed_is_delivered_once(
    load: Callable[..., int], report: Any, make_daemon: Any, home: Any, run_agent: Any
) -> None:
    """No span whose file was written is lost with the agent, and none is doubled."""
    kills, rng = load(100), random.Random(3)
    spooled: dict[str, int] = {}
    for number in range(kills):
        name = f"killed-{number}"
        agent = run_agent("work", "stream", "--agent", name)
        agent.read()
        time.sleep(rng.uniform(*ALIVE_S))
        agent.popen.kill()
        agent.wait()
        for line in agent.popen.stdout:  # the last whole line is the last thing it knew
            if line.endswith("\n"):
                spooled[name] = json.loads(line)["counters"].get("spooled.spans", 0)
    daemon = make_daemon(home=home).start()
    daemon.adopted()
    damages = list(daemon.status().damages)
    stored = daemon.stored_spans()
    found = dict(
        daemon.rows("SELECT agent, CAST(sum(spans) AS BIGINT) FROM trajectories GROUP BY agent")
    )

    lost = {name: (count, found.get(name, 0)) for name, count in spooled.items()
            if found.get(name, 0) < count}  # fmt: skip
    report.load["kills"] = kills
    report.figures |= {
        "spooled": sum(spooled.values()),
        "stored": len(stored),
        "lost": sum(count - kept for count, kept in lost.values()),
        "doubled": sum(count - 1 for count in stored.values()),
    }
    assert lost == {}
    assert set(stored.values()) == {1}
    assert sum(spooled.values()) > kills * 10
    assert damages == []  # a torn tail is no damage
