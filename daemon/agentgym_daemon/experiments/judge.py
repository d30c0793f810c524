"""What the runs so far say of an experiment: pure figures, and the verdict that follows from them.

Runs of one unit are alike, so they are worth fewer than as many units: the variance of a mean is
that of its units (a ratio of two sums over units; Cochran, Sampling Techniques, 1977, section 6).
Every arm is compared with the first one, at alpha / comparisons (Bonferroni), and every guard at
alpha / (comparisons x guards). All intervals hold at all times at once, so whoever looks, or stops
because of what is seen, is wrong no more often.

running ──> guardrail      an arm is proven worse than a bound
        ──> won            an arm is proven better than the reference
        ──> lost           every arm is proven worse
        ──> no difference  every arm is decided: its interval lies within the effect, or below 0
        ──> out of runs
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

from agentgym.proto.v1.experiment_pb2 import (
    ArmComparison,
    ArmFigures,
    Experiment,
    ExperimentArm,
    ExperimentFigures,
    ExperimentGuard,
    GuardFigures,
    Verdict,
)
from agentgym_daemon.experiments.definition import BETTER, SHARES
from agentgym_daemon.experiments.lift import (
    LEAST_PER_ARM,
    Lift,
    Moments,
    Stratum,
    lift,
    runs_needed,
)
from agentgym_daemon.experiments.sequential import Boundary
from agentgym_daemon.store.arms import ExperimentSums

ANY_RUN = "tool_calls"
"""A metric of which every closed run says something."""
_WORST_VARIANCE = 0.25  # of a share
_LEAST_VARIANCE = 1e-6
Cells = Mapping[str, Mapping[float, Moments]]
"""Moments of one metric by arm and by stretch of equal probabilities."""


def judge(experiment: Experiment, sums: Sequence[ExperimentSums]) -> ExperimentFigures:
    """All figures of an experiment and its verdict."""
    cells = {metric: _cells(experiment, sums, metric) for metric in BETTER}
    comparisons = [_compare(experiment, cells, sums, arm) for arm in experiment.arms[1:]]
    runs = sum(_counted(sums, ANY_RUN, arm.name)[0] for arm in experiment.arms)
    verdict, winner = _verdict(experiment, comparisons, runs)
    figures = ExperimentFigures(
        experiment=experiment,
        arms=[_arm_figures(arm.name, sums, experiment.metric) for arm in experiment.arms],
        comparisons=comparisons,
        runs=runs,
        runs_needed=max((c.runs_needed for c in comparisons), default=0),
        verdict=verdict,
        winner=winner,
        next=next_step(experiment, winner),
    )
    figures.why = _why(experiment, figures)
    return figures


def next_step(experiment: Experiment, winner: str) -> str:
    """What a person would do about a winner; nothing does it by itself."""
    arm = next((arm for arm in experiment.arms if arm.name == winner), None)
    if arm is None:
        return ""
    agent = experiment.agent
    match arm.kind:
        case ExperimentArm.KIND_VERSION:
            return f"agentgym policy promote {arm.version}"
        case ExperimentArm.KIND_NONE:
            return f"agentgym stage {agent} shadow"
        case ExperimentArm.KIND_MODE if arm.mode <= 2:  # observe, shadow
            return f"agentgym stage {agent} {'observe' if arm.mode == 1 else 'shadow'}"
        case ExperimentArm.KIND_MODE:
            return f"AgentGym({agent!r}, mode={'advise' if arm.mode == 3 else 'steer'!r})"
        case ExperimentArm.KIND_LABEL:
            return f"make {winner} what your code does without an experiment"
    return "nothing: what is live stays"


# ---- sums


def _cells(experiment: Experiment, sums: Sequence[ExperimentSums], metric: str) -> Cells:
    """What the runs are worth: as many as would vary as little if none was like another."""
    cells: dict[str, dict[float, Moments]] = {}
    arms = {arm.name: arm for arm in experiment.arms}
    for one in sums:
        if one.metric == metric and one.arm in arms:
            stretches = cells.setdefault(one.arm, {})
            stretch = _stretch(experiment, arms[one.arm], one.share)
            stretches[stretch] = stretches.get(stretch, Moments()) + worth(one)
    return cells


def worth(sums: ExperimentSums) -> Moments:
    """The moments of as many independent runs as tell as much; none of too few units."""
    n, units = sums.n, sums.units
    whole = Moments(n, sums.total, sums.squares)
    if units is None or n == 0 or units.number == n:
        return whole
    if units.number < LEAST_PER_ARM:
        return Moments()
    mean = whole.mean
    one_run = sums.squares / n - mean**2
    spread = units.totals - 2.0 * mean * units.products + mean**2 * units.sizes
    of_mean = spread / n**2 * units.number / (units.number - 1)
    if one_run <= 0.0 or of_mean <= one_run / n:
        return whole
    effective = math.floor(one_run / of_mean)
    return Moments(effective, mean * effective, (one_run + mean**2) * effective)


def _stretch(experiment: Experiment, arm: ExperimentArm, probability: float) -> float:
    """P(policy) when a run was drawn: with an arm of none, the arms' proportions hang on it."""
    none = next((a for a in experiment.arms if a.kind == ExperimentArm.KIND_NONE), None)
    if none is None:
        return 0.0
    if arm.name == none.name:
        return round(1.0 - probability, 6)
    return round(probability * (1.0 - none.share) / arm.share, 6)


