"""Subscription, artifacts, and changes of what is live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from agentgym.policy.snapshot import digest, parse
from agentgym.proto.v1 import artifact_pb2, common_pb2, policy_pb2
from agentgym_daemon.app import version
from agentgym_daemon.clock import ManualClock
from agentgym_daemon.lock import prepare, read_feature_key
from agentgym_daemon.policies.book import Book
from agentgym_daemon.policies.hub import Hub
from agentgym_daemon.policies.signing import Signer
from agentgym_daemon.policies.updates import Updates
from agentgym_daemon.rpc.artifacts import CHUNK_BYTES
from agentgym_daemon.rpc.policies import PolicyService

MakeCandidate = Callable[..., bytes]
SUBSCRIPTION = policy_pb2.SubscribeRequest(contract_version=1, agent="support-desk", signed=True)


@pytest.fixture
def register(desk: Any, scope: common_pb2.Scope, make_candidate: MakeCandidate) -> Any:
    """Registers a candidate; returns its version."""

    async def register(bias: float = 0.0) -> str:
        registry = desk.daemon._registry
        version = str(registry.book.next_version())
        data = make_candidate(version, bias=bias)
        await registry.register(
            data, sha256=digest(data), scope=scope, status="candidate", receipt={"tier": 0}
        )
        return version

    return register


def subscribe(client: Any, agent: str = "support-desk") -> Any:
    """An open subscription."""
    return client.subscribe(agent)


def told(signed: policy_pb2.SignedUpdate) -> policy_pb2.PolicyUpdate:
    """What is in an envelope."""
    return policy_pb2.PolicyUpdate.FromString(signed.update)


async def download(client: Any, sha256: str) -> tuple[bytes, list[int]]:
    """An artifact and the sizes of its chunks."""
    call = client.artifacts.Get(
        artifact_pb2.GetArtifactRequest(sha256=sha256), metadata=client.metadata, timeout=20
    )
    chunks = [chunk async for chunk in call]
    data = b"".join(chunk.data for chunk in chunks)
    assert {chunk.total for chunk in chunks} == {len(data)}
    return data, [len(chunk.data) for chunk in chunks]


async def test_the_first_message_is_the_handshake_with_the_steering(open_desk: Any) -> None:
    async with open_desk(control_share=0.25, top_k=3) as desk:
        update = await subscribe(desk.client).read()

        assert update.contract_version == 1
        assert update.daemon_version == version()
        assert update.feature_key == read_feature_key(desk.home)
        assert (update.steering.control_share, update.steering.top_k) == (0.25, 3)
        assert update.steering.stale_after_s == 86_400
        assert not update.steering.killed
        assert list(update.live) == []


async def test_every_change_of_what_is_live_is_pushed(desk: Any, register: Any) -> None:
    first, second = await register(), await register(1.0)
    stream = subscribe(desk.client)
    await stream.read()
    policies = desk.client.policies

    async def next_live() -> list[tuple[str, bool]]:
        return [(live.version, live.pinned) for live in (await stream.read()).live]

    await desk.client.call(policies.Promote, policy_pb2.PromoteRequest(version=first))
    assert await next_live() == [(first, False)]
    change = await desk.client.call(policies.Promote, policy_pb2.PromoteRequest(version=second))
    assert (change.version, change.previous) == (second, first)
    assert await next_live() == [(second, False)]
    agent = common_pb2.Scope(agent="support-desk")
    await desk.client.call(policies.Rollback, policy_pb2.RollbackRequest(scope=agent))
    assert await next_live() == [(first, False)]
    await desk.client.call(policies.Pin, policy_pb2.PinRequest(version=second))
    assert await next_live() == [(second, True)]
    await desk.client.call(policies.Pin, policy_pb2.PinRequest(scope=agent, unpin=True))
    assert await next_live() == [(second, False)]


async def test_a_subscriber_hears_only_of_its_own_agent(desk: Any, register: Any) -> None:
    version = await register()
    await desk.daemon._registry.promote(version, actor="test")

    mine, theirs = subscribe(desk.client), subscribe(desk.client, "other")

    assert [live.version for live in (await mine.read()).live] == [version]
    assert list((await theirs.read()).live) == []
    assert (await desk.client.status()).subscribers == 2


async def test_policies_of_another_feature_schema_are_kept_but_not_pushed(
    open_desk: Any, scope: common_pb2.Scope, make_candidate: MakeCandidate
) -> None:
    async with open_desk() as desk:
        data = make_candidate("p-000001")
        await desk.daemon._registry.register(
            data, sha256=digest(data), scope=scope, status="candidate", receipt={}
        )
        await desk.daemon._registry.promote("p-000001", actor="test")

    async with open_desk(encoder="default") as desk:
        update = await subscribe(desk.client).read()

        assert update.features.number == 2
        assert list(update.live) == []
        assert [v.version for v in desk.daemon._registry.book.versions()] == ["p-000001"]


async def test_the_encoder_is_named_in_the_handshake_and_served_in_chunks_by_its_hash(
    open_desk: Any,
) -> None:
    async with open_desk(encoder="default") as desk:
        features = (await subscribe(desk.client).read()).features

        data, sizes = await download(desk.client, features.encoder_sha256)

        assert set(sizes[:-1]) == {CHUNK_BYTES}
        assert digest(data) == features.encoder_sha256
        assert len(data) == features.encoder_size


async def test_a_changed_encoder_is_not_served(open_desk: Any, home: Path) -> None:
    async with open_desk(encoder="default") as desk:
        features = (await subscribe(desk.client).read()).features
        path = home / "encoders" / f"{features.encoder_sha256}.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"x")

        with pytest.raises(aio.AioRpcError, match="start the daemon again") as caught:
            await download(desk.client, features.encoder_sha256)

        assert caught.value.code() == grpc.StatusCode.DATA_LOSS


async def test_without_an_encoder_the_schema_is_n_grams_only(desk: Any) -> None:
    features = (await subscribe(desk.client).read()).features

    assert (features.number, features.encoder_sha256, features.encoder_size) == (1, "", 0)


class Quiet:
    """A registry without a version."""

    book = Book()


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    prepare(tmp_path)
    return Signer(tmp_path, ManualClock())


async def test_tools_that_are_down_are_pushed_to_their_agent(signer: Signer) -> None:
    hub, down = Hub(), {"support-desk": [b"find"], "other": [b"mail"]}
    service = PolicyService(
        Quiet(),  # type: ignore[arg-type]
        hub,
        updates=Updates(
            Quiet(),  # type: ignore[arg-type]
            handshake=policy_pb2.PolicyUpdate(daemon_version="1"),
            signer=signer,
            down=lambda agent: down[agent],
        ),
        stages=None,  # type: ignore[arg-type]
    )
    stream = service.Subscribe(SUBSCRIPTION, None)  # type: ignore[arg-type]

    assert list(told(await anext(stream)).down) == [b"find"]
    down["support-desk"] = []
    hub.ring("support-desk")
    assert list(told(await anext(stream)).down) == []
    service.stop()


async def test_a_silent_time_is_broken_by_a_heartbeat(signer: Signer) -> None:
    service = PolicyService(
        Quiet(),  # type: ignore[arg-type]
        Hub(),
        updates=Updates(
            Quiet(),  # type: ignore[arg-type]
            handshake=policy_pb2.PolicyUpdate(daemon_version="1"),
            signer=signer,
        ),
        stages=None,  # type: ignore[arg-type]
        heartbeat_s=0.001,
    )

    stream = service.Subscribe(SUBSCRIPTION, None)  # type: ignore[arg-type]

    assert [told(await anext(stream)).daemon_version for _ in range(3)] == ["1"] * 3
    service.stop()
    assert [update async for update in stream] == []


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (
            policy_pb2.SubscribeRequest(contract_version=2, agent="a"),
            grpc.StatusCode.FAILED_PRECONDITION,
            "plugin speaks contract 2, this daemon speaks 1; upgrade the daemon",
        ),
        (
            policy_pb2.SubscribeRequest(agent="a"),
            grpc.StatusCode.FAILED_PRECONDITION,
            "upgrade agentgym in the agent",
        ),
        (
            policy_pb2.SubscribeRequest(contract_version=1, agent="a"),
            grpc.StatusCode.FAILED_PRECONDITION,
            "plugin speaks contract 1 without signatures, this daemon speaks 1; upgrade agentgym",
        ),
        (
            policy_pb2.SubscribeRequest(contract_version=1, signed=True),
            grpc.StatusCode.INVALID_ARGUMENT,
            "agent: expected the name",
        ),
    ],
)
async def test_a_handshake_that_cannot_work_is_told_why(
    desk: Any, request_: policy_pb2.SubscribeRequest, code: grpc.StatusCode, message: str
) -> None:
    stream = desk.client.policies.Subscribe(request_, metadata=desk.client.metadata, timeout=20)

    with pytest.raises(aio.AioRpcError) as caught:
        await stream.read()

    assert caught.value.code() == code
    assert message in str(caught.value.details())


async def test_a_stop_ends_subscriptions_at_once(open_desk: Any) -> None:
    async with open_desk() as desk:
        stream = subscribe(desk.client)
        await stream.read()
        stopping = asyncio.create_task(desk.daemon.stop())

        assert await stream.read() is aio.EOF
        await stopping


async def test_an_artifact_arrives_as_it_was_registered(desk: Any, register: Any) -> None:
    version = await register()
    entry = await desk.client.call(
        desk.client.policies.Get, policy_pb2.GetPolicyRequest(version=version)
    )

    data, _ = await download(desk.client, entry.sha256)

    assert parse(data, entry.sha256).version == version
    assert len(data) == entry.size


async def test_a_changed_artifact_is_not_served(desk: Any, register: Any) -> None:
    version = await register()
    path = desk.daemon._registry.path(version)
    sha256 = digest(path.read_bytes())
    path.write_bytes(path.read_bytes()[:-1] + b"x")

    with pytest.raises(aio.AioRpcError, match="was changed after it was registered") as caught:
        await download(desk.client, sha256)

    assert caught.value.code() == grpc.StatusCode.DATA_LOSS


@pytest.mark.parametrize(
    ("sha256", "code"),
    [("../token", grpc.StatusCode.INVALID_ARGUMENT), ("0" * 64, grpc.StatusCode.NOT_FOUND)],
)
async def test_only_registered_hashes_are_served(
    desk: Any, sha256: str, code: grpc.StatusCode
) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await download(desk.client, sha256)

    assert caught.value.code() == code


async def test_versions_are_listed_with_their_receipts(desk: Any, register: Any) -> None:
    await register()

    listed = await desk.client.call(
        desk.client.policies.List, policy_pb2.ListPoliciesRequest(agent="support-desk")
    )

    assert [(p.version, p.status, p.receipt_json) for p in listed.policies] == [
        ("p-000001", "candidate", '{"tier":0}')
    ]


async def test_impossible_changes_are_told_why(desk: Any, register: Any) -> None:
    await register()
    policies = desk.client.policies

    with pytest.raises(aio.AioRpcError, match="unknown policy version 'p-9'") as unknown:
        await desk.client.call(policies.Promote, policy_pb2.PromoteRequest(version="p-9"))
    scope = common_pb2.Scope(agent="support-desk")
    with pytest.raises(aio.AioRpcError, match="nothing to roll back") as early:
        await desk.client.call(policies.Rollback, policy_pb2.RollbackRequest(scope=scope))

    assert unknown.value.code() == grpc.StatusCode.NOT_FOUND
    assert early.value.code() == grpc.StatusCode.FAILED_PRECONDITION
