"""Finished rollouts reach a daemon, whole and once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from agentgym import semconv
from agentgym.proto.v1 import reward_pb2
from agentgym.testing import FakeDaemon
from agentgym_daemon.learning.rollouts.report import Finished, Reporter, trace_request
from agentgym_daemon.learning.rollouts.served import Served
from agentgym_daemon.learning.rollouts.session import PlainSpan, ReadRun

Run = Callable[..., ReadRun]


@pytest.fixture
def daemon(home: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(home) as daemon:
        yield daemon


def reporter_of(daemon: FakeDaemon) -> Reporter:
    return Reporter(daemon.endpoint, token=daemon.token, agent="desk")


def finished(run: ReadRun, *, failed: bool = False, reward: float | None = 1.0) -> Finished:
    span = PlainSpan(
        "execute_tool track",
        {semconv.OPERATION_NAME: semconv.EXECUTE_TOOL, "n": 1, "real": 0.5, "odd": [1]},
        10.0,
        11.0,
        "tool_error",
    )
    return Finished("ro-1", run.trajectory_id, failed, 9.0, 12.0, run, (span,), reward)


def test_a_rollout_is_catalogue_decisions_spans_and_reward(
    daemon: FakeDaemon, finished_run: Run
) -> None:
    reporter = reporter_of(daemon)
    for number in (1, 2):
        reporter.put(finished(finished_run(number)))
    reporter.close()
    reporter.close()

    assert dict(reporter.counts) == {"reported": 2}
    assert len(daemon.taken("Put")) == 1  # the tools are known after the first
    assert len(daemon.decisions) == 4
    assert len(daemon.features) == 2
    assert [span.name for span in daemon.spans][:2] == ["execute_tool track", "invoke_agent desk"]
    (reward, other) = daemon.rewards
    assert (reward.value, reward.source) == (1.0, "agentlightning")
    assert reward.trajectory_id == (1).to_bytes(16, "big")
    assert reward.idempotency_key != other.idempotency_key


def test_spans_hang_under_a_root_that_closes_the_trajectory(
    finished_run: Run, served: Callable[..., Served]
) -> None:
    run = finished_run(1, version=served())
    request = trace_request(finished(run), "desk")

    child, root = request.resource_spans[0].scope_spans[0].spans
    values = {a.key: a.value for a in root.attributes}
    assert values[semconv.TRAJECTORY_ROOT].bool_value
    assert values[semconv.ASSIGNMENT].string_value == "policy"
    assert values[semconv.POLICY_VERSION].string_value == "p-7"
    assert values[semconv.TRAJECTORY_KEY].string_value == "ro-1"
    assert semconv.INCOMPLETE not in values
    assert child.parent_span_id == root.span_id
    assert child.trace_id == run.trajectory_id
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (9 * 10**9, 12 * 10**9)
    assert child.status.code == 2


def test_a_fault_is_an_incomplete_trajectory_without_a_reward(
    daemon: FakeDaemon, finished_run: Run
) -> None:
    reporter = reporter_of(daemon)
    reporter.put(finished(finished_run(1), failed=True, reward=None))
    reporter.close()

    root = daemon.spans[-1]
    assert {a.key: a.value.string_value for a in root.attributes}[semconv.INCOMPLETE] == "failed"
    assert daemon.rewards == []


def test_a_rollout_that_never_asked_the_policy_is_reported_too(daemon: FakeDaemon) -> None:
    reporter = reporter_of(daemon)
    reporter.put(Finished("ro-1", b"\1" * 16, False, 1.0, 2.0, None, (), 0.0))
    reporter.close()

    assert [span.name for span in daemon.spans] == ["invoke_agent desk"]
    assert [reward.value for reward in daemon.rewards] == [0.0]


def test_a_daemon_that_is_away_for_a_moment_is_tried_again(
    daemon: FakeDaemon, finished_run: Run
) -> None:
    daemon.refuse("Record", grpc.StatusCode.UNAVAILABLE, times=2)
    reporter = reporter_of(daemon)
    reporter.put(finished(finished_run(1)))

    assert daemon.wait_for(lambda d: d.rewards)
    reporter.close()
    assert dict(reporter.counts) == {"reported": 1}


def test_what_cannot_be_sent_is_counted(daemon: FakeDaemon, finished_run: Run) -> None:
    daemon.refuse("Record", grpc.StatusCode.PERMISSION_DENIED)
    refused = reward_pb2.ReportResult(error="no such trajectory", code="NOT_FOUND")
    daemon.reply("Report", reward_pb2.ReportResponse(results=[refused]))
    reporter = reporter_of(daemon)
    for number in (1, 2):
        reporter.put(finished(finished_run(number)))
    reporter.close()

    assert dict(reporter.counts) == {"failed": 1, "refused": 1, "reported": 1}


def test_key_and_schema_of_the_features_come_from_the_daemon(daemon: FakeDaemon) -> None:
    reporter = reporter_of(daemon)

    assert reporter.features() == (daemon.update.feature_key, daemon.update.features.number)
    reporter.close()


def test_an_absent_daemon_is_an_error_when_asked(home: Path) -> None:
    reporter = Reporter(f"unix:{home / 'absent.sock'}", token="t", agent="desk")

    with pytest.raises(grpc.RpcError):
        reporter.features()
    reporter.close()
