"""Rewards cannot be forged, smuggled in, or given under another's name (E1)."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest
from grpc import aio
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from agentgym import semconv
from agentgym.proto.v1 import reward_pb2
from agentgym_daemon.rpc.tokens import Tokens


def run_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


async def shown(desk: Any, number: int) -> Any:
    await desk.client.applied()
    request = reward_pb2.ShowRewardsRequest(trajectory_id=run_id(number))
    return await desk.client.call(desk.client.rewards.Show, request)


def evaluated(request: Any, score: float, **more: str) -> Any:
    """The spans of a run with an evaluation event on the first."""
    event = (
        request.resource_spans[0].scope_spans[0].spans[0].events.add(name=semconv.EVALUATION_EVENT)
    )
    event.attributes.append(
        KeyValue(key=semconv.EVALUATION_SCORE, value=AnyValue(double_value=score))
    )
    for name, text in more.items():
        event.attributes.append(KeyValue(key=name, value=AnyValue(string_value=text)))
    return request


@pytest.mark.parametrize("scope", ["ingest", "read"])
async def test_only_the_reward_scope_gives_rewards(desk: Any, scope: str) -> None:
    await desk.client.send_run(1)
    other = desk.another(Tokens(desk.home).add("t", [scope]))

    with pytest.raises(aio.AioRpcError) as refused:
        await other.reward(trajectory_id=run_id(1), value=1)
    await other.channel.close()

    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert not (await shown(desk, 1)).rewards


async def test_a_reward_smuggled_in_by_a_token_that_may_only_ingest_is_refused_and_counted(
    desk: Any, spans_of: Any
) -> None:
    ingest = desk.another(Tokens(desk.home).add("agent", ["ingest"]))
    both = desk.another(Tokens(desk.home).add("judge", ["ingest", "reward"]))

    await ingest.call(ingest.traces.Export, evaluated(spans_of(1), 1.0))
    await both.call(both.traces.Export, evaluated(spans_of(2), 1.0))
    first, second = await shown(desk, 1), await shown(desk, 2)
    await ingest.channel.close()
    await both.channel.close()

    assert not first.rewards
    assert first.state == "closed"
    assert (await desk.client.status()).counters["rewards_refused"] == 1
    assert second.rewards[0].reward.source == "evaluation"


async def test_an_evaluation_keeps_its_explanation_and_its_span(desk: Any, spans_of: Any) -> None:
    explained = evaluated(spans_of(1), 0.5, **{semconv.EVALUATION_EXPLANATION: "half of it"})
    await desk.client.call(desk.client.traces.Export, explained)

    (one,) = (await shown(desk, 1)).rewards

    assert one.reward.reason == "half of it"
    assert one.reward_id == f"e-{run_id(1).hex()}-{(2).to_bytes(8, 'big').hex()}-0"


@pytest.mark.parametrize("score", [float("nan"), float("inf"), 1e308, -1.0, 1.0000001])
async def test_evaluations_out_of_bounds_are_no_rewards(
    desk: Any, spans_of: Any, score: float
) -> None:
    await desk.client.call(desk.client.traces.Export, evaluated(spans_of(1), score))

    assert not (await shown(desk, 1)).rewards


@pytest.mark.parametrize("source", ["default", "evaluation", "function", "judge", "rules"])
async def test_nobody_reports_under_the_names_of_the_daemon(desk: Any, source: str) -> None:
    await desk.client.send_run(1)

    result = await desk.client.reward(trajectory_id=run_id(1), value=1, source=source)

    assert result.code == "INVALID_ARGUMENT"
    assert "how the daemon names its own rewards" in result.error


async def test_who_gave_a_reward_is_the_tokens_name_whatever_the_caller_says(desk: Any) -> None:
    await desk.client.send_run(1)
    other = desk.another(Tokens(desk.home).add("tickets", ["reward"]))
    await other.reward(
        trajectory_id=run_id(1),
        value=1,
        actor="token:token",
        provenance_json='{"ticket": 17}',
        reason="closed",
    )
    await other.channel.close()

    (one,) = (await shown(desk, 1)).rewards

    assert one.reward.actor == "token:tickets"
    assert json.loads(one.reward.provenance_json) == {"ticket": 17}


@pytest.mark.parametrize("provenance", ["nonsense", "[1]", '"text"', json.dumps({"a": "x" * 5000})])
async def test_provenance_is_a_small_json_object(desk: Any, provenance: str) -> None:
    await desk.client.send_run(1)

    result = await desk.client.reward(trajectory_id=run_id(1), value=1, provenance_json=provenance)

    assert result.code == "INVALID_ARGUMENT"
    assert "provenance_json: expected a JSON object" in result.error


async def test_two_rewards_under_one_idempotency_key_are_one(desk: Any) -> None:
    for number in (1, 2):
        await desk.client.send_run(number)
    first = await desk.client.reward(trajectory_id=run_id(1), value=0, idempotency_key="k")
    other = await desk.client.reward(trajectory_id=run_id(2), value=1, idempotency_key="k")

    assert (other.duplicate, other.reward_id) == (True, first.reward_id)
    assert (await shown(desk, 1)).outcome == 0.0
    assert not (await shown(desk, 2)).rewards


async def test_a_reward_before_its_trajectory_is_refused_and_taken_afterwards(desk: Any) -> None:
    early = await desk.client.reward(trajectory_id=run_id(1), value=1)
    await desk.client.send_run(1)
    again = await desk.client.reward(trajectory_id=run_id(1), value=1)

    assert early.code == "NOT_FOUND"
    assert not again.error


async def test_a_reward_a_day_late_finds_a_run_that_fell_silent_long_ago(open_desk: Any) -> None:
    async with open_desk(idle_ttl_s=0.1) as desk:
        await desk.client.send_run(1, key="ticket", root=False)
        while (await shown(desk, 1)).state != "incomplete":
            pass
    async with open_desk(idle_ttl_s=0.1) as desk:
        result = await desk.client.reward(key="ticket", value=0.5)
        reply = await shown(desk, 1)

    assert not result.error
    assert (reply.outcome, reply.state) == (0.5, "incomplete")
