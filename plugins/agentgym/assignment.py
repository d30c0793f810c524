"""Which trajectories get the policy, and which arm of an experiment: by the ladder, and by unit.

A unit (a customer, a session, a tenant) stands at a fixed point u in [0, 1) and gets the policy
while u < P(policy): a growing share takes it from nobody, in whichever process. An experiment
shares out those below P(policy) by a second point v, of the unit in this experiment alone:

    0 ............ v in [0, 1) ............ edge ........ P(policy) ........ 1     u
    |  first arm  |  second arm  |  rest  |  arm without a policy, if any     |
                                            (else: edge = P(policy), control)

So the control group stays what it is, or is a part of the arm without a policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from agentgym.config import Mode
from agentgym.trajectory import Assignment, Part, Stage, Treatment

if TYPE_CHECKING:
    from agentgym.policy.experiment import Experiment, ExperimentArm
    from agentgym.policy.policy_set import PolicySet

_BITS = 53  # of a double's fraction: every point is exact, and below 1


def point_of(agent: str, unit: str, experiment: str = "") -> float:
    """Where a unit stands in [0, 1): a hash, the same in every process and after every restart.

    In an experiment it stands elsewhere than in every other one, and than for the control group.
    """
    import hashlib  # as a fingerprint does it: not needed by who gives no unit

    text = f"{agent}\0{unit}\0{experiment}" if experiment else f"{agent}\0{unit}"
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
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


class Draw(NamedTuple):
    """What an experiment gives a unit; `edge` is P(policy) while it runs."""

    part: Part
    arm: ExperimentArm | None
    edge: float


def draw(experiment: Experiment, *, point: float, second: float, share: float) -> Draw:
    """The arm of a unit at `point`, and at `second` in this experiment; `share` is P(policy)."""
    none = experiment.none
    whole = round(1.0 - none.share, 12) if none else 1.0  # without a last bit's error
    edge = min(share, whole)
    if point >= edge:
        return _drawn(experiment, none, 1.0 - edge, edge)
    bound = 0.0
    for arm in experiment.arms:
        if arm.treatment is not Treatment.NONE:
            bound += arm.share / whole
            # Shares that are meant to be all of it may add up to a last bit less.
            if second < bound or bound > 1.0 - 1e-9:
                return _drawn(experiment, arm, edge * arm.share / whole, edge)
    return _drawn(experiment, None, 0.0, edge)


def _drawn(
    experiment: Experiment, arm: ExperimentArm | None, probability: float, edge: float
) -> Draw:
    if arm is None:
        return Draw(Part(experiment.name), None, edge)
    part = Part(experiment.name, arm.name, arm.word, round(probability, 12))
    return Draw(part, arm, edge)
