"""Reading: get, list, tail, explain, status."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import grpc
import pytest
from grpc import aio

from agentgym.policy.arms import Exploration, decide, force_arms, show_arms
from agentgym.policy.evaluate import Catalogue, Scorer, sigmoid
from agentgym.policy.features import TextHasher
from agentgym.policy.messages import features_message
from agentgym.policy.parameters import initial
from agentgym.policy.snapshot import digest, dump
from agentgym.proto.v1 import (
    catalogue_pb2,
    common_pb2,
    decision_pb2,
    log_pb2,
    trajectory_pb2,
)
from agentgym.trajectory import PastCall, Tool
from agentgym_daemon.encoders.choice import featuriser_of
from agentgym_daemon.learning import schedule
from agentgym_daemon.lock import read_feature_key
from tests.manifests import make_manifest


async def explain(desk: Any, identifier: bytes) -> list[trajectory_pb2.Explanation]:
    """Explanations of a decision or of a whole trajectory."""
    await desk.client.applied()
    response = await desk.client.call(
        desk.client.trajectories.Explain, trajectory_pb2.ExplainRequest(id=identifier)
    )
    return list(response.explanations)


@pytest.fixture
async def policy(desk: Any, scope: common_pb2.Scope, make_candidate: Any) -> Any:
    """A registered version's parameters."""
    data = make_candidate("p-000001", bias=0.5)
    await desk.daemon._registry.register(
        data, sha256=digest(data), scope=scope, status="candidate", receipt={}
    )
    return desk.daemon._registry.snapshot("p-000001").parameters


async def send_decision(
    desk: Any,
    policy: Any,
    tools: tuple[Tool, ...],
    *,
    seed: int | None,
    show: bool = False,
    encoder: str = "none",
    down: tuple[int, ...] = (),
) -> decision_pb2.DecisionRecord:
    """Decides a step as the plugin does and sends its record."""

    features = featuriser_of(encoder, TextHasher(read_feature_key(desk.home)))
    x = features("where is order 17?")
    history = [PastCall(tools[0].fingerprint, error=True)]
    evaluation = Scorer(policy, Catalogue(tools, features.exactly))(x, history, down)
    make = show_arms if show else force_arms
    exploration = Exploration()
    decision = decide(
        make(evaluation, [i not in down for i in range(2)], exploration.top_k),
        exploration,
        None if seed is None else random.Random(seed),
        down=down,
    )
    record = decision_pb2.DecisionRecord(
        decision_id=(1).to_bytes(8, "big"),
        trajectory_id=(1).to_bytes(16, "big"),
        scope=common_pb2.Scope(
            agent="support-desk", agent_name="clerk", feature_schema=features.schema
        ),
        policy_version="p-000001",
        offered=[tool.fingerprint for tool in tools],
        support=[
            decision_pb2.Arm(
                kind=int(arm.kind), tools=arm.tools, score=arm.score, probability=arm.probability
            )
            for arm in decision.support
        ],
        arm=decision.arm,
        arm_propensity=decision.propensity,
        temperature=decision.temperature,
        floor=decision.floor,
        defer_floor=decision.defer_floor,
        top_k=decision.top_k,
        greedy=decision.greedy,
        down=decision.down,
        history=[decision_pb2.PastCall(tool=tools[0].fingerprint, error=True)],
        features_id=b"features",
    )
    sent = features_message(record.trajectory_id, b"features", x, features.schema)
    response = await desk.client.call(
        desk.client.decisions.Record,
        decision_pb2.RecordRequest(decisions=[record], features=[sent]),
    )
    assert response.rejected == 0, response.message
    return record


async def put_tools(desk: Any, tools: tuple[Tool, ...]) -> None:
    """Sends the catalogue."""
    entries = [
        common_pb2.Tool(fingerprint=tool.fingerprint, name=tool.name, description=tool.description)
        for tool in tools
    ]
    await desk.client.call(
        desk.client.catalogue.Put, catalogue_pb2.PutRequest(agent="support-desk", tools=entries)
    )


@pytest.mark.parametrize("show", [False, True])
@pytest.mark.parametrize("seed", [None, 1, 2])
async def test_a_decision_is_recomputed_to_the_last_bit_of_its_probabilities(
    desk: Any, policy: Any, tools: tuple[Tool, ...], seed: int | None, show: bool
) -> None:
    await put_tools(desk, tools)
    record = await send_decision(desk, policy, tools, seed=seed, show=show)
    await desk.client.send_run(1)

    (explanation,) = await explain(desk, record.decision_id)

    assert 0.0 <= explanation.recomputed_error <= 1e-12
    assert list(explanation.offered) == ["find_order", "refund"]
    assert list(explanation.executed) == ["find_order"]
    assert explanation.arms[0].arm == "defer"
    assert [arm.taken for arm in explanation.arms].index(True) == record.arm
    assert explanation.arms[1].arm.startswith("show" if show else "force")
    assert explanation.decision == record
    assert "under p-000001; the model called find_order." in explanation.summary
    expected = set() if show else {"similarity", "learned", "history", "errors"}
    assert set(explanation.arms[1].parts) == expected
    alone = explanation.arms[0]
    assert set(alone.parts) == {"learned", "choices", "errors"}
    assert alone.score == pytest.approx(sigmoid(sum(alone.parts.values())), abs=1e-9)
    assert list(explanation.masked) == []


