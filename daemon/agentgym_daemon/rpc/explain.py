"""Explains a decision: what was scored, with which parts, and whether it can be computed again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from agentgym.policy.arms import Exploration, distribution
from agentgym.policy.evaluate import Catalogue, Evaluation, Vector, evaluate
from agentgym.policy.features import FEATURE_SCHEMA, SparseVector, TextHasher
from agentgym.policy.parameters import Parameters
from agentgym.proto.v1 import common_pb2, decision_pb2, trajectory_pb2
from agentgym.trajectory import PastCall, Tool

EXECUTE_TOOL = "execute_tool"
NOT_RECOMPUTABLE = -1.0
_KINDS = decision_pb2.Arm

ParametersOf = Callable[[str], Parameters | None]
"""The parameters of a policy version; None if its file is gone."""


def explain(
    trajectory: trajectory_pb2.Trajectory,
    decision: decision_pb2.DecisionRecord,
    *,
    parameters_of: ParametersOf,
    hasher: TextHasher,
) -> trajectory_pb2.Explanation:
    """One decision of a stored trajectory, recomputed from its stored features where possible."""
    tools = {tool.fingerprint: tool for tool in trajectory.tools}
    names = [_name(tools, fingerprint) for fingerprint in decision.offered]
    features = {f.features_id: f for f in trajectory.features}.get(decision.features_id)
    evaluation = _evaluate(decision, features, tools, parameters_of, hasher)
    executed = [
        span.tool
        for span in trajectory.spans
        if span.operation == EXECUTE_TOOL and span.decision_id == decision.decision_id
    ]
    return trajectory_pb2.Explanation(
        decision=decision,
        arms=[
            _arm(arm, i == decision.arm, names, evaluation)
            for i, arm in enumerate(decision.support)
        ],
        offered=names,
        executed=executed,
        summary=_summary(decision, names, executed),
        recomputed_error=_error(decision, evaluation),
    )


def _evaluate(
    decision: decision_pb2.DecisionRecord,
    features: decision_pb2.TaskFeatures | None,
    tools: Mapping[bytes, common_pb2.Tool],
    parameters_of: ParametersOf,
    hasher: TextHasher,
) -> Evaluation | None:
    known = all(fingerprint in tools for fingerprint in decision.offered)
    if not decision.support or features is None or not known:
        return None
    if features.feature_schema != FEATURE_SCHEMA:
        return None
    parameters = parameters_of(decision.policy_version)
    if parameters is None:
        return None
    x = SparseVector(
        np.array(features.index, np.uint32),
        np.frombuffer(features.quantised, np.uint8),
        features.scale,
    )
    history = [PastCall(call.tool, call.error) for call in decision.history]
    return evaluate(parameters, x, _catalogue(decision.offered, tools, hasher), history)


def _catalogue(
    offered: Sequence[bytes], tools: Mapping[bytes, common_pb2.Tool], hasher: TextHasher
) -> Catalogue:
    entries = [tools[fingerprint] for fingerprint in offered]
    catalogue = Catalogue(tuple(Tool(tool.name, tool.description) for tool in entries), hasher)
    # The fingerprints are the sender's: they cover schemas, which do not enter the features.
    catalogue.fingerprints = tuple(offered)
    catalogue.index = {fingerprint: i for i, fingerprint in enumerate(offered)}
    return catalogue


def _error(decision: decision_pb2.DecisionRecord, evaluation: Evaluation | None) -> float:
    if evaluation is None:
        return NOT_RECOMPUTABLE
    scores = np.array([_score(arm, evaluation) for arm in decision.support])
    logged = np.array([arm.probability for arm in decision.support])
    return float(np.abs(_probabilities(decision, scores) - logged).max())


def _probabilities(decision: decision_pb2.DecisionRecord, scores: Vector) -> Vector:
    if decision.greedy:
        certain: Vector = np.eye(len(scores))[int(np.argmax(scores))]
        return certain
    exploration = Exploration(
        temperature=decision.temperature,
        floor=decision.floor,
        defer_floor=decision.defer_floor,
        top_k=decision.top_k,
    )
    return distribution(scores, exploration)


def _score(arm: decision_pb2.Arm, evaluation: Evaluation) -> float:
    right = evaluation.right
    match arm.kind:
        case _KINDS.KIND_DEFER:
            return evaluation.alone
        case _KINDS.KIND_FORCE:
            return float(right[arm.tools[0]])
    return float(right[list(arm.tools)].sum()) + float(right[-1])


def _arm(
    arm: decision_pb2.Arm, taken: bool, names: Sequence[str], evaluation: Evaluation | None
) -> trajectory_pb2.ExplainedArm:
    parts = {}
    if evaluation is not None and arm.kind == _KINDS.KIND_FORCE:
        parts = {name: float(part[arm.tools[0]]) for name, part in evaluation.parts.items()}
    return trajectory_pb2.ExplainedArm(
        arm=_label(arm, names),
        score=arm.score,
        probability=arm.probability,
        taken=taken,
        parts=parts,
    )


def _label(arm: decision_pb2.Arm, names: Sequence[str]) -> str:
    if arm.kind == _KINDS.KIND_DEFER:
        return "defer"
    verb = "force" if arm.kind == _KINDS.KIND_FORCE else "show"
    return f"{verb} {', '.join(names[i] for i in arm.tools)}"


def _name(tools: Mapping[bytes, common_pb2.Tool], fingerprint: bytes) -> str:
    return tools[fingerprint].name if fingerprint in tools else fingerprint.hex()


def _summary(
    decision: decision_pb2.DecisionRecord, names: Sequence[str], executed: Sequence[str]
) -> str:
    called = f"the model called {', '.join(executed or decision.called)}"
    if not (executed or decision.called):
        called = "the model answered without a tool"
    if decision.arm < 0:
        fallback = common_pb2.Fallback.Name(decision.fallback).removeprefix("FALLBACK_").lower()
        assignment = common_pb2.Assignment.Name(decision.assignment).removeprefix("ASSIGNMENT_")
        reason = fallback if decision.fallback else assignment.lower()
        return f"Step {decision.step} was not decided ({reason}); {called}."
    label = _label(decision.support[decision.arm], names)
    return (
        f"Step {decision.step} took '{label}' with probability {decision.arm_propensity:.3f} "
        f"under {decision.policy_version}; {called}."
    )
