"""How far each agent's policies may go, and whether they are stopped: a fold over the log's facts.

observe ── shadow ── canary (a share of the units) ── live        up, down, or straight to a rung
killed: of an agent, or of all; beside the ladder, and it wins over every rung
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from agentgym.proto.v1 import common_pb2, log_pb2
from agentgym_daemon.config import STAGES, DaemonConfig
from agentgym_daemon.errors import InvalidRequestError, PolicyStateError
from agentgym_daemon.policies.book import Change

_log = logging.getLogger(__name__)

Append = Callable[[log_pb2.LogRecord], Awaitable[int]]
Stage = common_pb2.Stage

_NAMES = {int(Stage.Value(f"STAGE_{name.upper()}")): name for name in STAGES}


@dataclass(frozen=True, slots=True)
class Rung:
    """Where an agent stands; `share` is that of the canary stage, else 0."""

    name: str
    share: float = 0.0
    recorded: bool = False

    @property
    def stage(self) -> str:
        """As it is recorded and told to agents."""
        return f"STAGE_{self.name.upper()}"

    def __str__(self) -> str:
        return f"{self.name} ({self.share:g})" if self.share else self.name


@dataclass(frozen=True, slots=True)
class Move:
    """A wish: to a rung by its stage, or `step` rungs up or down; `share` 0 leaves it open."""

    stage: int = 0
    step: int = 0
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class StepEvidence:
    """What speaks for letting an agent's policies go all the way: tier 2 of the gate."""

    proven: bool
    text: str
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def receipt(self) -> str:
        """As it is recorded with the step."""
        return json.dumps({"tier": 2, "proven": self.proven, "reason": self.text, **self.figures})


class Ladder:
    """The rungs and the kills; changed only by facts that are in the log, on the event loop."""

    def __init__(self, config: DaemonConfig) -> None:
        self.config = config
        """Where agents stand of which nothing is recorded; replaced when settings change."""
        self._rungs: dict[str, Rung] = {}
        self._shares: dict[str, float] = {}
        self._killed: set[str] = set()
        self.all_killed = False

    def change(self, change: Change) -> None:
        """Takes in a step, a kill or a revival; other changes say nothing here."""
        agent = change.scope.agent
        if change.kind == Change.KIND_STAGE and change.stage in _NAMES:
            self._rungs[agent] = Rung(_NAMES[change.stage], change.canary_share, recorded=True)
            if change.canary_share:
                self._shares[agent] = change.canary_share
        elif change.kind in (Change.KIND_KILL, Change.KIND_REVIVE):
            killed = change.kind == Change.KIND_KILL
            if not agent:
                self.all_killed = killed
            elif killed:
                self._killed.add(agent)
            else:
                self._killed.discard(agent)

    def rung(self, agent: str) -> Rung:
        """Where an agent stands."""
        found = self._rungs.get(agent)
        if found is not None:
            return found
        stage = self.config.stage
        return Rung(stage, self.config.canary_share if stage == "canary" else 0.0)

    def is_killed(self, agent: str) -> bool:
        """Whether every step of an agent falls back."""
        return self.all_killed or agent in self._killed

    @property
    def killed(self) -> list[str]:
        """Agents that are killed by name."""
        return sorted(self._killed)

    def agents(self) -> set[str]:
        """Agents of which something is recorded."""
        return set(self._rungs) | self._killed

    def status(self, agent: str) -> common_pb2.AgentStage:
        """Where an agent stands, as it is told; '' means one of which nothing is recorded."""
        rung = self.rung(agent)
        return common_pb2.AgentStage(
            agent=agent,
            stage=rung.stage,
            canary_share=rung.share,
            killed=self.is_killed(agent),
            recorded=rung.recorded,
        )

    def target(self, agent: str, move: Move) -> Rung:
        """The rung that a wish means; raises InvalidRequestError or PolicyStateError."""
        before = self.rung(agent)
        name = self._name(before, move)
        if not 0.0 <= move.share < 1.0:
            raise InvalidRequestError(
                f"share: expected a number between 0 and 1, got {move.share:g}; "
                "1 is the stage live, 0 is the stage shadow"
            )
        if name != "canary" and move.share:
            raise InvalidRequestError(
                f"share: only the stage canary has one, got {move.share:g} for {name}"
            )
        share = 0.0
        if name == "canary":
            share = move.share or self._shares.get(agent) or self.config.canary_share
        wanted = Rung(name, share, recorded=True)
        if wanted == before:
            raise PolicyStateError(f"{agent!r} is at {before} already")
        return wanted

    def _name(self, before: Rung, move: Move) -> str:
        if bool(move.stage) == bool(move.step):
            raise InvalidRequestError("expected either a stage or a step up or down")
        if move.stage:
            if move.stage not in _NAMES:
                raise InvalidRequestError(
                    f"stage: expected one of {', '.join(STAGES)}, got {move.stage}"
                )
            return _NAMES[move.stage]
        if move.step not in (-1, 1):
            raise InvalidRequestError(f"step: expected 1 (up) or -1 (down), got {move.step}")
        at = STAGES.index(before.name) + move.step
        if not 0 <= at < len(STAGES):
            end = "highest" if move.step > 0 else "lowest"
            raise PolicyStateError(f"{before.name} is the {end} stage")
        return STAGES[at]


