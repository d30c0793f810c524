"""What is done to versions beside making them live: names, notes, quarantine, bundles, pruning."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Collection, Iterable

from agentgym.policy.snapshot import digest, dump
from agentgym.proto.v1 import common_pb2, policy_pb2
from agentgym_daemon.clock import Clock
from agentgym_daemon.errors import BundleError, InvalidRequestError, PolicyStateError
from agentgym_daemon.policies.book import Change, ScopeKey, check_alias, scope_key
from agentgym_daemon.policies.bundle import Bundle, features_id, pack, unpack
from agentgym_daemon.policies.registry import Registry
from agentgym_daemon.policies.signing import Signer

_log = logging.getLogger(__name__)

MAX_NOTE = 2000
_DONE = frozenset(("retired", "rejected", "quarantined"))


class Curator:
    """Changes versions through the registry; used on the event loop."""

    def __init__(
        self, registry: Registry, signer: Signer, *, feature_key: bytes, clock: Clock
    ) -> None:
        self._registry = registry
        self._book = registry.book
        self._signer = signer
        self._features = features_id(feature_key)
        self._clock = clock

    # ---- names and notes

    async def alias(self, name: str, alias: str, *, actor: str, reason: str) -> str:
        """Lets an alias mean a version; returns the version's id."""
        check_alias(alias)
        async with self._registry.changing:
            entry = self._book.get(name)
            change = _change(Change.KIND_ALIAS, entry, actor, reason)
            change.alias = alias
            change.previous = self._book.aliases(scope_key(entry.scope)).get(alias, "")
            await self._registry.write(change)
            return entry.version

    async def unalias(self, scope: common_pb2.Scope, alias: str, *, actor: str, reason: str) -> str:
        """Lets an alias mean nothing any more; returns what it meant."""
        check_alias(alias)
        async with self._registry.changing:
            scope = self._book.resolve(scope)
            meant = self._book.aliases(scope_key(scope)).get(alias)
            if meant is None:
                raise PolicyStateError(f"{scope.agent!r} has no alias {alias!r}")
            change = Change(
                kind=Change.KIND_ALIAS,
                scope=scope,
                previous=meant,
                actor=actor,
                reason=reason,
                alias=alias,
            )
            await self._registry.write(change)
            return meant

    async def note(self, name: str, note: str, *, actor: str) -> str:
        """Replaces a version's note; returns the version's id."""
        if len(note) > MAX_NOTE:
            raise InvalidRequestError(
                f"note: expected at most {MAX_NOTE} characters, got {len(note)}"
            )
        async with self._registry.changing:
            entry = self._book.get(name)
            await self._registry.write(_change(Change.KIND_NOTE, entry, actor, note))
            return entry.version

    # ---- quarantine

    async def quarantine(
        self, name: str, *, actor: str, reason: str, receipt: str = ""
    ) -> tuple[str, bool]:
        """Keeps a version from ever going live; a live one is rolled back first.

        Returns its id, and whether it was live. A pin on it ends. `receipt` has the figures that
        decided, as JSON, where the daemon did.
        """
        async with self._registry.changing:
            entry = self._book.get(name)
            if self._book.quarantined(entry.version) is not None:
                raise PolicyStateError(f"{entry.version} is quarantined already")
            was_live = self._book.live_version(entry.scope) == entry.version
            if was_live:
                await self._registry.go_back(
                    entry.scope, actor=actor, reason=f"quarantine: {reason}", receipt=receipt
                )
            change = _change(Change.KIND_QUARANTINE, entry, actor, reason)
            change.receipt_json = receipt
            await self._registry.write(change)
            _log.warning("quarantined %s by %s: %s", entry.version, actor, reason)
            return entry.version, was_live

    async def release(self, name: str, *, actor: str, reason: str) -> str:
        """Ends a quarantine; the version does not go live by that."""
        async with self._registry.changing:
            entry = self._book.get(name)
            if self._book.quarantined(entry.version) is None:
                raise PolicyStateError(f"{entry.version} is not quarantined")
            await self._registry.write(_change(Change.KIND_RELEASE, entry, actor, reason))
            return entry.version

    # ---- bundles

    async def export(self, name: str) -> bytes:
        """The signed bundle of a version."""
        entry = self._book.get(name)
        data = await asyncio.to_thread(self._registry.read, entry.sha256)
        return await asyncio.to_thread(
            pack,
            data,
            entry,
            features=self._features,
            public=self._signer.public,
            sign=self._signer.sign,
        )

    async def take(
        self, data: bytes, trusted: Iterable[bytes], *, agent: str, actor: str, reason: str
    ) -> str:
        """Registers a bundle's policy as a candidate under a number of its own; returns that."""
        keys = tuple(trusted) or (self._signer.public,)
        bundle = await asyncio.to_thread(unpack, data, keys)
        self._require_fitting(bundle, agent)
        origin = {
            "version": bundle.snapshot.version,
            "key_id": bundle.key_id,
            "sha256": bundle.snapshot.sha256,
        }
        async with self._registry.changing:
            self._require_not_quarantined(origin["sha256"])
            fresh = self._renamed(bundle, origin)
            version = await self._registry.keep(
                fresh,
                sha256=digest(fresh),
                scope=bundle.scope,
                status="candidate",
                receipt={"imported": origin, "origin": dict(bundle.receipt)},
            )
            change = _change(Change.KIND_IMPORT, version, actor, reason)
            change.receipt_json = version.receipt_json
            await self._registry.write(change)
            return version.version

    def _require_fitting(self, bundle: Bundle, agent: str) -> None:
        if agent and bundle.scope.agent != agent:
            raise BundleError(
                f"expected a policy of agent {agent!r}, the bundle is of {bundle.scope.agent!r}"
            )
        if bundle.features != self._features:
            raise BundleError(
                "the policy reads another installation's features: words are hashed with the key "
                "in feature.key. Installations that exchange policies share that file from their "
                "first start on"
            )

    def _require_not_quarantined(self, sha256: str) -> None:
        for version in self._book.versions():
            if self._book.quarantined(version.version) is None:
                continue
            if sha256 in (version.sha256, _origin_of(version)):
                raise PolicyStateError(
                    f"this policy is {version.version} here, which is quarantined; release it first"
                )

    def _renamed(self, bundle: Bundle, origin: dict[str, str]) -> bytes:
        manifest = dict(bundle.snapshot.manifest)
        lineage = manifest["lineage"] if isinstance(manifest["lineage"], dict) else {}
        return dump(
            bundle.snapshot.parameters,
            {
                **manifest,
                "version": self._book.next_version(),
                "parent": "",
                "created_unix_nano": self._clock.now_ns(),
                "lineage": {**lineage, "origin": origin},
            },
        )

    # ---- pruning

    async def prune(
        self, *, keep: int, agent: str, best: Collection[str], dry_run: bool, actor: str
    ) -> list[policy_pb2.PolicyVersion]:
        """Deletes files of versions that are done with, and says which.

        Never that of one that is live, comes next in a rollback, has an alias, is the parent or
        the gate's best of a live one, an arm of a running experiment, or is among `best`; nor the
        newest `keep` of the others of each scope.
        """
        async with self._registry.changing:
            going = self._prunable(keep, agent, best)
            for version in [] if dry_run else going:
                reason = f"{version.size} bytes"
                await self._registry.write(_change(Change.KIND_PRUNE, version, actor, reason))
                with contextlib.suppress(OSError):  # the next start tries again
                    self._registry.path(version.version).unlink(missing_ok=True)
            return going

    def _prunable(
        self, keep: int, agent: str, best: Collection[str]
    ) -> list[policy_pb2.PolicyVersion]:
        live = self._book.live()
        needed = {v.parent for v in live} | {self._book.best_version(v.scope) for v in live}
        needed.update(self._book.in_use())
        by_scope: dict[ScopeKey, list[policy_pb2.PolicyVersion]] = {}
        for version in reversed(self._book.versions(agent)):
            if (
                version.status in _DONE
                and not version.aliases
                and version.version not in best
                and version.version not in needed
                and not self._book.is_pruned(version.version)
            ):
                by_scope.setdefault(scope_key(version.scope), []).append(version)
        return [version for found in by_scope.values() for version in found[keep:]]


def _origin_of(version: policy_pb2.PolicyVersion) -> str:
    """The sha256 of the file that a version was imported from; empty if it was not."""
    lineage = json.loads(version.manifest_json or "{}").get("lineage")
    origin = lineage.get("origin") if isinstance(lineage, dict) else None
    return str(origin.get("sha256", "")) if isinstance(origin, dict) else ""


def _change(
    kind: Change.Kind, version: policy_pb2.PolicyVersion, actor: str, reason: str
) -> Change:
    return Change(
        kind=kind, scope=version.scope, version=version.version, actor=actor, reason=reason
    )
