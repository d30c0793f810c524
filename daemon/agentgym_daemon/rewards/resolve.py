"""Finds the trajectories that a reward is for, and writes each reward once.

Reports are handled one after the other, each on a database that holds everything before it, so
that "was this key seen before" has one answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from agentgym.proto.v1 import log_pb2, reward_pb2
from agentgym_daemon.clock import Clock
from agentgym_daemon.errors import AmbiguousKeyError, DaemonError, NotFoundError, StorageError
from agentgym_daemon.rewards import facts

Append = Callable[[log_pb2.LogRecord], Awaitable[int]]
"""Writes a fact to the log and returns when it is durable."""


class KeyMatch(NamedTuple):
    """A trajectory with the key that was asked for."""

    trajectory_id: bytes
    rewarded: bool


class GivenReward(NamedTuple):
    """A reward that is stored."""

    reward_id: str
    trajectory_id: bytes
    revoked: bool


class Lookup(Protocol):
    """What has to be known of the store; called off the event loop."""

    def is_known(self, trajectory_id: bytes) -> bool:
        """Whether anything of the trajectory has arrived."""

    def with_key(self, key: str, agent: str) -> Sequence[KeyMatch]:
        """Trajectories with a key (of an agent, or of any), newest first."""

    def with_idempotency_key(self, key: str) -> Sequence[GivenReward]:
        """Rewards that were given under an idempotency key."""

    def with_id(self, reward_id: str) -> Sequence[GivenReward]:
        """Rewards that were given under an id, one per trajectory."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one reported reward."""

    trajectory_ids: tuple[bytes, ...] = ()
    reward_id: str = ""
    duplicate: bool = False
    error: DaemonError | None = None


@dataclass(slots=True)
class _Batch:
    """Facts of one report, which the store does not know yet."""

    facts: list[log_pb2.RewardFact] = field(default_factory=list)

    def with_key(self, key: str) -> list[GivenReward]:
        return [
            GivenReward(fact.reward_id, fact.reward.trajectory_id, revoked=False)
            for fact in self.facts
            if fact.reward.idempotency_key == key
        ]

    def rewards(self, trajectory_id: bytes) -> bool:
        return any(fact.reward.trajectory_id == trajectory_id for fact in self.facts)


class Rewards:
    """Takes rewards in; used on the event loop."""

    def __init__(
        self,
        lookup: Lookup,
        *,
        append: Append,
        caught_up: Callable[[], Awaitable[bool]],
        clock: Clock,
    ) -> None:
        self._lookup = lookup
        self._append = append
        self._caught_up = caught_up  # waits (bounded) until the store holds all of the log
        self._clock = clock
        self._turn = asyncio.Lock()

    async def report(self, rewards: Sequence[reward_pb2.Reward]) -> list[Outcome]:
        """Writes what can be written; one outcome per reward, in order.

        Raises StorageError when nothing was written, or it is not known.
        """
        async with self._turn:
            await self._ready()
            batch = _Batch()
            outcomes = await asyncio.to_thread(self._resolve_all, rewards, batch)
            await self._write(batch.facts)
            return outcomes

    async def revoke(self, reward_id: str, reason: str) -> bytes:
        """Takes a reward back from all its trajectories and returns the first of them.

        A second time changes nothing.
        """
        async with self._turn:
            await self._ready()
            known = await asyncio.to_thread(self._lookup.with_id, reward_id)
            if not known:
                raise NotFoundError(f"no reward has id {reward_id!r}; trajectories show theirs")
            if not all(reward.revoked for reward in known):
                revocation = log_pb2.Revocation(reward_id=reward_id, reason=reason)
                await self._append(log_pb2.LogRecord(revocation=revocation))
            return known[0].trajectory_id

    async def _ready(self) -> None:
        if not await self._caught_up():
            raise StorageError(
                "the database is still behind the log, nothing was changed; try again in a moment"
            )

    async def _write(self, rewards: Iterable[log_pb2.RewardFact]) -> None:
        # At once, so that they share one fdatasync.
        await asyncio.gather(*(self._append(log_pb2.LogRecord(reward=fact)) for fact in rewards))

    def _resolve_all(self, rewards: Sequence[reward_pb2.Reward], batch: _Batch) -> list[Outcome]:
        outcomes = []
        for reward in rewards:
            try:
                outcomes.append(self._resolve(reward, batch))
            except DaemonError as error:
                outcomes.append(Outcome(error=error))
        return outcomes

    def _resolve(self, reward: reward_pb2.Reward, batch: _Batch) -> Outcome:
        facts.check(reward)
        if reward.idempotency_key and (seen := self._seen(reward.idempotency_key, batch)):
            return _duplicate(seen)
        targets = self._targets(reward, batch)
        keys = [self._free_key(reward, target, batch) for target in targets]
        if repeated := [given for _, given in keys if given]:
            return _duplicate(repeated)
        # One id for all, so that they are taken back together.
        reward_id = facts.reward_id(targets[0], keys[0][0])
        now = self._clock.now_ns()
        new = [
            facts.fact(reward, target, reward_id=reward_id, key=key, now_ns=now)
            for target, (key, _) in zip(targets, keys, strict=True)
        ]
        batch.facts.extend(new)
        return Outcome(tuple(targets), reward_id)

    def _seen(self, key: str, batch: _Batch) -> list[GivenReward]:
        return [*self._lookup.with_idempotency_key(key), *batch.with_key(key)]

    def _free_key(
        self, reward: reward_pb2.Reward, target: bytes, batch: _Batch
    ) -> tuple[str, GivenReward | None]:
        """The idempotency key to write under, and the standing reward that holds it already."""
        revoked = 0
        while True:
            key = facts.idempotency_key(reward, target, revoked=revoked)
            seen = self._seen(key, batch) if not reward.idempotency_key else []
            if not seen:
                return key, None
            if not seen[-1].revoked:
                return key, seen[-1]
            revoked += 1

    def _targets(self, reward: reward_pb2.Reward, batch: _Batch) -> list[bytes]:
        if reward.trajectory_id:
            if not self._lookup.is_known(reward.trajectory_id):
                raise NotFoundError(
                    f"no trajectory {reward.trajectory_id.hex()}; it may not have been sent yet, "
                    "try again after the run has ended"
                )
            return [reward.trajectory_id]
        matches = self._lookup.with_key(reward.key, reward.agent)
        if not matches:
            of = f" of agent {reward.agent!r}" if reward.agent else ""
            raise NotFoundError(
                f"no trajectory{of} with key {reward.key!r}; it may not have been sent yet, "
                "try again after the run has ended"
            )
        unrewarded = [
            match.trajectory_id
            for match in matches
            if not match.rewarded and not batch.rewards(match.trajectory_id)
        ]
        if len(unrewarded) > 1 and not reward.all:
            raise AmbiguousKeyError(reward.key, unrewarded)
        return unrewarded if reward.all and unrewarded else [matches[0].trajectory_id]


def _duplicate(given: Sequence[GivenReward]) -> Outcome:
    ids = tuple(dict.fromkeys(reward.trajectory_id for reward in given))
    return Outcome(ids, given[0].reward_id, duplicate=True)
