"""The registry over the wire: who did what, and what was, would be and may be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from agentgym import semconv
from agentgym.policy.features import TextHasher
from agentgym.policy.messages import features_message
from agentgym.policy.snapshot import digest, dump, parse
from agentgym.proto.v1 import (
    catalogue_pb2,
    common_pb2,
    decision_pb2,
    log_pb2,
    policy_pb2,
    registry_pb2,
)
from agentgym_daemon.clock import SystemClock
from agentgym_daemon.errors import StorageFullError
from agentgym_daemon.ingest.frames import encode_frame
from agentgym_daemon.ingest.log import SegmentLog
from agentgym_daemon.ingest.thinning import Thinning
from agentgym_daemon.lock import SIGNING_KEY_NAME, read_feature_key
from agentgym_daemon.rpc.actor import actor_of
from tests.manifests import make_manifest

AGENT = "support-desk"
Kind = log_pb2.PolicyChange
SCOPE = {"agent": AGENT, "agent_name": "clerk", "feature_schema": 1}


async def register(desk: Any, scope: common_pb2.Scope, make: Any, bias: float = 0.0) -> str:
    """A candidate; returns its version."""
    registry = desk.daemon._registry
    version = str(registry.book.next_version())
    data = make(version, bias=bias)
    await registry.register(
        data, sha256=digest(data), scope=scope, status="candidate", receipt={"tier": 0}
    )
    return version


@pytest.fixture
def make(desk: Any, scope: common_pb2.Scope, make_candidate: Any) -> Any:
    """Registers candidates with the desk."""
    return lambda bias=0.0: register(desk, scope, make_candidate, bias)


async def promote(client: Any, version: str) -> policy_pb2.ChangeResponse:
    request = policy_pb2.PromoteRequest(version=version, reason="because")
    response: policy_pb2.ChangeResponse = await client.call(client.policies.Promote, request)
    return response


async def audit(client: Any, limit: int = 0) -> list[registry_pb2.AuditEntry]:
    """The changes, newest first."""
    await client.applied()
    request = registry_pb2.ListAuditRequest(limit=limit)
    return list((await client.call(client.registry.ListAudit, request)).entries)


async def verify(client: Any) -> registry_pb2.VerifyAuditResponse:
    await client.applied()
    response: registry_pb2.VerifyAuditResponse = await client.call(
        client.registry.VerifyAudit, registry_pb2.VerifyAuditRequest()
    )
    return response


# ---------------------------------------------------------------- who


async def test_a_change_says_who_made_it(desk: Any, make: Any) -> None:
    first, second = await make(), await make()
    ada = desk.another(desk.token, (semconv.METADATA_ACTOR, "cli:ada"))

    await promote(ada, first)
    await promote(desk.client, second)
    await ada.channel.close()

    assert [
        (entry.change.actor, entry.change.version, entry.change.reason)
        for entry in await audit(desk.client, limit=2)
    ] == [("rpc", second, "because"), ("cli:ada", first, "because")]


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("cli:ada", "cli:ada"),
        ("trainer", "rpc:trainer"),  # the daemon's own words are its own
        ("", "rpc"),
        ("cli:" + "x" * 500, "cli:" + "x" * 60),
        ("cli:a b\x1b[31m<b>", "cli:a_b__31m_b_"),
    ],
)
def test_what_a_caller_says_of_itself_is_cleaned(said: str, kept: str) -> None:
    class Context:
        def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
            return ((semconv.METADATA_ACTOR, said),)

    assert actor_of(Context()) == kept  # type: ignore[arg-type]


# ---------------------------------------------------------------- audit


async def test_every_kind_of_change_is_a_link_of_the_chain(desk: Any, make: Any) -> None:
    first, second = await make(), await make(1.0)
    client, registry = desk.client, desk.client.registry
    await promote(client, first)
    await promote(client, second)
    scope = common_pb2.Scope(agent=AGENT)
    await client.call(client.policies.Rollback, policy_pb2.RollbackRequest(scope=scope))
    await client.call(client.policies.Pin, policy_pb2.PinRequest(version=second))
    await client.call(client.policies.Pin, policy_pb2.PinRequest(scope=scope, unpin=True))
    await client.call(registry.Alias, registry_pb2.AliasRequest(version=first, alias="old"))
    await client.call(registry.Note, registry_pb2.NoteRequest(version=first, note="fine"))
    await client.call(registry.Quarantine, registry_pb2.QuarantineRequest(version=second))
    await client.call(registry.Release, registry_pb2.QuarantineRequest(version=second))
    await client.call(client.policies.SetStage, stage(common_pb2.STAGE_SHADOW))
    await client.call(client.policies.Kill, policy_pb2.KillRequest())
    desk.daemon.reload(replace(desk.daemon.config, top_k=2, control_share=0.5))
    while len(await audit(client)) < 14:
        await asyncio.sleep(0.01)

    entries = list(reversed(await audit(client)))
    assert [Kind.Kind.Name(e.change.kind).removeprefix("KIND_").lower() for e in entries] == [
        "key",
        "promote",
        "promote",
        "rollback",
        "pin",
        "unpin",
        "alias",
        "note",
        "rollback",
        "quarantine",
        "release",
        "stage",
        "kill",
        "settings",
    ]
    assert [e.audit.number for e in entries] == list(range(1, 15))
    assert (entries[-1].change.actor, entries[-1].change.reason) == (
        "daemon",
        "control_share, top_k",
    )
    found = await verify(client)
    assert (found.ok, found.changes, found.broken) == (True, 14, "")
    assert found.head == entries[-1].audit


def stage(stage: Any) -> policy_pb2.SetStageRequest:
    return policy_pb2.SetStageRequest(agent=AGENT, stage=stage, unseen=True)


async def test_the_chain_goes_on_after_a_restart_and_over_sealed_segments(
    open_desk: Any, scope: common_pb2.Scope, make_candidate: Any
) -> None:
    for number in range(3):
        async with open_desk(segment_bytes=4096) as desk:
            version = await register(desk, scope, make_candidate, float(number))
            await promote(desk.client, version)
            for run in range(10):
                await desk.client.send_run(100 * number + run + 1)

    async with open_desk(segment_bytes=4096) as desk:
        await asyncio.to_thread(desk.daemon._log.wait_sealed)
        assert any(segment.sealed for segment in desk.daemon._log.closed)
        found = await verify(desk.client)

    assert (found.ok, found.changes) == (True, 4)


async def test_a_new_key_is_a_change(open_desk: Any, home: Path) -> None:
    async with open_desk() as desk:
        [first] = await audit(desk.client)
    (home / SIGNING_KEY_NAME).unlink()
    async with open_desk() as desk:
        second, _ = await audit(desk.client)
        key = desk.daemon._signer.key_id

    assert first.change.kind == second.change.kind == Kind.KIND_KEY
    assert second.change.reason == key != first.change.reason


async def test_a_change_in_the_log_that_was_altered_is_found(
    open_desk: Any, home: Path, scope: common_pb2.Scope, make_candidate: Any
) -> None:
    """By somebody who knows the format: the frame's own checksum is right again."""
    async with open_desk() as desk:
        for number in range(3):
            version = await register(desk, scope, make_candidate, float(number))
            await promote(desk.client, version)
        assert (await verify(desk.client)).ok

    rewrite(home)

    async with open_desk() as desk:
        found = await verify(desk.client)
    assert not found.ok
    assert found.broken_number == 3
    assert found.broken == "its content was changed"


