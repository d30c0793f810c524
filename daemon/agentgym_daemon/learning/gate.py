"""The gate: what a candidate must show on stored data before it may go live (numpy).

Tier 0 is below, tier 1 in `proof`. Tier 0: the file itself (hash, layout, self-test), finite
weights, limited change on the newest steps, and a replay likelihood on trajectories that no version
was ever trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from agentgym.errors import SnapshotError
from agentgym.policy import snapshot
from agentgym.policy.parameters import Parameters, initial
from agentgym_daemon.learning import credit
from agentgym_daemon.learning.arrays import Floats, step_arrays
from agentgym_daemon.learning.checks import Check, Receipt
from agentgym_daemon.learning.churn import allowed_matrix, churn, estimates
from agentgym_daemon.learning.crossfit import Fitted
from agentgym_daemon.learning.dataset import Dataset, Trajectory
from agentgym_daemon.learning.evaluation.logged import fresh
from agentgym_daemon.learning.proof import Anchors, prove
from agentgym_daemon.learning.settings import LearningSettings

_LEAST_HELD_OUT = 10
_CERTAIN = 1e-12


def judge(
    data: bytes,
    sha256: str,
    dataset: Dataset,
    *,
    twins: tuple[Parameters, ...] = (),
    anchors: Anchors,
    settings: LearningSettings,
) -> Receipt:
    """Judges the candidate file `data` by all that the runs say of it; never raises for it."""
    incumbent = anchors.incumbent.policy if anchors.incumbent else None
    first = tier0(data, sha256, dataset, incumbent=incumbent, settings=settings)
    if not first.accepted:
        return first
    candidate = snapshot.parse(data, sha256)
    fitted = Fitted(candidate.parameters, twins)
    proof = prove(fitted, dataset, _judges(fitted, dataset, anchors, settings), anchors, settings)
    return Receipt(
        tier=proof.tier,
        accepted=all(check.passed is not False for check in proof.checks),
        checks=(*first.checks, *proof.checks),
        best=candidate.version if proof.is_best else anchors.best_version,
    )


def _judges(
    candidate: Fitted, dataset: Dataset, anchors: Anchors, settings: LearningSettings
) -> Sequence[Trajectory]:
    """The runs that can judge: all where every version has twins, else those that are held out."""
    versions = (candidate, anchors.incumbent, anchors.best)
    if all(version.twins for version in versions if version is not None):
        return dataset.trajectories
    return fresh(dataset.trajectories, held_out_in=settings.held_out_in)


def tier0(
    data: bytes,
    sha256: str,
    dataset: Dataset,
    *,
    incumbent: Parameters | None,
    settings: LearningSettings,
) -> Receipt:
    """Judges the candidate file `data`; the same for the same arguments; never raises for it."""
    try:
        candidate = snapshot.parse(data, sha256).parameters
    except SnapshotError as error:
        return Receipt(0, False, (Check("file", False, str(error), {}),))
    # `parse` verified hash, layout, finite numbers and the self-test.
    checks = (
        Check("file", True, "hash, layout, finite weights and self-test are right", {}),
        _change(candidate, dataset, incumbent, settings),
        _likelihood(candidate, dataset, incumbent, settings),
    )
    return Receipt(0, all(check.passed is not False for check in checks), checks)


def _change(
    candidate: Parameters,
    dataset: Dataset,
    incumbent: Parameters | None,
    settings: LearningSettings,
) -> Check:
    if incumbent is None:
        return Check("change", None, "skipped: there is no incumbent to differ from", {})
    steps = [step for t in dataset.trajectories for step in t.steps][-settings.recent_steps :]
    if not steps:
        return Check("change", None, "skipped: no step can be evaluated", {})
    change = churn(
        estimates(incumbent, dataset, steps),
        estimates(candidate, dataset, steps),
        allowed_matrix(steps, len(dataset.tools)),
        settings.exploration,
    )
    passed = change.within(max_changed=settings.max_changed, max_kl=settings.max_kl)
    reason = (
        f"{change.changed:.1%} of first choices changed (at most {settings.max_changed:.0%}), "
        f"mean KL {change.kl:.3f} (at most {settings.max_kl:g}) on {change.steps} steps"
    )
    return Check("change", passed, reason, asdict(change))


def _likelihood(
    candidate: Parameters,
    dataset: Dataset,
    incumbent: Parameters | None,
    settings: LearningSettings,
) -> Check:
    """Paired on held-out trajectories: not worse than before by more than one standard error."""
    rewarded = [t for t in dataset.trajectories if t.reward is not None and t.steps]
    held_out = [t for t in rewarded if t.held_out(settings.held_out_in)]
    n = len(held_out)
    if n < _LEAST_HELD_OUT:
        reason = f"skipped: {n} held-out rewarded trajectories, {_LEAST_HELD_OUT} are needed"
        return Check("likelihood", None, reason, {"trajectories": n})
    before = incumbent or initial(dataset.tools, dataset.names, dataset.features.embedding_dim)
    shares = (credit.tolerance(rewarded, settings), credit.visible_share(rewarded))
    old = replay_surprise(before, dataset, held_out, settings=settings, shares=shares)
    new = replay_surprise(candidate, dataset, held_out, settings=settings, shares=shares)
    worse = float((new - old).mean())
    error = float((new - old).std(ddof=1) / np.sqrt(n))
    reason = (
        f"held-out surprise {new.mean():.4f}, before {old.mean():.4f}: "
        f"difference {worse:+.4f}, at most one standard error ({error:.4f}) over {n} trajectories"
    )
    figures = {
        "trajectories": n,
        "candidate": float(new.mean()),
        "before": float(old.mean()),
        "difference": worse,
        "standard_error": error,
    }
    return Check("likelihood", worse <= error, reason, figures)


def replay_surprise(
    policy: Parameters,
    dataset: Dataset,
    trajectories: Sequence[Trajectory],
    *,
    settings: LearningSettings,
    shares: tuple[float, float],
) -> Floats:
    """-log P(errors, R) per rewarded trajectory (see `credit`), by the agent's own evaluation.

    `shares` are tau and v.
    """
    tolerated, visible = shares
    arrays, _, steps = step_arrays(trajectories, dataset.universe)
    right, _ = estimates(policy, dataset, steps)
    acted = np.where(arrays.action > 0, right, 1.0).prod(axis=1)
    hidden = visible * settings.quiet_evidence * (1.0 - arrays.action[:, -1])
    quiet = 1.0 - hidden * (1.0 - acted)
    known = np.array([_known(t, tolerated, settings) for t in trajectories])
    product, surprise = known.copy(), np.zeros(len(trajectories))
    ok = ~arrays.wrong
    np.multiply.at(product, arrays.trajectory[ok], (acted / np.maximum(quiet, _CERTAIN))[ok])
    np.add.at(surprise, arrays.trajectory[ok], -np.log(np.maximum(quiet, _CERTAIN))[ok])
    doubted = 1.0 - (1.0 - settings.false_error) * np.where(arrays.failed > 0, right, 0.0)
    np.add.at(surprise, arrays.trajectory, -np.log(doubted).sum(axis=1))
    rewards = np.array([t.reward or 0.0 for t in trajectories])
    return surprise + credit.surprise(product, rewards, settings)


def _known(trajectory: Trajectory, tolerated: float, settings: LearningSettings) -> float:
    errors = sum(bool(step.failed) for step in trajectory.steps)
    return float(tolerated**errors * settings.unscored_right**trajectory.unscored)
