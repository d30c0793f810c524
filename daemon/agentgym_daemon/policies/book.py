"""Which versions exist and which one is live per scope: a fold over the log's facts.

promote   v becomes live, what was live is retired
rollback  the version that was live before becomes live again, or none
pin       v becomes live and stays: nothing is promoted until unpin
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from agentgym.proto.v1 import common_pb2, log_pb2, policy_pb2
from agentgym_daemon.errors import NotFoundError, PolicyStateError
from agentgym_daemon.store.facts import LIVE_KINDS

Change = log_pb2.PolicyChange
ScopeKey = tuple[str, str, int]
_VERSION = re.compile(r"p-(\d{6,})")


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


class Book:
    """The state of all policies; changed only by facts that are in the log."""

    def __init__(self) -> None:
        self._versions: dict[str, policy_pb2.PolicyVersion] = {}
        self._live: dict[ScopeKey, _Live] = {}
        self._last = 0

    def add(self, version: policy_pb2.PolicyVersion) -> None:
        """Takes in a new version."""
        copy = policy_pb2.PolicyVersion()
        copy.CopyFrom(version)
        self._versions[version.version] = copy
        if match := _VERSION.fullmatch(version.version):
            self._last = max(self._last, int(match[1]))

    def change(self, change: Change) -> None:
        """Takes in a promotion, rollback, pin or unpin; others say nothing of what is live."""
        if change.kind not in LIVE_KINDS:
            return
        live = self._live.setdefault(scope_key(change.scope), _Live())
        if change.kind == Change.KIND_UNPIN:
            live.pinned = False
        elif change.kind == Change.KIND_ROLLBACK:
            while live.stack and live.stack[-1] != change.version:
                live.stack.pop()
        elif not live.stack or live.stack[-1] != change.version:
            live.stack.append(change.version)
            if change.version not in live.ever:
                live.ever.append(change.version)
        if change.kind == Change.KIND_PIN:
            live.pinned = True

    def next_version(self) -> str:
        """An id that no version ever had."""
        return f"p-{self._last + 1:06d}"

    def get(self, version: str) -> policy_pb2.PolicyVersion:
        """A version with its present status; raises NotFoundError naming those that exist."""
        known = self._versions.get(version)
        if known is None:
            names = sorted(self._versions)
            have = f"the registry has {names[0]}..{names[-1]}" if names else "the registry is empty"
            raise NotFoundError(f"unknown policy version {version!r}; {have}")
        return self._stamped(known)

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
        return live.stack[-2] if live and len(live.stack) > 1 else ""

    def ever_live(self, scope: common_pb2.Scope) -> tuple[str, ...]:
        """All versions that were ever live in a scope, oldest first."""
        live = self._live.get(scope_key(scope))
        return tuple(live.ever) if live else ()

    def is_pinned(self, scope: common_pb2.Scope) -> bool:
        """Whether nothing may be promoted in a scope."""
        live = self._live.get(scope_key(scope))
        return live is not None and live.pinned

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
        return copy
