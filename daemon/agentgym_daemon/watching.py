"""Watches how the tools of every scope do, and says which ones agents should leave out for now.

What is down follows from the stored trajectories alone, so nothing of it is stored: a restart reads
the newest ones again.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import cast

from agentgym.proto.v1 import decision_pb2, training_pb2
from agentgym.trajectory import ArmKind
from agentgym_daemon.learning.health import Call, Health, outcomes
from agentgym_daemon.store.batch import AppliedBatch
from agentgym_daemon.store.catalogue import tools_of_scope
from agentgym_daemon.store.database import Cursor, Store
from agentgym_daemon.store.rows import MAX_BIGINT, Scope
from agentgym_daemon.store.training import ended_trajectories, recent_trajectories, scopes_of

_log = logging.getLogger(__name__)

REPLAYED = 2_000
"""Trajectories per scope that a start looks back at.

Fewer than a training replays (20,000): what broke longer ago is known from the calls since, and a
start must not take long.
"""
_REMEMBERED = 20_000


class ToolWatch:
    """The health of every scope's tools.

    What is down may be asked for by any thread at any time.
    """

    def __init__(self, store: Store, *, feature_schema: int) -> None:
        self._store = store
        self._schema = feature_schema
        self._health: dict[Scope, Health] = {}
        # Replaced as a whole, for it is read while a batch is looked at.
        self._down: Mapping[Scope, tuple[bytes, ...]] = {}
        self._seen: OrderedDict[tuple[Scope, bytes], bool] = OrderedDict()
        self._doubted: dict[Scope, int] = {}
        self._looking = threading.Lock()

    def load(self) -> None:
        """Starts from what is stored."""
        with self._looking, self._store.reading() as cursor:
            for scope in scopes_of(cursor):
                if scope.feature_schema == self._schema:
                    self._load(cursor, scope)

    def _load(self, cursor: Cursor, scope: Scope) -> None:
        names = _names(cursor, scope)
        for message in recent_trajectories(cursor, scope, REPLAYED):
            self._observe(scope, message, names)

    def believe(self, scope: Scope, until_ns: int | None) -> bool:
        """Believes a scope's rewards up to a time (None: all), and looks at its runs again.

        Of later runs only visible errors count. True if other tools are down now than before.
        """
        with self._looking:
            doubted = self._doubted.get(scope)
            # A doubt does not get younger: later looks may see its end alone.
            if doubted == until_ns or (until_ns is not None and doubted and doubted <= until_ns):
                return False
            self._doubted.pop(scope, None)
            if until_ns is not None:
                self._doubted[scope] = until_ns
            before = self._down.get(scope, ())
            self._health.pop(scope, None)
            self._down = {other: t for other, t in self._down.items() if other != scope}
            for key in [key for key in self._seen if key[0] == scope]:
                del self._seen[key]
            with self._store.reading() as cursor:
                self._load(cursor, scope)
            return self._down.get(scope, ()) != before

    def take(self, batch: AppliedBatch) -> set[str]:
        """Looks at what a batch ended or rewarded; the agents whose tools changed."""
        ids = tuple(dict.fromkeys(batch.closed + batch.rewarded))
        scopes = [s for s in sorted(batch.scopes) if s.feature_schema == self._schema]
        if not ids or not scopes:
            return set()
        changed = set()
        with self._looking, self._store.reading() as cursor:
            for scope in scopes:
                names = _names(cursor, scope)
                for message in ended_trajectories(cursor, scope, ids):
                    if self._observe(scope, message, names):
                        changed.add(scope.agent)
                        down = ", ".join(names.get(t, "?") for t in self._down[scope])
                        _log.warning("tools of %s that are down: %s", scope.agent_name, down or "-")
        return changed

    def down(self, agent: str) -> list[bytes]:
        """Fingerprints of the tools that the agent's scopes should leave out."""
        found = [tools for scope, tools in self._down.items() if scope.agent == agent]
        return sorted({tool for tools in found for tool in tools})

    def agents_down(self) -> set[str]:
        """Agents that should leave out any tool."""
        return {scope.agent for scope, tools in self._down.items() if tools}

    def names_down(self, scope: Scope) -> list[str]:
        """Names of the tools of a scope that are down."""
        down = self._down.get(scope)
        if not down:
            return []
        with self._store.reading() as cursor:
            names = _names(cursor, scope)
        return sorted(names.get(tool, "?") for tool in down)

    def _observe(
        self, scope: Scope, message: training_pb2.TrainingTrajectory, names: Mapping[bytes, str]
    ) -> bool:
        if message.closed_unix_nano >= self._doubted.get(scope, MAX_BIGINT):
            message.ClearField("reward")
        # A run counts when it ends, for its errors, and once more when its first reward tells how
        # the calls went that showed none.
        calls = list(calls_of(message, names))
        key, judged = (scope, message.trajectory_id), message.HasField("reward")
        if self._seen.get(key) is not None:
            if self._seen[key] or not judged:
                return False
            calls = [call for call in calls if not call.visible]
        if not calls:
            return False
        self._seen[key] = judged
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        health = self._health.setdefault(scope, Health())
        if not health.observe(calls, message.closed_unix_nano):
            return False
        down = tuple(sorted(cast("bytes", t) for t in health.down(len(names))))
        changed = down != self._down.get(scope, ())
        self._down = {**self._down, scope: down}
        return changed


def _names(cursor: Cursor, scope: Scope) -> dict[bytes, str]:
    return {tool.fingerprint: tool.name for tool in tools_of_scope(cursor, scope)}


def calls_of(
    message: training_pb2.TrainingTrajectory, names: Mapping[bytes, str]
) -> Iterator[Call]:
    """The calls of a stored trajectory, and how they went as far as that is known.

    As in a training, parallel calls of one tool in one step are one call.
    """
    decisions = {decision.decision_id: decision for decision in message.decisions}
    made: dict[tuple[bytes, bytes], tuple[bytes, float, bool]] = {}
    more = False
    for call in message.calls:
        decision = decisions.get(call.decision_id)
        weighed = _weighed(decision, call.tool, names) if decision else None
        if weighed is None:
            more = True
            continue
        tool, confidence = weighed
        key = (call.decision_id, tool)
        failed = call.error or (key in made and made[key][2])
        made[key] = (tool, confidence, failed)
    reward = message.reward if message.HasField("reward") else None
    return outcomes(list(made.values()), reward, more=more)


def _weighed(
    decision: decision_pb2.DecisionRecord, tool: str, names: Mapping[bytes, str]
) -> tuple[bytes, float] | None:
    """The called tool's fingerprint and the policy's estimate of it, 0 where it made none."""
    for i, fingerprint in enumerate(decision.offered):
        if names.get(fingerprint) == tool:
            scores = {
                arm.tools[0]: arm.score
                for arm in decision.support
                if int(arm.kind) == ArmKind.FORCE and arm.tools
            }
            return fingerprint, scores.get(i, 0.0)
    return None
