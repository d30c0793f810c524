"""What must hold while things go wrong: the agent is never much worse off than alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentgym_daemon.lock import prepare, read_feature_key
from tests.faults.processes import DaemonProcess
from tests.reports import FULL, Report, share_of
from tests.safety.disasters import DISASTERS
from tests.safety.life import Life, receipts
from tests.safety.world import World

pytestmark = pytest.mark.timeout(900)
LEARNED, AFTER = (800, 1_200) if FULL else (500, 600)
TOLERATED = 0.02
NAMES = list(DISASTERS)[: share_of(len(DISASTERS), least=2)]


@pytest.mark.parametrize("name", NAMES)
def test_the_agent_is_never_much_worse_off_than_alone(
    name: str,
    make_daemon: Callable[..., DaemonProcess],
    home: Path,
    agentgym: Callable[..., Any],
    report: Report,
) -> None:
    """Value >= agent alone - 2 points over any 500 runs after the first 200."""
    prepare(home)
    seed = list(DISASTERS).index(name)
    world = World(seed=seed, requests=30, key=read_feature_key(home))
    daemon = make_daemon(
        "--encoder", "none", "--retrain-trajectories", "100", "--trainer-nice", "0", home=home
    ).start()
    life = Life(home, daemon, world, seed)
    try:
        life.go(LEARNED)
        before = life.looks[-1]
        DISASTERS[name](life)
        life.go(AFTER)
        after = life.look()
    finally:
        life.stop()
    done = receipts(agentgym("audit", "list", "--limit", "1000")["entries"])
    statuses = [p["status"] for p in agentgym("policy", "list")["policies"]]
    report.load = {"runs": LEARNED + AFTER, "disaster": name}
    report.figures = {
        "worst_gap": round(life.worst_window(), 4),
        "exploring": round(life.exploring(), 4),
        "alone": [round(before.alone, 3), round(after.alone, 3)],
        "policy": [round(before.sharp, 3), round(after.sharp, 3)],
        "watch": [f"{one['kind']}: {one['watch']}" for one in done if "watch" in one],
        "versions": len(statuses),
    }
    assert life.worst_window() >= -TOLERATED, report.figures
    assert before.sharp > before.alone  # it had learned something to lose
