"""Following the daemon's policies: verified, swapped at once, the last good one stays."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from agentgym import AgentGym, semconv
from agentgym.testing.daemon import FakeDaemon

pytestmark = pytest.mark.usefixtures("quick")


def applied(gym: AgentGym, version: str) -> Callable[[FakeDaemon], bool]:
    return lambda _: gym.status()["policies"].get("agent") == version


def test_a_pushed_policy_is_applied_without_a_restart(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], make_snapshot: Callable[..., bytes]
) -> None:
    gym = make_gym()
    assert gym.ready()
    assert gym.status()["policies"] == {}

    for seed, version in enumerate(("p-000001", "p-000002")):
        data = make_snapshot(version, seed)
        daemon.push(daemon.publish(data, version=version, agent="agent"), control_share=0.25)
        assert daemon.wait_for(applied(gym, version))

    assert gym.status()["applied"] == ["p-000001", "p-000002"]
    assert gym.live.current is not None
    assert gym.live.current.control_share == 0.25
    subscribe = daemon.taken("Subscribe")[0].request
    assert subscribe.contract_version == semconv.CONTRACT_VERSION
    assert (subscribe.agent, list(subscribe.feature_schemas)) == ("agent", [1])
    assert len(subscribe.producer_id) == 16


def test_a_version_that_is_in_force_is_not_downloaded_again(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], make_snapshot: Callable[..., bytes]
) -> None:
    entry = daemon.publish(make_snapshot(), version="p-000001", agent="agent")
    daemon.push(entry)
    gym = make_gym()
    assert gym.ready()

    daemon.push(entry, killed=True)
    assert daemon.wait_for(lambda _: gym.live.current is not None and gym.live.current.killed)

    assert len(daemon.taken("GetArtifact")) == 1


@pytest.mark.parametrize("fault", ["changed", "cut", "missing", "empty"])
def test_the_last_good_policy_stays_when_a_bad_one_is_pushed(
    fault: str,
    daemon: FakeDaemon,
    make_gym: Callable[..., AgentGym],
    make_snapshot: Callable[..., bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    daemon.push(daemon.publish(make_snapshot(), version="p-000001", agent="agent"))
    gym = make_gym()
    assert gym.ready()
    good = gym.live.current

    data = make_snapshot("p-000002", 2)
    bad = daemon.publish(data, version="p-000002", agent="agent")
    match fault:
        case "changed":
            daemon.artifacts[bad.sha256] = data[:-1] + bytes([data[-1] ^ 1])
        case "cut":
            daemon.artifacts[bad.sha256] = data[:-100]
        case "empty":
            daemon.artifacts[bad.sha256] = b""
        case "missing":
            del daemon.artifacts[bad.sha256]
    daemon.push(bad)
    assert daemon.wait_for(lambda _: gym.live.current is not good)

    assert gym.status()["policies"] == {"agent": "p-000001"}
    assert "refused policy p-000002" in caplog.text
    next_one = daemon.publish(make_snapshot("p-000003", 3), version="p-000003", agent="agent")
    daemon.push(next_one)
    assert daemon.wait_for(applied(gym, "p-000003"))


def test_a_policy_that_is_no_longer_live_is_dropped(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], make_snapshot: Callable[..., bytes]
) -> None:
    daemon.push(daemon.publish(make_snapshot(), version="p-000001", agent="agent"))
    gym = make_gym()
    assert gym.ready()

    daemon.push()

    assert daemon.wait_for(lambda _: gym.status()["policies"] == {})


def test_policies_of_another_feature_schema_are_not_for_us(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], make_snapshot: Callable[..., bytes]
) -> None:
    entry = daemon.publish(make_snapshot(), version="p-000001", agent="agent")
    entry.scope.feature_schema = 2
    daemon.push(entry)
    gym = make_gym()

    assert gym.ready()

    assert gym.status()["policies"] == {}
    assert not daemon.taken("GetArtifact")


def test_a_restarted_daemon_is_followed_again(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], make_snapshot: Callable[..., bytes]
) -> None:
    gym = make_gym()
    assert gym.ready()
    daemon.push(daemon.publish(make_snapshot(), version="p-000001", agent="agent"))
    assert daemon.wait_for(applied(gym, "p-000001"))

    daemon.stop()
    daemon.push(daemon.publish(make_snapshot("p-000002", 2), version="p-000002", agent="agent"))
    assert gym.status()["policies"] == {"agent": "p-000001"}
    daemon.start()

    assert daemon.wait_for(applied(gym, "p-000002"))


def test_steering_that_cannot_be_meant_is_said_once_and_changes_nothing(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], caplog: pytest.LogCaptureFixture
) -> None:
    gym = make_gym()
    assert gym.ready()
    before = gym.live.current

    daemon.push(temperature=0.0)
    assert daemon.wait_for(lambda d: len(d.taken("Subscribe")) >= 4)

    assert gym.live.current is before
    assert caplog.text.count("could not apply a policy update") == 1
    daemon.push(temperature=0.1)
    assert daemon.wait_for(lambda _: gym.live.current is not before)


def test_a_contract_mismatch_is_said_once(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], caplog: pytest.LogCaptureFixture
) -> None:
    daemon.refuse(
        "Subscribe",
        grpc.StatusCode.FAILED_PRECONDITION,
        times=4,
        details="this daemon speaks contract 2, the plugin 1: update agentgym",
    )
    gym = make_gym()

    assert gym.ready()

    assert caplog.text.count("update agentgym") == 1
    assert len([c for c in daemon.received if c.refused]) == 4


def test_a_missing_token_is_said_once_and_waited_for(
    daemon: FakeDaemon,
    home: Path,
    make_gym: Callable[..., AgentGym],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (home / "token").unlink()
    gym = make_gym()
    gym.sender.start()
    with caplog.at_level(logging.WARNING):
        assert daemon.wait_for(lambda _: "start the daemon once" in caplog.text)

    daemon.write_token()

    assert gym.ready()
    assert caplog.text.count("start the daemon once") == 1


@pytest.mark.parametrize("content", ["", "two\nlines", "ü"])
def test_a_token_file_with_something_else_in_it_is_said(
    content: str,
    daemon: FakeDaemon,
    make_gym: Callable[..., AgentGym],
    caplog: pytest.LogCaptureFixture,
) -> None:
    daemon.write_token(content)
    make_gym().sender.start()

    assert daemon.wait_for(lambda _: "expected a token of printable ASCII" in caplog.text)


def test_a_token_that_cannot_be_read_is_said(
    daemon: FakeDaemon,
    home: Path,
    make_gym: Callable[..., AgentGym],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (home / "token").write_bytes(b"\xff\xfe")
    make_gym().sender.start()

    assert daemon.wait_for(lambda _: "cannot read the token" in caplog.text)


def test_a_download_that_breaks_off_is_tried_again(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], make_snapshot: Callable[..., bytes]
) -> None:
    daemon.push(daemon.publish(make_snapshot(), version="p-000001", agent="agent"))
    daemon.refuse("GetArtifact", grpc.StatusCode.UNAVAILABLE, times=2)
    gym = make_gym()

    assert gym.ready()

    assert gym.status()["policies"] == {"agent": "p-000001"}
    assert len(daemon.taken("Subscribe")) == 3


def test_a_download_without_end_is_cut_off(
    daemon: FakeDaemon,
    make_gym: Callable[..., AgentGym],
    make_snapshot: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("agentgym.policy.subscriber.MAX_BYTES", 1000)
    daemon.push(daemon.publish(make_snapshot(), version="p-000001", agent="agent"))
    gym = make_gym()

    assert gym.ready()

    assert gym.status()["policies"] == {}
    assert "longer than 1000 bytes" in caplog.text
