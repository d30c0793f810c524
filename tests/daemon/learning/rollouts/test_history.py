"""The snapshot as history: what was there, and what was added since."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agentgym.proto.v1 import common_pb2
from agentgym.trajectory import Tool
from agentgym_daemon.learning.dataset import read_dataset
from agentgym_daemon.learning.rollouts import history as module
from agentgym_daemon.learning.rollouts.history import History
from agentgym_daemon.learning.rollouts.session import ReadRun

SCOPE = common_pb2.Scope(agent="desk", feature_schema=1)


def write(
    path: Path, runs: list[ReadRun], before: History | None = None, **header: object
) -> History:
    tools = {tool.fingerprint: tool for run in runs for tool in run.catalogue.tools}
    (before or History()).write(
        path,
        [run.training(1.0, n + 1) for n, run in enumerate(runs)],
        scope=SCOPE,
        feature_key=b"k",
        tools=tools,
        parent=str(header.get("parent", "")),
        versions=header.get("versions", ()),  # type: ignore[arg-type]
    )
    return History(path)


def test_the_trainer_reads_what_was_written(
    finished_run: Callable[..., ReadRun], tools: tuple[Tool, ...], tmp_path: Path
) -> None:
    write(tmp_path / "a", [finished_run(1, error=True), finished_run(2)])

    dataset = read_dataset(tmp_path / "a")

    assert [t.reward for t in dataset.trajectories] == [1.0, 1.0]
    assert [len(t.steps) for t in dataset.trajectories] == [2, 2]
    assert dataset.trajectories[0].failed_visibly
    assert sorted(dataset.names) == ["refund", "ticket", "track"]
    assert dataset.scope == ("desk", "", 1)


def test_what_is_added_comes_after_what_was_there(
    finished_run: Callable[..., ReadRun], tmp_path: Path
) -> None:
    before = write(tmp_path / "a", [finished_run(1)], versions=["p-1"])
    after = write(tmp_path / "b", [finished_run(2)], before, parent="p-2", versions=["p-2"])

    dataset = read_dataset(tmp_path / "b")

    assert [t.trajectory_id[-1] for t in dataset.trajectories] == [1, 2]
    assert (dataset.parent, dataset.versions) == ("p-2", ("p-1", "p-2"))
    assert len(list(after.trajectories())) == 2


def test_only_the_newest_are_kept(
    finished_run: Callable[..., ReadRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WINDOW", 2)
    write(tmp_path / "a", [finished_run(n) for n in (1, 2, 3)])

    assert [t.trajectory_id[-1] for t in read_dataset(tmp_path / "a").trajectories] == [2, 3]


def test_trajectories_are_rollouts(finished_run: Callable[..., ReadRun], tmp_path: Path) -> None:
    past = write(tmp_path / "a", [finished_run(1, error=True)])

    (rollout,) = past.rollouts(config=None)

    assert (rollout.rollout_id, rollout.status) == ((1).to_bytes(16, "big").hex(), "succeeded")
    assert rollout.metadata == {"agentgym.source": "snapshot", "agentgym.reward": 1.0}
    call, reward = past.spans(rollout.rollout_id)
    assert (call.name, call.error) == ("execute_tool track", "tool_error")
    assert reward.attributes["agentlightning.reward.0.value"] == 1.0


def test_no_history_is_empty() -> None:
    assert History().rollouts(config=None) == []
    assert not History().header.tools
