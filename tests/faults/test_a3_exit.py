"""Row A3: an agent ends promptly although nobody takes what it recorded, and nothing is lost."""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(400)  # many agents, one after the other
PATIENCE_S = 5.0
"""Far below the 30 s of stock exporters, and far above the 0.5 s that are promised."""
PROMISED_S = 0.5
ENDS = {"normal": 0, "exit": 3, "raise": 1, "sigint": -signal.SIGINT, "sigterm-handled": 0}
RUNS = 20
SPANS = 4 * RUNS


def ended_after_s(agent: Any, end: str) -> tuple[float, list[str]]:
    """How long an agent lives after it decided, or was told, to end."""
    said = agent.read()
    began = said.get("ending") or time.monotonic()
    if end == "sigint":
        agent.popen.send_signal(signal.SIGINT)
    elif end.startswith("sigterm"):
        agent.popen.send_signal(signal.SIGTERM)
    code = agent.wait(60)
    took_s = time.monotonic() - began
    # Python forgets that it was interrupted where a thread imports a dataclass meanwhile: 1.
    expected = (ENDS[end], 1) if end == "sigint" else (ENDS[end],)
    assert code in expected, (code, agent.errors)
    return took_s, said["ids"]


@pytest.mark.parametrize("end", list(ENDS))
def test_with_a_black_hole_for_a_daemon_an_agent_ends_at_once_and_the_spool_has_everything(
    load: Callable[..., int], report: Any, full: bool, run_agent: Any, faulty: Any,
    make_daemon: Any, home: Any, end: str,
) -> None:  # fmt: skip
    """However an agent ends, it ends promptly; what it recorded is delivered later, once."""
    clear, rounds = faulty("blackholed"), load(20)
    ours: list[float] = []
    without: list[float] = []
    ids: list[str] = []
    for _ in range(rounds):
        arguments = ("end", "--end", end, "--runs", str(RUNS), "--settle", "0.5")
        took_s, recorded = ended_after_s(run_agent("work", *arguments), end)
        ours.append(took_s)
        ids += recorded
        disabled = run_agent("work", *arguments, AGENTGYM_DISABLED="1")
        without.append(ended_after_s(disabled, end)[0])
    added_s = statistics.median(ours) - statistics.median(without)

    clear()
    daemon = make_daemon(home=home).start()
    daemon.adopted()
    stored = [daemon.trajectory(bytes.fromhex(one)) for one in ids]

    report.load |= {"rounds": rounds, "end": end}
    report.figures |= {"added_exit_s": round(added_s, 3), "longest_s": round(max(ours), 3)}
    assert [len(one.spans) for one in stored] == [4] * len(ids)
    assert max(ours) <= PATIENCE_S
    if full:
        assert added_s <= PROMISED_S
