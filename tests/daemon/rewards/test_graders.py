"""Rewards that the daemon gives by itself: rules, the user's function, an LLM judge."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from agentgym import semconv
from agentgym.proto.v1 import reward_pb2
from agentgym.testing.llm_brain import ChatReply, ChatRequest, say
from agentgym.testing.llm_server import LLMServer
from agentgym_daemon.clock import ManualClock
from agentgym_daemon.errors import ConfigError
from agentgym_daemon.rewards.judge import Budget

FUNCTION = """
import time

def grade(run):
    if run["key"] == "hang":
        time.sleep(600)
    if run["key"] == "end":
        raise SystemExit(3)
    answers = {"nan": float("nan"), "seven": 7, "text": "good", "none": None, "ok": 0.75,
               "named": {"tone": 1, "speed": 0.5}, "count": len(run["calls"]) / 4}
    print("a print must not hurt")
    return answers[run["key"]]
"""


def run_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


async def shown(desk: Any, number: int) -> Any:
    """The rewards of a run."""
    await desk.client.applied()
    request = reward_pb2.ShowRewardsRequest(trajectory_id=run_id(number))
    return await desk.client.call(desk.client.rewards.Show, request)


async def values(desk: Any, number: int) -> dict[str, float]:
    reply = await shown(desk, number)
    return {one.reward.name: one.reward.value for one in reply.rewards}


async def until(desk: Any, counter: str, count: int) -> None:
    """Waits until the daemon has counted something so often."""
    while (await desk.client.status()).counters.get(counter, 0) < count:
        await asyncio.sleep(0.05)


@pytest.fixture
def function_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_rewards.py"
    path.write_text(FUNCTION)
    return path


async def test_rules_reward_what_ended_and_say_which_rule_it_was(open_desk: Any) -> None:
    rules = json.dumps([{"when": "called find_order and tool_errors == 0", "value": 0.9}])
    async with open_desk(reward_rules=rules) as desk:
        await desk.client.send_run(1)
        await desk.client.send_run(2, root=False)
        await until(desk, "reward_rules_given", 1)

        (one,) = (await shown(desk, 1)).rewards
        assert (one.reward.value, one.reward.source, one.reward.actor) == (0.9, "rules", "daemon")
        assert json.loads(one.reward.provenance_json)["rule"].startswith("called find_order")
        assert await values(desk, 2) == {}


async def test_the_users_function_gives_numbers_by_name_and_none_is_no_reward(
    open_desk: Any, function_file: Path
) -> None:
    async with open_desk(reward_function=f"{function_file}:grade") as desk:
        for number, key in enumerate(("ok", "none", "named", "count"), start=1):
            await desk.client.send_run(number, key=key)
        await until(desk, "reward_function_given", 4)

        assert await values(desk, 1) == {"outcome": 0.75}
        assert await values(desk, 2) == {}
        assert await values(desk, 3) == {"tone": 1.0, "speed": 0.5}
        assert await values(desk, 4) == {"outcome": 0.25}


async def test_a_function_that_hangs_raises_ends_or_returns_nonsense_hurts_nobody(
    open_desk: Any, function_file: Path
) -> None:
    settings = {"reward_function": f"{function_file}:grade", "reward_function_timeout_s": 3}
    async with open_desk(**settings) as desk:
        for number, key in enumerate(("nan", "seven", "text", "unknown", "end", "hang"), start=1):
            await desk.client.send_run(number, key=key)
        await until(desk, "reward_function_invalid", 2)
        await until(desk, "reward_function_timeouts", 1)
        status = await desk.client.status()
        alarms = list(status.reward_alarms)
        await desk.client.send_run(9, key="ok")
        await until(desk, "reward_function_given", 1)

        assert status.counters["reward_function_failed"] == 3
        assert any("no answer within 3 s" in alarm for alarm in alarms)
        assert await values(desk, 9) == {"outcome": 0.75}
        for number in range(1, 7):
            assert await values(desk, number) == {}
        assert not (await desk.client.status()).reward_alarms


async def test_what_ended_while_the_daemon_was_down_is_graded_after_its_start_and_once(
    open_desk: Any, function_file: Path
) -> None:
    async with open_desk() as desk:
        await desk.client.send_run(1, key="ok")
        await desk.client.applied()
    for _ in range(2):
        async with open_desk(reward_function=f"{function_file}:grade") as desk:
            await desk.client.send_run(2, key="ok")
            while await values(desk, 1) != {"outcome": 0.75}:
                await asyncio.sleep(0.05)
            assert len((await shown(desk, 1)).rewards) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward_function": "nowhere.py:grade"}, "there is no file"),
        ({"reward_function": "module:"}, "expected MODULE:NAME"),
        ({"reward_rules": "[1]"}, "reward_rules, rule 1"),
        ({"judge_url": "http://127.0.0.1:1/v1"}, "judge_model: expected the name of a model"),
    ],
)
async def test_graders_that_cannot_be_are_refused_at_the_start(
    open_desk: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        async with open_desk(**settings):
            pass


async def test_a_function_that_cannot_be_loaded_is_said_and_the_daemon_lives(
    open_desk: Any,
) -> None:
    async with open_desk(reward_function="no_such_module_here:grade") as desk:
        await desk.client.send_run(1)
        await until(desk, "reward_function_failed", 1)

        (alarm,) = (await desk.client.status()).reward_alarms
        assert "ModuleNotFoundError" in alarm


# ---- the judge


class Verdicts:
    """A model that gives the answers of a script and keeps what it was asked."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.asked: list[ChatRequest] = []

    def reply(self, request: ChatRequest) -> ChatReply:
        self.asked.append(request)
        return say(self.texts[min(len(self.asked), len(self.texts)) - 1])


