"""Which versions exist and which one is live per scope: a fold over the log's facts.

promote   v becomes live, what was live is retired
rollback  the version that was live before becomes live again, or none
pin       v becomes live and stays: nothing is promoted until unpin
quarantine, prune   v can go live no more: until it is released, for good

Versions are also known by aliases: live, previous and canary, and those that users give.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from agentgym.proto.v1 import common_pb2, log_pb2, policy_pb2
from agentgym_daemon.errors import InvalidRequestError, NotFoundError, PolicyStateError
from agentgym_daemon.store.facts import LIVE_KINDS

Change = log_pb2.PolicyChange
ScopeKey = tuple[str, str, int]
_VERSION = re.compile(r"p-(\d{6,})")
_ALIAS = re.compile(r"[a-z][a-z0-9._-]{0,63}")
LIVE, PREVIOUS, CANARY = "live", "previous", "canary"
COMPUTED = (LIVE, PREVIOUS, CANARY)
"""Aliases that follow from what happens; nobody can give them."""


def scope_key(scope: common_pb2.Scope) -> ScopeKey:
    """A scope as a value that can be compared and hashed."""
    return scope.agent, scope.agent_name, scope.feature_schema


def scope_of(key: ScopeKey) -> common_pb2.Scope:
    """The scope behind a key."""
    return common_pb2.Scope(agent=key[0], agent_name=key[1], feature_schema=key[2])


@dataclass(slots=True)
class _Live:
    stack: list[str] = field(default_factory=list)  # versions ever live and not rolled back
    ever: list[str] = field(default_factory=list)
    pinned: bool = False
    aliases: dict[str, str] = field(default_factory=dict)  # given by users


class Book:
    """The state of all policies; changed only by facts that are in the log."""

    def __init__(self) -> None:
        self._versions: dict[str, policy_pb2.PolicyVersion] = {}
        self._live: dict[ScopeKey, _Live] = {}
        self._notes: dict[str, str] = {}
        self._quarantined: dict[str, str] = {}  # with the reason
        self._pruned: set[str] = set()
        self._last = 0
        self.at_canary: Callable[[str], bool] = lambda _agent: False
        """Whether an agent's stage is canary: the ladder knows."""
        self.in_use: Callable[[], Collection[str]] = tuple
        """Versions that running experiments need: these know."""

    def add(self, version: policy_pb2.PolicyVersion) -> None:
        """Takes in a new version."""
        copy = policy_pb2.PolicyVersion()
        copy.CopyFrom(version)
        self._versions[version.version] = copy
        if match := _VERSION.fullmatch(version.version):
            self._last = max(self._last, int(match[1]))

    def change(self, change: Change) -> None:
        """Takes in what happened to a version."""
        if change.kind not in LIVE_KINDS:
            self._describe(change)
            return
        live = self._live.setdefault(scope_key(change.scope), _Live())
        if change.kind == Change.KIND_UNPIN:
            live.pinned = False
        elif change.kind == Change.KIND_ROLLBACK:
            while live.stack and live.stack[-1] != change.version:
                live.stack.pop()
            live.pinned = False
        elif not live.stack or live.stack[-1] != change.version:
            live.stack.append(change.version)
            if change.version not in live.ever:
                live.ever.append(change.version)
        if change.kind == Change.KIND_PIN:
            live.pinned = True

    def _describe(self, change: Change) -> None:
        match change.kind:
            case Change.KIND_NOTE:
                self._notes[change.version] = change.reason
            case Change.KIND_QUARANTINE:
                self._quarantined[change.version] = change.reason
            case Change.KIND_RELEASE:
                self._quarantined.pop(change.version, None)
            case Change.KIND_PRUNE:
                self._pruned.add(change.version)
            case Change.KIND_ALIAS:
                aliases = self._live.setdefault(scope_key(change.scope), _Live()).aliases
                if change.version:
                    aliases[change.alias] = change.version
                else:
                    aliases.pop(change.alias, None)

    def next_version(self) -> str:
        """An id that no version ever had."""
        return f"p-{self._last + 1:06d}"

    def get(self, name: str) -> policy_pb2.PolicyVersion:
        """A version, by its id or an alias, with its present status.

        Raises NotFoundError naming those that exist, PolicyStateError for an ambiguous alias.
        """
        return self._stamped(self._versions[self.find(name)])

    def find(self, name: str) -> str:
        """The id of a version, from itself, ALIAS or AGENT/ALIAS."""
        if name in self._versions:
            return name
        agent, _, alias = name.rpartition("/")
        scopes = {scope_key(version.scope) for version in self._versions.values()}
        meant = {
            key: version
            for key in scopes
            if key[0] == agent or not agent
            if (version := self.aliases(key).get(alias, ""))
        }
        if not meant:
            names = sorted(self._versions)
            have = f"the registry has {names[0]}..{names[-1]}" if names else "the registry is empty"
            raise NotFoundError(f"unknown policy version {name!r}; {have}")
        if len(set(meant.values())) > 1:
            several = ", ".join(f"{key[0]}/{alias} = {v}" for key, v in sorted(meant.items()))
            raise PolicyStateError(f"{name!r} means several versions, name one: {several}")
        return next(iter(meant.values()))

    def aliases(self, key: ScopeKey) -> dict[str, str]:
        """What every alias of a scope means now."""
        live = self._live.get(key)
        if live is None:
            return {}
        computed = {LIVE: self.live_version(scope_of(key))}
        computed[PREVIOUS] = self.previous_version(scope_of(key))
        computed[CANARY] = computed[LIVE] if self.at_canary(key[0]) else ""
        return {
            **live.aliases,
            **{alias: version for alias, version in computed.items() if version},
        }

    def quarantined(self, version: str) -> str | None:
        """Why a version may not go live; None if it may, as far as this goes."""
        return self._quarantined.get(version)

    def is_pruned(self, version: str) -> bool:
        """Whether the file of a version was deleted."""
        return version in self._pruned

    def pruned(self) -> set[str]:
        """The versions whose files were deleted."""
        return set(self._pruned)

    def versions(self, agent: str = "") -> list[policy_pb2.PolicyVersion]:
        """All versions of an agent (or of all), oldest first."""
        return [
            self._stamped(self._versions[name])
            for name in sorted(self._versions)
            if not agent or self._versions[name].scope.agent == agent
        ]

    def live(self, agent: str = "") -> list[policy_pb2.PolicyVersion]:
        """The live versions of an agent (or of all), one per scope that has one."""
        tops = (live.stack[-1] for live in self._live.values() if live.stack)
        versions = (self.get(version) for version in tops if version in self._versions)
        return [version for version in versions if not agent or version.scope.agent == agent]

    def live_version(self, scope: common_pb2.Scope) -> str:
        """The live version of one scope; empty if there is none."""
        live = self._live.get(scope_key(scope))
        return live.stack[-1] if live and live.stack else ""

    def previous_version(self, scope: common_pb2.Scope) -> str:
        """The version to which a rollback goes; empty if it goes to none."""
        live = self._live.get(scope_key(scope))
        below = live.stack[:-1] if live else []
        return next((v for v in reversed(below) if self._may_go_live(v)), "")

    def best_version(self, scope: common_pb2.Scope) -> str:
        """The best version so far, by the receipt of the live one; empty if none is live.

        A version that was imported, or promoted without a gate, is its own best.
        """
        live = self.live_version(scope)
        if live not in self._versions:
            return live
        receipt = json.loads(self._versions[live].receipt_json or "{}")
        best = receipt.get("best") if isinstance(receipt, dict) else None
        return str(best or live)

    def ever_live(self, scope: common_pb2.Scope) -> tuple[str, ...]:
        """All versions that were ever live in a scope, oldest first."""
        live = self._live.get(scope_key(scope))
        return tuple(live.ever) if live else ()

    def is_pinned(self, scope: common_pb2.Scope) -> bool:
        """Whether nothing may be promoted in a scope."""
        live = self._live.get(scope_key(scope))
        return live is not None and live.pinned

    def _may_go_live(self, version: str) -> bool:
        return version not in self._quarantined and version not in self._pruned

    def resolve(self, scope: common_pb2.Scope) -> common_pb2.Scope:
        """The full scope that a partly named one stands for: its agent may have just one."""
        known = {scope_key(version.scope) for version in self._versions.values()}
        fitting = sorted(key for key in known if key[0] == scope.agent)
        if scope.agent_name:
            fitting = [key for key in fitting if key[1] == scope.agent_name]
        if scope.feature_schema:
            fitting = [key for key in fitting if key[2] == scope.feature_schema]
        if not fitting:
            agents = sorted({key[0] for key in known})
            raise NotFoundError(
                f"no policy of agent {scope.agent!r}; agents with policies: {agents}"
            )
        if len(fitting) > 1:
            names = [f"{name} (schema {schema})" for _, name, schema in fitting]
            raise PolicyStateError(f"agent {scope.agent!r} has several scopes, name one: {names}")
        return scope_of(fitting[0])

    def _stamped(self, version: policy_pb2.PolicyVersion) -> policy_pb2.PolicyVersion:
        copy = policy_pb2.PolicyVersion()
        copy.CopyFrom(version)
        live = self._live.get(scope_key(version.scope))
        if live is not None and live.stack and live.stack[-1] == version.version:
            copy.status, copy.pinned = "live", live.pinned
        elif live is not None and version.version in live.ever:
            copy.status = "retired"
        if version.version in self._quarantined:
            copy.status = "quarantined"
        if version.version in self._pruned:
            copy.size = 0
        names = self.aliases(scope_key(version.scope))
        copy.aliases.extend(sorted(a for a, meant in names.items() if meant == version.version))
        copy.note = self._notes.get(version.version, "")
        return copy


def check_alias(alias: str) -> None:
    """Raises InvalidRequestError for a name that cannot be an alias."""
    if not _ALIAS.fullmatch(alias) or _VERSION.fullmatch(alias) or alias in COMPUTED:
        raise InvalidRequestError(
            "alias: expected a small letter, then small letters, digits, '.', '_' or '-', at most "
            f"64 in all, and none of {', '.join(COMPUTED)} or a version; got {alias[:80]!r}"
        )
