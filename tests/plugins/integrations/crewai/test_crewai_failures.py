"""Failures of the model, of the caller and of our own, and a gym that is off."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("crewai")

from agentgym.testing import ChatReply, ChatRequest
from tests.plugins.integrations.crewai.harness import (
    QUIET,
    Model,
    Play,
    bodies,
    clerk,
    crew,
    gym_for,
    model,
    spans,
)
from tests.plugins.integrations.trees import assert_whole

pytestmark = QUIET


def test_an_error_of_the_model_goes_through_and_ends_everything(serve: Any) -> None:
    def fail(request: ChatRequest) -> ChatReply:
        raise RuntimeError("down")

    gym = gym_for("observe")
    desk = gym.attach(crew(serve(Play(fail))))

    with pytest.raises(Exception, match="down"):
        desk.kickoff({"order": "7"})

    assert_whole(gym)
    assert spans(gym, "invoke_workflow")[0].error
    assert len(spans(gym, "invoke_agent")) == 1  # CrewAI's own retries are turns of one run
    assert all(span.error for span in spans(gym, "chat"))
    assert not gym.sink.steps[0].completed


async def test_cancellation_leaves_nothing_open(serve: Any) -> None:
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(request: ChatRequest) -> ChatReply:
        loop.call_soon_threadsafe(started.set)
        return ChatReply(text="late", delay_s=60)

    gym = gym_for("observe")
    server = serve(Play(hang))
    agent = gym.attach(clerk(server, llm=model(server, max_retries=0)))
    task = asyncio.create_task(agent.kickoff_async("Order 7 is late"))
    await started.wait()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.close()  # the thread that CrewAI leaves behind still waits for the answer

    assert gym.sink.ended
    root = next(span for span in gym.sink.spans if not span.parent_id)
    assert root.attributes["agentgym.incomplete"] == "cancelled"


@pytest.mark.parametrize("verb", ["start_run", "decide"])
def test_if_our_code_fails_the_crew_runs_as_without_us(
    serve: Any, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError

    expected = bodies(serve, None)
    gym = gym_for()
    gym.guard.strict = False
    monkeypatch.setattr(gym.recorder, verb, broken)

    assert bodies(serve, gym) == expected
    assert gym.guard.errors


@pytest.mark.parametrize("verb", ["before", "after"])
def test_if_our_hooks_fail_the_tools_run_as_without_us(
    serve: Any, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError

    gym = gym_for("observe")
    gym.guard.strict = False
    place = {"before": "call", "after": "done"}[verb]
    monkeypatch.setattr("agentgym.recorder.Run." + place, broken)

    result = gym.attach(crew(serve(Model("refund")))).kickoff({"order": "7"})

    assert "refunded 7" in str(result)
    assert len(gym.sink.ended) == 1


def test_a_disabled_gym_changes_nothing(serve: Any) -> None:
    desk = crew(serve(Model("refund")))
    kind = type(desk)

    gym_for(disabled="1").attach(desk)

    assert type(desk) is kind


def test_a_gym_that_switched_itself_off_records_nothing(serve: Any) -> None:
    gym = gym_for()
    desk = gym.attach(crew(serve(Model("refund"))))
    gym.guard.open = True

    desk.kickoff({"order": "7"})

    assert gym.sink.items == []
