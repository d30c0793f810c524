"""The whole daemon in this process: start, training, restart, refusals, end."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentgym.policy.snapshot import digest
from agentgym.proto.v1 import common_pb2, decision_pb2, policy_pb2, trajectory_pb2
from agentgym_daemon.app import Daemon, make_trainer
from agentgym_daemon.config import resolve
from agentgym_daemon.errors import (
    ContractError,
    DirectoryError,
    DirectoryHeldError,
    ListenError,
    StorageError,
)
from agentgym_daemon.learning.supervisor import TrainJob, TrainResult
from agentgym_daemon.rebuilding import rebuild
from agentgym_daemon.store.batch import AppliedBatch
from agentgym_daemon.store.database import DATABASE_NAME, Store
from agentgym_daemon.store.training import training_runs

MakeCandidate = Callable[..., bytes]
SCOPE = common_pb2.Scope(agent="support-desk", agent_name="clerk", feature_schema=1)


def daemon(home: Path, **settings: Any) -> Daemon:
    """A daemon that was not started; its trainer would be a real one."""
    return Daemon(resolve({"home": home, **settings}, {}))


async def refusal(home: Path, **settings: Any) -> Exception:
    """Why a daemon cannot start; nothing is left open."""
    refused = daemon(home, **settings)
    with pytest.raises((DirectoryError, ListenError, StorageError)) as caught:
        await refused.start()
    assert refused.listeners == ()
    return caught.value


async def rewarded_run(desk: Any, number: int, value: float = 1.0, *, schema: int = 1) -> None:
    """Sends a run with one observed decision, and its reward."""
    scope = common_pb2.Scope(agent="support-desk", agent_name="clerk", feature_schema=schema)
    decision = decision_pb2.DecisionRecord(
        decision_id=number.to_bytes(8, "big"),
        trajectory_id=number.to_bytes(16, "big"),
        scope=scope,
        arm=-1,
        called=["find_order"],
    )
    request = decision_pb2.RecordRequest(decisions=[decision])
    await desk.client.call(desk.client.decisions.Record, request)
    await desk.client.send_run(number)
    await desk.client.reward(trajectory_id=number.to_bytes(16, "big"), value=value)


async def until(condition: Callable[[], Any]) -> None:
    """Returns when a condition holds; the test's own time limit ends the wait."""
    while not condition():
        await asyncio.sleep(0.01)


def runs(desk: Any) -> list[Any]:
    """The trainings that are stored."""
    with desk.daemon._store.reading() as cursor:
        return training_runs(cursor)


def answering(
    make: MakeCandidate, *, accepted: bool = True, error: str = ""
) -> Callable[[TrainJob], TrainResult]:
    """A trainer that answers at once."""

    def answer(job: TrainJob) -> TrainResult:
        assert job.snapshot.stat().st_size > 0
        if error:
            return TrainResult(job, error)
        data = make(job.version, bias=float(job.version[2:]))
        job.out.write_bytes(data)
        return TrainResult(
            job,
            sha256=digest(data),
            size=len(data),
            report={"steps": 2},
            receipt={"tier": 0, "accepted": accepted, "reasons": ["churn: too much"]},
        )

    return answer


async def test_enough_rewards_train_promote_and_push_again_and_again(
    open_desk: Any, make_candidate: MakeCandidate
) -> None:
    async with open_desk(retrain_trajectories=2, seed=5) as desk:
        desk.trainer.answer = answering(make_candidate)
        stream = desk.client.subscribe()
        await stream.read()

        for number in (1, 2):
            await rewarded_run(desk, number)
        first = await stream.read()
        for number in (3, 4):
            await rewarded_run(desk, number)
        second = await stream.read()

        assert [live.version for live in first.live] == ["p-000001"]
        assert [live.version for live in second.live] == ["p-000002"]
        assert [job.seed for job in desk.trainer.jobs] == [5, 5]
        assert desk.trainer.jobs[0].parent is None
        assert desk.trainer.jobs[0].encoder is None
        assert desk.trainer.jobs[1].parent == desk.home / "policies" / "p-000001.safetensors"
        await until(lambda: len(runs(desk)) == 2)
        assert [(run.version, run.verdict, run.trajectories) for run in runs(desk)] == [
            ("p-000001", "promoted", 2),
            ("p-000002", "promoted", 4),
        ]
        assert list((desk.home / "training").iterdir()) == []


