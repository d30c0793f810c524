"""RewardService: one result per reward, with the code of its own error."""

from __future__ import annotations

import logging

from agentgym.proto.v1 import reward_pb2, reward_pb2_grpc
from agentgym_daemon.errors import InvalidRequestError
from agentgym_daemon.rewards.resolve import Outcome, Rewards
from agentgym_daemon.rpc.ingest import Count
from agentgym_daemon.rpc.status import Context, code_of, unary

_log = logging.getLogger(__name__)

MAX_REWARDS = 10_000


class RewardService(reward_pb2_grpc.RewardServiceServicer):
    """Takes outcomes in, and back."""

    def __init__(self, rewards: Rewards, count: Count) -> None:
        self._rewards = rewards
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


def _result(outcome: Outcome) -> reward_pb2.ReportResult:
    if outcome.error is not None:
        _log.info("reward refused: %s", outcome.error)
        return reward_pb2.ReportResult(error=str(outcome.error), code=code_of(outcome.error).name)
    return reward_pb2.ReportResult(
        trajectory_ids=outcome.trajectory_ids,
        reward_id=outcome.reward_id,
        duplicate=outcome.duplicate,
    )
