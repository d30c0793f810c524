"""Tiers 1 and 2 of the gate: what a candidate is worth beside its anchors.

The anchors are the agent alone, known from the control group, and the best version that was ever
promoted: a candidate is held against both and not only against the incumbent, or many steps down
that are each too small to be seen would pass. Only runs on which the candidate was not trained say
what it is worth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from agentgym.trajectory import ArmKind
from agentgym_daemon.learning import crossfit, spending
from agentgym_daemon.learning.checks import Check
from agentgym_daemon.learning.crossfit import Fitted
from agentgym_daemon.learning.dataset import Dataset, Trajectory
from agentgym_daemon.learning.evaluation import estimators, targets
from agentgym_daemon.learning.evaluation.compare import Evaluation, Evidence
from agentgym_daemon.learning.evaluation.estimators import Estimate
from agentgym_daemon.learning.evaluation.logged import decided
from agentgym_daemon.learning.settings import LearningSettings

ONE_SIDED = 0.90
"""Two-sided confidence whose lower end is a one-sided bound of 95 %."""
LEAST_RUNS_PER_TOOL = 50


@dataclass(frozen=True, slots=True)
class Anchors:
    """The policies that a candidate is held against."""

    incumbent: Fitted | None = None
    best: Fitted | None = None
    best_version: str = ""


@dataclass(frozen=True, slots=True)
class Proof:
    """The tier that decided, its checks, and whether the candidate is the new best version."""

    tier: int
    checks: tuple[Check, ...]
    is_best: bool


def prove(
    candidate: Fitted,
    dataset: Dataset,
    fresh: Sequence[Trajectory],
    anchors: Anchors,
    settings: LearningSettings,
) -> Proof:
    """Judges a candidate on runs that it was not trained on; the control group's are all fresh."""
    usable, decisions = _newest(decided(fresh), settings.most_decisions)
    if decisions < settings.least_decisions:
        reason = (
            f"unproven: {decisions} decisions that it was not trained on, "
            f"{settings.least_decisions} are needed"
        )
        check = Check("value", None, reason, {"decisions": decisions})
        return Proof(0, (check,), is_best=True)
    control = [t for t in dataset.trajectories if t.control]
    evidence = Evidence([*usable, *control])
    judged = partial(
        crossfit.target, dataset=dataset, runs=usable, held_out_in=settings.held_out_in
    )
    target = judged(candidate)
    best = anchors.best or anchors.incumbent
    other = judged(best) if best else targets.alone(target)
    beside_best = evidence.difference(target, other, confidence=ONE_SIDED)
    if beside_best.identifiable or anchors.incumbent is None:
        first = _best(beside_best, anchors, settings)
    else:
        before = judged(anchors.incumbent)
        first = _incumbent(
            evidence.difference(target, before, confidence=ONE_SIDED), beside_best, anchors
        )
    checks = (
        first,
        _control(evidence.lift(target, confidence=ONE_SIDED), settings),
        _tools(evidence, target, other, dataset.names, settings),
        spending.check(
            evidence.log(target),
            evidence.log(other),
            usable,
            beside=_named(anchors),
            tolerance=settings.cost_tolerance,
            confidence=ONE_SIDED,
        ),
    )
    better = beside_best.identifiable and beside_best.estimates["dr"].low > 0.0
    return Proof(1, checks, is_best=better or best is None)


def _newest(runs: Sequence[Trajectory], most: int) -> tuple[list[Trajectory], int]:
    """The newest runs with at most so many decisions, and how many they have."""
    kept, decisions = [], 0
    for run in reversed(runs):
        more = sum(step.gradient is not None for step in run.steps)
        if decisions + more > most:
            break
        kept.append(run)
        decisions += more
    return kept[::-1], decisions


def _best(found: Evaluation, anchors: Anchors, settings: LearningSettings) -> Check:
    if not found.identifiable:
        reason = f"not identifiable ({found.support.reason}): only a canary can tell"
        return Check("best", False, reason, _figures(found))
    estimate = found.estimates["dr"]
    passed = estimate.low >= -settings.best_margin
    reason = (
        f"{_points(estimate)} beside {_named(anchors)}, the best so far: the lower bound must be "
        f"at least {-100 * settings.best_margin:+.1f} points"
    )
    return Check("best", passed, reason, _figures(found))


