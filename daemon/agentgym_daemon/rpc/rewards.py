"""RewardService: one result per reward, with the code of its own error; and what became of them."""

from __future__ import annotations

import asyncio
import logging

from agentgym.proto.v1 import reward_pb2, reward_pb2_grpc
from agentgym_daemon.errors import InvalidRequestError
from agentgym_daemon.rewards.resolve import Outcome, Rewards
from agentgym_daemon.rewards.tracing import SourceRow, Standing, Trace, Tracer
from agentgym_daemon.rpc.auth import caller
from agentgym_daemon.rpc.ingest import Count
from agentgym_daemon.rpc.status import Context, code_of, unary
from agentgym_daemon.rpc.validate import TRAJECTORY_ID_BYTES, identifier

_log = logging.getLogger(__name__)

MAX_REWARDS = 10_000


class RewardService(reward_pb2_grpc.RewardServiceServicer):
    """Takes outcomes in, and back."""

    def __init__(self, rewards: Rewards, tracer: Tracer, count: Count) -> None:
        self._rewards = rewards
        self._tracer = tracer
        self._count = count

    @unary
    async def Report(
        self, request: reward_pb2.ReportRequest, context: Context
    ) -> reward_pb2.ReportResponse:
        """Writes the rewards that can be given; the others say why not."""
        if len(request.rewards) > MAX_REWARDS:
            raise InvalidRequestError(
                f"rewards: expected at most {MAX_REWARDS} per call, got {len(request.rewards)}"
            )
        actor = _actor()
        for reward in request.rewards:
            reward.actor = actor  # whatever the caller says
        outcomes = await self._rewards.report(request.rewards)
        rejected = sum(outcome.error is not None for outcome in outcomes)
        if rejected:
            self._count("rewards_rejected", rejected)
        return reward_pb2.ReportResponse(results=[_result(outcome) for outcome in outcomes])

    @unary
    async def Revoke(
        self, request: reward_pb2.RevokeRequest, context: Context
    ) -> reward_pb2.RevokeResponse:
        """Takes a reward back."""
        trajectory_id = await self._rewards.revoke(request.reward_id, request.reason)
        return reward_pb2.RevokeResponse(trajectory_id=trajectory_id)

    @unary
    async def Show(
        self, request: reward_pb2.ShowRewardsRequest, context: Context
    ) -> reward_pb2.ShowRewardsResponse:
        """The rewards of a trajectory: which count, why, and where they were learned from."""
        trajectory_id = request.trajectory_id
        if request.reward_id:
            trajectory_id = await asyncio.to_thread(self._tracer.owner, request.reward_id)
        identifier(trajectory_id, TRAJECTORY_ID_BYTES, "trajectory_id")
        return _shown(await asyncio.to_thread(self._tracer.trace, trajectory_id), self._tracer)

    @unary
    async def Sources(
        self, request: reward_pb2.RewardSourcesRequest, context: Context
    ) -> reward_pb2.RewardSourcesResponse:
        """Who judges, and how much of the training that is."""
        rows = await asyncio.to_thread(self._tracer.sources, request.agent)
        return reward_pb2.RewardSourcesResponse(sources=[_source(row) for row in rows])


def _actor() -> str:
    token = caller()
    return f"token:{token.name}" if token is not None else ""


def _shown(trace: Trace, tracer: Tracer) -> reward_pb2.ShowRewardsResponse:
    run = trace.summary
    reply = reward_pb2.ShowRewardsResponse(
        trajectory_id=run.trajectory_id,
        agent=run.agent,
        state=run.state,
        rewards=[_standing(standing, run.trajectory_id) for standing in trace.standings],
        aggregation=tracer.aggregation,
        cost=trace.cost,
        weight=trace.weight,
        trained_in=[
            reward_pb2.TrainedIn(
                version=one.version, verdict=one.verdict, time_unix_nano=one.time_ns, part=one.part
            )
            for one in trace.trained_in
        ],
    )
    if run.reward is not None:
        reply.outcome = run.reward
    if trace.training_reward is not None:
        reply.training_reward = trace.training_reward
    return reply


def _standing(standing: Standing, trajectory_id: bytes) -> reward_pb2.ShownReward:
    given = standing.reward
    return reward_pb2.ShownReward(
        reward=reward_pb2.Reward(
            trajectory_id=trajectory_id,
            value=given.value,
            name=given.name,
            source=given.source,
            idempotency_key=given.idempotency_key,
            time_unix_nano=given.time_ns,
            reason=given.reason,
            actor=given.actor,
            provenance_json=given.provenance,
        ),
        reward_id=given.reward_id,
        received_unix_nano=given.received_ns,
        revoked=given.revoked,
        share=standing.share,
        standing=standing.words,
    )


def _source(row: SourceRow) -> reward_pb2.RewardSource:
    did, part = row.activity, row.shares
    return reward_pb2.RewardSource(
        agent=did.agent,
        source=did.source,
        rewards=did.rewards,
        revoked=did.revoked,
        mean=float("nan") if did.mean is None else did.mean,
        share_given=part.given if part else 0.0,
        share_trained=part.trained if part else 0.0,
        capped=part is not None and part.factor < 1.0,
        weight=row.weight,
        last_unix_nano=did.last_ns,
        alarms=row.alarms,
    )


def _result(outcome: Outcome) -> reward_pb2.ReportResult:
    if outcome.error is not None:
        _log.info("reward refused: %s", outcome.error)
        return reward_pb2.ReportResult(error=str(outcome.error), code=code_of(outcome.error).name)
    return reward_pb2.ReportResult(
        trajectory_ids=outcome.trajectory_ids,
        reward_id=outcome.reward_id,
        duplicate=outcome.duplicate,
    )
