"""The LangChain example runs, and differs from the plain agent by what its README says."""

from __future__ import annotations

import difflib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentgym.testing import LLMServer, ScriptedBrain, call_tool, say

EXAMPLE = Path(__file__).parents[2] / "examples" / "01_langchain"


def run(script: str, base_url: str, home: Path) -> str:
    """What a script prints."""
    environment = {**os.environ, "OPENAI_API_KEY": "test", "AGENTGYM_HOME": str(home)}
    finished = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE / script), "--base-url", base_url],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.parametrize("script", ["without.py", "main.py"])
def test_the_agent_answers(script: str, home: Path) -> None:
    brain = ScriptedBrain([call_tool("order_status", {"order": "7"}), say("It is on its way.")])
    with LLMServer(brain) as server:
        assert run(script, server.base_url, home) == "It is on its way.\n"

        result = server.requests[1].body["messages"][-1]
        assert result["content"] == "Order 7 left the warehouse this morning."


def test_attaching_changes_one_line() -> None:
    before = (EXAMPLE / "without.py").read_text().splitlines()[1:]
    after = (EXAMPLE / "main.py").read_text().splitlines()[1:]
    changes = {
        line for line in difflib.ndiff(before, after) if line[0] in "+-" and line[1:].strip()
    }

    assert changes == {
        "+ from agentgym import AgentGym",
        '+     gym = AgentGym(agent="order-desk")',
        "-     agent = create_agent(llm, tools)",
        "+     agent = create_agent(llm, tools, middleware=[gym])",
    }
