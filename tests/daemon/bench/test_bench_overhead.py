"""`bench overhead`: its figures, and one round of it with real agents and daemons."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentgym_daemon.bench import cli
from agentgym_daemon.bench.overhead import GOALS, PEERS, figures
from agentgym_daemon.bench.overhead.processes import agent, agent_arguments


def blocks(**cpu_us: float) -> dict[str, dict[str, float]]:
    steps = {f"step_{name}": {"call_us": 50.0, "decided": 3.0}
             for name in ("up", "absent", "refused", "black_hole", "hung")}  # fmt: skip
    return {name: {"cpu_us": value} for name, value in cpu_us.items()} | steps


def test_peers_are_compared_with_their_own_interpreter_left_alone() -> None:
    found = figures(blocks(none=1000, steer=1100, peers_none=2000, openinference=4000))

    assert found["steer_ratio"] == pytest.approx(1.1)
    assert found["openinference_added_us"] == 2000
    assert found["openinference_ratio"] == 2
    assert found["steer_of_openinference"] == pytest.approx(0.05)
    assert "steer_of_langsmith" not in found


def test_time_per_call_is_compared_with_a_daemon_that_is_up() -> None:
    measured = blocks(none=1000, steer=1100)
    measured["step_hung"]["call_us"] = 100.0

    found = figures(measured)

    assert (found["call_us"], found["call_hung_ratio"], found["call_absent_ratio"]) == (50, 2, 1)


def test_an_agent_that_cannot_start_says_why() -> None:
    with (
        agent(agent_arguments("peer:nobody")) as child,
        pytest.raises(RuntimeError, match="nobody"),
    ):
        child.run(1)


@pytest.mark.e2e
@pytest.mark.timeout(600)  # twenty processes that load LangChain, one after the other
def test_one_round_measures_agents_daemons_and_exits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "overhead.json"

    assert cli.main(["overhead", "--rounds", "1", "--runs", "2", "--json", str(target)]) == 0

    written = json.loads(target.read_text())
    metrics = {name: metric["median"] for name, metric in written["metrics"].items()}
    peers = {goal for goal in GOALS if any(peer in goal for peer in PEERS)}
    assert set(GOALS) - peers <= set(metrics)
    assert metrics["call_decided"] == 3  # it really scored
    assert metrics["steer_decided"] > 0
    assert metrics["steer_spans"] == 8
    assert metrics["steer_bytes"] > 0
    assert len(written["not_measured"]) == 1 + len(PEERS)
    assert "not in the interpreter" in capsys.readouterr().out