async def test_only_scopes_of_the_feature_schema_in_force_are_trained(
    open_desk: Any, make_candidate: MakeCandidate
) -> None:
    async with open_desk(encoder="default", retrain_trajectories=1) as desk:
        desk.trainer.answer = answering(make_candidate)
        await rewarded_run(desk, 1)  # n-grams only
        await rewarded_run(desk, 2, schema=2)

        await until(lambda: runs(desk))

        assert [run.scope.feature_schema for run in runs(desk)] == [2]
        (job,) = desk.trainer.jobs
        (file,) = (desk.home / "encoders").iterdir()
        assert job.encoder == file


async def test_a_candidate_that_the_gate_rejects_is_kept_and_not_promoted(
    open_desk: Any, make_candidate: MakeCandidate
) -> None:
    async with open_desk(retrain_trajectories=1) as desk:
        desk.trainer.answer = answering(make_candidate, accepted=False)

        await rewarded_run(desk, 1)
        await until(lambda: runs(desk))

        (run,) = runs(desk)
        assert (run.version, run.verdict) == ("p-000001", "rejected")
        assert json.loads(run.report_json)["reasons"] == ["churn: too much"]
        (version,) = desk.daemon._registry.book.versions()
        assert version.status == "rejected"


async def test_a_failed_training_is_a_fact_and_waits_for_new_rewards(open_desk: Any) -> None:
    async with open_desk(retrain_trajectories=1) as desk:
        desk.trainer.answer = answering(lambda *a, **k: b"", error="out of memory")

        await rewarded_run(desk, 1)
        await until(lambda: runs(desk))

        (run,) = runs(desk)
        assert (run.version, run.verdict) == ("", "failed")
        assert "out of memory" in run.report_json


async def test_a_broken_candidate_fails_the_training_and_nothing_else(open_desk: Any) -> None:
    async with open_desk(retrain_trajectories=1) as desk:
        desk.trainer.answer = answering(lambda *a, **k: b"no snapshot")

        await rewarded_run(desk, 1)
        await until(lambda: runs(desk))

        assert runs(desk)[0].verdict == "failed"
        assert desk.daemon._registry.book.versions() == []


async def test_a_pinned_scope_goes_on_training_but_keeps_its_version(
    open_desk: Any, make_candidate: MakeCandidate
) -> None:
    async with open_desk(retrain_trajectories=1) as desk:
        desk.trainer.answer = answering(make_candidate)
        await rewarded_run(desk, 1)
        await until(lambda: runs(desk))
        pin = policy_pb2.PinRequest(version="p-000001")
        await desk.client.call(desk.client.policies.Pin, pin)

        await rewarded_run(desk, 2)
        await until(lambda: len(runs(desk)) == 2)

        assert runs(desk)[1].verdict == "kept"
        assert desk.daemon._registry.book.live_version(SCOPE) == "p-000001"
        assert desk.daemon._registry.book.get("p-000002").status == "candidate"


async def test_a_restart_continues_with_policy_counters_and_log(
    open_desk: Any, home: Path, make_candidate: MakeCandidate
) -> None:
    async with open_desk(retrain_trajectories=1) as desk:
        desk.trainer.answer = answering(make_candidate)
        await rewarded_run(desk, 1)
        await until(lambda: runs(desk))
        before = await desk.client.status()

    async with open_desk(retrain_trajectories=2) as desk:
        after = await desk.client.status()
        live = desk.daemon._registry.live("support-desk")

        assert after.log_end == before.log_end
        assert {n: c for n, c in after.counters.items() if n != "records"}.items() >= {
            n: c for n, c in before.counters.items() if n == "spans"
        }.items()
        assert [version.version for version in live] == ["p-000001"]
        assert desk.daemon._registry.book.next_version() == "p-000002"
        assert after.scopes[0].until_training == 2


async def test_a_lost_database_is_derived_again_at_the_start(open_desk: Any, home: Path) -> None:
    async with open_desk() as desk:
        await rewarded_run(desk, 1)
    for path in home.glob(f"{DATABASE_NAME}*"):
        path.unlink()

    async with open_desk() as desk:
        status = await desk.client.status()

    assert (status.counters["spans"], status.counters["rewards"]) == (2, 1)


async def test_a_rebuild_gives_equal_content(open_desk: Any, home: Path) -> None:
    async with open_desk() as desk:
        await rewarded_run(desk, 1)
        await desk.client.applied()

    result = rebuild(resolve({"home": home}, {}))

    assert result.plain()["equal"] is True
    assert result.compare("spans") == "equal"
    (home / DATABASE_NAME).unlink()
    anew = rebuild(resolve({"home": home}, {}))
    assert anew.compare("spans") == "new"
    assert anew.plain()["equal"] is None
    assert anew.after == result.after


