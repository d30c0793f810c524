"""SetStage, ListStages and Kill: pushed at once, recorded, and there again after a restart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import grpc
import pytest
from grpc import aio

from agentgym import semconv
from agentgym.proto.v1 import common_pb2, policy_pb2
from agentgym_daemon.policies.book import Change
from agentgym_daemon.store.policies import policy_changes

AGENT = "support-desk"
CANARY = policy_pb2.SetStageRequest(
    agent=AGENT, stage="STAGE_CANARY", canary_share=0.2, reason="two days of shadow", unseen=True
)


def subscribe(client: Any, agent: str = AGENT) -> Any:
    """An open subscription."""
    request = policy_pb2.SubscribeRequest(
        contract_version=semconv.CONTRACT_VERSION, agent=agent, signed=True
    )
    return client.policies.Subscribe(request, metadata=client.metadata, timeout=20)


async def told(stream: Any) -> policy_pb2.Steering:
    """What the next message on a stream says."""
    return policy_pb2.PolicyUpdate.FromString((await stream.read()).update).steering


def kept(desk: Any) -> list[tuple[Any, ...]]:
    """The changes as the database has them."""
    with desk.daemon._store.reading() as cursor:
        changes = [c for c in policy_changes(cursor) if c.scope.agent]
    return [(c.kind, c.scope.agent, c.stage, c.reason) for c in changes]


async def test_a_step_is_pushed_at_once_to_its_agent_alone(desk: Any) -> None:
    mine, theirs = subscribe(desk.client), subscribe(desk.client, "other")
    assert (await told(mine)).stage == (await told(theirs)).stage == common_pb2.STAGE_LIVE

    reply = await desk.client.call(desk.client.policies.SetStage, CANARY)

    steering = await told(mine)
    assert (steering.stage, steering.canary_share) == (common_pb2.STAGE_CANARY, 0.2)
    assert (reply.before.stage, reply.now.stage) == (common_pb2.STAGE_LIVE, common_pb2.STAGE_CANARY)
    await desk.client.call(desk.client.policies.Kill, policy_pb2.KillRequest())
    assert (await told(mine)).killed
    now = await told(theirs)
    assert (now.killed, now.stage) == (True, common_pb2.STAGE_LIVE)


async def test_steps_and_kills_survive_a_restart(open_desk: Any) -> None:
    async with open_desk() as desk:
        await desk.client.call(desk.client.policies.SetStage, CANARY)
        await desk.client.call(desk.client.policies.Kill, policy_pb2.KillRequest(agent="other"))
        await desk.client.applied()
        assert kept(desk) == [
            (Change.KIND_STAGE, AGENT, common_pb2.STAGE_CANARY, "two days of shadow"),
            (Change.KIND_KILL, "other", 0, ""),
        ]

    async with open_desk() as desk:
        listed = await desk.client.call(
            desk.client.policies.ListStages, policy_pb2.ListStagesRequest()
        )
        status = await desk.client.status()
        other = await told(subscribe(desk.client, "other"))

    places = {place.agent: place for place in listed.stages}
    assert (places[AGENT].stage, places[AGENT].canary_share) == (common_pb2.STAGE_CANARY, 0.2)
    assert places["other"].killed
    assert not listed.all_killed
    assert {place.agent: place for place in status.stages} == places
    assert other.killed


async def test_an_agent_of_whom_nothing_was_heard_needs_a_clear_word(desk: Any) -> None:
    request = policy_pb2.SetStageRequest(agent="suport-desk", stage="STAGE_SHADOW")
    stream = subscribe(desk.client)
    await stream.read()

    with pytest.raises(aio.AioRpcError) as raised:
        await desk.client.call(desk.client.policies.SetStage, request)

    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert "unknown agent 'suport-desk'; known are: ['support-desk']" in raised.value.details()
    request.agent = AGENT
    assert (await desk.client.call(desk.client.policies.SetStage, request)).seen


async def test_a_kill_is_taken_for_any_name_and_says_whether_it_is_known(desk: Any) -> None:
    kill = desk.client.policies.Kill

    reply = await desk.client.call(kill, policy_pb2.KillRequest(agent="who"))

    assert (reply.seen, list(reply.killed), reply.now.killed) == (False, ["who"], True)
    with pytest.raises(aio.AioRpcError) as raised:
        await desk.client.call(kill, policy_pb2.KillRequest(agent="what", revive=True))
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_forked_children_find_it_in_their_file(desk: Any) -> None:
    current = desk.home / "policies" / "current"
    before = {path.name for path in current.glob("*.update")}

    await desk.client.call(desk.client.policies.SetStage, CANARY)
    await desk.client.call(desk.client.policies.Kill, policy_pb2.KillRequest())

    while not (desk.daemon._updates.agents() and len(list(current.glob("*.update"))) > len(before)):
        await desk.client.status()
    files = [policy_pb2.SignedUpdate.FromString(p.read_bytes()) for p in current.glob("*.update")]
    steerings = [policy_pb2.PolicyUpdate.FromString(file.update).steering for file in files]
    assert {s.stage for s in steerings} == {common_pb2.STAGE_CANARY, common_pb2.STAGE_LIVE}


async def test_the_setting_moves_those_without_a_record_when_it_is_reloaded(
    open_desk: Any,
) -> None:
    async with open_desk(stage="shadow") as desk:
        stream = subscribe(desk.client)
        assert (await told(stream)).stage == common_pb2.STAGE_SHADOW

        desk.daemon.reload(replace(desk.daemon.config, stage="canary", canary_share=0.3))

        steering = await told(stream)
        assert (steering.stage, steering.canary_share) == (common_pb2.STAGE_CANARY, 0.3)
