"""What became of rewards: which count and why, what they weigh, where they were learned from."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest

from agentgym.cli import main
from agentgym.proto.v1 import common_pb2, decision_pb2, reward_pb2, training_pb2
from agentgym_daemon.learning.dataset import Trajectory
from agentgym_daemon.learning.supervisor import TrainJob, TrainResult
from agentgym_daemon.rewards.alarms import alarms
from agentgym_daemon.rewards.tracing import held_out
from agentgym_daemon.store.rewards import Activity

DAY_NS = 86_400 * 10**9


def run_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


async def show(desk: Any, **request: Any) -> Any:
    await desk.client.applied()
    return await desk.client.call(
        desk.client.rewards.Show, reward_pb2.ShowRewardsRequest(**request)
    )


async def sources(desk: Any) -> dict[str, Any]:
    await desk.client.applied()
    reply = await desk.client.call(desk.client.rewards.Sources, reward_pb2.RewardSourcesRequest())
    return {source.source: source for source in reply.sources}


async def test_each_reward_says_whether_it_counts_and_why(open_desk: Any) -> None:
    async with open_desk(reward_aggregation="mean", reward_weights="noise=0") as desk:
        await desk.client.send_run(1)
        for source, value in (("a", 0.0), ("a", 1.0), ("b", 0.5), ("noise", 0.0), ("c", 0.0)):
            await desk.client.reward(trajectory_id=run_id(1), source=source, value=value)
        reply = await show(desk, trajectory_id=run_id(1))
        await desk.client.call(
            desk.client.rewards.Revoke,
            reward_pb2.RevokeRequest(reward_id=reply.rewards[4].reward_id),
        )
        reply = await show(desk, trajectory_id=run_id(1))
        same = await show(desk, reward_id=reply.rewards[2].reward_id)

    assert [one.standing for one in reply.rewards] == [
        "replaced by a later one of the same source and name",
        "decides 0.50 of it",
        "decides 0.50 of it",
        "its source has weight 0",
        "revoked",
    ]
    assert reply.outcome == reply.training_reward == 0.75
    assert reply.aggregation == "mean noise=0.0"
    assert {one.reward.actor for one in reply.rewards} == {"token:token"}
    assert same == reply


async def test_a_reward_that_is_held_back_is_shown_and_not_learned_from(open_desk: Any) -> None:
    async with open_desk(reward_hold_s=3600) as desk:
        await desk.client.send_run(1)
        await desk.client.reward(trajectory_id=run_id(1), value=1)
        reply = await show(desk, trajectory_id=run_id(1))

    assert reply.outcome == 1.0
    assert not reply.HasField("training_reward")
    assert "decides; not learned from for 3" in reply.rewards[0].standing


async def test_cost_takes_from_what_is_learned_and_not_from_the_outcome(open_desk: Any) -> None:
    async with open_desk(cost_weights={"call": 0.25}) as desk:
        for number, value in ((1, 1.0), (2, 0.0)):
            await desk.client.send_run(number)
            await desk.client.reward(trajectory_id=run_id(number), value=value)
        good, bad = [await show(desk, trajectory_id=run_id(number)) for number in (1, 2)]

    assert (good.outcome, good.cost, good.training_reward) == (1.0, 0.25, 0.75)
    assert (bad.outcome, bad.cost, bad.training_reward) == (0.0, 0.25, 0.0)


async def test_a_flood_is_capped_and_flagged_and_the_others_keep_their_weight(
    open_desk: Any,
) -> None:
    async with open_desk() as desk:
        rewards = []
        for number in range(1, 401):
            await desk.client.send_run(number)
            source = f"qa-{number % 20}" if number <= 80 else "flood"
            rewards.append(reward_pb2.Reward(trajectory_id=run_id(number), value=1, source=source))
        await desk.client.call(
            desk.client.rewards.Report, reward_pb2.ReportRequest(rewards=rewards)
        )
        found = await sources(desk)
        flooded = await show(desk, trajectory_id=run_id(400))
        honest = await show(desk, trajectory_id=run_id(1))
        while not (told := (await desk.client.status()).reward_alarms):
            await asyncio.sleep(0.1)

    assert found["flood"].share_given == 0.8
    assert found["flood"].share_trained == pytest.approx(0.1)
    assert (found["flood"].capped, found["qa-1"].capped) == (True, False)
    assert flooded.weight == pytest.approx(80 / 9 / 320)
    assert honest.weight == 1.0
    assert list(found["flood"].alarms) == ["new within 24 h, and 320 (80%) of all that came since"]
    assert "source 'flood'" in told[0]


async def test_a_reward_is_traced_to_the_trainings_that_had_it(
    open_desk: Any, spans_of: Any, scope: common_pb2.Scope, tools: Any
) -> None:
    exported: list[bytes] = []

    def fail(job: TrainJob) -> TrainResult:
        data, start = job.snapshot.read_bytes(), 0
        while start < len(data):
            end = start + 4 + int.from_bytes(data[start : start + 4], "little")
            exported.append(data[start + 4 : end])
            start = end
        return TrainResult(job, "as the test wants it")

    async with open_desk(retrain_trajectories=99, source_caps="qa=0.2") as desk:
        desk.trainer.answer = fail
        for number in range(1, 101):
            decision = decision_pb2.DecisionRecord(
                decision_id=number.to_bytes(8, "big"),
                trajectory_id=run_id(number),
                scope=scope,
                offered=[tool.fingerprint for tool in tools],
                arm=-1,
            )
            await desk.client.call(
                desk.client.decisions.Record, decision_pb2.RecordRequest(decisions=[decision])
            )
            await desk.client.send_run(number)
        rewards = [
            reward_pb2.Reward(
                trajectory_id=run_id(number), value=1, source="qa" if number < 40 else "b"
            )
            for number in range(1, 100)
        ]
        await desk.client.call(
            desk.client.rewards.Report, reward_pb2.ReportRequest(rewards=rewards)
        )
        while not (await show(desk, trajectory_id=run_id(1))).trained_in:
            await asyncio.sleep(0.1)
        parts = {
            number: (await show(desk, trajectory_id=run_id(number))).trained_in[0].part
            for number in (*range(1, 6), 100)
        }
        first = await show(desk, trajectory_id=run_id(1))

    for number in range(1, 6):
        expected = "held out" if held_out(run_id(number), 10) else "trained"
        assert parts[number] == expected
    assert parts[100] in ("not rewarded yet", "held out")
    assert first.trained_in[0].verdict == "failed"
    messages = [training_pb2.TrainingTrajectory.FromString(data) for data in exported[1:101]]
    assert messages[0].weight == pytest.approx(60 / 4 / 39)
    assert messages[50].weight == 1.0
    assert not messages[99].HasField("reward")
    assert math.isclose(sum(m.weight for m in messages[:39]), 0.2 * (60 + 15))


def test_what_is_held_out_is_decided_as_the_learner_decides_it() -> None:
    for number in range(200):
        assert held_out(run_id(number), 10) == Trajectory(run_id(number), 1.0, (), 0).held_out(10)


def activity(**changed: Any) -> Activity:
    fields: dict[str, Any] = {
        "agent": "desk",
        "source": "qa",
        "rewards": 800,
        "revoked": 0,
        "mean": 0.5,
        "first_ns": 0,
        "last_ns": 9 * DAY_NS,
        "recent": 100,
        "recent_mean": 0.5,
        "before": 700,
        "before_mean": 0.5,
    }
    return Activity(**fields | changed)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, []),
        ({"recent": 600}, ["600 within 24 h, 7 times its usual 87.5 a day"]),
        ({"recent_mean": 0.8}, ["mean 0.80 within 24 h, 0.50 before"]),
        ({"recent_mean": 0.6}, []),
        ({"recent": 40, "before": 1, "recent_mean": 1.0}, []),
    ],
)
def test_a_jump_in_volume_or_mean_is_told_with_its_figures(
    changed: dict[str, Any], words: list[str]
) -> None:
    found = alarms([activity(**changed)], 9 * DAY_NS)

    assert found.get(("desk", "qa"), []) == words


async def test_the_command_line_shows_and_gives_thumbs(
    open_desk: Any, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_desk() as desk:
        await desk.client.send_run(1, key="ticket-1")

        async def run(*arguments: str) -> tuple[int, str]:
            code = await asyncio.to_thread(main, ["--home", str(home), *arguments])
            return code, capsys.readouterr().out

        assert (await run("reward", "up", "--key", "ticket-1"))[0] == 0
        await desk.client.applied()
        code, text = await run("rewards", "show", run_id(1).hex())
        assert code == 0
        assert "outcome 1.000 by last" in text
        assert "decides" in text
        _, shown = await run("rewards", "show", run_id(1).hex(), "--json")
        reward_id = json.loads(shown)["rewards"][0]["reward_id"]
        assert (await run("rewards", "show", reward_id))[0] == 0
        _, table = await run("rewards", "sources", "--agent", "support-desk")
        assert "cli" in table
        assert (await run("rewards", "show", "nonsense"))[0] == 1


async def test_a_default_reward_that_was_taken_back_is_not_given_again(open_desk: Any) -> None:
    async with open_desk(default_reward=1, default_reward_after_s=0) as desk:
        await desk.client.send_run(1)
        while not (reply := await show(desk, trajectory_id=run_id(1))).rewards:
            await asyncio.sleep(0.05)
        reward_id = reply.rewards[0].reward_id
        await desk.client.call(
            desk.client.rewards.Revoke, reward_pb2.RevokeRequest(reward_id=reward_id)
        )
        # The chores of the daemon look for overdue defaults one run after the other.
        await desk.client.send_run(2)
        while not (await show(desk, trajectory_id=run_id(2))).rewards:
            await asyncio.sleep(0.05)
        counters = (await desk.client.status()).counters
        reply = await show(desk, trajectory_id=run_id(1))

    assert (len(reply.rewards), reply.HasField("outcome")) == (1, False)
    assert counters.get("rewards_duplicate", 0) == 0
