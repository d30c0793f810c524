"""What may be compared: an experiment as it was asked for, completed and checked."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from agentgym.proto.v1 import common_pb2
from agentgym.proto.v1.experiment_pb2 import Experiment, ExperimentArm, ExperimentGuard
from agentgym_daemon.errors import InvalidRequestError
from agentgym_daemon.experiments.lift import MIN_EFFECT
from agentgym_daemon.experiments.sequential import ALPHA

BETTER = {"success": 1, "tool_reliability": 1, "tokens": -1, "tool_calls": -1, "seconds": -1}
"""Of each metric, whether more of it is better (1) or less (-1)."""
SHARES = frozenset(("success", "tool_reliability"))
"""Metrics between 0 and 1; the others are amounts, whose effects are parts of their mean."""
MOST_ARMS = 8
LEAST_KNOWN = 20
"""Runs before the start from which an amount's mean is taken."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KINDS = frozenset(ExperimentArm.Kind.values()) - {ExperimentArm.KIND_UNSPECIFIED}
_MODES = frozenset(common_pb2.Mode.values()) - {common_pb2.MODE_UNSPECIFIED}
_ROUND = 1e-9


def completed(wanted: Experiment, known: Mapping[str, tuple[int, float]]) -> Experiment:
    """What was asked for, with defaults and scales; raises InvalidRequestError.

    `known` has of each metric how many earlier runs say something, and their mean.
    """
    _check_name("name", wanted.name)
    if not wanted.agent:
        raise InvalidRequestError("agent: expected the name given to AgentGym(agent=...)")
    if wanted.metric not in BETTER:
        raise InvalidRequestError(
            f"metric: expected one of {', '.join(BETTER)}, got {wanted.metric!r}"
        )
    effect = wanted.effect or MIN_EFFECT
    if not 0.0 < effect < 1.0:
        raise InvalidRequestError(f"effect: expected a number between 0 and 1, got {effect:g}")
    return Experiment(
        name=wanted.name,
        agent=wanted.agent,
        arms=_arms(wanted.arms),
        metric=wanted.metric,
        effect=effect,
        scale=scale(wanted.metric, known),
        guards=_guards(wanted.guards, known),
        max_runs=wanted.max_runs,
        alpha=ALPHA,
        reason=wanted.reason,
    )


def scale(metric: str, known: Mapping[str, tuple[int, float]]) -> float:
    """In what a metric's effects are given: 1 for shares, the mean of an amount; 0: not known."""
    if metric in SHARES:
        return 1.0
    n, mean = known.get(metric, (0, 0.0))
    return mean if n >= LEAST_KNOWN and mean > 0.0 else 0.0


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidRequestError(
            f"{what}: expected a letter or digit, then letters, digits, '.', '_' or '-', at most "
            f"64 in all; got {name[:80]!r}"
        )


def _arms(wanted: Iterable[ExperimentArm]) -> list[ExperimentArm]:
    arms = list(wanted)
    if not 2 <= len(arms) <= MOST_ARMS:
        raise InvalidRequestError(
            f"arms: expected 2 to {MOST_ARMS}, the reference first; got {len(arms)}"
        )
    for arm in arms:
        _check_name("arm", arm.name)
        _check_kind(arm)
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):
        raise InvalidRequestError(f"arms: expected different names, got {', '.join(names)}")
    if sum(arm.kind == ExperimentArm.KIND_NONE for arm in arms) > 1:
        raise InvalidRequestError(
            "arms: expected at most one without a policy, for the control group is a part of it"
        )
    return _shared(arms)


def _check_kind(arm: ExperimentArm) -> None:
    if arm.kind not in _KINDS:
        raise InvalidRequestError(f"arm {arm.name}: expected a kind, got {arm.kind}")
    if (arm.kind == ExperimentArm.KIND_VERSION) != bool(arm.version):
        raise InvalidRequestError(
            f"arm {arm.name}: a version belongs to the kind version, got {arm.version!r}"
        )
    if (arm.kind == ExperimentArm.KIND_MODE) != (arm.mode in _MODES):
        raise InvalidRequestError(
            f"arm {arm.name}: a mode belongs to the kind mode, got {arm.mode}"
        )


def _shared(arms: list[ExperimentArm]) -> list[ExperimentArm]:
    """Arms with their shares: those without one get equal parts of what is left."""
    for arm in arms:
        if not 0.0 <= arm.share < 1.0:
            raise InvalidRequestError(
                f"share of {arm.name}: expected a number between 0 and 1, got {arm.share:g}"
            )
    left = 1.0 - math.fsum(arm.share for arm in arms)
    without = sum(not arm.share for arm in arms)
    if left < -_ROUND or (without and left < _ROUND):
        raise InvalidRequestError(
            f"shares: expected at most 1 in all, with something left for every arm; "
            f"got {1.0 - left:g} and {without} arms without one"
        )
    shared = []
    for arm in arms:
        copy = ExperimentArm()
        copy.CopyFrom(arm)
        copy.share = arm.share or left / without
        shared.append(copy)
    return shared


def _guards(
    wanted: Iterable[ExperimentGuard], known: Mapping[str, tuple[int, float]]
) -> list[ExperimentGuard]:
    guards = []
    for guard in wanted:
        name, bound = guard.metric, guard.bound
        if name not in BETTER:
            raise InvalidRequestError(f"guard: expected one of {', '.join(BETTER)}, got {name!r}")
        if not math.isfinite(bound) or bound * BETTER[name] >= 0.0:
            sign = "below" if BETTER[name] > 0 else "above"
            raise InvalidRequestError(
                f"guard {name}: expected a bound {sign} 0, which is worse; got {bound:g}"
            )
        if guard.relative and name in SHARES:
            raise InvalidRequestError(
                f"guard {name}: expected points / 100 such as -.02, got {100 * bound:g}%"
            )
        guards.append(
            ExperimentGuard(
                metric=name, bound=bound, relative=guard.relative, scale=scale(name, known)
            )
        )
    if len({guard.metric for guard in guards}) < len(guards):
        raise InvalidRequestError("guards: expected each metric once")
    return guards