@pytest.mark.parametrize("down", [(), (0,)])
@pytest.mark.parametrize("encoder", ["none", "default"])
async def test_embeddings_and_tools_that_were_down_are_recomputed_too(
    open_desk: Any,
    tools: tuple[Tool, ...],
    scope: common_pb2.Scope,
    encoder: str,
    down: tuple[int, ...],
) -> None:
    async with open_desk(encoder=encoder) as desk:
        features = featuriser_of(encoder, TextHasher(b"any"))
        policy = initial(
            tuple(t.fingerprint.hex() for t in tools),
            tuple(t.name for t in tools),
            features.embedding_dim,
        )
        data = dump(policy, make_manifest(scope={}))
        scope.feature_schema = features.schema
        await desk.daemon._registry.register(
            data, sha256=digest(data), scope=scope, status="candidate", receipt={}
        )
        await put_tools(desk, tools)
        record = await send_decision(desk, policy, tools, seed=1, encoder=encoder, down=down)
        await desk.client.send_run(1)

        (explanation,) = await explain(desk, record.decision_id)

        assert 0.0 <= explanation.recomputed_error <= 1e-12
        assert list(explanation.decision.down) == list(down)
        left_out = f"Left out, because it fails at present: {tools[0].name}."
        assert (left_out in explanation.summary) == bool(down)
        assert [arm.arm for arm in explanation.arms] == [
            "defer",
            *(f"force {tools[arm.tools[0]].name}" for arm in record.support[1:]),
        ]
        assert all(("stands in" in arm.parts) == bool(down) for arm in explanation.arms[1:])
        assert list(explanation.masked) == [f"{tools[i].name} (fails at present)" for i in down]


async def test_an_explanation_says_how_the_run_turned_out_and_what_is_learned(
    desk: Any, policy: Any, tools: tuple[Tool, ...]
) -> None:
    await put_tools(desk, tools)
    record = await send_decision(desk, policy, tools, seed=1)
    await desk.client.send_run(1)
    await desk.client.applied()
    request = trajectory_pb2.ExplainRequest(id=record.decision_id)

    before = (await desk.client.call(desk.client.trajectories.Explain, request)).outcome
    await desk.client.reward(trajectory_id=record.trajectory_id, value=1.0)
    await desk.client.applied()
    after = (await desk.client.call(desk.client.trajectories.Explain, request)).outcome

    assert before.trajectory_id == record.trajectory_id
    assert not before.HasField("outcome")
    assert not before.HasField("training_reward")
    assert (after.outcome, after.training_reward, after.weight, after.cost) == (1.0, 1.0, 1.0, 0.0)
    assert after.calls == 1


async def test_a_decision_of_another_feature_schema_is_shown_but_not_recomputed(
    open_desk: Any, tools: tuple[Tool, ...], scope: common_pb2.Scope, make_candidate: Any
) -> None:
    data = make_candidate("p-000001")
    async with open_desk() as desk:
        await desk.daemon._registry.register(
            data, sha256=digest(data), scope=scope, status="candidate", receipt={}
        )
        policy = desk.daemon._registry.snapshot("p-000001").parameters
        await put_tools(desk, tools)
        record = await send_decision(desk, policy, tools, seed=1)
        await desk.client.applied()

    async with open_desk(encoder="default") as desk:
        (explanation,) = await explain(desk, record.decision_id)

        assert explanation.recomputed_error == -1
        assert [arm.probability for arm in explanation.arms] == [
            arm.probability for arm in record.support
        ]
        assert not any(arm.parts for arm in explanation.arms)


async def test_a_decision_of_a_lost_policy_is_shown_but_not_recomputed(
    desk: Any, policy: Any, tools: tuple[Tool, ...]
) -> None:
    await put_tools(desk, tools)
    record = await send_decision(desk, policy, tools, seed=1)
    desk.daemon._registry.path("p-000001").unlink()
    desk.daemon._registry._snapshots.clear()

    (explanation,) = await explain(desk, record.trajectory_id)

    assert explanation.recomputed_error == -1
    assert explanation.arms[0].score == record.support[0].score


async def test_a_decision_over_unknown_tools_is_shown_by_fingerprint(
    desk: Any, policy: Any, tools: tuple[Tool, ...]
) -> None:
    record = await send_decision(desk, policy, tools, seed=1)

    (explanation,) = await explain(desk, record.decision_id)

    assert explanation.recomputed_error == -1
    assert list(explanation.offered) == [tool.fingerprint.hex() for tool in tools]


