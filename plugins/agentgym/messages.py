"""Decisions, rewards and tools as protobuf messages (spans never are: see encode)."""

from __future__ import annotations

import json

from agentgym.config import Mode
from agentgym.items import RewardItem, StepItem
from agentgym.proto.v1 import common_pb2, decision_pb2, reward_pb2
from agentgym.trajectory import Decision, Tool
from agentgym.wire import clean

_MODES = {
    Mode.OBSERVE: common_pb2.MODE_OBSERVE,
    Mode.SHADOW: common_pb2.MODE_SHADOW,
    Mode.ADVISE: common_pb2.MODE_ADVISE,
    Mode.STEER: common_pb2.MODE_STEER,
}


def step_message(item: StepItem, feature_schema: int) -> decision_pb2.DecisionRecord:
    """A step as a DecisionRecord; `feature_schema` is that of a step which names none."""
    decision = item.decision
    record = decision_pb2.DecisionRecord(
        decision_id=item.span_id,
        trajectory_id=item.trajectory_id,
        step=item.step,
        scope=common_pb2.Scope(
            agent=clean(item.agent),
            agent_name=clean(item.agent_name),
            feature_schema=item.feature_schema or feature_schema,
        ),
        agent_path=[clean(name) for name in item.agent_path],
        time_unix_nano=item.time_ns,
        mode=_MODES[item.mode],
        assignment=int(item.assignment),  # type: ignore[arg-type]  # IntEnum with equal values
        assignment_probability=item.assignment_probability,
        fallback=int(item.fallback),  # type: ignore[arg-type]  # IntEnum with equal values
        policy_version=item.policy_version,
        offered=[tool.fingerprint for tool in item.offered],
        allowed=item.allowed,
        shown=item.shown,
        arm=-1 if decision is None else decision.arm,
        history=[decision_pb2.PastCall(tool=c.tool, error=c.error) for c in item.history],
        features_id=item.features_id,
        called=[clean(name) for name in item.called],
        completed=item.completed,
        force=item.force,
    )
    if decision is not None:
        _add_decision(record, decision)
    return record


def _add_decision(record: decision_pb2.DecisionRecord, decision: Decision) -> None:
    record.arm_propensity = decision.propensity
    record.down.extend(decision.down)
    record.temperature = decision.temperature
    record.floor = decision.floor
    record.defer_floor = decision.defer_floor
    record.top_k = decision.top_k
    record.greedy = decision.greedy
    record.support.extend(
        decision_pb2.Arm(
            kind=int(arm.kind),  # type: ignore[arg-type]  # IntEnum with equal values
            tools=arm.tools,
            score=arm.score,
            probability=arm.probability,
        )
        for arm in decision.support
    )


def tool_message(tool: Tool) -> common_pb2.Tool:
    """A catalogue entry; an unserialisable schema travels as an empty one."""
    try:
        parameters = json.dumps(tool.parameters, sort_keys=True, default=str)
    except (TypeError, ValueError, RecursionError):
        parameters = "{}"
    return common_pb2.Tool(
        fingerprint=tool.fingerprint,
        name=clean(tool.name),
        description=clean(tool.description),
        parameters_json=parameters,
    )


def reward_message(item: RewardItem) -> reward_pb2.Reward:
    """A reward as it is reported."""
    return reward_pb2.Reward(
        trajectory_id=item.trajectory_id,
        key=clean(item.key),
        agent=clean(item.agent),
        value=item.value,
        name=clean(item.name),
        source=clean(item.source),
        idempotency_key=clean(item.idempotency_key),
        reason=clean(item.reason),
        time_unix_nano=item.time_ns,
    )
