"""What rewards have to know of the store: each question on a cursor of its own."""

from __future__ import annotations

from collections.abc import Sequence

from agentgym_daemon.rewards.resolve import GivenReward, KeyMatch
from agentgym_daemon.store import rewards, trajectories
from agentgym_daemon.store.database import Store

_UNGRADED_AT_ONCE = 10_000
_LOOKS_TO_ALL = 60
"""Every so many looks for unrewarded trajectories go back to the first: a reward may have been
taken back, and a clock may have been moved. The others go on from the last that found none."""


class StoreLookup:
    """Answers from the database; used off the event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._looks = 0
        self._done_ns = 0

    def is_known(self, trajectory_id: bytes) -> bool:
        """Whether anything of the trajectory has arrived."""
        with self._store.reading() as cursor:
            numbers = self._store.indexes.of_ids(cursor, [trajectory_id])
            return rewards.candidate(cursor, trajectory_id, numbers=numbers) is not None

    def with_key(self, key: str, agent: str) -> Sequence[KeyMatch]:
        """Trajectories with a key (of an agent, or of any), newest first."""
        with self._store.reading() as cursor:
            numbers = self._store.indexes.of_key(cursor, key)
            return [
                KeyMatch(found.trajectory_id, found.rewarded)
                for found in rewards.candidates(cursor, key=key, agent=agent, numbers=numbers)
            ]

    def with_idempotency_key(self, key: str) -> Sequence[GivenReward]:
        """Rewards that were given under an idempotency key."""
        with self._store.reading() as cursor:
            numbers = self._store.indexes.of_idempotency_key(cursor, key)
            found = rewards.rewards_by_idempotency_key(cursor, key, numbers=numbers)
            return [_given(reward) for reward in found]

    def with_id(self, reward_id: str) -> Sequence[GivenReward]:
        """Rewards that were given under an id, one per trajectory."""
        with self._store.reading() as cursor:
            numbers = self._store.indexes.of_reward_ids(cursor, [reward_id])
            found = rewards.rewards_by_id(cursor, reward_id, numbers=numbers)
            return [_given(reward) for reward in found]

    def idle_since(self, before_ns: int) -> Sequence[bytes]:
        """Open trajectories of which nothing arrived after `before_ns`."""
        with self._store.reading() as cursor:
            numbers = self._store.indexes.idle(before_ns)
            if numbers == []:
                return []
            return trajectories.idle_open(cursor, before_ns=before_ns, numbers=numbers)

    def unrewarded_since(self, before_ns: int) -> Sequence[bytes]:
        """Trajectories that ended by themselves before `before_ns` and have no reward."""
        self._looks += 1
        if self._looks % _LOOKS_TO_ALL == 1:
            self._done_ns = 0
        with self._store.reading() as cursor:
            found = trajectories.closed_unrewarded(
                cursor, before_ns=before_ns, from_ns=self._done_ns
            )
        if not found:
            self._done_ns = before_ns
        return found

    def stored(self, trajectory_id: bytes) -> trajectories.StoredTrajectory | None:
        """A run with its contents."""
        with self._store.reading() as cursor:
            numbers = self._store.indexes.of_ids(cursor, [trajectory_id])
            return trajectories.trajectory(cursor, trajectory_id, numbers=numbers)

    def ungraded(self, source: str, since_ns: int) -> Sequence[bytes]:
        """Runs that ended by themselves since then and have no reward of a source."""
        with self._store.reading() as cursor:
            return rewards.ungraded(
                cursor, source=source, since_ns=since_ns, limit=_UNGRADED_AT_ONCE
            )


def _given(reward: rewards.StoredReward) -> GivenReward:
    return GivenReward(reward.reward_id, reward.trajectory_id, reward.revoked)
