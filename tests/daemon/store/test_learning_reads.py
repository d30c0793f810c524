"""What learning and the registry read: progress, history, the snapshot file."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import pytest

from agentgym.proto.v1 import common_pb2, training_pb2
from agentgym_daemon.store import policies, training
from agentgym_daemon.store.rows import Scope

SCOPE = Scope("desk", "helper", 1)


def messages(path: Path) -> tuple[Any, list[Any]]:
    """The header and the trajectories of a snapshot file."""
    data, parts = path.read_bytes(), []
    while data:
        (length,) = struct.unpack_from("<I", data)
        parts.append(data[4 : 4 + length])
        data = data[4 + length :]
    header = training_pb2.TrainingHeader.FromString(parts[0])
    return header, [training_pb2.TrainingTrajectory.FromString(part) for part in parts[1:]]


def test_progress_counts_ended_rewarded_trajectories_per_scope(records: Any, bench: Any) -> None:
    control = records.decision(4, 40, assignment=common_pb2.ASSIGNMENT_CONTROL)
    bench.apply(
        *records.episode(1, reward=1.0),
        *records.episode(2, reward=0.25),
        *records.episode(3),
        records.training(1, at=5, verdict="rejected"),
        records.decisions(control),
        records.spans(records.root(4)),
        records.reward(4, 0.5, reward_id="r4"),
        records.decisions(records.decision(5, 50)),
        records.reward(5, 1.0, reward_id="r5"),
    )

    with bench.store.reading() as cursor:
        (progress,) = training.scope_progress(cursor)
        (run,) = training.training_runs(cursor, SCOPE)
    assert progress.scope == SCOPE
    assert (progress.trajectories, progress.rewarded, progress.since_training) == (4, 3, 2)
    assert (progress.n_policy, progress.reliability_policy) == (2, 0.5)
    assert (progress.n_control, progress.reliability_control) == (1, 1.0)
    assert progress.last_training_ns == run.received_ns
    assert run.verdict == "rejected"


def test_reliability_of_nothing_is_not_a_number(records: Any, bench: Any) -> None:
    bench.apply(records.decisions(records.decision(1, 10)))

    with bench.store.reading() as cursor:
        (progress,) = training.scope_progress(cursor)
    assert math.isnan(progress.reliability_policy)
    assert math.isnan(progress.reliability_control)
    assert (progress.since_training, progress.last_training_ns) == (0, 0)


def test_the_snapshot_holds_what_ended_in_the_scope(
    records: Any, bench: Any, tmp_path: Path
) -> None:
    path = tmp_path / "snapshot"
    elsewhere = common_pb2.Scope(agent="desk", agent_name="other", feature_schema=1)
    bench.apply(
        records.catalogue(),
        records.policy("p-1"),
        records.change("PROMOTE", "p-1"),
        *records.episode(1, reward=0.0),
        *records.episode(2),
        records.decisions(records.decision(2, 21, scope=elsewhere, step=1)),
        records.decisions(records.decision(2, 22, step=2, features_id=b"")),
        records.decisions(records.decision(3, 30)),
        records.spans(records.root(4)),
    )

    with bench.store.reading() as cursor:
        whole = training.export_snapshot(cursor, SCOPE, path, feature_key=b"key")
        fewer = training.export_snapshot(cursor, SCOPE, tmp_path / "1", feature_key=b"", limit=1)
        none = training.export_snapshot(
            cursor, Scope("desk", "new", 1), tmp_path / "0", feature_key=b""
        )

    header, found = messages(path)
    assert (whole.trajectories, header.trajectories) == (2, 2)
    assert 0 < whole.first_no < whole.last_no
    assert (header.parent, list(header.versions), header.feature_key) == ("p-1", ["p-1"], b"key")
    assert [tool.name for tool in header.tools] == ["find", "mail", "save"]
    assert header.scope == records.scope
    first, second = found
    assert (first.HasField("reward"), first.reward) == (True, 0.0)
    assert not second.HasField("reward")
    assert first.closed_unix_nano
    assert [decision.step for decision in second.decisions] == [0, 2]
    assert list(first.features) == [records.features(1)]
    assert [(call.tool, call.error) for call in first.calls] == [("find", False)]
    assert [t.trajectory_id for t in messages(tmp_path / "1")[1]] == [records.trace(2)]
    assert (fewer.trajectories, none.trajectories, none.last_no) == (1, 0, 0)


def test_a_training_may_start_from_a_version_whose_promotion_is_not_stored_yet(
    records: Any, bench: Any, tmp_path: Path
) -> None:
    bench.apply(
        records.catalogue(),
        records.policy("p-1"),
        records.change("PROMOTE", "p-1"),
        *records.episode(1, reward=0.0),
    )

    with bench.store.reading() as cursor:
        training.export_snapshot(cursor, SCOPE, tmp_path / "2", feature_key=b"", parent="p-2")
        training.export_snapshot(cursor, SCOPE, tmp_path / "0", feature_key=b"", parent="")

    headers = [messages(tmp_path / name)[0] for name in ("2", "0")]
    assert [(h.parent, list(h.versions)) for h in headers] == [
        ("p-2", ["p-1", "p-2"]),
        ("", ["p-1"]),
    ]


def test_promotion_rollback_and_pins_change_what_is_live(records: Any, bench: Any) -> None:
    bench.apply(
        records.policy("p-1", status="candidate", manifest_json="{}", size=7),
        records.policy("p-2", parent="p-1"),
        records.policy("p-3", status="rejected"),
        records.change("PROMOTE", "p-1"),
        records.change("PROMOTE", "p-2", previous="p-1", actor="trainer"),
        records.change("PIN", "p-1", previous="p-2"),
    )
    with bench.store.reading() as cursor:
        pinned = policies.live_policy(cursor, SCOPE)
        found = policies.policies(cursor, agent="desk")
        history = policies.policy_changes(cursor, SCOPE)
        assert policies.versions_ever_live(cursor, SCOPE) == ["p-1", "p-2"]
        assert policies.version_count(cursor) == 3
        assert policies.policies(cursor, agent="other") == []
        assert policies.policy(cursor, "p-9") is None
    assert pinned == policies.LivePolicy(SCOPE, "p-1", pinned=True)
    assert [(p.version, p.status, p.pinned) for p in found] == [
        ("p-1", "live", True),
        ("p-2", "retired", False),
        ("p-3", "rejected", False),
    ]
    assert [(c.version, c.previous, c.actor) for c in history][1] == ("p-2", "p-1", "trainer")

    bench.apply(records.change("UNPIN", ""))
    with bench.store.reading() as cursor:
        assert policies.live_policies(cursor) == [policies.LivePolicy(SCOPE, "p-1", pinned=False)]

    batch = bench.apply(records.change("ROLLBACK", ""), records.change("UNPIN", ""))
    with bench.store.reading() as cursor:
        assert policies.live_policy(cursor, SCOPE) is None
        status = policies.policy(cursor, "p-1")
    assert batch.policies_changed
    assert status is not None
    assert status.status == "retired"


@pytest.mark.parametrize("path", ["missing/file"])
def test_a_failed_export_leaves_the_cursor_usable(
    records: Any, bench: Any, tmp_path: Path, path: str
) -> None:
    with bench.store.reading() as cursor:
        with pytest.raises(FileNotFoundError):
            training.export_snapshot(cursor, SCOPE, tmp_path / path, feature_key=b"")
        assert training.scope_progress(cursor) == []
