"""The store keeps the promises of agentlightning's LightningStore."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import agentlightning as agl
import pytest
from opentelemetry.sdk.trace import TracerProvider

from agentgym_daemon.learning.lightning import PolicyStore, policy_resource
from agentgym_daemon.learning.rollouts.history import History
from agentgym_daemon.learning.rollouts.served import Serving

PROMISED = [
    name
    for name, method in inspect.getmembers(agl.LightningStore, inspect.iscoroutinefunction)
    if not name.startswith("_")
]


@pytest.fixture
def store() -> PolicyStore:
    """An empty store."""
    return PolicyStore(name="t")


def span(rollout: Any, number: int, name: str = "span", **attributes: Any) -> Any:
    return agl.Span.from_attributes(
        attributes=attributes,
        rollout_id=rollout.rollout_id,
        attempt_id=rollout.attempt.attempt_id,
        sequence_id=number,
        name=name,
    )


@pytest.mark.parametrize("name", PROMISED)
def test_every_method_is_there_with_the_same_arguments(name: str) -> None:
    ours = inspect.signature(getattr(PolicyStore, name)).parameters
    theirs = inspect.signature(getattr(agl.LightningStore, name)).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in ours.values())

    assert getattr(PolicyStore, name) is not getattr(agl.LightningStore, name)
    assert takes_any or list(ours) == list(theirs)


async def test_a_rollout_goes_from_the_queue_to_its_end(store: PolicyStore) -> None:
    resources = await store.add_resources(policy_resource(Serving("desk")))
    first = await store.enqueue_rollout({"n": 1}, "train", metadata={"why": "test"})
    (second,) = await store.enqueue_many_rollouts([agl.EnqueueRolloutRequest(input={"n": 2})])

    taken = await store.dequeue_rollout("Worker-0")
    assert (taken.rollout_id, taken.status, taken.input) == (
        first.rollout_id,
        "preparing",
        {"n": 1},
    )
    assert taken.attempt.sequence_id == 1
    assert (await store.get_latest_resources()).resources_id == resources.resources_id
    assert (await store.get_worker_by_id("Worker-0")).status == "busy"

    number = await store.get_next_span_sequence_id(taken.rollout_id, taken.attempt.attempt_id)
    assert await store.add_span(span(taken, number)) is not None
    assert (await store.get_rollout_by_id(taken.rollout_id)).status == "running"

    waiting = asyncio.create_task(store.wait_for_rollouts(rollout_ids=[taken.rollout_id]))
    attempt = await store.update_attempt(
        taken.rollout_id, taken.attempt.attempt_id, status="succeeded"
    )
    (ended,) = await asyncio.wait_for(waiting, 5)

    assert attempt.end_time is not None
    assert (ended.status, ended.metadata) == ("succeeded", {"why": "test"})
    assert (await store.get_worker_by_id("Worker-0")).status == "idle"
    assert [r.rollout_id for r in await store.query_rollouts(status_in=["queuing"])] == [
        second.rollout_id
    ]
    assert len(await store.dequeue_many_rollouts(limit=3)) == 1
    assert await store.dequeue_rollout() is None


async def test_waiting_ends_in_time_with_what_there_is(store: PolicyStore) -> None:
    queued = await store.enqueue_rollout({})

    assert await store.wait_for_rollouts(rollout_ids=[queued.rollout_id], timeout=0.05) == []
    with pytest.raises(ValueError, match="known rollout"):
        await store.wait_for_rollouts(rollout_ids=["ro-none"], timeout=0.05)


async def test_failures_are_tried_again_as_the_config_says(store: PolicyStore) -> None:
    config = agl.RolloutConfig(max_attempts=2, retry_condition=["failed"])
    await store.enqueue_rollout({}, config=config)
    for expected in ("requeuing", "failed"):
        taken = await store.dequeue_rollout()
        await store.update_attempt(taken.rollout_id, "latest", status="failed")
        assert (await store.get_rollout_by_id(taken.rollout_id)).status == expected

    attempts = await store.query_attempts(taken.rollout_id, sort_order="desc")
    assert [attempt.sequence_id for attempt in attempts] == [2, 1]
    assert (await store.get_latest_attempt(taken.rollout_id)).sequence_id == 2
    assert (await store.start_attempt(taken.rollout_id)).attempt.sequence_id == 3


async def test_spans_are_found_by_what_they_are(store: PolicyStore) -> None:
    taken = await store.start_rollout({}, worker_id="Worker-1")
    one, two = span(taken, 1, "tool a", x=1), span(taken, 2, "chat")
    assert len(await store.add_many_spans([two, one])) == 2
    assert await store.add_span(one) is None  # known already

    def names(found: Any) -> list[str]:
        return [each.name for each in found]

    rollout_id = taken.rollout_id
    assert names(await store.query_spans(rollout_id)) == ["tool a", "chat"]
    assert names(await store.query_spans(rollout_id, "latest", limit=1, offset=1)) == ["chat"]
    assert names(await store.query_spans(rollout_id, name_contains="tool")) == ["tool a"]
    either = {"name": "chat", "span_id": one.span_id, "filter_logic": "or"}
    assert names(await store.query_spans(rollout_id, **either)) == ["tool a", "chat"]
    ids = await store.get_many_span_sequence_ids([(rollout_id, taken.attempt.attempt_id)] * 2)
    assert list(ids) == [3, 4]
    with pytest.raises(ValueError, match="expected an attempt"):
        await store.query_spans(rollout_id, "ro-other")


async def test_spans_of_opentelemetry_are_taken(store: PolicyStore) -> None:
    taken = await store.start_rollout({})
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("chat") as readable:
        readable.set_attribute("gen_ai.request.model", "m")

    added = await store.add_otel_span(taken.rollout_id, taken.attempt.attempt_id, readable)

    assert (added.name, added.sequence_id) == ("chat", 1)
    assert added.attributes["gen_ai.request.model"] == "m"


async def test_resources_are_versions_of_the_policy(store: PolicyStore) -> None:
    one = await store.add_resources(policy_resource(Serving("desk", version="p-1", data=b"a")))
    two = await store.add_resources(policy_resource(Serving("desk", version="p-2", data=b"b")))
    again = await store.update_resources(one.resources_id, one.resources)

    assert (await store.get_latest_resources()).resources_id == one.resources_id
    assert again.version == 2
    assert (await store.get_resources_by_id("rs-none")) is None
    found = await store.query_resources(sort_by="create_time")
    assert [r.resources_id for r in found] == [one.resources_id, two.resources_id]
    assert two.resources["tool_policy"].endpoint == "agentgym://policy/p-2"
    travelled = type(two).model_validate_json(two.model_dump_json())
    assert Serving.of(travelled.resources["tool_policy"].sampling_parameters).data == b"b"
    with pytest.raises(ValueError, match="known resources"):
        await store.enqueue_rollout({}, resources_id="rs-none")


async def test_workers_and_changes_of_rollouts(store: PolicyStore) -> None:
    await store.update_worker("Worker-0", {"cpu": 1})
    worker = await store.update_worker("Worker-0")
    queued = await store.enqueue_rollout({"n": 1})
    changed = await store.update_rollout(queued.rollout_id, metadata={"a": 1}, mode="val")
    cancelled = await store.update_rollout(queued.rollout_id, status="cancelled")

    assert worker.heartbeat_stats == {"cpu": 1}
    assert [w.worker_id for w in await store.query_workers(worker_id_contains="0")] == ["Worker-0"]
    assert (changed.metadata, changed.mode, changed.input) == ({"a": 1}, "val", {"n": 1})
    assert cancelled.end_time is not None
    assert await store.dequeue_rollout() is None
    assert (await store.statistics())["total_rollouts"] == 1
    assert store.capabilities["zero_copy"]


async def test_history_is_read_from_the_snapshot(
    snapshot_file: Path, desk_world: Callable[..., Any]
) -> None:
    store = PolicyStore(History(snapshot_file))

    past = await store.query_rollouts(status_in=["succeeded"])
    assert len(past) == 60
    spans = await store.query_spans(past[0].rollout_id)
    assert [s.attributes["gen_ai.operation.name"] for s in spans[:-1]] == ["execute_tool"] * (
        len(spans) - 1
    )
    assert agl.find_final_reward(spans) == past[0].metadata["agentgym.reward"]
    assert (await store.get_rollout_by_id(past[0].rollout_id)).mode == "train"
    assert await store.query_attempts(past[0].rollout_id) == []
    assert await store.get_rollout_by_id("ro-none") is None


async def test_what_takes_too_long_or_falls_silent_fails(store: PolicyStore) -> None:
    slow = agl.RolloutConfig(timeout_seconds=1e-9)
    silent = agl.RolloutConfig(unresponsive_seconds=1e-9)
    started = [await store.start_rollout({}, config=config) for config in (slow, silent)]
    ids = [rollout.rollout_id for rollout in started]

    ended = await store.wait_for_rollouts(rollout_ids=ids, timeout=5)

    assert [rollout.status for rollout in ended] == ["failed", "failed"]
    attempts = [(await store.get_latest_attempt(rollout_id)).status for rollout_id in ids]
    assert attempts == ["timeout", "unresponsive"]