@pytest.mark.parametrize(
    ("fields", "summary"),
    [
        (
            {"fallback": "FALLBACK_NO_POLICY", "called": ["refund"]},
            "Step 0 was not decided (no_policy); the model called refund.",
        ),
        (
            {"assignment": "ASSIGNMENT_CONTROL"},
            "Step 0 was not decided (control); the model answered without a tool.",
        ),
    ],
)
async def test_an_undecided_step_says_why(desk: Any, fields: Any, summary: str) -> None:
    record = decision_pb2.DecisionRecord(
        decision_id=b"decision",
        trajectory_id=b"t" * 16,
        scope=common_pb2.Scope(agent="a"),
        arm=-1,
        **fields,
    )
    await desk.client.call(
        desk.client.decisions.Record, decision_pb2.RecordRequest(decisions=[record])
    )

    (explanation,) = await explain(desk, b"decision")

    assert explanation.summary == summary


@pytest.mark.parametrize(
    ("identifier", "code"),
    [
        (b"12345678", grpc.StatusCode.NOT_FOUND),
        (b"1" * 16, grpc.StatusCode.NOT_FOUND),
        (b"123", grpc.StatusCode.INVALID_ARGUMENT),
        (bytes(8), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_what_cannot_be_explained_is_told(
    desk: Any, identifier: bytes, code: grpc.StatusCode
) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await explain(desk, identifier)

    assert caught.value.code() == code


async def test_an_unknown_trajectory_is_not_found(desk: Any) -> None:
    with pytest.raises(aio.AioRpcError, match="it may not have been sent yet"):
        await desk.client.call(
            desk.client.trajectories.Get,
            trajectory_pb2.GetTrajectoryRequest(trajectory_id=b"x" * 16),
        )


async def test_trajectories_are_listed_newest_first_and_filtered(desk: Any) -> None:
    await desk.client.send_run(1, key="a")
    await desk.client.send_run(2, key="b")
    await desk.client.send_run(3, root=False)
    await desk.client.reward(trajectory_id=(1).to_bytes(16, "big"), value=0.5)

    async def listed(**fields: Any) -> list[int]:
        response = await desk.client.call(
            desk.client.trajectories.List, trajectory_pb2.ListTrajectoriesRequest(**fields)
        )
        return [int.from_bytes(row.trajectory_id, "big") for row in response.trajectories]

    assert await listed() == [3, 2, 1]
    assert await listed(limit=1) == [3]
    assert await listed(state="closed") == [2, 1]
    assert await listed(key="b") == [2]
    assert await listed(agent="other") == []
    with pytest.raises(aio.AioRpcError, match="state: expected one of"):
        await listed(state="done")


async def test_a_tail_shows_what_closes_from_now_on(desk: Any) -> None:
    call = desk.client.trajectories.Tail(
        trajectory_pb2.TailRequest(agent="support-desk"),
        metadata=desk.client.metadata,
        timeout=20,
    )
    await call.initial_metadata()

    await desk.client.send_run(1, agent="other")
    await desk.client.send_run(2)

    assert (await call.read()).trajectory_id == (2).to_bytes(16, "big")
    call.cancel()


async def test_a_stop_ends_a_tail(open_desk: Any) -> None:
    async with open_desk() as desk:
        call = desk.client.trajectories.Tail(
            trajectory_pb2.TailRequest(), metadata=desk.client.metadata, timeout=20
        )
        await call.initial_metadata()
        stopping = asyncio.create_task(desk.daemon.stop())

        assert await call.read() is aio.EOF
        await stopping


async def test_the_status_tells_progress_per_scope(desk: Any, policy: Any, tools: Any) -> None:
    await send_decision(desk, policy, tools, seed=1)
    await desk.client.send_run(1)
    await desk.client.reward(trajectory_id=(1).to_bytes(16, "big"), value=1.0)
    await desk.client.applied()

    status = await desk.client.status()

    assert status.home == str(desk.home)
    assert status.trainer == "idle"
    assert status.log_end == status.log_applied > 0
    assert status.uptime_s >= 0
    (scope,) = status.scopes
    assert (scope.scope.agent, scope.trajectories, scope.rewarded) == ("support-desk", 1, 1)
    assert scope.until_training == 99
    assert (scope.live, scope.pinned) == ("", False)

    run = log_pb2.TrainingRun(scope=scope.scope, trajectories=5000, verdict="rejected")
    await desk.daemon._journal.append(log_pb2.LogRecord(training=run))
    await desk.client.applied()
    (scope,) = (await desk.client.status()).scopes
    wanted = schedule.needed(schedule.Progress(1, 5000), 100)
    assert scope.until_training == wanted == 400 + 4999  # a share of what it was trained on
