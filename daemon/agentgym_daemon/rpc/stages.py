"""The part of PolicyService that moves agents on the ladder, and stops and revives them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from agentgym.proto.v1 import common_pb2, policy_pb2, policy_pb2_grpc
from agentgym_daemon.errors import NotFoundError, PolicyStateError, StorageError
from agentgym_daemon.policies.ladder import Climb, Ladder, Move, StepEvidence
from agentgym_daemon.rpc.actor import actor_of
from agentgym_daemon.rpc.status import Context, unary
from agentgym_daemon.store.database import Store
from agentgym_daemon.store.training import agents_seen


class Stages:
    """The ladder with the agents that were ever heard of."""

    def __init__(
        self,
        climb: Climb,
        store: Store,
        *,
        present: Callable[[], Iterable[str]],
        evidence: Callable[[str], StepEvidence],
    ) -> None:
        self.climb = climb
        self._store = store
        self._evidence = evidence  # may take seconds
        self._present = present  # agents that are connected, or have a policy

    @property
    def ladder(self) -> Ladder:
        """Where everybody stands."""
        return self.climb.ladder

    async def evidence(self, agent: str, move: Move) -> StepEvidence | None:
        """What speaks for a step from the canary stage to live; None for any other one."""
        before, after = self.ladder.rung(agent), self.ladder.target(agent, move)
        if (before.name, after.name) != ("canary", "live"):
            return None
        return await asyncio.to_thread(self._evidence, agent)

    async def seen(self) -> set[str]:
        """Agents that were ever heard of: by decisions, or those that are here now."""
        return await asyncio.to_thread(self.stored) | self.here()

    def here(self) -> set[str]:
        """Agents that are connected, have a policy, or have a place on the ladder."""
        return {*self._present(), *self.ladder.agents()}

    def stored(self) -> set[str]:
        """Agents with decisions in the database."""
        try:
            with self._store.reading() as cursor:
                return agents_seen(cursor)
        except StorageError:  # the database is being opened again; a kill cannot wait for it
            return set()

    def response(
        self, before: common_pb2.AgentStage, agent: str, seen: set[str]
    ) -> policy_pb2.StageResponse:
        """Where an agent stands now, and where it stood."""
        return policy_pb2.StageResponse(
            now=self.ladder.status(agent),
            before=before,
            seen=not agent or agent in seen,
            killed=self.ladder.killed,
            all_killed=self.ladder.all_killed,
        )


class StageVerbs(policy_pb2_grpc.PolicyServiceServicer):
    """SetStage, ListStages and Kill; PolicyService is made of it."""

    _stages: Stages

    @unary
    async def SetStage(
        self, request: policy_pb2.SetStageRequest, context: Context
    ) -> policy_pb2.StageResponse:
        """Puts an agent on a rung, or one rung up or down."""
        agent, stages = request.agent, self._stages
        seen = await stages.seen()
        if agent and agent not in seen and not request.unseen:
            raise NotFoundError(
                f"unknown agent {agent!r}; known are: {sorted(seen)}. "
                "--new sets the stage of one that is still to come"
            )
        before = stages.ladder.status(agent)
        move = Move(stage=request.stage, step=request.step, share=request.canary_share)
        found = await stages.evidence(agent, move)
        if request.if_proven and (found is None or not found.proven):
            why = found.text if found else "only a step from canary to live can be"
            raise PolicyStateError(
                f"{agent!r} stays at {stages.ladder.rung(agent)}: not proven, {why}"
            )
        await stages.climb.move(
            agent,
            move,
            actor=actor_of(context),
            reason=request.reason,
            receipt=found.receipt if found else "",
        )
        reply = stages.response(before, agent, seen)
        if found is not None:
            reply.evidence, reply.proven = found.text, found.proven
        return reply

    @unary
    async def ListStages(
        self, request: policy_pb2.ListStagesRequest, context: Context
    ) -> policy_pb2.ListStagesResponse:
        """Where one agent stands, or everyone that was ever heard of."""
        stages = self._stages
        agents = [request.agent] if request.agent else sorted(await stages.seen())
        return policy_pb2.ListStagesResponse(
            stages=[stages.ladder.status(agent) for agent in agents],
            all_killed=stages.ladder.all_killed,
        )

    @unary
    async def Kill(
        self, request: policy_pb2.KillRequest, context: Context
    ) -> policy_pb2.StageResponse:
        """Stops an agent's policies (empty: everyone's), or ends that.

        A name that was never heard is taken, and the answer says so: nothing may be in the way.
        """
        agent, stages = request.agent, self._stages
        before, here = stages.ladder.status(agent), stages.here()
        act = stages.climb.revive if request.revive else stages.climb.kill
        await act(agent, actor=actor_of(context), reason=request.reason)
        # Only now: the database may be slow.
        return stages.response(before, agent, here | await asyncio.to_thread(stages.stored))
