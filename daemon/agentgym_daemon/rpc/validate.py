"""Checks what agents send, item by item, so that one bad item does not cost its siblings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from agentgym.proto.v1 import common_pb2, decision_pb2
from agentgym_daemon.errors import InvalidRequestError

ID_BYTES = 8
TRAJECTORY_ID_BYTES = 16
_MAX_TEXT = 4096
_MAX_SCHEMA_TEXT = 256 * 1024
_MAX_TOOLS = 4096
_MAX_EMBEDDING = 8192
_SUM_TOLERANCE = 1e-6


def identifier(value: bytes, size: int, what: str) -> bytes:
    """An id of exactly `size` bytes, not all zero; raises InvalidRequestError."""
    if len(value) != size or not any(value):
        raise InvalidRequestError(
            f"{what}: expected {size} bytes, not all zero; got {value[:64]!r}"
        )
    return value


def decision_fault(record: decision_pb2.DecisionRecord) -> str:
    """The first thing that is wrong with a decision; empty if nothing is."""
    return next(_decision_faults(record), "")


def features_fault(features: decision_pb2.TaskFeatures) -> str:
    """The first thing that is wrong with task features; empty if nothing is."""
    return next(_features_faults(features), "")


def tool_fault(tool: common_pb2.Tool) -> str:
    """The first thing that is wrong with a catalogue entry; empty if nothing is."""
    if len(tool.fingerprint) != ID_BYTES:
        return f"fingerprint: expected {ID_BYTES} bytes, got {len(tool.fingerprint)}"
    if not 0 < len(tool.name) <= _MAX_TEXT:
        return f"name: expected 1 to {_MAX_TEXT} characters, got {len(tool.name)}"
    if max(len(tool.description), len(tool.parameters_json)) > _MAX_SCHEMA_TEXT:
        return f"description and parameters: expected at most {_MAX_SCHEMA_TEXT} characters each"
    return ""


def _decision_faults(record: decision_pb2.DecisionRecord) -> Iterator[str]:
    yield from _id_faults("decision_id", record.decision_id, ID_BYTES)
    yield from _id_faults("trajectory_id", record.trajectory_id, TRAJECTORY_ID_BYTES)
    if record.features_id:
        yield from _id_faults("features_id", record.features_id, ID_BYTES)
    texts = (record.scope.agent, record.scope.agent_name, record.policy_version, *record.called)
    if max(map(len, texts)) > _MAX_TEXT or len(record.offered) > _MAX_TOOLS:
        yield f"expected texts of at most {_MAX_TEXT} characters and at most {_MAX_TOOLS} tools"
    if not record.scope.agent:
        yield "scope.agent: expected a name, got ''"
    offered = len(record.offered)
    if any(len(fingerprint) != ID_BYTES for fingerprint in record.offered):
        yield f"offered: expected fingerprints of {ID_BYTES} bytes"
    if record.allowed and len(record.allowed) != offered:
        yield f"allowed: expected none or {offered} entries, got {len(record.allowed)}"
    if any(index >= offered for index in record.shown):
        yield f"shown: expected indices below {offered}, got {list(record.shown)[:20]}"
    if any(index >= offered for index in record.down):
        yield f"down: expected indices below {offered}, got {list(record.down)[:20]}"
    probabilities = {
        "assignment_probability": record.assignment_probability,
        "arm_propensity": record.arm_propensity,
        "floor": record.floor,
        "defer_floor": record.defer_floor,
    }
    yield from _probability_faults(probabilities.items())
    if not 0.0 <= record.temperature < math.inf:
        yield f"temperature: expected a finite number of at least 0, got {record.temperature}"
    yield from _support_faults(record)


def _support_faults(record: decision_pb2.DecisionRecord) -> Iterator[str]:
    arms = len(record.support)
    if not -1 <= record.arm < arms:
        yield f"arm: expected -1 or an index below {arms}, got {record.arm}"
    if not record.support:
        return
    for i, arm in enumerate(record.support):
        if any(index >= len(record.offered) for index in arm.tools):
            yield f"support[{i}].tools: expected indices below {len(record.offered)}"
        if not math.isfinite(arm.score):
            yield f"support[{i}].score: expected a finite number, got {arm.score}"
        yield from _probability_faults([(f"support[{i}].probability", arm.probability)])
    total = sum(arm.probability for arm in record.support)
    if abs(total - 1.0) > _SUM_TOLERANCE:
        yield f"support: expected probabilities that sum to 1, got {total}"
    if record.arm >= 0 and record.support[record.arm].probability != record.arm_propensity:
        yield f"arm_propensity: expected that of support[{record.arm}], got {record.arm_propensity}"


def _features_faults(features: decision_pb2.TaskFeatures) -> Iterator[str]:
    yield from _id_faults("features_id", features.features_id, ID_BYTES)
    yield from _id_faults("trajectory_id", features.trajectory_id, TRAJECTORY_ID_BYTES)
    if len(features.index) != len(features.quantised):
        yield f"quantised: expected {len(features.index)} bytes, got {len(features.quantised)}"
    if any(b <= a for a, b in zip(features.index, features.index[1:], strict=False)):
        yield "index: expected ascending bucket numbers"
    if not 0.0 <= features.scale < math.inf:
        yield f"scale: expected a finite number of at least 0, got {features.scale}"
    if len(features.embedding) > _MAX_EMBEDDING:
        yield f"embedding: expected at most {_MAX_EMBEDDING} bytes, got {len(features.embedding)}"
    if not 0.0 <= features.embedding_scale < math.inf:
        yield (
            "embedding_scale: expected a finite number of at least 0, got "
            f"{features.embedding_scale}"
        )


def _id_faults(name: str, value: bytes, size: int) -> Iterator[str]:
    if len(value) != size or not any(value):
        yield f"{name}: expected {size} bytes, not all zero; got {len(value)} bytes"


def _probability_faults(values: Iterable[tuple[str, float]]) -> Iterator[str]:
    for name, value in values:
        if not 0.0 <= value <= 1.0:
            yield f"{name}: expected a probability in [0, 1], got {value}"