class Climb:
    """The changes of a ladder, each written to the log before it holds."""

    def __init__(self, ladder: Ladder, *, append: Append, changed: Callable[[str], None]) -> None:
        self.ladder = ladder
        self._append = append
        self._changed = changed  # called with the agent; '' means all
        self._changing = asyncio.Lock()

    def load(self, changes: Iterable[Change]) -> None:
        """Takes up what the log says."""
        for change in changes:
            self.ladder.change(change)

    async def move(
        self, agent: str, move: Move, *, actor: str, reason: str = "", receipt: str = ""
    ) -> Change:
        """Puts an agent on another rung; `receipt` is what spoke for it, as JSON."""
        if not agent:
            raise InvalidRequestError("agent: expected the name given to AgentGym(agent=...)")
        async with self._changing:
            rung = self.ladder.target(agent, move)
            change = _change(Change.KIND_STAGE, agent, actor, reason)
            change.MergeFrom(
                Change(stage=rung.stage, canary_share=rung.share, receipt_json=receipt)
            )
            return await self._commit(change)

    async def kill(self, agent: str, *, actor: str, reason: str = "") -> Change:
        """Lets every step of an agent (empty: of all) fall back, until it is revived."""
        async with self._changing:
            return await self._commit(_change(Change.KIND_KILL, agent, actor, reason))

    async def revive(self, agent: str, *, actor: str, reason: str = "") -> Change:
        """Ends a kill; that of all leaves those that were killed by name as they are."""
        async with self._changing:
            self._require_killed(agent)
            return await self._commit(_change(Change.KIND_REVIVE, agent, actor, reason))

    def _require_killed(self, agent: str) -> None:
        ladder = self.ladder
        if agent and agent not in ladder.killed:
            why = "all agents are killed; revive them without a name" if ladder.all_killed else ""
            raise PolicyStateError(f"{agent!r} is not killed by name" + (f": {why}" if why else ""))
        if not agent and not ladder.all_killed:
            named = ", ".join(ladder.killed)
            why = f"; killed by name are: {named}" if named else ""
            raise PolicyStateError(f"there is no kill of all agents{why}")

    async def _commit(self, change: Change) -> Change:
        await self._append(log_pb2.LogRecord(change=change))
        self.ladder.change(change)
        agent = change.scope.agent
        self._changed(agent)
        name = Change.Kind.Name(change.kind).removeprefix("KIND_").lower()
        to = f" to {self.ladder.rung(agent)}" if change.kind == Change.KIND_STAGE else ""
        _log.info("%s of %s%s by %s", name, agent or "all agents", to, change.actor)
        return change


def _change(kind: Change.Kind, agent: str, actor: str, reason: str) -> Change:
    scope = common_pb2.Scope(agent=agent)
    return Change(kind=kind, scope=scope, actor=actor, reason=reason)
