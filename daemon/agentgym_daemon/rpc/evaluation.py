"""EvaluationService: what a version would have been worth, and what policies are worth live."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from agentgym.policy.parameters import Parameters
from agentgym.proto.v1 import evaluation_pb2, evaluation_pb2_grpc, policy_pb2
from agentgym_daemon.errors import InvalidRequestError, NotFoundError
from agentgym_daemon.experiments.lift import (
    MIN_EFFECT,
    Lift,
    Moments,
    Stratum,
    lift,
    runs_needed,
)
from agentgym_daemon.experiments.sequential import Boundary
from agentgym_daemon.learning.evaluation import targets
from agentgym_daemon.learning.evaluation.compare import Evaluation, Evidence
from agentgym_daemon.learning.evaluation.estimators import Estimate
from agentgym_daemon.learning.evaluation.logged import fresh
from agentgym_daemon.policies.book import scope_key
from agentgym_daemon.policies.ladder import StepEvidence
from agentgym_daemon.policies.registry import Registry
from agentgym_daemon.rpc.status import Context, unary
from agentgym_daemon.rpc.stored import Sources
from agentgym_daemon.store.arms import METRICS, ArmSums, arm_sums
from agentgym_daemon.store.rows import MAX_BIGINT

BASELINE = "baseline"
_TRAJECTORIES, _MOST_TRAJECTORIES = 5_000, 20_000
_SUCCESS = "success"
_LEAST_RUNS, _LEAST_MATCHED = 1_000, 30


class EvaluationService(evaluation_pb2_grpc.EvaluationServiceServicer):
    """Compares; changes nothing."""

    def __init__(
        self, registry: Registry, sources: Sources, *, held_out_in: Callable[[], int]
    ) -> None:
        self._registry = registry
        self._sources = sources
        self._held_out_in = held_out_in
        self._one_at_a_time = asyncio.Lock()  # an evaluation takes seconds of a core

    @unary
    async def Evaluate(
        self, request: evaluation_pb2.EvaluateRequest, context: Context
    ) -> evaluation_pb2.EvaluateResponse:
        """Off-policy estimates from the stored runs."""
        version = self._registry.book.get(request.version)
        other = None
        if request.against not in ("", BASELINE):
            other = self._registry.book.get(request.against)
            if scope_key(other.scope) != scope_key(version.scope):
                raise InvalidRequestError(
                    f"against: expected a version of {scope_key(version.scope)}, "
                    f"got {other.version} of {scope_key(other.scope)}"
                )
        limit = request.trajectories or _TRAJECTORIES
        if limit > _MOST_TRAJECTORIES:
            raise InvalidRequestError(
                f"trajectories: expected at most {_MOST_TRAJECTORIES}, got {limit}"
            )
        self._sources.require_schema(version)
        async with self._one_at_a_time:
            return await asyncio.to_thread(self._evaluate, version, other, limit)

    def _evaluate(
        self, version: policy_pb2.PolicyVersion, other: policy_pb2.PolicyVersion | None, limit: int
    ) -> evaluation_pb2.EvaluateResponse:
        versions = [version] if other is None else [version, other]
        policies: list[Parameters] = [
            self._registry.snapshot(v.version).parameters for v in versions
        ]
        dataset = self._sources.dataset(version, policies, limit)
        unseen = fresh(
            dataset.trajectories,
            held_out_in=self._held_out_in(),
            trained_until_ns=max(map(_trained_until_ns, versions)),
        )
        # What the control group did says nothing of any version: all of it may judge.
        control = [t for t in dataset.trajectories if t.control]
        judging = [*(t for t in unseen if not t.control), *control]
        evidence = Evidence(judging)
        target = targets.policy(policies[0], dataset)
        value = evidence.value(target)
        if other is None:
            beside = evidence.lift(target)
        else:
            beside = evidence.difference(target, targets.policy(policies[1], dataset))
        support = beside.support
        return evaluation_pb2.EvaluateResponse(
            scope=version.scope,
            version=version.version,
            against=other.version if other else "",
            identifiable=beside.identifiable,
            reason=support.reason,
            runs=support.runs,
            decisions=support.decisions,
            left_out=len(dataset.trajectories) - len(judging),
            control=len(evidence.control) if other is None else 0,
            effective=support.effective,
            outside=support.outside,
            clipped=support.clipped,
            matched=support.matched,
            value=_estimates(value),
            difference=_estimates(beside),
        )

    @unary
    async def Lift(
        self, request: evaluation_pb2.LiftRequest, context: Context
    ) -> evaluation_pb2.LiftResponse:
        """The policies of an agent beside its control group."""
        if not request.agent:
            raise InvalidRequestError("agent: expected the name given to AgentGym(agent=...)")
        effect = request.effect or MIN_EFFECT
        if not 0.0 < effect < 1.0:
            raise InvalidRequestError(f"effect: expected a number between 0 and 1, got {effect}")
        sums = await asyncio.to_thread(self._sums, request.agent)
        if not sums:
            raise NotFoundError(
                f"no closed and rewarded run of agent {request.agent!r} was drawn for a policy or "
                "for its control group; `agentgym status` shows the agents"
            )
        return lift_response(request.agent, sums, effect)

    def evidence(self, agent: str) -> StepEvidence:
        """Tier 2 of the gate: what speaks for all of an agent's traffic under its policies.

        The control group decides, or what its runs would have been under the live version.
        Blocks for seconds.
        """
        sums = self._sums(agent)
        metrics = {m.name: m for m in lift_response(agent, sums).metrics} if sums else {}
        success = metrics.get(_SUCCESS)
        if success is not None and success.low > 0.0:
            text = (
                f"{success.policy_runs} runs of the policy beside {success.control_runs} without "
                f"it: {success.effect:+.1%} ({success.low:+.1%} to {success.high:+.1%}) at any look"
            )
            return StepEvidence(True, text, {"low": success.low, "high": success.high})
        found = [self._estimated(version) for version in self._registry.live(agent)]
        if not found:
            return StepEvidence(False, f"{agent!r} has no live policy")
        return StepEvidence(
            all(one.proven for one in found),
            "; ".join(one.text for one in found),
            {"versions": [one.figures for one in found]},
        )

    def _estimated(self, version: policy_pb2.PolicyVersion) -> StepEvidence:
        """The same for one version, from what its runs say."""
        reply = self._evaluate(version, None, _TRAJECTORIES)
        figures: dict[str, Any] = {
            "version": version.version,
            "runs": reply.runs,
            "matched": reply.matched,
        }
        if not reply.identifiable:
            text = f"{version.version} is not identifiable: {reply.reason}"
            return StepEvidence(False, text, figures)
        (dr,) = [one for one in reply.difference if one.estimator == "dr"]
        figures |= {"low": dr.low, "high": dr.high}
        text = (
            f"{version.version} is {dr.value:+.1%} ({dr.low:+.1%} to {dr.high:+.1%}) beside the "
            f"agent alone on {reply.runs} runs ({_LEAST_RUNS} needed) with {reply.matched} "
            f"disagreements that were tried ({_LEAST_MATCHED} needed)"
        )
        enough = reply.runs >= _LEAST_RUNS and reply.matched >= _LEAST_MATCHED
        return StepEvidence(enough and dr.low > 0.0, text, figures)

    def _sums(self, agent: str) -> list[ArmSums]:
        with self._sources.store.reading() as cursor:
            return arm_sums(cursor, agent)


def lift_response(
    agent: str, sums: Sequence[ArmSums], effect: float = MIN_EFFECT
) -> evaluation_pb2.LiftResponse:
    """All metrics of an agent, and how many runs it takes to find an effect on success."""
    strata = {metric: _strata(sums, metric) for metric in METRICS}
    # The boundary is in the metric's own unit: what is narrow for a share is nothing for tokens.
    found = {metric: lift(s, _boundary(s, effect)) for metric, s in strata.items()}
    success = found[_SUCCESS]
    runs = success.treated.n + success.control.n
    share = success.control.n / runs if runs else 0.0
    needed = 0
    if 0.0 < share < 1.0:
        variances = (_variance(success.treated), _variance(success.control))
        needed = runs_needed(effect, share=share, variances=variances)
    return evaluation_pb2.LiftResponse(
        agent=agent,
        metrics=[_metric(name, one) for name, one in found.items()],
        strata=len(strata[_SUCCESS]),
        control_share=share,
        effect=effect,
        runs_needed=needed,
    )


def _trained_until_ns(version: policy_pb2.PolicyVersion) -> int:
    """When the last run closed on which the version was trained; unknown: all may be."""
    lineage = json.loads(version.manifest_json or "{}").get("lineage", {})
    until = lineage.get("last_closed_unix_nano", MAX_BIGINT)
    return int(until) if isinstance(until, int) else MAX_BIGINT


def _estimates(found: Evaluation) -> list[evaluation_pb2.Estimate]:
    def message(name: str, one: Estimate) -> evaluation_pb2.Estimate:
        return evaluation_pb2.Estimate(estimator=name, value=one.value, low=one.low, high=one.high)

    return [message(name, one) for name, one in found.estimates.items()]


def _strata(sums: Sequence[ArmSums], metric: str) -> list[Stratum]:
    # An experiment changes who has the live policy, and so who is compared with the control group.
    strata: dict[tuple[float, str], dict[bool, Moments]] = {}
    for one in sums:
        if one.metric == metric:
            stretch = (one.policy_share, one.experiment)
            arms = strata.setdefault(stretch, {False: Moments(), True: Moments()})
            arms[one.control] += Moments(one.n, one.total, one.squares)
    return [Stratum(treated=arms[False], control=arms[True]) for arms in strata.values()]


def _boundary(strata: Sequence[Stratum], effect: float) -> Boundary:
    """Narrowest at `effect` for shares, and at that part of the control's mean for amounts."""
    control = sum((s.control for s in strata), Moments())
    scale = abs(control.mean) if control.n and control.mean else 1.0
    return Boundary.narrow_at(effect * max(1.0, scale))


def _variance(arm: Moments) -> float:
    return max(1e-6, arm.squares / arm.n - arm.mean**2)


def _metric(name: str, one: Lift) -> evaluation_pb2.MetricLift:
    known = one.information > 0.0
    return evaluation_pb2.MetricLift(
        name=name,
        policy_runs=one.treated.n,
        control_runs=one.control.n,
        policy_mean=one.treated.mean,
        control_mean=one.control.mean,
        effect=one.effect,
        low=one.low if known else math.nan,
        high=one.high if known else math.nan,
        p_value=one.p_value,
    )
