"""Our own failures leave an agent of LangChain as it is."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import BaseTool

from tests.plugins.integrations.langchain.asking import SCRIPT, WAYS, run


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize(
    "place",
    [
        "agentgym.recorder.Recorder.start_run",
        "agentgym.recorder.Recorder.decide",
        "agentgym.tree.Turn.finish",
        "agentgym.tree.Run.call",
        "agentgym.tree.Call.finish",
        "agentgym.tree.Run.finish",
        "agentgym.integrations.langchain.gym_hooks.steered",
        "agentgym.integrations.langchain.frames.Frames.start",
        "agentgym.integrations.langchain.frames.Frames.end",
        "agentgym.integrations.langchain.frames.Frames.start_tool",
    ],
)
async def test_our_own_failure_leaves_the_agent_as_it_is(
    bench: Any,
    tools: list[BaseTool],
    make_gym: Any,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    place: str,
) -> None:
    server, llm = bench(*SCRIPT, *SCRIPT)
    gym = make_gym("shadow")
    gym.guard.strict = False
    expected = await run(create_agent(llm, tools), how)

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("ours")

    with monkeypatch.context() as patch:
        patch.setattr(place, fail)
        answer = await run(create_agent(llm, tools, middleware=[gym]), how)

    bodies = [request.body_bytes for request in server.requests]
    assert answer == expected
    assert bodies[:2] == bodies[2:]
    _drop_frames()


def _drop_frames() -> None:
    from agentgym.integrations.langchain.frames import FRAMES

    FRAMES._open.clear()
