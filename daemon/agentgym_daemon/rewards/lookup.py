"""What rewards have to know of the store: each question on a cursor of its own."""

from __future__ import annotations

from collections.abc import Sequence

from agentgym_daemon.rewards.resolve import GivenReward, KeyMatch
from agentgym_daemon.store import rewards, trajectories
from agentgym_daemon.store.database import Store


class StoreLookup:
    """Answers from the database; used off the event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def is_known(self, trajectory_id: bytes) -> bool:
        """Whether anything of the trajectory has arrived."""
        with self._store.reading() as cursor:
            return rewards.candidate(cursor, trajectory_id) is not None

    def with_key(self, key: str, agent: str) -> Sequence[KeyMatch]:
        """Trajectories with a key (of an agent, or of any), newest first."""
        with self._store.reading() as cursor:
            return [
                KeyMatch(found.trajectory_id, found.rewarded)
                for found in rewards.candidates(cursor, key=key, agent=agent)
            ]

    def with_idempotency_key(self, key: str) -> Sequence[GivenReward]:
        """Rewards that were given under an idempotency key."""
        with self._store.reading() as cursor:
            return [_given(found) for found in rewards.rewards_by_idempotency_key(cursor, key)]

    def with_id(self, reward_id: str) -> Sequence[GivenReward]:
        """Rewards that were given under an id, one per trajectory."""
        with self._store.reading() as cursor:
            return [_given(found) for found in rewards.rewards_by_id(cursor, reward_id)]

    def idle_since(self, before_ns: int) -> Sequence[bytes]:
        """Open trajectories of which nothing arrived after `before_ns`."""
        with self._store.reading() as cursor:
            return trajectories.idle_open(cursor, before_ns=before_ns)

    def unrewarded_since(self, before_ns: int) -> Sequence[bytes]:
        """Trajectories that ended by themselves before `before_ns` and have no reward."""
        with self._store.reading() as cursor:
            return trajectories.closed_unrewarded(cursor, before_ns=before_ns)


def _given(reward: rewards.StoredReward) -> GivenReward:
    return GivenReward(reward.reward_id, reward.trajectory_id, reward.revoked)
