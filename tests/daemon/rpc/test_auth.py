"""Tokens, scopes and contract versions at every door."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from agentgym import semconv
from agentgym.proto.v1 import (
    admin_pb2,
    artifact_pb2,
    catalogue_pb2,
    decision_pb2,
    policy_pb2,
    producer_pb2,
    reward_pb2,
    trajectory_pb2,
)
from agentgym_daemon.errors import DirectoryError, InvalidRequestError, NotFoundError
from agentgym_daemon.lock import prepare, read_token
from agentgym_daemon.rpc.auth import ADDS_FACTS, SCOPES
from agentgym_daemon.rpc.tokens import FILE_NAME, Scope, Tokens

SERVICES = (
    "decisions",
    "catalogue",
    "rewards",
    "policies",
    "artifacts",
    "trajectories",
    "admin",
    "traces",
)


async def refusal(client: Any) -> tuple[grpc.StatusCode, str]:
    """How the daemon refuses a call of Status."""
    with pytest.raises(aio.AioRpcError) as caught:
        await client.status()
    await client.channel.close()
    return caught.value.code(), str(caught.value.details())


@pytest.mark.parametrize("listener", [0, 1])
@pytest.mark.parametrize(
    ("authorization", "message"),
    [
        (None, "a token is needed"),
        ("Bearer ", "a token is needed"),
        ("Basic abc", "a token is needed"),
        ("Bearer wrong", "this daemon does not know the token"),
    ],
)
async def test_every_listener_asks_for_the_token(
    open_desk: Any, listener: int, authorization: str | None, message: str
) -> None:
    async with open_desk(listen="127.0.0.1:0") as desk:
        client = type(desk.client)(desk.daemon.listeners[listener], None)
        if authorization is not None:
            client.metadata = ((semconv.METADATA_TOKEN, authorization),)

        code, details = await refusal(client)

        assert code == grpc.StatusCode.UNAUTHENTICATED
        assert message in details
        assert (await desk.client.status()).counters["refused_unauthenticated"] == 1


async def test_the_right_token_opens_the_tcp_listener(open_desk: Any) -> None:
    async with open_desk(listen="127.0.0.1:0") as desk:
        client = type(desk.client)(desk.daemon.listeners[1], desk.token)

        assert list((await client.status()).listeners) == list(desk.daemon.listeners)
        await client.channel.close()


async def test_a_token_may_do_what_its_scopes_say_and_no_more(desk: Any) -> None:
    secret = Tokens(desk.home).add("judge", ["reward"])
    judge = desk.another(secret)

    report = await judge.call(judge.rewards.Report, reward_pb2.ReportRequest())
    code, details = await refusal(judge)

    assert list(report.results) == []
    assert code == grpc.StatusCode.PERMISSION_DENIED
    assert "token 'judge' has scopes ['reward'], this call needs 'read'" in details


async def test_a_removed_token_is_refused_without_a_restart(desk: Any) -> None:
    tokens = Tokens(desk.home)
    client = desk.another(tokens.add("reader", ["read"]))
    await client.status()

    tokens.remove("reader")

    assert (await refusal(client))[0] == grpc.StatusCode.UNAUTHENTICATED


async def test_a_damaged_token_file_refuses_the_unknown_and_says_why(desk: Any) -> None:
    (desk.home / FILE_NAME).write_text("{")

    code, details = await refusal(desk.another("someone"))

    assert code == grpc.StatusCode.UNAVAILABLE
    assert "tokens.json is unreadable" in details


@pytest.mark.parametrize(("version", "advice"), [("2", "the daemon"), ("0", "agentgym in the")])
async def test_another_contract_version_is_told_who_must_upgrade(
    desk: Any, version: str, advice: str
) -> None:
    client = desk.another(desk.token, (semconv.METADATA_CONTRACT, version))

    code, details = await refusal(client)

    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert f"plugin speaks contract {version}, this daemon speaks 1; upgrade {advice}" in details


async def test_our_contract_version_is_welcome(desk: Any) -> None:
    client = desk.another(desk.token, (semconv.METADATA_CONTRACT, "1"))

    assert (await client.status()).contract_version == 1
    await client.channel.close()


async def test_a_stream_is_refused_like_a_call(desk: Any) -> None:
    client = desk.another("wrong")

    with pytest.raises(aio.AioRpcError) as caught:
        async for _ in client.policies.Subscribe(policy_pb2.SubscribeRequest()):
            pass

    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    await client.channel.close()


async def test_an_unknown_method_needs_admin_and_then_does_not_exist(desk: Any) -> None:
    method = desk.client.channel.unary_unary("/agentgym.v1.AdminService/Nothing")

    with pytest.raises(aio.AioRpcError) as caught:
        await method(b"", metadata=desk.client.metadata)

    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_every_method_of_the_contract_has_a_scope() -> None:
    methods = {
        f"/{service.full_name}/{method.name}"
        for module in (
            admin_pb2,
            artifact_pb2,
            catalogue_pb2,
            decision_pb2,
            policy_pb2,
            producer_pb2,
            reward_pb2,
            trajectory_pb2,
        )
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }

    assert methods <= SCOPES.keys()
    assert SCOPES.keys() >= ADDS_FACTS


def test_extra_tokens_are_kept_as_hashes_in_a_private_file(tmp_path: Path) -> None:
    prepare(tmp_path)
    tokens = Tokens(tmp_path)

    secret = tokens.add("collector", ["ingest", "reward"])

    text = (tmp_path / FILE_NAME).read_text()
    assert secret not in text
    assert json.loads(text)[0]["scopes"] == ["ingest", "reward"]
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600
    found = Tokens(tmp_path).find(secret)
    assert found is not None
    assert found.scopes == {Scope.INGEST, Scope.REWARD}
    owner = tokens.find(read_token(tmp_path))
    assert owner is not None
    assert owner.scopes == frozenset(Scope)


def test_bad_names_and_scopes_of_tokens_are_refused(tmp_path: Path) -> None:
    prepare(tmp_path)
    tokens = Tokens(tmp_path)
    tokens.add("a", ["read"])

    with pytest.raises(InvalidRequestError, match="a token named 'a' exists"):
        tokens.add("a", ["read"])
    with pytest.raises(InvalidRequestError, match="expected 1 to 100 characters"):
        tokens.add("", ["read"])
    with pytest.raises(InvalidRequestError, match="expected one or more of"):
        tokens.add("b", ["write"])
    with pytest.raises(NotFoundError, match=r"no token is named 'b'; known: \['a'\]"):
        tokens.remove("b")


def test_a_missing_token_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DirectoryError, match="start the daemon once"):
        Tokens(tmp_path)
