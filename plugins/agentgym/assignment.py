"""Which trajectories get the policy: by the rung of the agent's ladder, and by unit.

A unit (a customer, a session, a tenant) stands at a fixed point u in [0, 1) and gets the policy
while u < P(policy): a growing share takes it from nobody, in whichever process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentgym.config import Mode
from agentgym.trajectory import Assignment, Stage

if TYPE_CHECKING:
    from agentgym.policy.policy_set import PolicySet

_BITS = 53  # of a double's fraction: every point is exact, and below 1


def point_of(agent: str, unit: str) -> float:
    """Where a unit stands in [0, 1): a hash, the same in every process and after every restart."""
    import hashlib  # as a fingerprint does it: not needed by who gives no unit

    digest = hashlib.sha256(f"{agent}\0{unit}".encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> (64 - _BITS)) / (1 << _BITS)


def limited(mode: Mode, policies: PolicySet | None) -> Mode:
    """The mode as far as the stage lets it go."""
    if policies is None or policies.stage in (Stage.CANARY, Stage.LIVE):
        return mode
    if policies.stage is Stage.SHADOW and mode is not Mode.OBSERVE:
        return Mode.SHADOW
    return Mode.OBSERVE


def policy_share(
    policies: PolicySet | None, control_share: float | None, *, explore: bool
) -> float:
    """P(policy) of a unit; the user's own control share holds once the agent is live."""
    if policies is not None and policies.stage is Stage.CANARY:
        return policies.canary_share
    if not explore:
        return 1.0
    if control_share is None:
        control_share = policies.control_share if policies is not None else 0.0
    return 1.0 - control_share


def assign(mode: Mode, point: float, share: float, *, explore: bool) -> tuple[Assignment, float]:
    """The assignment of a unit at `point`, with its probability."""
    if mode is Mode.OBSERVE:
        return Assignment.NONE, 1.0
    if mode is Mode.SHADOW:
        return Assignment.SHADOW, 1.0
    if point < share:
        return (Assignment.POLICY if explore else Assignment.PINNED), share
    # As it was meant: 1 - (1 - .3) is a last bit away from .3.
    return Assignment.CONTROL, round(1.0 - share, 12)
