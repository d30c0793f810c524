"""A reported reward as a fact: checked, completed, and with an id that a repetition shares."""

from __future__ import annotations

import hashlib
import json
import math

from agentgym.proto.v1 import log_pb2, reward_pb2
from agentgym_daemon.errors import InvalidRewardError

DEFAULT_NAME = "outcome"
DEFAULT_SOURCE = "user"
TRAJECTORY_ID_BYTES = 16
RESERVED_SOURCES = frozenset(("default", "evaluation", "function", "judge", "rules"))
"""Sources of rewards that nobody can report: they say how the daemon came by them."""
_MAX_TEXT = 1000
_MAX_PROVENANCE = 4000


def check(reward: reward_pb2.Reward) -> None:
    """Raises InvalidRewardError saying what was expected and what came."""
    if not math.isfinite(reward.value) or not 0.0 <= reward.value <= 1.0:
        raise InvalidRewardError(f"value: expected a finite number in [0, 1], got {reward.value}")
    size = len(reward.trajectory_id)
    if size not in (0, TRAJECTORY_ID_BYTES):
        raise InvalidRewardError(
            f"trajectory_id: expected {TRAJECTORY_ID_BYTES} bytes, got {size}; leave it empty to "
            "reward by key"
        )
    if not size and not reward.key:
        raise InvalidRewardError(
            "expected a trajectory_id or a key, got neither; set one with gym.trajectory(key=...)"
        )
    texts = (
        reward.key,
        reward.agent,
        reward.name,
        reward.source,
        reward.idempotency_key,
        reward.reason,
    )
    if max(map(len, texts)) > _MAX_TEXT:
        raise InvalidRewardError(f"expected texts of at most {_MAX_TEXT} characters")
    if reward.source in RESERVED_SOURCES:
        raise InvalidRewardError(
            f"source: {reward.source!r} is how the daemon names its own rewards; say who judged"
        )
    _check_provenance(reward.provenance_json)
    if reward.time_unix_nano > 2**63 - 1:
        raise InvalidRewardError(f"time_unix_nano: expected a time, got {reward.time_unix_nano}")


def _check_provenance(text: str) -> None:
    if not text:
        return
    try:
        value = json.loads(text) if len(text) <= _MAX_PROVENANCE else None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InvalidRewardError(
            f"provenance_json: expected a JSON object of at most {_MAX_PROVENANCE} characters, "
            f"got {text[:80]!r}"
        )


def idempotency_key(reward: reward_pb2.Reward, trajectory_id: bytes, *, revoked: int = 0) -> str:
    """The key by which a repetition is known; a revoked reward may be given again."""
    if reward.idempotency_key:
        return reward.idempotency_key
    again = f"|{revoked}" if revoked else ""
    name, source = reward.name or DEFAULT_NAME, reward.source or DEFAULT_SOURCE
    return _digest(f"{trajectory_id.hex()}|{name}|{source}|{reward.value!r}{again}")


def reward_id(trajectory_id: bytes, key: str) -> str:
    """The id of the reward given to a trajectory under a key."""
    return f"r-{_digest(f'{trajectory_id.hex()}|{key}')}"


def fact(
    reward: reward_pb2.Reward, trajectory_id: bytes, *, reward_id: str, key: str, now_ns: int
) -> log_pb2.RewardFact:
    """The complete fact of one reward for one trajectory."""
    complete = reward_pb2.Reward()
    complete.CopyFrom(reward)
    complete.trajectory_id = trajectory_id
    complete.name = reward.name or DEFAULT_NAME
    complete.source = reward.source or DEFAULT_SOURCE
    complete.idempotency_key = key
    complete.time_unix_nano = reward.time_unix_nano or now_ns
    return log_pb2.RewardFact(reward_id=reward_id, reward=complete)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:24]
