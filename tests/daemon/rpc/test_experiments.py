"""Experiments over the wire: started, told, judged, ended by themselves, and restarted."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterable
from typing import Any

import grpc
import pytest
from grpc import aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from agentgym import semconv
from agentgym.policy.snapshot import digest
from agentgym.proto.v1 import (
    common_pb2,
    decision_pb2,
    evaluation_pb2,
    experiment_pb2,
    policy_pb2,
    registry_pb2,
    reward_pb2,
)
from agentgym.proto.v1.experiment_pb2 import Experiment, ExperimentArm, ExperimentGuard, Verdict
from agentgym_daemon.policies.book import Change
from agentgym_daemon.rpc.tokens import Scope as TokenScope
from agentgym_daemon.rpc.tokens import Tokens
from agentgym_daemon.store.arms import Units, experiment_sums
from agentgym_daemon.store.database import DATABASE_NAME
from agentgym_daemon.store.policies import policy_changes
from agentgym_daemon.store.rows import Scope
from agentgym_daemon.store.training import export_snapshot, scope_progress

AGENT = "support-desk"
OLD = ExperimentArm(name="old", kind="KIND_LIVE")
PLAIN = ExperimentArm(name="plain", kind="KIND_LABEL")
POLITE = ExperimentArm(name="polite", kind="KIND_LABEL")
_numbers = itertools.count(1)


def version_arm(version: str, name: str = "new") -> ExperimentArm:
    return ExperimentArm(name=name, kind="KIND_VERSION", version=version)


def wanted(name: str, *arms: ExperimentArm, **fields: Any) -> Experiment:
    return Experiment(**{"name": name, "agent": AGENT, "arms": arms, "metric": "success", **fields})


async def start(client: Any, experiment: Experiment, *, unseen: bool = True) -> Any:
    request = experiment_pb2.StartExperimentRequest(experiment=experiment, unseen=unseen)
    return await client.call(client.experiments.Start, request)


async def show(client: Any, name: str) -> Any:
    request = experiment_pb2.ShowExperimentRequest(name=name)
    return await client.call(client.experiments.Show, request)


async def stop(client: Any, name: str, reason: str = "") -> Any:
    request = experiment_pb2.StopExperimentRequest(name=name, reason=reason)
    return await client.call(client.experiments.Stop, request)


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value.code(), str(caught.value.details())


@pytest.fixture
def register(scope: common_pb2.Scope, make_candidate: Any) -> Any:
    """Registers a candidate with a desk; returns its version."""

    async def register(desk: Any, bias: float = 0.0) -> str:
        registry = desk.daemon._registry
        version = str(registry.book.next_version())
        data = make_candidate(version, bias=bias)
        await registry.register(
            data, sha256=digest(data), scope=scope, status="candidate", receipt={"tier": 0}
        )
        return version

    return register


def root(number: int, attributes: dict[str, Any]) -> Span:
    start = 1_700_000_000_000_000_000 + number * 1_000_000
    span = Span(
        trace_id=number.to_bytes(16, "big"),
        span_id=(1).to_bytes(8, "big"),
        name="run",
        start_time_unix_nano=start,
        end_time_unix_nano=start + 1000,
    )
    every = {
        semconv.AGENT: AGENT,
        semconv.OPERATION_NAME: semconv.INVOKE_AGENT,
        semconv.TRAJECTORY_ROOT: True,
        **attributes,
    }
    for key, value in every.items():
        match value:
            case bool():
                wrapped = AnyValue(bool_value=value)
            case float():
                wrapped = AnyValue(double_value=value)
            case _:
                wrapped = AnyValue(string_value=value)
        span.attributes.append(KeyValue(key=key, value=wrapped))
    return span


def of_arm(experiment: str, arm: str, treatment: str, share: float = 0.45) -> dict[str, Any]:
    return {
        semconv.EXPERIMENT: experiment,
        semconv.EXPERIMENT_ARM: arm,
        semconv.EXPERIMENT_TREATMENT: treatment,
        semconv.EXPERIMENT_SHARE: share,
    }


async def send(client: Any, runs: Iterable[tuple[dict[str, Any], float | None]]) -> None:
    """Whole runs of these attributes with their rewards."""
    request, rewards = ExportTraceServiceRequest(), []
    spans = request.resource_spans.add().scope_spans.add().spans
    for attributes, reward in runs:
        number = next(_numbers)
        spans.append(root(number, attributes))
        if reward is not None:
            identifier = number.to_bytes(16, "big")
            rewards.append(reward_pb2.Reward(trajectory_id=identifier, value=reward))
    await client.call(client.traces.Export, request)
    for first in range(0, len(rewards), 500):
        report = reward_pb2.ReportRequest(rewards=rewards[first : first + 500])
        await client.call(client.rewards.Report, report)
    await client.applied()


def runs(attributes: dict[str, Any], good: int, bad: int) -> list[tuple[dict[str, Any], float]]:
    return [(attributes, 1.0)] * good + [(attributes, 0.0)] * bad


def kept(desk: Any) -> list[Any]:
    with desk.daemon._store.reading() as cursor:
        return [c for c in policy_changes(cursor) if c.scope.agent]


# ---- life


async def test_a_start_is_pushed_at_once_with_the_versions_of_its_arms(
    desk: Any, register: Any
) -> None:
    live, new = await register(desk), await register(desk, 1.0)
    await desk.client.call(desk.client.policies.Promote, policy_pb2.PromoteRequest(version=live))
    mine, theirs = desk.client.subscribe(), desk.client.subscribe("other")
    assert not (await mine.read()).HasField("experiment")
    await theirs.read()

    reply = await start(desk.client, wanted("greeting", OLD, version_arm(new)))

    told = await mine.read()
    assert (told.experiment.name, [a.name for a in told.experiment.arms]) == (
        "greeting",
        ["old", "new"],
    )
    assert not told.experiment.metric  # what is compared is nothing to agents
    assert [(v.version, v.note) for v in told.arms] == [(new, "")]
    assert [v.version for v in told.live] == [live]
    assert (reply.verdict, reply.experiment.started_by) == (Verdict.VERDICT_RUNNING, "rpc")
    assert reply.runs_needed > 1000

    ended = await stop(desk.client, "greeting", "enough")

    told = await mine.read()
    assert (told.HasField("experiment"), list(told.arms)) == (False, [])
    assert (ended.verdict, ended.why) == (Verdict.VERDICT_STOPPED, "enough")
    assert [v.version for v in told.live] == [live]
    theirs.cancel()


async def test_one_experiment_per_agent_and_a_name_only_once(desk: Any) -> None:
    await start(desk.client, wanted("one", PLAIN, POLITE))

    code, why = await refused(start(desk.client, wanted("two", PLAIN, POLITE)))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "is in experiment 'one'" in why
    assert "agentgym experiment stop one" in why
    await start(desk.client, wanted("other", PLAIN, POLITE, agent="billing"))
    await stop(desk.client, "one")
    code, why = await refused(stop(desk.client, "one"))
    assert (code, "has ended already" in why) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    code, why = await refused(start(desk.client, wanted("one", PLAIN, POLITE)))
    assert "names are used once" in why
    await start(desk.client, wanted("two", PLAIN, POLITE))

    listed = await desk.client.call(
        desk.client.experiments.List, experiment_pb2.ListExperimentsRequest()
    )
    assert [(e.experiment.name, e.verdict) for e in listed.experiments] == [
        ("two", Verdict.VERDICT_RUNNING),
        ("other", Verdict.VERDICT_RUNNING),
        ("one", Verdict.VERDICT_STOPPED),
    ]
    mine = experiment_pb2.ListExperimentsRequest(agent="billing")
    listed = await desk.client.call(desk.client.experiments.List, mine)
    assert [e.experiment.name for e in listed.experiments] == ["other"]
    code, why = await refused(show(desk.client, "nobody"))
    assert (code, "there are: two, other, one" in why) == (grpc.StatusCode.NOT_FOUND, True)


async def test_what_cannot_be_started_is_refused(desk: Any, register: Any) -> None:
    client, version = desk.client, await register(desk)

    async def why(experiment: Experiment, **options: Any) -> str:
        return (await refused(start(client, experiment, **options)))[1]

    assert "--new" in await why(wanted("t", PLAIN, POLITE, agent="nobody"), unseen=False)
    assert "unknown policy version 'p-9'" in await why(wanted("t", OLD, version_arm("p-9")))
    stranger = wanted("t", OLD, version_arm(version), agent="billing")
    assert f"expected a version of agent 'billing', got {version}" in await why(stranger)
    assert "expected 2 to 8" in await why(wanted("t", OLD))
    quarantine = registry_pb2.QuarantineRequest(version=version, reason="bad")
    await client.call(client.registry.Quarantine, quarantine)
    assert "is quarantined" in await why(wanted("t", OLD, version_arm(version)))
    shadow = policy_pb2.SetStageRequest(agent=AGENT, stage="STAGE_SHADOW")
    await client.call(client.policies.SetStage, shadow)
    assert "at stage shadow, where nothing is shared out" in await why(wanted("t", PLAIN, POLITE))
    await client.call(
        client.policies.SetStage, policy_pb2.SetStageRequest(agent=AGENT, stage="STAGE_CANARY")
    )
    await client.call(client.policies.Kill, policy_pb2.KillRequest(agent=AGENT))
    assert "is killed" in await why(wanted("t", PLAIN, POLITE))
    assert not [c for c in kept(desk) if c.experiment]


async def test_it_survives_a_restart_and_a_lost_database_and_is_in_the_audit(
    open_desk: Any, register: Any
) -> None:
    guard = ExperimentGuard(metric="tokens", bound=0.1, relative=True)
    async with open_desk() as desk:
        version = await register(desk)
        await start(desk.client, wanted("ended", PLAIN, POLITE, reason="tone"))
        await send(desk.client, runs(of_arm("ended", "plain", "label"), 3, 1))
        before = await stop(desk.client, "ended", "enough")
        await start(desk.client, wanted("runs", version_arm(version), OLD, guards=[guard]))
        running = await show(desk.client, "runs")
        await desk.client.applied()
        home = desk.home
    (home / DATABASE_NAME).unlink()
    async with open_desk() as desk:
        assert await show(desk.client, "ended") == before
        assert (await show(desk.client, "runs")).experiment == running.experiment
        stream = desk.client.subscribe()
        told = await stream.read()
        assert (told.experiment.name, [v.version for v in told.arms]) == ("runs", [version])
        verified = await desk.client.call(
            desk.client.registry.VerifyAudit, registry_pb2.VerifyAuditRequest()
        )
        listed = await desk.client.call(
            desk.client.registry.ListAudit, registry_pb2.ListAuditRequest()
        )
        assert verified.ok
        kinds = [(e.change.kind, e.change.experiment.name) for e in listed.entries]
        assert kinds[:3] == [
            (Change.KIND_EXPERIMENT_START, "runs"),
            (Change.KIND_EXPERIMENT_STOP, "ended"),
            (Change.KIND_EXPERIMENT_START, "ended"),
        ]
        assert listed.entries[1].change.receipt_json
        assert before.arms[0].runs == 4


async def test_a_reader_may_look_and_only_an_admin_may_start_and_stop(desk: Any) -> None:
    reader = desk.another(Tokens(desk.home).add("reader", [TokenScope.READ]))
    await start(desk.client, wanted("one", PLAIN, POLITE))

    assert (await show(reader, "one")).experiment.name == "one"
    for call in (start(reader, wanted("two", PLAIN, POLITE)), stop(reader, "one")):
        code, why = await refused(call)
        assert (code, "needs 'admin'" in why) == (grpc.StatusCode.PERMISSION_DENIED, True)
    await reader.channel.close()


# ---- it ends by itself


async def ended(desk: Any, name: str) -> Any:
    """The figures once the daemon has ended an experiment."""
    while not (await show(desk.client, name)).experiment.verdict:
        await asyncio.sleep(0.05)
    return await show(desk.client, name)


async def test_a_winner_ends_it_with_a_receipt_and_promotes_nothing(
    desk: Any, register: Any
) -> None:
    live, new = await register(desk), await register(desk, 1.0)
    await desk.client.call(desk.client.policies.Promote, policy_pb2.PromoteRequest(version=live))
    await start(desk.client, wanted("desk", OLD, version_arm(new)))
    worse, better = of_arm("desk", "old", "live"), of_arm("desk", "new", new)

    await send(desk.client, runs(worse, 20, 30) + runs(better, 25, 25))
    early = await show(desk.client, "desk")
    await send(desk.client, runs(worse, 120, 180) + runs(better, 240, 60))
    found = await ended(desk, "desk")

    assert early.verdict == Verdict.VERDICT_RUNNING
    assert [(a.arm, a.runs) for a in early.arms] == [("old", 50), ("new", 50)]
    assert (found.verdict, found.winner) == (Verdict.VERDICT_WON, "new")
    assert found.next == f"agentgym policy promote {new}"
    assert found.comparisons[0].low > 0
    await desk.client.applied()
    [stopped] = [c for c in kept(desk) if c.kind == Change.KIND_EXPERIMENT_STOP]
    assert stopped.actor == "referee"
    assert json.loads(stopped.receipt_json)["comparisons"][0]["p_value"] < 0.05
    assert [v.version for v in desk.daemon._registry.book.live(AGENT)] == [live]
    # What comes later changes nothing of the receipt.
    await send(desk.client, runs(better, 0, 50))
    assert await show(desk.client, "desk") == found


async def test_runs_of_one_unit_are_summed_by_unit(desk: Any) -> None:
    await start(desk.client, wanted("t", PLAIN, POLITE))
    plain = of_arm("t", "plain", "label")
    for unit, good, bad in (("u-1", 3, 1), ("u-2", 0, 2)):
        await send(desk.client, runs({**plain, semconv.UNIT: unit}, good, bad))
    await send(desk.client, runs(plain, 1, 0))  # without a unit it is one of its own

    with desk.daemon._store.reading() as cursor:
        found = experiment_sums(cursor, AGENT, "t")

    [success] = [one for one in found if one.metric == "success"]
    assert (success.n, success.total, success.squares) == (7, 4.0, 4.0)
    assert success.units == Units(3, 3**2 + 0 + 1, 3 * 4 + 0 + 1, 4**2 + 2**2 + 1)


async def test_a_broken_guard_ends_it(desk: Any) -> None:
    guard = ExperimentGuard(metric="success", bound=-0.02)
    await start(desk.client, wanted("cheap", PLAIN, POLITE, metric="seconds", guards=[guard]))

    await send(
        desk.client,
        runs(of_arm("cheap", "plain", "label"), 300, 50)
        + runs(of_arm("cheap", "polite", "label"), 50, 300),
    )
    found = await ended(desk, "cheap")

    assert (found.verdict, found.winner) == (Verdict.VERDICT_GUARDRAIL, "")
    assert "polite is proven worse than the bound of success" in found.why


async def test_its_most_runs_end_it_and_runs_without_a_reward_count(desk: Any) -> None:
    await start(desk.client, wanted("few", PLAIN, POLITE, max_runs=60))

    await send(desk.client, [(of_arm("few", "plain", "label"), None)] * 30)
    await send(desk.client, runs(of_arm("few", "polite", "label"), 15, 15))
    found = await ended(desk, "few")

    assert (found.verdict, found.runs) == (Verdict.VERDICT_OUT_OF_RUNS, 60)
    assert [a.runs for a in found.arms] == [0, 30]


async def test_a_quarantined_arm_is_told_to_nobody_and_ends_it(desk: Any, register: Any) -> None:
    version = await register(desk)
    await start(desk.client, wanted("risky", OLD, version_arm(version)))
    stream = desk.client.subscribe()
    assert (await stream.read()).experiment.name == "risky"

    quarantine = registry_pb2.QuarantineRequest(version=version, reason="it shouts")
    await desk.client.call(desk.client.registry.Quarantine, quarantine)
    # A push of anything tells no more of it, also before the daemon has ended it.
    assert not desk.daemon._updates.of(AGENT).HasField("experiment")
    desk.daemon._to_judge.set()
    found = await ended(desk, "risky")

    assert found.verdict == Verdict.VERDICT_STOPPED
    assert found.why == f"{version} of arm new is quarantined"
    assert not (await stream.read()).HasField("experiment")


async def test_an_arm_of_a_running_experiment_is_not_pruned(desk: Any, register: Any) -> None:
    versions = [await register(desk, float(i)) for i in range(4)]
    for version in versions:
        promote = policy_pb2.PromoteRequest(version=version)
        await desk.client.call(desk.client.policies.Promote, promote)
    await start(desk.client, wanted("t", OLD, version_arm(versions[0])))
    await desk.client.applied()

    async def prunable() -> list[str]:
        request = registry_pb2.PruneRequest(keep=0, dry_run=True)
        reply = await desk.client.call(desk.client.registry.Prune, request)
        return [v.version for v in reply.pruned]

    while_it_runs = await prunable()
    await stop(desk.client, "t")

    assert versions[0] not in while_it_runs
    assert versions[0] in await prunable()


# ---- what else is computed from runs


async def test_lift_and_training_leave_the_arms_out(desk: Any, tmp_path: Any) -> None:
    """Runs under another version and under labels say nothing of what is live."""
    policy = {semconv.ASSIGNMENT: "policy", semconv.POLICY_VERSION: "p-000001"}
    control = {semconv.ASSIGNMENT: "control", semconv.POLICY_VERSION: "p-000001"}
    t = {semconv.EXPERIMENT: "t"}
    groups = [
        (policy, 0.9, 60),
        (control, 0.1, 60),
        ({**policy, **of_arm("t", "old", "live")}, 0.9, 30),
        ({**control, **t}, 0.1, 30),
        ({**policy, **of_arm("t", "new", "p-000002")}, 0.9, 30),
        ({**policy, **of_arm("t", "polite", "label")}, 0.9, 30),
    ]
    for attributes, probability, n in groups:
        await decide(desk.client, attributes, probability, n)

    lift = await desk.client.call(
        desk.client.evaluation.Lift, evaluation_pb2.LiftRequest(agent=AGENT)
    )

    success = lift.metrics[0]
    assert (success.policy_runs, success.control_runs) == (90, 90)
    assert lift.strata == 2  # before the experiment, and while it ran
    scope = Scope(AGENT, "clerk", 1)
    with desk.daemon._store.reading() as cursor:
        [progress] = scope_progress(cursor)
        exported = export_snapshot(cursor, scope, tmp_path / "runs", feature_key=b"k")
    assert (progress.n_policy, progress.n_control) == (90, 90)
    assert progress.rewarded == exported.trajectories == 210  # the labels teach nothing


async def decide(client: Any, attributes: dict[str, Any], probability: float, n: int) -> None:
    """Runs with one decision each, half of them good."""
    record = decision_pb2.RecordRequest()
    for number in range(n):
        identifier = next(_numbers)
        record.decisions.append(
            decision_pb2.DecisionRecord(
                decision_id=identifier.to_bytes(8, "big"),
                trajectory_id=identifier.to_bytes(16, "big"),
                scope=common_pb2.Scope(agent=AGENT, agent_name="clerk", feature_schema=1),
                time_unix_nano=1_700_000_000_000_000_000,
                mode="MODE_STEER",
                assignment=f"ASSIGNMENT_{attributes[semconv.ASSIGNMENT].upper()}",
                assignment_probability=probability,
                policy_version=attributes[semconv.POLICY_VERSION],
                arm=-1,
                completed=True,
            )
        )
        request = ExportTraceServiceRequest()
        request.resource_spans.add().scope_spans.add().spans.append(root(identifier, attributes))
        await client.call(client.traces.Export, request)
        await client.reward(trajectory_id=identifier.to_bytes(16, "big"), value=float(number % 2))
    await client.call(client.decisions.Record, record)
    await client.applied()
