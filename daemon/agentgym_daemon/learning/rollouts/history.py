"""The daemon's snapshot as finished rollouts, and as one file with those that were added since.

The file is what training.proto says; `learning.dataset` reads it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from agentgym import semconv
from agentgym.proto.v1 import common_pb2, training_pb2
from agentgym_daemon.learning.rollouts.records import RolloutRecord
from agentgym_daemon.learning.rollouts.session import PlainSpan

_LENGTH = struct.Struct("<I")
_SECOND_NS = 1e9
WINDOW = 20_000
"""Most trajectories of a file; the oldest are left out, as in the daemon's own."""


class History:
    """What was learned from before; `path` None: nothing."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path

    @cached_property
    def header(self) -> training_pb2.TrainingHeader:
        """The first message of the file."""
        return training_pb2.TrainingHeader.FromString(next(self._messages(), b""))

    def trajectories(self) -> Iterator[bytes]:
        """The trajectories as they lie in the file, oldest first."""
        messages = self._messages()
        next(messages, None)
        yield from messages

    def _messages(self) -> Iterator[bytes]:
        data = b"" if self.path is None else self.path.read_bytes()
        start = 0
        while start < len(data):
            body = start + _LENGTH.size
            end = body + _LENGTH.unpack_from(data, start)[0]
            yield data[body:end]
            start = end

    @cached_property
    def by_id(self) -> dict[str, training_pb2.TrainingTrajectory]:
        """The trajectories by the id that they have as rollouts; read when first asked for."""
        found = map(training_pb2.TrainingTrajectory.FromString, self.trajectories())
        return {trajectory.trajectory_id.hex(): trajectory for trajectory in found}

    def rollouts(self, config: object) -> list[RolloutRecord]:
        """The trajectories as succeeded rollouts; their tasks are not in the file."""
        return [_rollout(name, found, config) for name, found in self.by_id.items()]

    def spans(self, rollout_id: str) -> list[PlainSpan]:
        """The calls of a trajectory, and its reward if it has one."""
        found = self.by_id[rollout_id]
        end_s = found.closed_unix_nano / _SECOND_NS
        spans = [
            PlainSpan(
                f"{semconv.EXECUTE_TOOL} {call.tool}",
                {
                    semconv.OPERATION_NAME: semconv.EXECUTE_TOOL,
                    semconv.TOOL_NAME: call.tool,
                    semconv.DECISION_ID: call.decision_id.hex(),
                },
                end_s,
                end_s,
                "tool_error" * call.error,
            )
            for call in found.calls
        ]
        if found.HasField("reward"):
            attributes = {
                "agentlightning.reward.0.name": "primary",
                "agentlightning.reward.0.value": found.reward,
            }
            spans.append(PlainSpan("agentlightning.annotation", attributes, end_s, end_s))
        return spans

    def write(
        self,
        path: Path,
        more: Sequence[training_pb2.TrainingTrajectory],
        *,
        scope: common_pb2.Scope,
        feature_key: bytes,
        tools: Mapping[bytes, common_pb2.Tool],
        parent: str,
        versions: Sequence[str],
    ) -> None:
        """Writes a snapshot file of this history and of `more`, which came after it."""
        old = [] if self.path is None else list(self.trajectories())
        kept = [*old, *(m.SerializeToString() for m in more)][-WINDOW:]
        known = {tool.fingerprint: tool for tool in self.header.tools}
        header = training_pb2.TrainingHeader(
            scope=scope,
            parent=parent,
            tools=list({**known, **tools}.values()),
            feature_key=feature_key,
            trajectories=len(kept),
            versions=[*self.header.versions, *versions],
        )
        path.write_bytes(b"".join(_frames([header.SerializeToString(), *kept])))


def _frames(messages: Iterable[bytes]) -> Iterator[bytes]:
    for message in messages:
        yield _LENGTH.pack(len(message))
        yield message


def _rollout(
    rollout_id: str, found: training_pb2.TrainingTrajectory, config: object
) -> RolloutRecord:
    end_s = found.closed_unix_nano / _SECOND_NS
    began = found.decisions[0].time_unix_nano / _SECOND_NS if found.decisions else end_s
    return RolloutRecord(
        rollout_id=rollout_id,
        input=None,
        start_time=began,
        end_time=end_s,
        config=config,
        mode="train",
        status="succeeded",
        metadata={
            "agentgym.source": "snapshot",
            "agentgym.reward": found.reward if found.HasField("reward") else None,
        },
    )
