"""Rewards over gRPC: resolved, checked, deduplicated, revoked."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc import aio

from agentgym.proto.v1 import reward_pb2, trajectory_pb2
from agentgym_daemon.clock import ManualClock
from agentgym_daemon.errors import StorageError
from agentgym_daemon.rewards.resolve import Rewards


def run_id(number: int) -> bytes:
    """The id of the run with a number."""
    return number.to_bytes(16, "big")


async def reward_of(desk: Any, number: int) -> float | None:
    """The effective reward of a stored run."""
    await desk.client.applied()
    trajectory = await desk.client.call(
        desk.client.trajectories.Get,
        trajectory_pb2.GetTrajectoryRequest(trajectory_id=run_id(number)),
    )
    return trajectory.summary.reward if trajectory.summary.HasField("reward") else None


async def test_a_reward_by_id_is_given_as_soon_as_the_run_was_acknowledged(desk: Any) -> None:
    await desk.client.send_run(1)

    result = await desk.client.reward(trajectory_id=run_id(1), value=0.75)

    assert list(result.trajectory_ids) == [run_id(1)]
    assert result.reward_id.startswith("r-")
    assert (result.error, result.code, result.duplicate) == ("", "", False)
    assert await reward_of(desk, 1) == 0.75


async def test_an_unknown_trajectory_is_not_found_and_the_next_reward_is_taken(desk: Any) -> None:
    await desk.client.send_run(1)
    report = reward_pb2.ReportRequest(
        rewards=[
            reward_pb2.Reward(trajectory_id=run_id(99), value=1),
            reward_pb2.Reward(key="nowhere", agent="a", value=1),
            reward_pb2.Reward(trajectory_id=run_id(1), value=1),
        ]
    )

    unknown, no_key, good = (await desk.client.call(desk.client.rewards.Report, report)).results

    assert unknown.code == no_key.code == "NOT_FOUND"
    assert run_id(99).hex() in unknown.error
    assert "may not have been sent yet" in unknown.error
    assert "no trajectory of agent 'a' with key 'nowhere'" in no_key.error
    assert not good.error
    assert (await desk.client.status()).counters["rewards_rejected"] == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"value": float("nan")}, "expected a finite number in [0, 1], got nan"),
        ({"value": float("inf")}, "expected a finite number in [0, 1], got inf"),
        ({"value": 1.5}, "expected a finite number in [0, 1], got 1.5"),
        ({"value": -0.1}, "expected a finite number in [0, 1], got -0.1"),
        ({"trajectory_id": b"short"}, "trajectory_id: expected 16 bytes, got 5"),
        ({"trajectory_id": b""}, "expected a trajectory_id or a key, got neither"),
        ({"reason": "x" * 2000}, "expected texts of at most 1000 characters"),
        ({"time_unix_nano": 2**64 - 1}, "time_unix_nano: expected a time"),
    ],
)
async def test_a_reward_that_cannot_be_taken_says_what_was_expected(
    desk: Any, fields: dict[str, Any], message: str
) -> None:
    await desk.client.send_run(1)

    result = await desk.client.reward(**{"trajectory_id": run_id(1), "value": 1.0} | fields)

    assert result.code == "INVALID_ARGUMENT"
    assert message in result.error
    assert await reward_of(desk, 1) is None


async def test_a_key_finds_its_latest_run_and_the_reply_names_it(desk: Any) -> None:
    await desk.client.send_run(1, key="ticket")
    await desk.client.reward(trajectory_id=run_id(1), value=0.0)
    await desk.client.send_run(2, key="ticket")

    result = await desk.client.reward(key="ticket", value=1.0)

    assert list(result.trajectory_ids) == [run_id(2)]
    assert await reward_of(desk, 1) == 0.0


async def test_several_unrewarded_runs_of_a_key_are_named_unless_all_are_meant(desk: Any) -> None:
    for number in (1, 2, 3):
        await desk.client.send_run(number, key="ticket")

    refused = await desk.client.reward(key="ticket", value=1.0)

    assert refused.code == "FAILED_PRECONDITION"
    assert all(run_id(number).hex() in refused.error for number in (1, 2, 3))
    given = await desk.client.reward(key="ticket", value=1.0, all=True)
    assert set(given.trajectory_ids) == {run_id(1), run_id(2), run_id(3)}
    assert [await reward_of(desk, number) for number in (1, 2, 3)] == [1.0] * 3

    await desk.client.call(
        desk.client.rewards.Revoke, reward_pb2.RevokeRequest(reward_id=given.reward_id)
    )
    assert [await reward_of(desk, number) for number in (1, 2, 3)] == [None] * 3


async def test_rewards_of_one_report_see_each_other(desk: Any) -> None:
    await desk.client.send_run(1, key="ticket")
    await desk.client.send_run(2, key="ticket")
    rewards = [
        reward_pb2.Reward(trajectory_id=run_id(1), value=1.0, idempotency_key="k"),
        reward_pb2.Reward(trajectory_id=run_id(1), value=0.0, idempotency_key="k"),
        reward_pb2.Reward(key="ticket", value=0.5),
    ]

    first, repeated, by_key = (
        await desk.client.call(
            desk.client.rewards.Report, reward_pb2.ReportRequest(rewards=rewards)
        )
    ).results

    assert (first.duplicate, repeated.duplicate) == (False, True)
    assert first.reward_id == repeated.reward_id
    assert list(by_key.trajectory_ids) == [run_id(2)]


@pytest.mark.parametrize("key", ["mine", ""])
async def test_a_repeated_reward_changes_nothing(desk: Any, key: str) -> None:
    await desk.client.send_run(1)
    fields = {"trajectory_id": run_id(1), "value": 1.0, "idempotency_key": key}
    first = await desk.client.reward(**fields)

    again = await desk.client.reward(**fields)

    assert again.duplicate
    assert again.reward_id == first.reward_id
    assert list(again.trajectory_ids) == [run_id(1)]
    assert (await desk.client.status()).counters["rewards"] == 1


async def test_a_key_that_was_used_keeps_its_first_value(desk: Any) -> None:
    await desk.client.send_run(1)
    await desk.client.reward(trajectory_id=run_id(1), value=1.0, idempotency_key="k")

    again = await desk.client.reward(trajectory_id=run_id(1), value=0.0, idempotency_key="k")

    assert again.duplicate
    assert await reward_of(desk, 1) == 1.0


async def test_concurrent_repeats_are_given_once(desk: Any) -> None:
    await desk.client.send_run(1)

    results = await asyncio.gather(
        *(
            desk.client.reward(trajectory_id=run_id(1), value=1.0, idempotency_key="k")
            for _ in range(8)
        )
    )

    assert sorted(result.duplicate for result in results) == [False] + [True] * 7


async def test_a_revoked_reward_may_be_given_again(desk: Any) -> None:
    await desk.client.send_run(1)
    first = await desk.client.reward(trajectory_id=run_id(1), value=1.0)
    revoke = reward_pb2.RevokeRequest(reward_id=first.reward_id, reason="mistaken")

    response = await desk.client.call(desk.client.rewards.Revoke, revoke)
    await desk.client.call(desk.client.rewards.Revoke, revoke)

    assert response.trajectory_id == run_id(1)
    assert await reward_of(desk, 1) is None
    again = await desk.client.reward(trajectory_id=run_id(1), value=1.0)
    assert (again.duplicate, again.reward_id == first.reward_id) == (False, False)
    assert await reward_of(desk, 1) == 1.0
    assert (await desk.client.status()).counters["revocations"] == 1


async def test_an_unknown_reward_cannot_be_revoked(desk: Any) -> None:
    with pytest.raises(aio.AioRpcError, match="no reward has id 'r-0'") as caught:
        await desk.client.call(
            desk.client.rewards.Revoke, reward_pb2.RevokeRequest(reward_id="r-0")
        )

    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_a_report_of_too_many_is_refused_whole(desk: Any) -> None:
    rewards = [reward_pb2.Reward(key="k", value=1.0)] * 10_001

    with pytest.raises(aio.AioRpcError, match="at most 10000 per call"):
        await desk.client.call(
            desk.client.rewards.Report, reward_pb2.ReportRequest(rewards=rewards)
        )


async def test_nothing_is_decided_on_a_database_that_is_behind() -> None:
    async def never() -> bool:
        return False

    async def append(record: Any) -> int:
        raise AssertionError("nothing may be written")

    rewards = Rewards(None, append=append, caught_up=never, clock=ManualClock())  # type: ignore[arg-type]

    with pytest.raises(StorageError, match="still behind the log"):
        await rewards.report([reward_pb2.Reward(key="k", value=1.0)])