def test_a_rebuild_says_what_changed(home: Path) -> None:
    config = resolve({"home": home}, {})
    rebuild(config)
    store = Store.open(home / DATABASE_NAME)
    store.writer.execute("INSERT INTO counters VALUES ('invented', 1)")
    store.close()

    result = rebuild(config)

    assert result.compare("counters") == "changed"
    assert result.plain()["equal"] is False


async def test_idle_runs_close_and_get_no_default_reward(open_desk: Any) -> None:
    async with open_desk(idle_ttl_s=0.5, default_reward=0.0, default_reward_after_s=0.0) as desk:
        await desk.client.send_run(1, root=False)
        await desk.client.send_run(2)

        async def states() -> dict[int, tuple[str, float | None]]:
            response = await desk.client.call(
                desk.client.trajectories.List, trajectory_pb2.ListTrajectoriesRequest()
            )
            return {
                int.from_bytes(row.trajectory_id, "big"): (
                    row.state,
                    row.reward if row.HasField("reward") else None,
                )
                for row in response.trajectories
            }

        while (found := await states()) != {1: ("incomplete", None), 2: ("closed", 0.0)}:
            assert found.get(2, ("closed",))[0] == "closed"
            await asyncio.sleep(0.05)


async def test_a_chore_that_fails_is_counted_and_the_daemon_goes_on(
    open_desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_desk() as desk:

        async def broken() -> None:
            raise ValueError("broken chore")

        await desk.daemon._chores.run(broken)

        assert (await desk.client.status()).counters["chores_failed"] == 1


async def test_a_batch_that_cannot_be_watched_costs_no_other(
    open_desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_desk() as desk:
        seen: list[AppliedBatch] = []

        def take(batch: AppliedBatch) -> set[str]:
            seen.append(batch)
            if len(seen) == 1:
                raise ValueError("broken batch")
            return {"support-desk"}

        monkeypatch.setattr(desk.daemon._tools, "take", take)
        stream = desk.client.subscribe()
        await stream.read()

        for number in (1, 2):  # one turn of the watch has both
            desk.daemon._on_applied(AppliedBatch(end=0, closed=(bytes([number]),)))
        await stream.read()  # the second rang

        assert [batch.closed for batch in seen] == [(b"\x01",), (b"\x02",)]
        assert (await desk.client.status()).counters["chores_failed"] == 1


async def test_a_failed_log_ends_the_daemon(open_desk: Any) -> None:
    async with open_desk() as desk:
        desk.daemon._log.failed = StorageError("disk is full")

        await desk.daemon.failed.wait()


async def test_a_second_daemon_is_refused_with_the_holders_pid(desk: Any) -> None:
    error = await refusal(desk.home)

    assert isinstance(error, DirectoryHeldError)
    assert error.pid == os.getpid()


async def test_a_taken_port_is_a_clear_error_and_gives_the_directory_back(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"

        error = await refusal(home, listen=address)

    assert f"cannot listen on {address}: it is taken" in str(error)
    assert not (home / "daemon.sock").exists()


async def test_a_path_too_long_for_a_socket_is_a_clear_error(home: Path) -> None:
    error = await refusal(home / ("x" * 100))

    assert "a unix socket takes 107" in str(error)


async def test_a_stale_socket_is_replaced_and_anything_else_is_not(
    open_desk: Any, home: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(home / "daemon.sock"))
    async with open_desk() as desk:
        await desk.client.status()
        assert (home / "daemon.sock").stat().st_mode & 0o777 == 0o600
    assert not (home / "daemon.sock").exists()
    (home / "daemon.sock").write_text("mine")

    error = await refusal(home)

    assert "something that is no socket is in its place" in str(error)
    assert (home / "daemon.sock").read_text() == "mine"


async def test_a_log_shorter_than_the_database_is_told(open_desk: Any, home: Path) -> None:
    async with open_desk() as desk:
        await desk.client.send_run(1)
        await desk.client.applied()
    for path in (home / "log").iterdir():
        path.unlink()

    async with open_desk() as desk:
        await desk.client.send_run(2)
        await desk.client.applied()
        status = await desk.client.status()

        assert status.counters["trajectories_closed"] == 2
        assert [damage.reason for damage in status.damages] == ["records are missing from the log"]


async def test_stopping_twice_is_harmless(home: Path) -> None:
    never_started = daemon(home)
    await never_started.stop()
    await never_started.stop()


def test_the_real_trainer_is_made_from_the_settings(home: Path) -> None:
    trainer = make_trainer(resolve({"home": home}, {}))
    trainer.close()

    assert trainer.status == "closed"


def test_a_contract_error_carries_both_versions() -> None:
    error = ContractError(theirs="7", ours=1)

    assert (error.theirs, error.ours) == ("7", 1)