def rewrite(home: Path) -> None:
    """Lets the second promotion be that of somebody else, in the log alone."""
    log = SegmentLog(home / "log", clock=SystemClock())
    frames = []
    for _, payload in log.replay():
        record = log_pb2.LogRecord.FromString(payload)
        if record.audit.number == 3:
            record.change.actor = "xyz"  # as long as it was
        frames.append(encode_frame(record.SerializeToString()))
    path = log.active.path
    log.close()
    data = b"".join(frames)
    assert len(data) == path.stat().st_size
    path.write_bytes(data)


async def test_a_change_that_the_disk_did_not_take_has_no_place_in_the_chain(
    desk: Any, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await make(), await make()
    await promote(desk.client, first)
    journal = desk.daemon._journal

    async def full(*_: Any) -> int:
        raise StorageFullError("the disk is full", retry_after_s=1.0)

    with monkeypatch.context() as patch:
        patch.setattr(journal, "_write", full)
        with pytest.raises(aio.AioRpcError, match="disk is full"):
            await promote(desk.client, second)
    await promote(desk.client, second)

    found = await verify(desk.client)
    assert (found.ok, found.changes) == (True, 3)


async def test_a_caller_that_goes_away_leaves_the_chain_whole(desk: Any, make: Any) -> None:
    versions = [await make() for _ in range(8)]

    async def hasty(version: str) -> None:
        task = asyncio.create_task(desk.daemon._registry.promote(version, actor="test"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    for version in versions:
        await hasty(version)
    note = registry_pb2.NoteRequest(version=versions[0], note="after")
    await desk.client.call(desk.client.registry.Note, note)

    assert (await verify(desk.client)).ok


def test_retention_keeps_the_chain_byte_for_byte() -> None:
    record = log_pb2.LogRecord(change=log_pb2.PolicyChange(kind=Kind.KIND_KILL))
    record.audit.number = 1
    entry = (100, record.SerializeToString())
    thinning = Thinning(lambda *_: None, begun=lambda _: {}, given=lambda _: set())  # type: ignore[arg-type,return-value]

    assert thinning.keep([entry]) == ([entry], False)


async def test_a_rebuild_derives_the_same_chain(
    open_desk: Any, home: Path, scope: common_pb2.Scope, make_candidate: Any
) -> None:
    async with open_desk() as desk:
        await promote(desk.client, await register(desk, scope, make_candidate))
        before = await audit(desk.client)
    (home / "agentgym.duckdb").unlink()

    async with open_desk() as desk:
        assert await audit(desk.client) == before
        assert (await verify(desk.client)).ok


# ---------------------------------------------------------------- past and difference


async def test_what_was_live_at_a_time(desk: Any, make: Any) -> None:
    first, second = await make(), await make()
    await promote(desk.client, first)
    await promote(desk.client, second)
    await desk.client.call(desk.client.policies.Pin, policy_pb2.PinRequest(version=second))
    pinned, later, earlier, key = await audit(desk.client)

    async def live_at(at_ns: int, agent: str = "") -> list[tuple[str, bool, int]]:
        request = registry_pb2.LiveAtRequest(at_unix_nano=at_ns, agent=agent)
        reply = await desk.client.call(desk.client.registry.LiveAt, request)
        return [(then.version, then.pinned, then.since_unix_nano) for then in reply.live]

    times = [entry.received_unix_nano for entry in (key, earlier, later, pinned)]
    assert await live_at(times[0]) == []
    assert await live_at(times[1]) == [(first, False, times[1])]
    assert await live_at(times[2] - 1) == [(first, False, times[1])]
    assert await live_at(times[2]) == [(second, False, times[2])]
    assert await live_at(2**63) == [(second, True, times[2])]
    assert await live_at(times[3], "other") == []


async def send_steps(desk: Any, tools: Any, count: int) -> None:
    """Runs with a decision each, with their features."""
    hasher = TextHasher(read_feature_key(desk.home))
    await desk.client.call(
        desk.client.catalogue.Put,
        catalogue_pb2.PutRequest(
            agent=AGENT,
            tools=[
                common_pb2.Tool(fingerprint=t.fingerprint, name=t.name, description=t.description)
                for t in tools
            ],
        ),
    )
    for number in range(1, count + 1):
        trajectory_id = number.to_bytes(16, "big")
        record = decision_pb2.DecisionRecord(
            decision_id=number.to_bytes(8, "big"),
            trajectory_id=trajectory_id,
            scope=common_pb2.Scope(agent=AGENT, agent_name="clerk", feature_schema=1),
            offered=[tool.fingerprint for tool in tools],
            features_id=b"features",
            completed=True,
            arm=-1,
        )
        x = features_message(trajectory_id, b"features", hasher(f"order {number}"), 1)
        response = await desk.client.call(
            desk.client.decisions.Record,
            decision_pb2.RecordRequest(decisions=[record], features=[x]),
        )
        assert response.rejected == 0, response.message
        await desk.client.send_run(number)
    await desk.client.applied()


async def test_a_difference_names_the_requests_that_would_be_treated_otherwise(
    desk: Any, scope: common_pb2.Scope, make_candidate: Any, tools: Any
) -> None:
    def inclined(version: str, *, bias: float) -> bytes:
        """A policy that leaves the agent alone, or not."""
        parameters = parse(make_candidate(version), digest(make_candidate(version))).parameters
        tensors = {name: tensor.copy() for name, tensor in parameters.tensors.items()}
        tensors["defer.bias"][:] = bias
        changed = replace(parameters, tensors=tensors)
        return dump(changed, make_manifest(version, scope=SCOPE))

    timid = await register(desk, scope, inclined, 8.0)
    bold = await register(desk, scope, inclined, -8.0)
    await send_steps(desk, tools, 5)

    request = registry_pb2.DiffRequest(before=timid, after=bold, examples=2)
    found = await desk.client.call(desk.client.registry.Diff, request)
    same = await desk.client.call(
        desk.client.registry.Diff, registry_pb2.DiffRequest(before=bold, after=bold)
    )

    assert (found.trajectories, found.steps, found.changed) == (5, 5, 5)
    assert found.kl > 0
    assert {e.before for e in found.examples} == {""}
    assert {e.after for e in found.examples} <= {tool.name for tool in tools}
    assert [int.from_bytes(e.trajectory_id, "big") for e in found.examples] == [5, 4]
    counts = {t.tool: (t.before, t.after) for t in found.tools}
    assert counts[""] == (5, 0)
    assert sum(after for _, after in counts.values()) == 5
    assert (same.steps, same.changed, same.kl) == (5, 0, 0.0)
    assert not list(desk.home.glob("diff-*"))


async def test_versions_of_two_scopes_have_no_difference(
    desk: Any, make: Any, make_candidate: Any
) -> None:
    mine = await make()
    other = common_pb2.Scope(agent="other", agent_name="clerk", feature_schema=1)
    theirs = await register(desk, other, make_candidate)

    with pytest.raises(aio.AioRpcError, match="two versions of one scope") as caught:
        await desk.client.call(
            desk.client.registry.Diff, registry_pb2.DiffRequest(before=mine, after=theirs)
        )

    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


# ---------------------------------------------------------------- curation over the wire


async def test_a_quarantine_reaches_the_agents_at_once(desk: Any, make: Any) -> None:
    first, second = await make(), await make()
    await promote(desk.client, first)
    await promote(desk.client, second)
    stream = desk.client.subscribe()
    assert [v.version for v in (await stream.read()).live] == [second]

    request = registry_pb2.QuarantineRequest(version="live", reason="refunds everything")
    reply = await desk.client.call(desk.client.registry.Quarantine, request)

    assert [v.version for v in (await stream.read()).live] == [first]
    assert (reply.policy.version, reply.policy.status) == (second, "quarantined")
    assert (reply.rolled_back, reply.live) == (True, first)
    with pytest.raises(aio.AioRpcError, match="is quarantined") as caught:
        await promote(desk.client, second)
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION


async def test_agents_are_not_told_what_people_call_a_version(desk: Any, make: Any) -> None:
    version = await make()
    await promote(desk.client, version)
    registry = desk.client.registry
    await desk.client.call(registry.Note, registry_pb2.NoteRequest(version=version, note="secret"))

    [told] = (await desk.client.subscribe().read()).live

    assert (told.version, told.note, list(told.aliases)) == (version, "", [])
    listed = await desk.client.call(desk.client.policies.List, policy_pb2.ListPoliciesRequest())
    assert (listed.policies[0].note, list(listed.policies[0].aliases)) == ("secret", ["live"])


async def export(client: Any, version: str) -> bytes:
    call = client.registry.Export(
        registry_pb2.ExportRequest(version=version), metadata=client.metadata, timeout=20
    )
    return b"".join([chunk.data async for chunk in call])


def parts(bundle: bytes, size: int, **head: Any) -> Iterator[registry_pb2.ImportRequest]:
    yield registry_pb2.ImportRequest(**head)
    for start in range(0, len(bundle), size):
        yield registry_pb2.ImportRequest(data=bundle[start : start + size])


async def test_a_version_goes_out_and_comes_in_as_a_candidate(desk: Any, make: Any) -> None:
    version = await make(1.0)
    bundle = await export(desk.client, version)

    entry = await desk.client.call(
        desk.client.registry.Import, parts(bundle, 50_000, agent=AGENT, reason="copy")
    )

    assert (entry.version, entry.status) == ("p-000002", "candidate")
    [newest, *_] = await audit(desk.client)
    assert (newest.change.kind, newest.change.reason) == (Kind.KIND_IMPORT, "copy")
    await promote(desk.client, entry.version)


@pytest.mark.parametrize(
    ("head", "spoil", "message"),
    [
        ({"agent": "billing"}, 0, "expected a policy of agent 'billing'"),
        ({"trusted_keys": [b"\1" * 32]}, 0, "trusted are"),
        ({"trusted_keys": [b"\1" * 31]}, 0, "expected 32 bytes each"),
        ({}, 1, "bundle"),
    ],
)
async def test_a_bundle_that_cannot_be_trusted_leaves_nothing(
    head: Any, spoil: int, message: str, desk: Any, make: Any
) -> None:
    bundle = await export(desk.client, await make())

    with pytest.raises(aio.AioRpcError, match=message) as caught:
        await desk.client.call(desk.client.registry.Import, parts(bundle[spoil:], 2**19, **head))

    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert len(desk.daemon._registry.book.versions()) == 1
    assert len(list((desk.home / "policies").glob("*.safetensors"))) == 1


async def test_a_reader_may_look_and_nothing_else(desk: Any, make: Any) -> None:
    version = await make()
    token = desk.daemon._server and _token(desk, "read")
    reader = desk.another(token)
    registry = reader.registry

    assert (await reader.call(registry.VerifyAudit, registry_pb2.VerifyAuditRequest())).ok
    for method, request in (
        (registry.Alias, registry_pb2.AliasRequest(version=version, alias="x")),
        (registry.Note, registry_pb2.NoteRequest(version=version)),
        (registry.Quarantine, registry_pb2.QuarantineRequest(version=version)),
        (registry.Release, registry_pb2.QuarantineRequest(version=version)),
        (registry.Prune, registry_pb2.PruneRequest()),
        (registry.Import, parts(b"x", 1)),
    ):
        with pytest.raises(aio.AioRpcError) as caught:
            await reader.call(method, request)
        assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(aio.AioRpcError, match="admin"):
        await export(reader, version)
    await reader.channel.close()


def _token(desk: Any, scope: str) -> str:
    from agentgym_daemon.rpc.tokens import Tokens

    return Tokens(desk.home).add("reader", [scope])


async def test_pruning_says_what_it_would_do_first(desk: Any, make: Any) -> None:
    names = [await make(float(n)) for n in range(4)]
    for name in names:
        await promote(desk.client, name)
    prune = desk.client.registry.Prune

    dry = await desk.client.call(prune, registry_pb2.PruneRequest(dry_run=True))
    done = await desk.client.call(prune, registry_pb2.PruneRequest())

    assert [p.version for p in dry.pruned] == [p.version for p in done.pruned]
    assert {p.version for p in done.pruned} == set(names[:2])
    assert all(p.size > 0 for p in done.pruned)
    left = {path.stem for path in (desk.home / "policies").glob("*.safetensors")}
    assert left == set(names[2:])
