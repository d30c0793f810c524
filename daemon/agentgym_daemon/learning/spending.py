"""The gate's look at cost: what a run would cost under the candidate, beside the best version.

Rewards say nothing of it unless cost weights are set, and a policy that asks three tools where one
would do is as reliable as before. The estimates are those of the value, with a run's cost in the
place of its reward. Only what is clearly dearer fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from agentgym_daemon.learning.arrays import Floats
from agentgym_daemon.learning.checks import Check
from agentgym_daemon.learning.dataset import Trajectory
from agentgym_daemon.learning.evaluation import estimators
from agentgym_daemon.learning.evaluation.compare import support_of
from agentgym_daemon.learning.evaluation.estimators import Terms
from agentgym_daemon.learning.evaluation.logged import Log


def check(
    one: Log,
    other: Log,
    usable: Sequence[Trajectory],
    *,
    beside: str,
    tolerance: float,
    confidence: float,
) -> Check:
    """Fails a candidate whose runs are dearer than the other's by more than the tolerance.

    Both logs are of the `usable` runs. `tolerance` is a share of the other's cost; the lower end
    of the interval decides.
    """
    unit, amounts = cost_of(usable)
    if not unit:
        return Check("cost", None, "skipped: it is not known what every run cost", {})
    lacking = next((s.reason for s in map(support_of, (one, other)) if s.reason), "")
    if lacking:
        return Check("cost", None, f"not identifiable: {lacking}", {})
    most = float(amounts.max())
    mine, theirs = (
        estimators.doubly_robust(replace(log, reward=amounts / most)) for log in (one, other)
    )
    base = float(theirs.value.mean())
    if base <= 0.0:
        return Check("cost", None, f"not identifiable: {beside} would cost nothing", {})
    found = estimators.estimate(relative(mine, theirs), confidence)
    passed = found.low <= tolerance
    reason = (
        f"{found.value:+.0%} {unit} per run [{found.low:+.0%}, {found.high:+.0%}] beside {beside}: "
        + ("not clearly" if passed else "clearly")
        + f" dearer by more than {tolerance:.0%}"
    )
    figures = {
        f"{unit}_per_run": most * float(mine.value.mean()),
        f"{unit}_per_run_of_best": most * base,
        "dearer": found.value,
        "dearer_low": found.low,
        "dearer_high": found.high,
        "tolerance": tolerance,
        "runs": float(found.n),
    }
    return Check("cost", passed, reason, figures)


def cost_of(runs: Sequence[Trajectory]) -> tuple[str, Floats]:
    """What each run cost, in tokens, or else in tool calls; no unit where some run's is unknown."""
    tokens = np.array([t.tokens for t in runs], np.float64)
    if len(runs) and tokens.min() > 0:
        return "tokens", tokens
    calls = np.array([t.calls for t in runs], np.float64)
    return ("calls" if calls.sum() > 0 else ""), calls


def relative(mine: Terms, theirs: Terms) -> Terms:
    """Terms of mean(mine) / mean(theirs) - 1, linearised (delta method)."""
    base = float(theirs.value.mean())
    ratio = float(mine.value.mean()) / base

    def part(one: Floats, other: Floats) -> Floats:
        out: Floats = ratio - 1.0 + (one - ratio * other) / base
        return out

    return Terms(
        part(mine.low, theirs.high),
        part(mine.value, theirs.value),
        part(mine.high, theirs.low),
    )