def _named(anchors: Anchors) -> str:
    return anchors.best_version or "the agent alone"


def _incumbent(found: Evaluation, beside_best: Evaluation, anchors: Anchors) -> Check:
    """Where the best version is too far from what runs now: only steps up, so nothing can drift."""
    why = (
        f"{anchors.best_version}, the best so far, cannot be judged ({beside_best.support.reason})"
    )
    if not found.identifiable:
        reason = f"not identifiable ({found.support.reason}): only a canary can tell; {why}"
        return Check("best", False, reason, _figures(found))
    estimate = found.estimates["dr"]
    reason = f"{_points(estimate)} beside the incumbent: the lower bound must be above 0; {why}"
    return Check("best", estimate.low > 0.0, reason, _figures(found))


def _control(found: Evaluation, settings: LearningSettings) -> Check:
    """Fails what is below the agent alone; what cannot be told apart from it is not held back.

    A first lift takes many runs to show, and a policy that is held back until it does never learns
    from its own decisions. The watch takes over from here.
    """
    if not found.identifiable:
        return Check("control", None, f"not identifiable: {found.support.reason}", _figures(found))
    estimate = found.estimates["dr"]
    least = -settings.anchor_margin
    if estimate.low >= least:
        passed: bool | None = True
        verdict = f"the lower bound is at least {100 * least:+.1f} points"
    elif estimate.value < least:
        passed, verdict = False, f"below {100 * least:+.1f} points"
    else:
        passed, verdict = None, f"unproven: the lower bound is below {100 * least:+.1f} points"
    reason = f"{_points(estimate)} beside the agent alone: {verdict}"
    return Check("control", passed, reason, _figures(found))


def _tools(
    evidence: Evidence,
    target: targets.Target,
    other: targets.Target,
    names: Sequence[str],
    settings: LearningSettings,
) -> Check:
    """No tool's requests may get clearly worse: those whose first step would force it."""
    groups = _by_tool(evidence.runs, target)
    large = {t: runs for t, runs in groups.items() if len(runs) >= LEAST_RUNS_PER_TOOL}
    if not large:
        reason = f"skipped: no tool is first choice in {LEAST_RUNS_PER_TOOL} runs"
        return Check("tools", None, reason, {})
    # As many looks as tools: together they may fail a candidate that is as good in one of twenty.
    confidence = 1.0 - (1.0 - ONE_SIDED) / len(large)
    worst, figures = "", {}
    for tool, runs in sorted(large.items()):
        logs = evidence.log(target).part(runs), evidence.log(other).part(runs)
        terms = estimators.difference(estimators.doubly_robust, *logs)
        found = estimators.estimate(terms, confidence)
        figures[names[tool]] = found.high
        if found.high < -settings.tool_margin:
            worst = worst or f"{names[tool]}: {_points(found)}"
    reason = worst or (
        f"none of {len(large)} tools is worse by more than {100 * settings.tool_margin:.0f} points"
    )
    return Check("tools", not worst, reason, figures)


def _by_tool(runs: Iterable[Trajectory], target: targets.Target) -> dict[int, list[int]]:
    """Positions of the runs whose first step would force a tool, by its column."""
    groups: dict[int, list[int]] = {}
    for position, run in enumerate(runs):
        step = next(s for s in run.steps if s.gradient is not None)
        assert step.gradient is not None
        best = max(target(step, step.gradient), key=lambda arm: arm.probability).act
        if best.kind is ArmKind.FORCE:
            groups.setdefault(best.tools[0], []).append(position)
    return groups


def _points(estimate: Estimate) -> str:
    return (
        f"{100 * estimate.value:+.1f} points "
        f"[{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}] over {estimate.n} runs"
    )


def _figures(found: Evaluation) -> dict[str, float]:
    figures = {f"support.{name}": float(value) for name, value in asdict(found.support).items()}
    for name, estimate in found.estimates.items():
        figures |= {f"{name}.{k}": float(v) for k, v in asdict(estimate).items()}
    return figures
