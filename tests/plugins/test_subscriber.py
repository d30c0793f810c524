"""Following the daemon's policies: verified, swapped at once, the last good one stays."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from agentgym import AgentGym, semconv
from agentgym.policy.snapshot import digest
from agentgym.proto.v1 import experiment_pb2, policy_pb2
from agentgym.testing.daemon import FakeDaemon
from agentgym.trajectory import Tool

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
    assert subscribe.agent == "agent"
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


# ---- encoders


def dim_of(gym: AgentGym) -> int:
    return 0 if gym.live.current is None else gym.live.current.features.embedding_dim


@pytest.fixture
def serve(daemon: FakeDaemon) -> Callable[..., str]:
    """Lets the daemon ask for an encoder; returns its hash."""

    def serve(data: bytes, number: int = 2) -> str:
        sha256 = digest(data)
        daemon.artifacts[sha256] = data
        daemon.update.features.CopyFrom(
            policy_pb2.FeatureSchema(number=number, encoder_sha256=sha256, encoder_size=len(data))
        )
        return sha256

    return serve


@pytest.fixture
def encoder_file(make_encoder: Callable[..., bytes]) -> bytes:
    return make_encoder()


def test_an_encoder_is_pulled_once_and_kept_on_disk(
    daemon: FakeDaemon,
    home: Path,
    make_gym: Callable[..., AgentGym],
    make_snapshot: Callable[..., bytes],
    serve: Callable[..., str],
    encoder_file: bytes,
) -> None:
    sha256 = serve(encoder_file)
    data = make_snapshot(embedding_dim=20)
    daemon.push(daemon.publish(data, version="p-000001", agent="agent"))
    gym = make_gym()
    assert gym.ready()
    daemon.push(*daemon.update.live, killed=True)
    assert daemon.wait_for(lambda _: gym.live.current is not None and gym.live.current.killed)

    downloads = [call.request.sha256 for call in daemon.taken("GetArtifact")]
    assert sorted(downloads) == sorted([sha256, digest(data)])
    assert gym.status()["policies"] == {"agent": "p-000001"}
    features = gym.live.current.features if gym.live.current else None
    assert features is not None
    assert (features.schema, features.embedding_dim) == (2, 20)
    place = home / "encoders" / f"{sha256}.safetensors"
    assert place.read_bytes() == encoder_file
    assert place.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in place.parent.iterdir()] == [place.name]

    another = make_gym()
    assert another.ready()
    assert dim_of(another) == 20
    assert [c.request.sha256 for c in daemon.taken("GetArtifact")].count(sha256) == 1


def test_a_file_on_disk_that_was_changed_is_pulled_again(
    daemon: FakeDaemon,
    home: Path,
    make_gym: Callable[..., AgentGym],
    serve: Callable[..., str],
    encoder_file: bytes,
) -> None:
    sha256 = serve(encoder_file)
    place = home / "encoders" / f"{sha256}.safetensors"
    place.parent.mkdir()
    place.write_bytes(encoder_file[:-1] + b"x")

    gym = make_gym()

    assert gym.ready()
    assert dim_of(gym) == 20
    assert place.read_bytes() == encoder_file


def test_a_directory_that_cannot_be_written_costs_only_the_next_download(
    daemon: FakeDaemon,
    home: Path,
    make_gym: Callable[..., AgentGym],
    serve: Callable[..., str],
    encoder_file: bytes,
) -> None:
    serve(encoder_file)
    (home / "encoders").write_text("in the way")

    gym = make_gym()

    assert gym.ready()
    assert dim_of(gym) == 20


@pytest.mark.parametrize("fault", ["changed", "missing", "no encoder"])
def test_without_the_encoder_that_was_asked_for_nothing_is_decided_and_it_is_said_once(
    fault: str,
    daemon: FakeDaemon,
    make_gym: Callable[..., AgentGym],
    make_snapshot: Callable[..., bytes],
    serve: Callable[..., str],
    encoder_file: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sha256 = serve(encoder_file)
    match fault:
        case "changed":
            daemon.artifacts[sha256] = encoder_file[:-1] + b"x"
        case "missing":
            del daemon.artifacts[sha256]
        case "no encoder":
            sha256 = serve(b"something else")
    daemon.push(daemon.publish(make_snapshot(embedding_dim=20), version="p-000001", agent="agent"))
    gym = make_gym()
    gym.sender.start()
    assert daemon.wait_for(lambda d: len(d.taken("Subscribe")) >= 3)

    assert gym.live.current is None
    assert caplog.text.count("no newer policy is taken") == 1

    good = serve(encoder_file)
    daemon.artifacts[good] = encoder_file
    assert gym.ready()
    assert dim_of(gym) == 20


def test_another_feature_schema_comes_with_the_policies_of_it(
    daemon: FakeDaemon,
    make_gym: Callable[..., AgentGym],
    make_snapshot: Callable[..., bytes],
    serve: Callable[..., str],
    encoder_file: bytes,
    tools: tuple[Tool, ...],
) -> None:
    grams = daemon.publish(make_snapshot(), version="p-000001", agent="agent")
    daemon.push(grams)
    gym = make_gym()
    assert gym.ready()
    before = gym.live.current
    assert before is not None
    assert (before.features.schema, dim_of(gym)) == (1, 0)
    run = gym.recorder.start_run("agent", framework="test", task="where is my order")

    serve(encoder_file)
    data = make_snapshot("p-000002", 2, embedding_dim=20)
    daemon.push(grams, daemon.publish(data, version="p-000002", agent="agent"))
    assert daemon.wait_for(applied(gym, "p-000002"))

    assert gym.live.current is not None
    assert gym.live.current.catalogues is not before.catalogues
    turn = run.turn(tools)  # a run keeps what it began with
    turn.finish()
    run.finish()
    assert (turn.policy_version, turn.feature_schema) == ("p-000001", 1)
    new = gym.recorder.start_run("agent", framework="test", task="where is my order")
    later = new.turn(tools)
    later.finish()
    new.finish()
    assert (later.policy_version, later.feature_schema) == ("p-000002", 2)
    assert gym.flush()
    assert sorted(len(f.embedding) for f in daemon.features) == [0, 20]
    assert sorted(f.feature_schema for f in daemon.features) == [1, 2]


def test_tools_that_are_down_are_left_out_until_they_are_back(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], tools: tuple[Tool, ...]
) -> None:
    gym = make_gym()
    assert gym.ready()

    daemon.update.down.append(tools[0].fingerprint)
    daemon.push()
    assert daemon.wait_for(
        lambda _: gym.live.current is not None and gym.live.current.down == {tools[0].fingerprint}
    )

    del daemon.update.down[:]
    daemon.push()
    assert daemon.wait_for(lambda _: gym.live.current is not None and not gym.live.current.down)


@pytest.mark.parametrize(
    ("settings", "live"),
    [({"mode": "observe"}, True), ({"control_share": 1.0}, True), ({}, False)],
    ids=["observe", "control", "no policy"],
)
def test_features_of_steps_that_decide_nothing_are_made_by_the_sender(
    settings: dict[str, Any],
    live: bool,
    daemon: FakeDaemon,
    make_gym: Callable[..., AgentGym],
    make_snapshot: Callable[..., bytes],
    run_once: Callable[..., Any],
    serve: Callable[..., str],
    encoder_file: bytes,
) -> None:
    serve(encoder_file)
    if live:
        data = make_snapshot(embedding_dim=20)
        daemon.push(daemon.publish(data, version="p-000001", agent="agent"))
    gym = make_gym(**settings)
    assert gym.ready()
    run_once(gym)
    assert gym.flush()

    [features], [decision] = daemon.features, daemon.decisions
    assert gym.live.current is not None
    wanted = gym.live.current.features("where is my order").embedding
    assert wanted is not None
    assert features.embedding == wanted.quantised.tobytes()
    assert features.features_id == decision.features_id
    assert features.feature_schema == decision.scope.feature_schema == 2
    assert not decision.support


def test_what_was_recorded_before_the_handshake_is_encoded_after_it(
    daemon: FakeDaemon,
    make_gym: Callable[..., AgentGym],
    run_once: Callable[..., Any],
    serve: Callable[..., str],
    encoder_file: bytes,
) -> None:
    serve(encoder_file)
    daemon.stop()
    gym = make_gym()
    run_once(gym)
    daemon.start()
    assert gym.flush()

    [features], [decision] = daemon.features, daemon.decisions
    assert gym.live.current is not None
    wanted = gym.live.current.features("where is my order").embedding
    assert wanted is not None
    assert features.embedding == wanted.quantised.tobytes()
    assert features.embedding_scale == wanted.scale
    assert features.feature_schema == decision.scope.feature_schema == 2


def test_without_a_trusted_key_it_records_takes_no_policy_and_says_once_what_to_do(
    daemon: FakeDaemon,
    make_gym: Callable[..., AgentGym],
    make_snapshot: Callable[..., bytes],
    run_once: Callable[..., Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    entry = daemon.publish(make_snapshot(), version="p-000001", agent="agent")
    daemon.push(entry)
    key_file = tmp_path / "elsewhere.pub"
    gym = make_gym(trusted_key_file=key_file)
    gym.sender.start()
    assert daemon.wait_for(lambda _: gym.live.refused >= 1)

    run_once(gym)
    daemon.push(entry, killed=True)
    assert daemon.wait_for(lambda _: gym.live.refused >= 2)

    assert gym.live.current is None
    assert daemon.wait_for(lambda d: len(d.spans) == 3)
    assert caplog.text.count("no key is trusted yet: copy signing.pub") == 1
    key_file.write_text(daemon.key.public.hex())
    daemon.push(entry)
    assert daemon.wait_for(applied(gym, "p-000001"))


def test_a_stream_that_only_repeats_keeps_nothing_fresh_for_ever(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], make_snapshot: Callable[..., bytes]
) -> None:
    daemon.push(daemon.publish(make_snapshot(), version="p-000001", agent="agent"))
    gym = make_gym()
    assert gym.ready()
    assert gym.live.silent_s == 0.0

    gym.live.hold(-1.0)  # as when the update in force has expired

    assert gym.live.silent_s == float("inf")
    daemon.push(*daemon.update.live)
    assert daemon.wait_for(lambda _: gym.live.silent_s == 0.0)


def test_what_is_refused_on_a_stream_ends_its_freshness(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], make_snapshot: Callable[..., bytes]
) -> None:
    daemon.push(daemon.publish(make_snapshot(), version="p-000001", agent="agent"))
    gym = make_gym()
    assert gym.ready()
    assert gym.live.silent_s == 0.0

    daemon.push_signed(daemon.key.sign(daemon.update, agent="agent", serial=1))
    assert daemon.wait_for(lambda _: gym.live.refused == 1)

    assert daemon.wait_for(lambda _: gym.live.silent_s > 0.0)
    assert gym.status()["policies"] == {"agent": "p-000001"}


def experiment(*entries: policy_pb2.PolicyVersion) -> experiment_pb2.Experiment:
    """The live version beside others."""
    live = experiment_pb2.ExperimentArm(name="old", kind="KIND_LIVE", share=0.5)
    arms = [
        experiment_pb2.ExperimentArm(
            name=entry.version, kind="KIND_VERSION", version=entry.version, share=0.25
        )
        for entry in entries
    ]
    return experiment_pb2.Experiment(name="greeting", agent="agent", arms=[live, *arms])


def test_the_versions_of_arms_are_fetched_and_verified_as_live_ones_are(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], make_snapshot: Callable[..., bytes]
) -> None:
    live = daemon.publish(make_snapshot("p-000001", 1), version="p-000001", agent="agent")
    arm = daemon.publish(make_snapshot("p-000002", 2), version="p-000002", agent="agent")
    daemon.update.experiment.CopyFrom(experiment(arm))
    daemon.update.arms.append(arm)
    daemon.push(live)
    gym = make_gym()
    assert gym.ready()

    assert gym.status()["experiment"] == "greeting"
    assert gym.status()["policies"] == {"agent": "p-000001"}
    daemon.push(live, control_share=0.5)  # nothing is downloaded again
    assert daemon.wait_for(
        lambda _: gym.live.current is not None and gym.live.current.control_share == 0.5
    )
    assert len(daemon.taken("GetArtifact")) == 2
    assert {gym.arm("greeting", unit=f"u-{i}") for i in range(50)} == {"old", "p-000002", ""}
    daemon.update.ClearField("experiment")
    daemon.push(live)
    assert daemon.wait_for(lambda _: gym.status()["experiment"] == "")
    assert gym.arm("greeting", unit="u-1") == ""


@pytest.mark.parametrize("fault", ["changed", "another agent's", "not told"])
def test_without_every_arms_version_nobody_has_an_arm_and_what_is_live_stays(
    fault: str,
    daemon: FakeDaemon,
    make_gym: Callable[..., AgentGym],
    make_snapshot: Callable[..., bytes],
) -> None:
    live = daemon.publish(make_snapshot("p-000001", 1), version="p-000001", agent="agent")
    good = daemon.publish(make_snapshot("p-000002", 2), version="p-000002", agent="agent")
    data = make_snapshot("p-000003", 3)
    bad = daemon.publish(data, version="p-000003", agent="agent")
    if fault == "changed":
        daemon.artifacts[bad.sha256] = data[:-1] + bytes([data[-1] ^ 1])
    daemon.update.experiment.CopyFrom(experiment(good, bad))
    told = policy_pb2.PolicyVersion()
    told.CopyFrom(bad)
    if fault == "another agent's":
        told.scope.agent = "stranger"
    daemon.update.arms.extend([good] if fault == "not told" else [good, told])
    daemon.push(live)
    gym = make_gym()
    assert gym.ready()

    assert gym.status()["experiment"] == ""
    assert gym.status()["refused"] == 1
    assert gym.status()["policies"] == {"agent": "p-000001"}
    assert {gym.arm("greeting", unit=f"u-{i}") for i in range(50)} == {""}
