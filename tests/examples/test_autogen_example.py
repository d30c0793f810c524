"""The AutoGen example runs, with one line more than the agent without AgentGym."""

from __future__ import annotations

import difflib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentgym.testing import EchoToolBrain, LLMServer

pytest.importorskip("autogen_agentchat")

EXAMPLE = Path(__file__).parents[2] / "examples" / "02_autogen"


def run(program: str, server: LLMServer, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLE / program), "--base-url", server.base_url],
        env={**os.environ, "AGENTGYM_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def code(program: str) -> list[str]:
    return (EXAMPLE / program).read_text().splitlines()[1:]  # without the docstring


def test_the_agent_answers_the_same_with_and_without(home: Path) -> None:
    with LLMServer(EchoToolBrain()) as server:
        results = {name: run(name, server, home) for name in ("without.py", "main.py")}
        sent = [request.body_bytes for request in server.requests]

    assert {result.returncode for result in results.values()} == {0}
    assert {result.stdout for result in results.values()} == {"Bonn -> raining in Bonn now\n"}
    assert sent[:2] == sent[2:]


def test_attaching_takes_one_line() -> None:
    changes = [
        line
        for line in difflib.ndiff(code("without.py"), code("main.py"))
        if line[:2] in ("- ", "+ ") and line[2:].strip()
    ]

    assert changes == [
        "+ from agentgym import AgentGym",
        '+ gym = AgentGym(agent="weather-desk")',
        "-         model_client=client,",
        "+         model_client=gym.wrap(client),",
    ]