def _whole(cells: Cells, arm: str) -> Moments:
    return sum(cells.get(arm, {}).values(), Moments())


def _strata(cells: Cells, arm: str, reference: str) -> list[Stratum]:
    treated, control = cells.get(arm, {}), cells.get(reference, {})
    return [
        Stratum(treated.get(s, Moments()), control.get(s, Moments()))
        for s in sorted({*treated, *control})
    ]


# ---- one arm beside the reference


def _compare(
    experiment: Experiment,
    cells: Mapping[str, Cells],
    sums: Sequence[ExperimentSums],
    arm: ExperimentArm,
) -> ArmComparison:
    reference, own = experiment.arms[0], cells[experiment.metric]
    comparisons = len(experiment.arms) - 1
    alpha = experiment.alpha / comparisons
    unit = _unit(experiment.scale, _whole(own, reference.name))
    effect = experiment.effect * unit
    boundary = _boundary(effect, alpha)
    found = lift(_strata(own, arm.name, reference.name), boundary)
    guards = [_guarded(experiment, cells[g.metric], arm.name, g) for g in experiment.guards]
    known = found.information > 0.0
    return ArmComparison(
        arm=arm.name,
        effect=found.effect,
        low=found.low if known else math.nan,
        high=found.high if known else math.nan,
        p_value=min(1.0, comparisons * found.p_value),
        verdict=_decided(found, effect, BETTER[experiment.metric], guards),
        guards=guards,
        runs_needed=math.ceil(
            _needed(experiment, arm, found, boundary, effect)
            * _likeness(experiment, sums, arm, found)
        ),
    )


@lru_cache(maxsize=256)
def _boundary(effect: float, alpha: float) -> Boundary:
    # Found by looking, which takes milliseconds; between two looks at the runs it is the same.
    return Boundary.narrow_at(effect, alpha)


def _unit(scale: float, reference: Moments) -> float:
    """What a metric's effects are parts of; the reference's mean where nothing was known before."""
    if scale > 0.0:
        return scale
    return abs(reference.mean) if reference.n and reference.mean else 1.0


def _decided(found: Lift, effect: float, better: int, guards: Sequence[GuardFigures]) -> Verdict:
    if any(guard.broken for guard in guards):
        return Verdict.VERDICT_GUARDRAIL
    if found.decided:
        up = found.low > 0.0
        return Verdict.VERDICT_WON if up == (better > 0) else Verdict.VERDICT_LOST
    if found.low > -effect and found.high < effect:
        return Verdict.VERDICT_NO_DIFFERENCE
    return Verdict.VERDICT_RUNNING


def _guarded(
    experiment: Experiment, cells: Cells, arm: str, guard: ExperimentGuard
) -> GuardFigures:
    """Whether the arm is proven worse than the reference moved to the guard's bound."""
    reference = experiment.arms[0].name
    bound, relative = guard.bound, guard.relative
    moved = {s: _moved(m, bound, relative=relative) for s, m in cells.get(reference, {}).items()}
    alpha = experiment.alpha / ((len(experiment.arms) - 1) * len(experiment.guards))
    control = _whole(cells, reference)
    unit = _unit(guard.scale, control) if relative else 1.0
    found = lift(
        _strata({**cells, reference: moved}, arm, reference),
        _boundary(abs(bound) * unit, alpha),
    )
    beyond = found.low if bound > 0.0 else -found.high
    effect = _whole(cells, arm).mean - control.mean
    return GuardFigures(
        metric=guard.metric,
        bound=bound,
        relative=relative,
        effect=effect / control.mean if relative and control.mean else effect,
        beyond=beyond,
        broken=beyond > 0.0,
    )


