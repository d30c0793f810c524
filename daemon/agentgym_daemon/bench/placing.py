"""Policy versions put into a daemon's directory before it starts, as a training leaves them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentgym.policy.features import Featuriser
from agentgym.policy.parameters import Parameters, initial
from agentgym.policy.snapshot import digest, dump
from agentgym.proto.v1 import common_pb2
from agentgym.trajectory import Tool
from agentgym_daemon.clock import SystemClock
from agentgym_daemon.ingest.log import SegmentLog
from agentgym_daemon.lock import prepare
from agentgym_daemon.policies.audit import Chain, verify
from agentgym_daemon.policies.registry import Registry
from agentgym_daemon.rpc.journal import Journal


@dataclass(frozen=True, slots=True)
class Placed:
    """A policy of a scope; live, unless it is only to be kept as a candidate."""

    scope: common_pb2.Scope
    parameters: Parameters
    live: bool = True


def untaught(tools: Sequence[Tool], features: Featuriser) -> Parameters:
    """What a policy of these tools is before it has learned anything."""
    return initial(
        tuple(tool.fingerprint.hex() for tool in tools),
        tuple(tool.name for tool in tools),
        features.embedding_dim,
    )


def place(home: Path, policies: Iterable[Placed]) -> dict[str, bytes]:
    """Registers the policies, files first, then facts; their snapshot files by version."""
    prepare(home)
    return asyncio.run(_register(home, policies))


async def _register(home: Path, policies: Iterable[Placed]) -> dict[str, bytes]:
    clock = SystemClock()
    log = SegmentLog(home / "log", clock=clock)
    registry = Registry(
        home / "policies",
        append=Journal(log, clock, chain=Chain(verify(p for _, p in log.replay()).head)).append,
        clock=clock,
        changed=lambda agent: None,
    )
    registry.load((), ())
    files = {}
    for policy in policies:
        version = registry.book.next_version()
        data = snapshot_file(policy.parameters, version, policy.scope)
        await registry.register(
            data, sha256=digest(data), scope=policy.scope, status="candidate", receipt={}
        )
        if policy.live:
            await registry.promote(version, actor="placed")
        files[version] = data
    log.close()
    return files


def snapshot_file(policy: Parameters, version: str, scope: common_pb2.Scope) -> bytes:
    """The file of a policy version without a past."""
    manifest = {
        "version": version,
        "parent": "",
        "created_unix_nano": 1,
        "scope": {
            "agent": scope.agent,
            "agent_name": scope.agent_name,
            "feature_schema": scope.feature_schema,
        },
        # Trained on nothing: every run may judge it.
        "lineage": {"trajectories": 0, "last_closed_unix_nano": 0},
    }
    return dump(policy, manifest)
