"""The CrewAI example runs, does the same with and without AgentGym, and differs by what it says."""

from __future__ import annotations

import difflib
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("crewai")

from agentgym.testing import ChatReply, ChatRequest, LLMServer, ToolCall, say
from agentgym.testing.llm_brain import is_tool_result

FOLDER = Path(__file__).parents[2] / "examples" / "03_crewai"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Desk:
    """Looks the order up, or refunds it, and repeats the result."""

    def reply(self, request: ChatRequest) -> ChatReply:
        last = request.messages[-1]
        if is_tool_result(last):
            return say(str(last["content"]))
        name, order = ("refund_order", "7") if "money" in str(last) else ("track_order", "1042")
        return ChatReply(tool_calls=(ToolCall(name, json.dumps({"order": order})),))


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"crewai_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_answers_the_same_with_and_without_agentgym(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bodies = []
    for name in ("without", "main"):
        with LLMServer(Desk(), keep_alive=False) as server:
            assert load(name).main(["--base-url", server.base_url]) == 0
            bodies.append([request.body_bytes for request in server.requests])

    answers = ["Order 1042 is at the depot.", "Order 7 was refunded."]
    printed = [line for line in capsys.readouterr().out.splitlines() if line in answers]
    assert printed == answers * 2
    assert bodies[0] == bodies[1]


def test_attaching_takes_one_line_besides_making_the_gym() -> None:
    files = [(FOLDER / name).read_text().splitlines() for name in ("without.py", "main.py")]

    changed = [line for line in difflib.ndiff(*files) if line[0] in "+-" and line[1:].strip()]

    assert changed == [
        "+ from agentgym import AgentGym",
        '+     gym = AgentGym(agent="support-desk")',
        "+     gym.attach(crew)",
    ]