def with_content(desk: Any, request: Any, text: str) -> Any:
    """The spans of a run whose content was captured."""
    for span in request.resource_spans[0].scope_spans[0].spans:
        span.attributes.add(key=semconv.TOOL_CALL_RESULT, value=AnyValue(string_value=text))
    return request


def judging(server: LLMServer, **more: Any) -> dict[str, Any]:
    return {"judge_url": server.base_url, "judge_model": "judge-1", "judge_timeout_s": 5, **more}


async def test_a_judgement_is_a_reward_with_everything_that_it_rests_on(
    open_desk: Any, spans_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret-key")
    brain = Verdicts('Here: {"score": 0.8, "reason": "the order was found"}')
    with LLMServer(brain) as server:
        async with open_desk(**judging(server, judge_key_env="MY_KEY")) as desk:
            for number in (1, 2):
                traces = with_content(desk, spans_of(number), "order 7 was shipped")
                await desk.client.call(desk.client.traces.Export, traces)
            await until(desk, "reward_judge_given", 2)
            first, second = [(await shown(desk, number)).rewards[0].reward for number in (1, 2)]
        (request,) = server.requests

    assert (first.value, first.source, first.reason) == (0.8, "judge", "the order was found")
    assert second.value == 0.8
    audit, again = json.loads(first.provenance_json), json.loads(second.provenance_json)
    assert (audit["model"], audit["cached"], again["cached"]) == ("judge-1", False, True)
    assert audit["input_tokens"] > 0
    assert audit["content_sha256"] == again["content_sha256"]
    assert len(audit["prompt_sha256"]) == 64
    assert request.headers["authorization"] == "Bearer secret-key"
    assert "order 7 was shipped" in request.body["messages"][1]["content"]


async def test_without_content_nothing_is_judged_and_it_is_said_how_to_turn_it_on(
    open_desk: Any,
) -> None:
    with LLMServer(Verdicts("{}")) as server:
        async with open_desk(**judging(server)) as desk:
            await desk.client.send_run(1)
            await until(desk, "reward_judge_no_content", 1)
            (alarm,) = (await desk.client.status()).reward_alarms
            assert await values(desk, 1) == {}
        assert not server.requests
    assert "capture_content=True" in alarm


async def test_a_judge_that_fails_or_talks_nonsense_gives_no_reward(
    open_desk: Any, spans_of: Any
) -> None:
    brain = Verdicts("no idea", '{"score": 7}', '{"score": 1.0}')
    with LLMServer(brain) as server:
        async with open_desk(**judging(server, judge_calls_per_day=3)) as desk:
            for number in (1, 2, 3, 4):
                traces = with_content(desk, spans_of(number), f"result {number}")
                await desk.client.call(desk.client.traces.Export, traces)
            await until(desk, "reward_judge_over_budget", 1)

            counters = (await desk.client.status()).counters
            assert (counters["reward_judge_failed"], counters["reward_judge_given"]) == (2, 1)
            assert [await values(desk, number) for number in (1, 2, 4)] == [{}, {}, {}]
            assert await values(desk, 3) == {"outcome": 1.0}
        assert len(server.requests) == 3


async def test_an_endpoint_that_is_not_there_gives_no_reward(open_desk: Any, spans_of: Any) -> None:
    settings = {"judge_url": "http://127.0.0.1:9/v1", "judge_model": "m", "judge_timeout_s": 5}
    async with open_desk(**settings) as desk:
        await desk.client.call(desk.client.traces.Export, with_content(desk, spans_of(1), "text"))
        await until(desk, "reward_judge_failed", 1)

        assert await values(desk, 1) == {}


async def test_the_judged_share_is_drawn_by_id(open_desk: Any, spans_of: Any) -> None:
    with LLMServer(Verdicts('{"score": 1}')) as server:
        async with open_desk(**judging(server, judge_share=0)) as desk:
            await desk.client.call(
                desk.client.traces.Export, with_content(desk, spans_of(1), "text")
            )
            await desk.client.applied()
            assert await values(desk, 1) == {}
        assert not server.requests


def test_the_budget_of_a_day_outlives_a_restart_and_ends_with_the_day(tmp_path: Path) -> None:
    clock = ManualClock()
    first = Budget(tmp_path / "judge.json", clock, 2)
    assert [first.take(), first.take(), first.take()] == [True, True, False]

    assert not Budget(tmp_path / "judge.json", clock, 2).take()
    clock.advance(86_400)
    assert Budget(tmp_path / "judge.json", clock, 2).take()
