"""The fake daemon refuses, remembers and counts as the tests that lean on it expect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

import agentgym.testing
from agentgym import semconv
from agentgym.proto.v1 import decision_pb2, policy_pb2, trajectory_pb2
from agentgym.proto.v1.decision_pb2_grpc import DecisionServiceStub
from agentgym.proto.v1.policy_pb2_grpc import PolicyServiceStub
from agentgym.proto.v1.trajectory_pb2_grpc import TrajectoryServiceStub
from agentgym.testing.daemon import FakeDaemon

TOKEN = ("authorization", "Bearer fake-token")


@pytest.fixture
def channel(daemon: FakeDaemon) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(daemon.endpoint) as made:
        yield made


def test_every_name_of_the_package_can_be_reached() -> None:
    for name in agentgym.testing.__all__:
        assert getattr(agentgym.testing, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = agentgym.testing.Nothing


def test_a_call_that_is_sent_again_is_counted_as_a_retry_and_taken_once(
    daemon: FakeDaemon, channel: grpc.Channel
) -> None:
    record = DecisionServiceStub(channel).Record
    request = decision_pb2.RecordRequest(decisions=[decision_pb2.DecisionRecord(step=1)])
    numbered = (TOKEN, (semconv.METADATA_PRODUCER, b"p" * 16), (semconv.METADATA_SEQUENCE, "7"))

    for _ in range(3):
        record(request, metadata=numbered)
    record(request, metadata=(TOKEN,))

    assert daemon.retries == {(b"p" * 16, 7): 2}
    assert len(daemon.received) == 4
    assert len(daemon.decisions) == 2


def test_a_call_without_the_token_is_refused(daemon: FakeDaemon, channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        PolicyServiceStub(channel).List(policy_pb2.ListPoliciesRequest())

    assert failure.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert daemon.taken("ListPolicies") == []


def test_the_reading_methods_that_share_a_name_are_told_apart(
    daemon: FakeDaemon, channel: grpc.Channel
) -> None:
    daemon.reply("GetPolicy", lambda request: policy_pb2.PolicyVersion(version=request.version))

    policy = PolicyServiceStub(channel).Get(
        policy_pb2.GetPolicyRequest(version="p-1"), metadata=(TOKEN,)
    )
    TrajectoryServiceStub(channel).Get(
        trajectory_pb2.GetTrajectoryRequest(trajectory_id=b"t" * 16), metadata=(TOKEN,)
    )

    assert policy.version == "p-1"
    assert [call.method for call in daemon.received] == ["GetPolicy", "GetTrajectory"]


def test_an_old_contract_is_refused(daemon: FakeDaemon, channel: grpc.Channel) -> None:
    stream = PolicyServiceStub(channel).Subscribe(
        policy_pb2.SubscribeRequest(contract_version=99), metadata=(TOKEN,)
    )

    with pytest.raises(grpc.RpcError) as failure:
        next(stream)

    assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_it_listens_on_tcp_too_and_on_the_same_port_after_a_restart(home: Path) -> None:
    with FakeDaemon(home, tcp=True) as daemon:
        first = daemon.endpoint
        assert daemon.running

        daemon.stop()
        daemon.stop()
        assert not daemon.running
        daemon.start()

        assert daemon.endpoint == first != "127.0.0.1:0"


def test_waiting_gives_up(daemon: FakeDaemon) -> None:
    assert not daemon.wait_for(lambda d: d.spans, timeout_s=0.02)
