"""RegistryService: names, notes, quarantine, the past, differences, bundles, pruning, the audit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from agentgym.policy.arms import Exploration
from agentgym.proto.v1 import (
    artifact_pb2,
    log_pb2,
    policy_pb2,
    registry_pb2,
    registry_pb2_grpc,
)
from agentgym_daemon.errors import InvalidRequestError, StorageError
from agentgym_daemon.learning.difference import Difference, difference
from agentgym_daemon.policies.audit import Finding, verify
from agentgym_daemon.policies.book import scope_key, scope_of
from agentgym_daemon.policies.bundle import MAX_BUNDLE_BYTES
from agentgym_daemon.policies.curation import Curator
from agentgym_daemon.policies.registry import Registry
from agentgym_daemon.rpc.actor import actor_of
from agentgym_daemon.rpc.artifacts import CHUNK_BYTES
from agentgym_daemon.rpc.status import Context, stream, unary
from agentgym_daemon.rpc.stored import Sources
from agentgym_daemon.store.audit import audit_head, audited
from agentgym_daemon.store.policies import live_at, most_reliable

_TRAJECTORIES, _MOST_TRAJECTORIES = 500, 5000
_EXAMPLES, _MOST_EXAMPLES = 10, 1000
_LISTED, _MOST_LISTED = 50, 10_000
_MAX_KEYS = 64
_KEY_BYTES = 32


class RegistryService(registry_pb2_grpc.RegistryServiceServicer):
    """The registry as people curate it."""

    def __init__(
        self,
        registry: Registry,
        curator: Curator,
        sources: Sources,
        *,
        exploration: Callable[[], Exploration],
    ) -> None:
        self._registry = registry
        self._curator = curator
        self._sources = sources
        self._exploration = exploration
        self._one_at_a_time = asyncio.Lock()  # a difference, or a look at the whole log

    @unary
    async def Alias(
        self, request: registry_pb2.AliasRequest, context: Context
    ) -> policy_pb2.PolicyVersion:
        """Gives a version a name, or takes the name away."""
        actor, reason = actor_of(context), request.reason
        if request.version:
            version = await self._curator.alias(
                request.version, request.alias, actor=actor, reason=reason
            )
        else:
            version = await self._curator.unalias(
                request.scope, request.alias, actor=actor, reason=reason
            )
        return self._registry.book.get(version)

    @unary
    async def Note(
        self, request: registry_pb2.NoteRequest, context: Context
    ) -> policy_pb2.PolicyVersion:
        """Replaces a version's note."""
        version = await self._curator.note(request.version, request.note, actor=actor_of(context))
        return self._registry.book.get(version)

    @unary
    async def Quarantine(
        self, request: registry_pb2.QuarantineRequest, context: Context
    ) -> registry_pb2.QuarantineResponse:
        """Keeps a version from going live; a live one is rolled back at once."""
        version, was_live = await self._curator.quarantine(
            request.version, actor=actor_of(context), reason=request.reason
        )
        policy = self._registry.book.get(version)
        return registry_pb2.QuarantineResponse(
            policy=policy,
            rolled_back=was_live,
            live=self._registry.book.live_version(policy.scope),
        )

    @unary
    async def Release(
        self, request: registry_pb2.QuarantineRequest, context: Context
    ) -> policy_pb2.PolicyVersion:
        """Ends a quarantine."""
        version = await self._curator.release(
            request.version, actor=actor_of(context), reason=request.reason
        )
        return self._registry.book.get(version)

    @unary
    async def LiveAt(
        self, request: registry_pb2.LiveAtRequest, context: Context
    ) -> registry_pb2.LiveAtResponse:
        """What was live at some time."""
        return await asyncio.to_thread(self._live_at, request)

    def _live_at(self, request: registry_pb2.LiveAtRequest) -> registry_pb2.LiveAtResponse:
        with self._sources.store.reading() as cursor:
            found = live_at(cursor, min(request.at_unix_nano, 2**63 - 1), agent=request.agent)
        return registry_pb2.LiveAtResponse(
            live=[
                registry_pb2.LiveThen(
                    scope=scope_of(then.scope),
                    version=then.version,
                    pinned=then.pinned,
                    since_unix_nano=then.since_ns,
                    actor=then.actor,
                    reason=then.reason,
                )
                for then in found
            ]
        )

    @unary
    async def Diff(
        self, request: registry_pb2.DiffRequest, context: Context
    ) -> registry_pb2.DiffResponse:
        """Which stored requests would be treated differently."""
        before, after = (self._registry.book.get(v) for v in (request.before, request.after))
        if scope_key(before.scope) != scope_key(after.scope):
            raise InvalidRequestError(
                f"expected two versions of one scope, got {before.version} of "
                f"{scope_key(before.scope)} and {after.version} of {scope_key(after.scope)}"
            )
        trajectories = request.trajectories or _TRAJECTORIES
        examples = request.examples or _EXAMPLES
        _require_at_most("trajectories", trajectories, _MOST_TRAJECTORIES)
        _require_at_most("examples", examples, _MOST_EXAMPLES)
        async with self._one_at_a_time:
            found = await asyncio.to_thread(self._diff, before, after, trajectories, examples)
        return _diff_response(before.version, after.version, found)

    def _diff(
        self,
        before: policy_pb2.PolicyVersion,
        after: policy_pb2.PolicyVersion,
        trajectories: int,
        examples: int,
    ) -> Difference:
        self._sources.require_schema(before)
        old, new = (self._registry.snapshot(v.version).parameters for v in (before, after))
        dataset = self._sources.dataset(before, (old, new), trajectories)
        return difference(old, new, dataset, self._exploration(), examples=examples)

    @stream
    async def Export(
        self, request: registry_pb2.ExportRequest, context: Context
    ) -> AsyncIterator[artifact_pb2.Chunk]:
        """A version as a signed bundle."""
        data = await self._curator.export(request.version)
        for start in range(0, len(data), CHUNK_BYTES):
            yield artifact_pb2.Chunk(data=data[start : start + CHUNK_BYTES], total=len(data))

    @unary
    async def Import(
        self, requests: AsyncIterator[registry_pb2.ImportRequest], context: Context
    ) -> policy_pb2.PolicyVersion:
        """Verifies a bundle and registers its policy as a candidate."""
        head, data = None, bytearray()
        async for request in requests:
            head = head or request
            data += request.data
            if len(data) > MAX_BUNDLE_BYTES:
                raise InvalidRequestError(f"the bundle has more than {MAX_BUNDLE_BYTES} bytes")
        head = head or registry_pb2.ImportRequest()
        _require_at_most("trusted_keys", len(head.trusted_keys), _MAX_KEYS)
        if any(len(key) != _KEY_BYTES for key in head.trusted_keys):
            raise InvalidRequestError(f"trusted_keys: expected {_KEY_BYTES} bytes each")
        version = await self._curator.take(
            bytes(data),
            head.trusted_keys,
            agent=head.agent,
            actor=actor_of(context),
            reason=head.reason,
        )
        return self._registry.book.get(version)

    @unary
    async def Prune(
        self, request: registry_pb2.PruneRequest, context: Context
    ) -> registry_pb2.PruneResponse:
        """Deletes files that nobody needs any more."""
        best = await asyncio.to_thread(self._most_reliable)
        pruned = await self._curator.prune(
            keep=request.keep,
            agent=request.agent,
            best=best,
            dry_run=request.dry_run,
            actor=actor_of(context),
        )
        return registry_pb2.PruneResponse(
            pruned=[registry_pb2.Pruned(version=v.version, size=v.size) for v in pruned]
        )

    def _most_reliable(self) -> set[str]:
        with self._sources.store.reading() as cursor:
            return most_reliable(cursor)

    # ---- audit

    @unary
    async def ListAudit(
        self, request: registry_pb2.ListAuditRequest, context: Context
    ) -> registry_pb2.ListAuditResponse:
        """The newest changes."""
        limit = request.limit or _LISTED
        _require_at_most("limit", limit, _MOST_LISTED)
        records = await asyncio.to_thread(self._audited, limit)
        return registry_pb2.ListAuditResponse(
            entries=[
                registry_pb2.AuditEntry(
                    audit=record.audit,
                    received_unix_nano=record.received_unix_nano,
                    change=record.change,
                )
                for record in records
            ]
        )

    def _audited(self, limit: int) -> list[log_pb2.LogRecord]:
        with self._sources.store.reading() as cursor:
            return audited(cursor, limit)

    @unary
    async def VerifyAudit(
        self, request: registry_pb2.VerifyAuditRequest, context: Context
    ) -> registry_pb2.VerifyAuditResponse:
        """Recomputes the chain from the first byte of the log on."""
        async with self._one_at_a_time:
            found = await asyncio.to_thread(self._verify)
        return registry_pb2.VerifyAuditResponse(
            ok=not found.broken,
            changes=found.changes,
            before_chain=found.before_chain,
            head=found.head,
            broken=found.broken,
            broken_number=found.broken_number,
        )

    def _verify(self) -> Finding:
        try:
            with self._sources.store.reading() as cursor:
                known = audit_head(cursor)  # first, so that the log cannot be behind it
        except StorageError:
            known = None  # being opened again: the log speaks for itself
        return verify((payload for _, payload in self._sources.log.replay()), known=known)


def _require_at_most(name: str, value: int, most: int) -> None:
    if value > most:
        raise InvalidRequestError(f"{name}: expected at most {most}, got {value}")


def _diff_response(before: str, after: str, found: Difference) -> registry_pb2.DiffResponse:
    tools = sorted(
        found.before.keys() | found.after.keys(),
        key=lambda tool: (-abs(found.after.get(tool, 0) - found.before.get(tool, 0)), tool),
    )
    return registry_pb2.DiffResponse(
        before=before,
        after=after,
        trajectories=found.trajectories,
        steps=found.steps,
        changed=found.changed,
        kl=found.kl,
        examples=[
            registry_pb2.DiffExample(
                trajectory_id=e.trajectory_id, step=e.step, before=e.before, after=e.after
            )
            for e in found.examples
        ],
        tools=[
            registry_pb2.DiffTool(
                tool=tool, before=found.before.get(tool, 0), after=found.after.get(tool, 0)
            )
            for tool in tools
        ],
    )
