"""Feature vectors as protobuf, for all who send them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentgym.proto.v1 import decision_pb2

if TYPE_CHECKING:
    from agentgym.policy.features import TextVector


def features_message(
    trajectory_id: bytes, features_id: bytes, vector: TextVector, feature_schema: int
) -> decision_pb2.TaskFeatures:
    """A task vector as it travels."""
    embedding = vector.embedding
    return decision_pb2.TaskFeatures(
        features_id=features_id,
        trajectory_id=trajectory_id,
        feature_schema=feature_schema,
        index=vector.index.tolist(),
        quantised=vector.quantised.tobytes(),
        scale=vector.scale,
        embedding=embedding.quantised.tobytes() if embedding else b"",
        embedding_scale=embedding.scale if embedding else 0.0,
    )
