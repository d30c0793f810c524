"""Rows of the store as messages of the contract."""

from __future__ import annotations

from agentgym.proto.v1 import common_pb2, trajectory_pb2
from agentgym_daemon.store.trajectories import StoredSpan, StoredTrajectory, Summary


def summary(row: Summary) -> trajectory_pb2.TrajectorySummary:
    """A trajectory in one message."""
    message = trajectory_pb2.TrajectorySummary(
        trajectory_id=row.trajectory_id,
        key=row.key,
        agent=row.agent,
        framework=row.framework,
        start_unix_nano=max(row.start_ns, 0),
        end_unix_nano=max(row.end_ns, 0),
        state=row.state,
        mode=common_pb2.Mode.Name(row.mode),
        assignment=common_pb2.Assignment.Name(row.assignment),
        policy_version=row.policy_version,
        spans=row.spans,
        decisions=row.decisions,
        tool_calls=row.tool_calls,
        tool_errors=row.tool_errors,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        tools=row.tools,
        experiment=row.experiment,
        experiment_arm=row.experiment_arm,
    )
    if row.reward is not None:
        message.reward = row.reward
    return message


def trajectory(stored: StoredTrajectory) -> trajectory_pb2.Trajectory:
    """A trajectory with everything that is known of it."""
    return trajectory_pb2.Trajectory(
        summary=summary(stored.summary),
        spans=[_span(span) for span in stored.spans],
        decisions=stored.decisions,
        rewards=[
            trajectory_pb2.StoredReward(
                reward_id=reward.reward_id,
                value=reward.value,
                name=reward.name,
                source=reward.source,
                time_unix_nano=reward.time_ns,
                revoked=reward.revoked,
                reason=reward.reason,
            )
            for reward in stored.rewards
        ],
        tools=[
            common_pb2.Tool(
                fingerprint=tool.fingerprint,
                name=tool.name,
                description=tool.description,
                parameters_json=tool.parameters_json,
            )
            for tool in stored.tools
        ],
        features=stored.features,
    )


def _span(span: StoredSpan) -> trajectory_pb2.StoredSpan:
    return trajectory_pb2.StoredSpan(
        span_id=span.span_id,
        parent_span_id=span.parent_span_id or b"",
        name=span.name,
        operation=span.operation,
        start_unix_nano=span.start_ns,
        end_unix_nano=span.end_ns,
        tool=span.tool,
        agent_name=span.agent_name,
        error_type=span.error_type,
        input_tokens=span.input_tokens,
        output_tokens=span.output_tokens,
        decision_id=span.decision_id or b"",
        attributes_json=span.attributes_json,
    )
