"""What people get wrong: a clear word, and nothing lost when it is put right."""

from __future__ import annotations

import json
import logging
import math
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentgym import AgentGym
from agentgym.trajectory import Tool

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def daemon(make_daemon: Callable[..., Any]) -> Any:
    return make_daemon().start()


def record(gym: AgentGym, tools: tuple[Tool, ...], key: str) -> None:
    """One finished trajectory."""
    run = gym.recorder.start_run("desk", framework="test", task="order 7?", key=key)
    turn = run.turn(tools, model="stub")
    turn.finish([("look_up", "1")], input_tokens=3, output_tokens=1)
    run.call("look_up", call_id="1").finish()
    run.finish()


def agentgym(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line as people do."""
    command = [sys.executable, "-m", "agentgym.cli", "--home", str(home), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_with_a_wrong_token_the_agent_goes_on_and_everything_waits_for_the_right_one(
    daemon: Any, tools: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "agentgym")
    token_file = tmp_path / "token"
    token_file.write_text("not the token")
    gym = AgentGym("wrong-token", home=daemon.home, token_file=token_file)

    record(gym, tools, "before")
    assert not gym.flush(1.0)
    assert daemon.summaries("wrong-token") == []
    token_file.write_text((daemon.home / "token").read_text())
    record(gym, tools, "after")
    stored = daemon.stored(gym)
    gym.close(1.0)

    assert sorted(one.summary.key for one in stored) == ["after", "before"]
    assert not any(name.startswith("dropped") for name in gym.status()["counters"])
    assert "does not know the token" in caplog.text


def test_rewards_that_cannot_be_meant_are_refused_where_they_are_given(
    daemon: Any, make_gym: Any, tools: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "agentgym")
    gym = make_gym(daemon, "rewards")
    record(gym, tools, "case")

    for value in (math.nan, math.inf, -0.1, 1.1):
        gym.reward(value, key="case")
    gym.reward(0.5, trajectory="f" * 32)  # nobody ever heard of it
    gym.reward(1.0)
    assert gym.flush(30)

    (found,) = daemon.summaries("rewards")
    assert found.reward == 1.0
    assert gym.status()["errors"] == {"reward.ValueError": 4}
    assert "expected a reward between 0 and 1, got nan" in caplog.text
    assert gym.status()["counters"]["acked.rewards"] == 1
    assert sum(n for name, n in gym.status()["counters"].items() if "dropped.rewards" in name) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["reward", "1.0", "--trajectory", "f" * 32], "NOT_FOUND"),
        (["reward", "1.0", "--key", "nobody"], "NOT_FOUND"),
        (["reward", "nan", "--key", "nobody"], "finite number in [0, 1]"),
        (["reward", "7", "--key", "nobody"], "finite number in [0, 1]"),
        (["explain", "f" * 32], "NOT_FOUND"),
        (["policy", "promote", "p-000009"], "unknown policy version"),
    ],
)
def test_the_command_line_says_what_was_wrong(
    daemon: Any, arguments: list[str], words: str
) -> None:
    done = agentgym(daemon.home, *arguments)

    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_daemon_the_command_line_exits_with_69(home: Path) -> None:
    done = agentgym(home, "status", "--json")

    assert done.returncode == 69
    assert "agentgym-daemon serve" in done.stderr


def test_a_taken_port_is_refused_with_a_clear_line(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-m", "agentgym_daemon", "serve", "--home", home, "--listen", listen],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    assert done.returncode == 1
    assert listen in done.stderr
    assert "Traceback" not in done.stderr


def test_what_the_command_line_reads_is_one_object(daemon: Any, make_gym: Any, tools: Any) -> None:
    gym = make_gym(daemon, "read")
    record(gym, tools, "case")
    assert gym.flush(30)
    daemon.applied()

    found = json.loads(agentgym(daemon.home, "trajectories", "--agent", "read", "--json").stdout)

    assert [one["key"] for one in found["trajectories"]] == ["case"]
