"""Explains a decision: what was scored, with which parts, and whether it can be computed again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from agentgym import semconv
from agentgym.policy.arms import Exploration, distribution
from agentgym.policy.evaluate import Catalogue, Evaluation, Scorer, Vector
from agentgym.policy.features import Featuriser
from agentgym.policy.parameters import Parameters
from agentgym.proto.v1 import common_pb2, decision_pb2, trajectory_pb2
from agentgym.trajectory import PastCall, Tool
from agentgym_daemon.learning.dataset import text_vector

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
    features: Featuriser,
) -> trajectory_pb2.Explanation:
    """One decision of a stored trajectory, recomputed from its stored features where possible."""
    tools = {tool.fingerprint: tool for tool in trajectory.tools}
    names = [_name(tools, fingerprint) for fingerprint in decision.offered]
    task = {f.features_id: f for f in trajectory.features}.get(decision.features_id)
    evaluation, parts, alone = _evaluate(decision, task, tools, parameters_of, features)
    executed = [
        span.tool
        for span in trajectory.spans
        if span.operation == EXECUTE_TOOL and span.decision_id == decision.decision_id
    ]
    return trajectory_pb2.Explanation(
        decision=decision,
        arms=[
            _arm(arm, i == decision.arm, names, parts, alone)
            for i, arm in enumerate(decision.support)
        ],
        offered=names,
        executed=executed,
        summary=_summary(decision, names, executed, origin=_origin(trajectory)),
        recomputed_error=_error(decision, evaluation),
        masked=_masked(decision, names),
    )


def _masked(decision: decision_pb2.DecisionRecord, names: Sequence[str]) -> list[str]:
    """The offered tools that could be no arm, each with the reason."""
    if not decision.support:
        return []
    reasons = {i: "protected" for i, free in enumerate(decision.allowed) if not free}
    reasons |= dict.fromkeys(decision.down, "fails at present")
    return [f"{names[i]} ({reason})" for i, reason in sorted(reasons.items()) if i < len(names)]


def _evaluate(
    decision: decision_pb2.DecisionRecord,
    task: decision_pb2.TaskFeatures | None,
    tools: Mapping[bytes, common_pb2.Tool],
    parameters_of: ParametersOf,
    features: Featuriser,
) -> tuple[Evaluation | None, dict[str, Vector], dict[str, float]]:
    """The estimates and their parts; nothing where they cannot be computed again."""
    known = all(fingerprint in tools for fingerprint in decision.offered)
    if not decision.support or task is None or not known:
        return None, {}, {}
    x = text_vector(task, features.schema, features.embedding_dim)
    parameters = parameters_of(decision.policy_version)
    if x is None or parameters is None:
        return None, {}, {}
    history = [PastCall(call.tool, call.error) for call in decision.history]
    scorer = Scorer(parameters, _catalogue(decision.offered, tools, features))
    return (
        scorer(x, history, decision.down),
        scorer.parts(x, history, decision.down),
        scorer.defer_parts(x, history),
    )


def _catalogue(
    offered: Sequence[bytes], tools: Mapping[bytes, common_pb2.Tool], features: Featuriser
) -> Catalogue:
    entries = [tools[fingerprint] for fingerprint in offered]
    catalogue = Catalogue(
        tuple(Tool(tool.name, tool.description) for tool in entries), features.exactly
    )
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
    arm: decision_pb2.Arm,
    taken: bool,
    names: Sequence[str],
    parts: Mapping[str, Vector],
    alone: Mapping[str, float],
) -> trajectory_pb2.ExplainedArm:
    shown: Mapping[str, float] = {}
    if arm.kind == _KINDS.KIND_FORCE:
        shown = {name: float(part[arm.tools[0]]) for name, part in parts.items()}
    elif arm.kind == _KINDS.KIND_DEFER:
        shown = alone
    return trajectory_pb2.ExplainedArm(
        arm=_label(arm, names),
        score=arm.score,
        probability=arm.probability,
        taken=taken,
        parts=shown,
    )


def _label(arm: decision_pb2.Arm, names: Sequence[str]) -> str:
    if arm.kind == _KINDS.KIND_DEFER:
        return "defer"
    verb = "force" if arm.kind == _KINDS.KIND_FORCE else "show"
    return f"{verb} {', '.join(names[i] for i in arm.tools)}"


def _name(tools: Mapping[bytes, common_pb2.Tool], fingerprint: bytes) -> str:
    return tools[fingerprint].name if fingerprint in tools else fingerprint.hex()


def _origin(trajectory: trajectory_pb2.Trajectory) -> str:
    """Format and hash of the file that a run was imported from; empty for a live one."""
    if not trajectory.summary.framework.startswith(semconv.IMPORT_PREFIX):
        return ""
    attributes = (json.loads(span.attributes_json or "{}") for span in trajectory.spans)
    return next((str(a[semconv.IMPORTED]) for a in attributes if semconv.IMPORTED in a), "a file")


def _summary(
    decision: decision_pb2.DecisionRecord,
    names: Sequence[str],
    executed: Sequence[str],
    *,
    origin: str,
) -> str:
    called = f"the model called {', '.join(executed or decision.called)}"
    if not (executed or decision.called):
        called = "the model answered without a tool"
    if origin:
        return f"Step {decision.step} was imported ({origin}), not decided; {called}."
    if decision.arm < 0:
        fallback = common_pb2.Fallback.Name(decision.fallback).removeprefix("FALLBACK_").lower()
        assignment = common_pb2.Assignment.Name(decision.assignment).removeprefix("ASSIGNMENT_")
        reason = fallback if decision.fallback else assignment.lower()
        return f"Step {decision.step} was not decided ({reason}); {called}."
    label = _label(decision.support[decision.arm], names)
    down = ", ".join(names[i] for i in decision.down)
    return (
        f"Step {decision.step} took '{label}' with probability {decision.arm_propensity:.3f} "
        f"under {decision.policy_version}; {called}."
        + (f" Left out, because it fails at present: {down}." if down else "")
    )