def _moved(m: Moments, bound: float, *, relative: bool) -> Moments:
    """Moments of values times 1 + bound, or plus the bound."""
    if relative:
        factor = 1.0 + bound
        return Moments(m.n, m.total * factor, m.squares * factor**2)
    return Moments(m.n, m.total + m.n * bound, m.squares + 2.0 * bound * m.total + m.n * bound**2)


def _needed(
    experiment: Experiment, arm: ExperimentArm, found: Lift, boundary: Boundary, effect: float
) -> int:
    """Runs of all arms until the effect would be found in four of five cases; 0: not known."""
    variances = []
    for moments in (found.treated, found.control):
        if moments.n >= LEAST_PER_ARM:
            own = moments.squares / moments.n - moments.mean**2
            variances.append(max(_LEAST_VARIANCE, own))
        elif experiment.metric in SHARES:
            variances.append(_WORST_VARIANCE)
    if len(variances) < 2:
        return 0
    reference = experiment.arms[0].share
    pair = reference + arm.share
    both = runs_needed(
        effect, share=reference / pair, variances=(variances[0], variances[1]), boundary=boundary
    )
    return math.ceil(both / pair * math.fsum(a.share for a in experiment.arms))


def _likeness(
    experiment: Experiment, sums: Sequence[ExperimentSums], arm: ExperimentArm, found: Lift
) -> float:
    """How many runs are worth one independent run, as far as can be seen."""
    names = (arm.name, experiment.arms[0].name)
    runs = sum(_counted(sums, experiment.metric, name)[0] for name in names)
    independent = found.treated.n + found.control.n
    return runs / independent if independent else 1.0


def _arm_figures(name: str, sums: Sequence[ExperimentSums], metric: str) -> ArmFigures:
    runs, total = _counted(sums, metric, name)
    return ArmFigures(arm=name, runs=runs, mean=total / runs if runs else math.nan)


def _counted(sums: Sequence[ExperimentSums], metric: str, arm: str) -> tuple[int, float]:
    """Runs of an arm that say something of a metric, whatever they are worth, and their sum."""
    found = [one for one in sums if one.metric == metric and one.arm == arm]
    return sum(one.n for one in found), math.fsum(one.total for one in found)


# ---- the verdict


def _verdict(
    experiment: Experiment, comparisons: Sequence[ArmComparison], runs: int
) -> tuple[Verdict, str]:
    """The verdict, and the name of the arm that did better."""
    found = [one.verdict for one in comparisons]
    if Verdict.VERDICT_GUARDRAIL in found:
        return Verdict.VERDICT_GUARDRAIL, ""
    won = [one for one in comparisons if one.verdict == Verdict.VERDICT_WON]
    if won:
        return Verdict.VERDICT_WON, max(won, key=lambda one: abs(one.effect)).arm
    if all(verdict == Verdict.VERDICT_LOST for verdict in found):
        return Verdict.VERDICT_LOST, experiment.arms[0].name
    if Verdict.VERDICT_RUNNING not in found:
        return Verdict.VERDICT_NO_DIFFERENCE, ""
    if experiment.max_runs and runs >= experiment.max_runs:
        return Verdict.VERDICT_OUT_OF_RUNS, ""
    return Verdict.VERDICT_RUNNING, ""


def _why(experiment: Experiment, figures: ExperimentFigures) -> str:
    reference, metric = experiment.arms[0].name, experiment.metric.replace("_", " ")
    match figures.verdict:
        case Verdict.VERDICT_GUARDRAIL:
            return "; ".join(
                f"{one.arm} is proven worse than the bound of {guard.metric.replace('_', ' ')}"
                for one in figures.comparisons
                for guard in one.guards
                if guard.broken
            )
        case Verdict.VERDICT_WON:
            return f"{figures.winner} is proven better than {reference} in {metric}"
        case Verdict.VERDICT_LOST:
            worse = ", ".join(one.arm for one in figures.comparisons)
            return f"{worse}: proven worse than {reference} in {metric}"
        case Verdict.VERDICT_NO_DIFFERENCE:
            return f"no arm differs from {reference} by as much as the effect, or it is worse"
        case Verdict.VERDICT_OUT_OF_RUNS:
            return f"{figures.runs:,} runs, and nothing is decided"
    return "nothing is decided yet"
