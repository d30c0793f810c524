"""What the spans of a whole trajectory look like."""

from __future__ import annotations

from agentgym.testing.recording import RecordingGym


def assert_whole(gym: RecordingGym, trajectories: int = 1) -> None:
    """Every trajectory ended, with one root and no span whose parent is missing."""
    ids = {span.trajectory_id for span in gym.sink.spans}
    assert len(ids) == trajectories
    assert sorted(gym.sink.ended) == sorted(ids)
    for trajectory_id in ids:
        spans = [span for span in gym.sink.spans if span.trajectory_id == trajectory_id]
        known = {span.span_id for span in spans}
        assert [span.parent_id for span in spans if span.parent_id not in known] == [b""]
