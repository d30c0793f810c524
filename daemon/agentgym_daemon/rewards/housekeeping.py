"""What time brings about, as facts: idle trajectories close, default rewards are given.

An incomplete trajectory never gets a default reward: why it ended says nothing about its quality.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from agentgym.proto.v1 import log_pb2, reward_pb2
from agentgym_daemon.clock import Clock, Timeline
from agentgym_daemon.rewards import facts
from agentgym_daemon.rewards.resolve import Append

_log = logging.getLogger(__name__)

IDLE = "idle"
DEFAULT = "default"


class Pending(Protocol):
    """What has to be known of the store; called off the event loop."""

    def idle_since(self, before_ns: int) -> Sequence[bytes]:
        """Open trajectories of which nothing arrived after `before_ns`."""

    def unrewarded_since(self, before_ns: int) -> Sequence[bytes]:
        """Closed trajectories without any reward that closed before `before_ns`."""


class Housekeeping:
    """Looks for what is overdue each time it is asked to; used on the event loop."""

    def __init__(
        self,
        pending: Pending,
        *,
        append: Append,
        clock: Clock,
        idle_ttl_s: float,
        default_reward: float | None,
        default_reward_after_s: float,
    ) -> None:
        self._pending = pending
        self._append = append
        self._clock = clock
        self._timeline = Timeline(clock)
        self._started = clock.monotonic()
        self.configure(
            idle_ttl_s=idle_ttl_s,
            default_reward=default_reward,
            default_reward_after_s=default_reward_after_s,
        )

    def configure(
        self, *, idle_ttl_s: float, default_reward: float | None, default_reward_after_s: float
    ) -> None:
        """Takes up new settings; they hold from the next look."""
        self._idle_ttl_s = idle_ttl_s
        self._default_reward = default_reward
        self._default_after_s = default_reward_after_s

    async def close_idle(self) -> int:
        """Closes trajectories of which nothing came for too long; returns how many."""
        # A clock that is set forward by hours must not end every run that is under way.
        before_ns = self._timeline.ago(self._idle_ttl_s)
        # Agents that could not send while the daemon was down get the full time after its start.
        if self._clock.monotonic() - self._started < self._idle_ttl_s:
            return 0
        overdue = await asyncio.to_thread(self._pending.idle_since, before_ns)
        await asyncio.gather(
            *(
                self._append(log_pb2.LogRecord(closure=_closure(trajectory_id)))
                for trajectory_id in overdue
            )
        )
        if overdue:
            _log.info("closed %d idle trajectories", len(overdue))
        return len(overdue)

    async def give_defaults(self) -> int:
        """Gives the default reward where none came in time, if one is set; returns how many."""
        if self._default_reward is None:
            return 0
        now = self._clock.now_ns()
        overdue = await asyncio.to_thread(
            self._pending.unrewarded_since, self._timeline.ago(self._default_after_s)
        )
        reward = reward_pb2.Reward(
            value=self._default_reward, source=DEFAULT, reason="no reward came in time"
        )
        await asyncio.gather(
            *(
                self._append(log_pb2.LogRecord(reward=_default_fact(reward, trajectory_id, now)))
                for trajectory_id in overdue
            )
        )
        if overdue:
            _log.info(
                "gave %d trajectories the default reward %g", len(overdue), self._default_reward
            )
        return len(overdue)


def _default_fact(
    reward: reward_pb2.Reward, trajectory_id: bytes, now_ns: int
) -> log_pb2.RewardFact:
    reward_id = facts.reward_id(trajectory_id, DEFAULT)
    return facts.fact(reward, trajectory_id, reward_id=reward_id, key=reward_id, now_ns=now_ns)


def _closure(trajectory_id: bytes) -> log_pb2.Closure:
    return log_pb2.Closure(trajectory_id=trajectory_id, reason=IDLE)
