"""Facts on the wire: in order, at least once, refusals counted, retries recognisable."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest

from agentgym import AgentGym, outbox, packer
from agentgym.items import SpanItem, TaskItem
from agentgym.policy.features import Featuriser, TextHasher
from agentgym.proto.v1 import decision_pb2, reward_pb2
from agentgym.testing.daemon import FakeDaemon
from agentgym.trajectory import Tool

pytestmark = pytest.mark.usefixtures("quick")

FACTS = ("Put", "Record", "Export", "Report")


def counters(gym: AgentGym) -> dict[str, int]:
    return dict(gym.status()["counters"])


def conserved(gym: AgentGym) -> bool:
    report = counters(gym)
    kinds = {name.split(".")[1] for name in report}

    def total(what: str, kind: str) -> int:
        return sum(n for name, n in report.items() if name.startswith(f"{what}.{kind}"))

    return all(
        total("produced", k) == sum(total(w, k) for w in ("acked", "pending", "dropped"))
        for k in kinds
    )


def test_catalogue_then_features_decisions_spans_and_rewards(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], run_once: Callable[..., Any]
) -> None:
    daemon.stop()  # so that everything goes out in one batch
    gym = make_gym()
    with gym.trajectory(key="ticket"):
        run_once(gym)
        gym.reward(1.0)
    daemon.start()
    assert gym.flush()

    facts = [call for call in daemon.received if call.method in FACTS]
    assert [call.method for call in facts] == ["Put", "Record", "Record", "Export", "Report"]
    assert [call.sequence for call in facts] == [1, 2, 3, 4, 5]
    assert len({call.producer for call in facts}) == 1
    assert facts[0].metadata["authorization"] == "Bearer fake-token"
    assert facts[0].metadata["agentgym-contract"] == "1"
    assert len(daemon.spans) == 4
    assert len(daemon.features) == 1
    [decision] = daemon.decisions
    [reward] = daemon.rewards
    assert decision.features_id == daemon.features[0].features_id
    assert decision.trajectory_id == reward.trajectory_id == daemon.spans[0].trace_id
    assert daemon.tools[0].name == "find_order"
    assert counters(gym) == {
        "produced.spans": 4,
        "produced.decisions": 1,
        "produced.features": 1,
        "produced.rewards": 1,
        "acked.spans": 4,
        "acked.decisions": 1,
        "acked.features": 1,
        "acked.rewards": 1,
    }


def test_the_catalogue_travels_once_per_connection(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], run_once: Callable[..., Any]
) -> None:
    gym = make_gym()
    assert gym.ready()
    for _ in range(2):
        run_once(gym)
        assert gym.flush()
    assert len(daemon.taken("Put")) == 1

    daemon.stop()
    daemon.start()
    assert daemon.wait_for(lambda d: len(d.taken("Subscribe")) >= 2)
    # The daemon knows of the new stream before the plugin does: a first run may come too early.
    for _ in range(100):
        run_once(gym)
        assert gym.flush()
        if len(daemon.taken("Put")) > 1:
            break
        time.sleep(0.05)
    run_once(gym)
    assert gym.flush()

    assert len(daemon.taken("Put")) == 2


@pytest.mark.parametrize("method", FACTS)
@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_a_retry_repeats_its_sequence_number_and_nothing_is_lost(
    method: str,
    code: grpc.StatusCode,
    daemon: FakeDaemon,
    make_gym: Callable[..., AgentGym],
    run_once: Callable[..., Any],
) -> None:
    daemon.refuse(method, code, times=3)
    gym = make_gym()
    assert gym.ready()

    run = run_once(gym)
    gym.reward(1.0, trajectory=run)
    assert gym.flush()

    refused = [call for call in daemon.received if call.refused]
    assert len(refused) == 3
    assert daemon.retries == {(refused[0].producer, refused[0].sequence): 3}
    assert (len(daemon.spans), len(daemon.decisions), len(daemon.rewards)) == (3, 1, 1)
    sequences = [call.sequence for call in daemon.received if call.method in FACTS]
    assert sequences == sorted(sequences)
    assert not [name for name in counters(gym) if name.startswith("dropped")]


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "not decodable"),
        (grpc.StatusCode.INTERNAL, "bad"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (5 vs. 4)"),
    ],
)
def test_what_would_only_be_refused_again_is_dropped_and_counted(
    code: grpc.StatusCode,
    details: str,
    daemon: FakeDaemon,
    make_gym: Callable[..., AgentGym],
    run_once: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    daemon.refuse("Export", code, details=details)
    daemon.stop()  # so that everything goes out in one batch
    gym = make_gym()
    run_once(gym)

    daemon.start()
    assert gym.flush()

    assert counters(gym)[f"dropped.spans.{code.name.lower()}"] == 3
    assert counters(gym)["acked.decisions"] == 1
    assert conserved(gym)
    assert caplog.text.count(details) == 1


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.FAILED_PRECONDITION]
)
def test_what_a_person_can_put_right_is_said_once_and_kept(
    code: grpc.StatusCode,
    daemon: FakeDaemon,
    make_gym: Callable[..., AgentGym],
    run_once: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    daemon.refuse("Export", code, times=5, details="update one of us")
    gym = make_gym()
    assert gym.ready()

    run_once(gym)
    assert gym.flush()

    assert len(daemon.spans) == 3
    assert caplog.text.count("update one of us") == 1
    assert conserved(gym)


def test_with_a_wrong_token_everything_waits_until_the_file_is_corrected(
    daemon: FakeDaemon,
    make_gym: Callable[..., AgentGym],
    run_once: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    daemon.write_token("somebody-elses")
    gym = make_gym()
    run_once(gym)
    assert daemon.wait_for(lambda d: len([c for c in d.received if c.refused]) >= 3)
    assert counters(gym)["pending.spans"] == 3
    assert conserved(gym)

    daemon.write_token()

    assert gym.flush(10.0)
    assert len(daemon.spans) == 3
    assert caplog.text.count("wrong token") == 1


def test_what_was_recorded_before_the_first_contact_gets_its_features(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], run_once: Callable[..., Any]
) -> None:
    daemon.stop()
    gym = make_gym()
    run_once(gym)

    daemon.start()

    assert gym.flush(10.0)
    assert len(daemon.features[0].index) > 0
    assert daemon.decisions[0].features_id == daemon.features[0].features_id


def test_partly_refused_calls_are_counted_one_by_one(
    daemon: FakeDaemon,
    make_gym: Callable[..., AgentGym],
    run_once: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def half(request: Any) -> Any:
        answer = {True: "", False: "no such trajectory"}
        return reward_pb2.ReportResponse(
            results=[
                reward_pb2.ReportResult(error=answer[r.value > 0.5], code="NOT_FOUND")
                for r in request.rewards
            ]
        )

    def one_span(_: Any) -> Any:
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace

        partial = trace.ExportTracePartialSuccess(rejected_spans=1, error_message="bad span")
        return trace.ExportTraceServiceResponse(partial_success=partial)

    def no_decision(request: Any) -> Any:
        n = len(request.decisions)
        return decision_pb2.RecordResponse(rejected=n, message="bad decision" if n else "")

    daemon.reply("Report", half)
    daemon.reply("Export", one_span)
    daemon.reply("Record", no_decision)
    daemon.stop()  # so that everything goes out in one batch
    gym = make_gym()
    run = run_once(gym)
    for value in (0.0, 1.0, 0.25):
        gym.reward(value, trajectory=run)
    daemon.start()
    assert gym.flush()

    report = counters(gym)
    assert (report["dropped.rewards.not_found"], report["acked.rewards"]) == (2, 1)
    assert (report["dropped.spans.rejected"], report["acked.spans"]) == (1, 2)
    assert report["dropped.decisions.rejected"] == 1
    assert report["acked.features"] == 1
    assert conserved(gym)
    for text in ("no such trajectory", "bad span", "bad decision"):
        assert caplog.text.count(text) == 1


def test_an_item_that_cannot_be_encoded_is_counted_and_its_siblings_live(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], caplog: pytest.LogCaptureFixture
) -> None:
    gym = make_gym()
    assert gym.ready()

    with gym.trajectory() as run:
        for start_ns in (-1, 1, -1):
            item = SpanItem(run.trajectory.id, b"12345678", b"", "s", start_ns, 2, {}, "")
            gym.sender.put(item)
    assert gym.flush()

    assert counters(gym) == {
        "produced.spans": 4,
        "dropped.spans.unencodable": 2,
        "acked.spans": 2,
    }
    assert caplog.text.count("could not be encoded") == 1


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_a_task_whose_features_fail_is_counted_and_its_siblings_live(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], error: type[Exception]
) -> None:
    def encode(text: str) -> Any:
        if text == "bad":
            raise error("no thread, or no numbers")
        return np.ones(3, np.float32)

    gym = make_gym()
    assert gym.ready()
    assert gym.live.current is not None
    features = Featuriser(TextHasher(b"key"), encode, schema=7, dim=3, slow=True)
    gym.live.swap(replace(gym.live.current, features=features))
    for number, text in enumerate(("good", "bad", "also good")):
        gym.sender.put(TaskItem(b"t" * 16, bytes([number + 1]) * 8, text, None))
    assert gym.flush()

    assert [len(f.embedding) for f in daemon.features] == [3, 3]
    assert {f.feature_schema for f in daemon.features} == {7}
    assert counters(gym)["dropped.features.unencodable"] == 1
    assert conserved(gym)


def test_a_tool_that_cannot_be_encoded_stops_nothing(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], tools: tuple[Tool, ...]
) -> None:
    class Odd(Tool):
        __hash__ = Tool.__hash__

        @property
        def fingerprint(self) -> Any:  # type: ignore[override]
            return "no bytes"

    gym = make_gym()
    assert gym.ready()
    run = gym.recorder.start_run("agent", framework="test")
    run.turn((Odd("odd"),)).finish()
    run.turn(tools).finish()
    run.finish()
    assert gym.flush()

    assert len(daemon.tools) == len(tools)
    assert len(daemon.decisions) == 1
    assert counters(gym)["dropped.decisions.unencodable"] == 1
    assert conserved(gym)


def test_a_long_trajectory_is_cut_into_calls_that_servers_take(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "CHUNK_BYTES", 10_000)
    gym = make_gym(capture_content=True)
    assert gym.ready()
    with gym.trajectory() as run:
        for _ in range(40):
            run.call("find_order", arguments="x" * 2_000).finish()
    assert gym.flush()

    sizes = [call.request.ByteSize() for call in daemon.taken("Export")]
    assert len(daemon.spans) == 41
    assert len(sizes) > 5
    assert max(sizes) < 15_000


def test_known_tools_are_forgotten_before_they_fill_the_memory(
    daemon: FakeDaemon,
    make_gym: Callable[..., AgentGym],
    run_once: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packer, "_REMEMBERED_TOOLS", 2)
    gym = make_gym()
    assert gym.ready()
    for _ in range(2):
        run_once(gym)
        assert gym.flush()

    assert len(daemon.taken("Put")) == 2
