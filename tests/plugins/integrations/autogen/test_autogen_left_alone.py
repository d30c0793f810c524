"""AutoGen works as without us, whether we fail, are off or are attached twice."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("autogen_agentchat")

from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core import CancellationToken

from agentgym.errors import UnsupportedError
from agentgym.recorder import Recorder, Run, Turn
from agentgym.testing import LLMServer
from agentgym.testing.recording import RecordingGym
from agentgym.tree import Call
from tests.autogen_model import model
from tests.plugins.integrations.autogen.harness import (
    TOOLS,
    TURN_CALL_TURN,
    answer,
    bodies,
    build,
    outline,
    pair,
)

FAULTS: tuple[tuple[type, str], ...] = (
    (Recorder, "start_run"),
    (Recorder, "decide"),
    (Run, "turn"),
    (Run, "call"),
    (Run, "finish"),
    (Turn, "finish"),
    (Call, "finish"),
)


@pytest.mark.parametrize(("owner", "method"), FAULTS, ids=[f"{o.__name__}.{m}" for o, m in FAULTS])
@pytest.mark.parametrize("stream", [False, True])
async def test_our_own_failure_changes_nothing(
    echo: LLMServer,
    route: str,
    owner: type,
    method: str,
    stream: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gym = RecordingGym("bot", mode="observe")
    gym.guard.strict = False

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("injected")

    async with model(echo) as client:
        bare = await build(client, model_client_stream=stream).run(task="Bonn")
        expected = bodies(echo)
        echo.clear()
        agent = build(client, gym, route, model_client_stream=stream)
        monkeypatch.setattr(owner, method, fail)
        seen = await agent.run(task="Bonn")

    assert answer(seen) == answer(bare)
    assert bodies(echo) == expected
    assert gym.guard.errors


async def test_a_switched_off_gym_changes_nothing(echo: LLMServer, route: str) -> None:
    gym = RecordingGym("bot", disabled=True)

    async with model(echo) as client:
        agent = build(client, gym, route)
        await agent.run(task="Bonn")

    assert agent._model_client is client
    assert gym.sink.items == []


async def test_an_open_guard_changes_nothing(echo: LLMServer, route: str) -> None:
    gym = RecordingGym("bot", mode="steer", explore=False)
    gym.force(TOOLS, "news", "assistant")

    async with model(echo) as client:
        agent = build(client, gym, route)
        gym.guard.open = True
        result = await agent.run(task="Bonn")

    assert answer(result) == "Bonn -> sunny in Bonn"
    assert gym.sink.items == []


async def test_an_attached_agent_can_still_be_written_down(echo: LLMServer, route: str) -> None:
    gym = RecordingGym("bot", mode="observe")

    async with model(echo) as client:
        bare = build(client).dump_component()
        seen = build(client, gym, route).dump_component()

    assert seen == bare


async def test_attaching_twice_records_once(echo: LLMServer) -> None:
    gym = RecordingGym("bot", mode="observe")

    async with model(echo) as client:
        agent = build(gym.wrap(gym.wrap(client)), gym)
        gym.attach(gym.attach(agent))
        await agent.run(task="Bonn")

    assert outline(gym) == TURN_CALL_TURN


def test_other_objects_are_refused_with_what_to_do() -> None:
    gym = RecordingGym("bot")
    token = CancellationToken()

    with pytest.raises(UnsupportedError, match=r"gym\.attach\(agent_or_team\)"):
        gym.wrap(token)
    with pytest.raises(UnsupportedError, match=r"gym\.wrap\(client\)"):
        gym.attach(token)


async def test_a_broken_gym_leaves_the_team_alone(
    echo: LLMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gym = RecordingGym("bot", mode="observe")
    gym.guard.strict = False

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("injected")

    async with model(echo) as client:
        team = gym.attach(RoundRobinGroupChat(pair(client), max_turns=2))
        monkeypatch.setattr(gym.recorder, "start_run", fail)
        result = await team.run(task="Bonn")

    assert len(result.messages) == 7
    assert gym.sink.items == []
