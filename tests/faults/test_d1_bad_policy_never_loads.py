"""D1: a bad policy never loads; the last good one stays, and decisions go on."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentgym import AgentGym
from agentgym.errors import SnapshotError
from agentgym.live import LivePolicies
from agentgym.policy import snapshot
from agentgym.policy.features import TextHasher
from agentgym.policy.parameters import initial
from agentgym.policy.pointer import Pointer
from agentgym.policy.trust import MAX_UPDATE_BYTES
from agentgym.proto.v1 import policy_pb2
from agentgym.testing.daemon import FakeDaemon
from agentgym.testing.signing import SigningKey
from agentgym.trajectory import ArmKind, Tool
from tests.manifests import make_manifest

TOOLS = (Tool("find_order", "Finds an order."), Tool("refund", "Pays an order back."))
AGENT = "agent"
HEADER = 8
X = TextHasher(b"any")("where is my order")


def made(version: str = "p-000002", *, seed: int = 1, agent: str = AGENT) -> bytes:
    """A good file."""
    rng = np.random.default_rng(seed)
    parameters = initial(
        tuple(tool.fingerprint.hex() for tool in TOOLS), tuple(tool.name for tool in TOOLS)
    )
    for tensor in parameters.tensors.values():
        tensor += rng.normal(0.0, 0.3, tensor.shape).astype(np.float32)
    scope = {"agent": agent, "agent_name": agent, "feature_schema": 1}
    return snapshot.dump(parameters, make_manifest(version, scope=scope))


GOOD = made()
BODY = HEADER + int.from_bytes(GOOD[:HEADER], "little")


def damaged(share: Callable[..., int]) -> Iterator[bytes]:
    """The good file with every byte of its header changed, some bits of its numbers, or cut."""
    rng = random.Random(0)
    for at in range(BODY):
        yield GOOD[:at] + bytes([GOOD[at] ^ 1 << rng.randrange(8)]) + GOOD[at + 1 :]
    for _ in range(share(2000, 100)):
        at = rng.randrange(BODY, len(GOOD))
        yield GOOD[:at] + bytes([GOOD[at] ^ 1 << rng.randrange(8)]) + GOOD[at + 1 :]
    for _ in range(share(500, 25)):
        yield GOOD[: rng.randrange(len(GOOD))]
    yield GOOD + b"\0"


def with_header(change: Callable[[dict[str, Any]], None], body: bytes = GOOD[BODY:]) -> bytes:
    """The good file with another header."""
    header = json.loads(GOOD[HEADER:BODY])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(HEADER, "little") + text + body


def with_number(value: float, tensor: str = "defer.bias") -> bytes:
    """The good file with one weight replaced."""
    at = BODY + json.loads(GOOD[HEADER:BODY])[tensor]["data_offsets"][0]
    return GOOD[:at] + np.array(value, "<f4").tobytes() + GOOD[at + 4 :]


def shape(header: dict[str, Any]) -> None:
    header["tool.weight"]["shape"] = header["tool.weight"]["shape"][::-1]


def manifest(**changes: Any) -> bytes:
    """The good file with another manifest."""

    def change(header: dict[str, Any]) -> None:
        found = json.loads(header["__metadata__"]["manifest"]) | changes
        header["__metadata__"]["manifest"] = json.dumps(found)

    return with_header(change)


EXTRA = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
WELL_HASHED = {
    "nan": with_number(float("nan")),
    "infinity": with_number(float("inf")),
    "another number": with_number(3.0, "tool.bias"),  # the self-test's
    "a tool without a name": manifest(tools=[{"fingerprint": "00" * 8}] * 1),
    "another shape": with_header(shape),
    "another type": with_header(lambda h: h["tool.weight"].update(dtype="F16")),
    "an extra tensor": with_header(lambda h: h.update({"more": EXTRA})),
    "a missing tensor": with_header(lambda h: h.pop("tool.bias") and None),
    "overlapping tensors": with_header(lambda h: h["tool.bias"].update(data_offsets=[0, 12])),
    "trailing bytes": GOOD + b"\0" * 4,
    "a header beyond the file": (2**62).to_bytes(HEADER, "little") + GOOD[HEADER:],
    "a header of all but nothing": (2**20).to_bytes(HEADER, "little") + b" " * 2**20,
    "a deep header": (2**16).to_bytes(HEADER, "little") + b"[" * 2**16,
    "no header": b"",
    "no manifest": with_header(lambda h: h.pop("__metadata__") and None),
    "a tool twice": manifest(tools=[{"fingerprint": "00" * 8, "name": "a"}] * 2),
    "no self-test": manifest(self_test=None),
    "an embedding of another size": manifest(embedding_dim=10**9),
    "another number of buckets": manifest(dim=1),
    "an older version": made("p-000001"),
    "another agent": made(agent="stranger"),
    "no scope": manifest(scope=[]),
}
"""Files with the right hash that must be refused all the same."""
ONLY_AS_ANNOUNCED = {"an older version", "another agent", "no scope"}
"""Those that are good, but not for this agent now."""


def test_a_changed_or_cut_file_is_never_accepted(load: Callable[..., int], report: Any) -> None:
    """Every byte of the header changed, bits of the weights, truncations: none is accepted."""
    sha256, accepted, tried = snapshot.digest(GOOD), 0, 0

    for data in damaged(load):
        tried += 1
        with pytest.raises(SnapshotError):
            accepted += bool(snapshot.parse(data, sha256))

    report.load["files"] = tried
    report.figures["accepted"] = accepted
    assert accepted == 0
    assert snapshot.parse(GOOD, sha256).version == "p-000002"


@pytest.mark.parametrize("name", sorted(WELL_HASHED.keys() - ONLY_AS_ANNOUNCED))
def test_a_file_with_the_right_hash_and_a_wrong_content_is_refused(name: str) -> None:
    data = WELL_HASHED[name]

    with pytest.raises(SnapshotError):
        snapshot.parse(data, snapshot.digest(data))


@pytest.fixture
def follower(home: Path) -> Iterator[tuple[FakeDaemon, AgentGym]]:
    """An agent that follows a real gRPC server, with a good policy in force."""
    with FakeDaemon(home) as daemon:
        first = made("p-000001", seed=0)
        daemon.push(daemon.publish(first, version="p-000001", agent=AGENT))
        gym = AgentGym(agent=AGENT, home=home)
        assert gym.ready()
        assert decides(gym.live) == "p-000001"
        yield daemon, gym
        gym.close(0.0)


def decides(live: LivePolicies) -> str:
    """The version of a decision that was drawn now."""
    current = live.current
    assert current is not None
    catalogue = current.catalogue(TOOLS, None)
    assert catalogue is not None
    decision = current.decide(
        AGENT, X, catalogue, (), allowed=[True] * 2, kind=ArmKind.FORCE, rng=random.Random(0)
    )
    assert decision is not None
    assert sum(arm.probability for arm in decision.support) == pytest.approx(1.0, abs=1e-6)
    return current.version(AGENT)


def test_an_agent_keeps_its_policy_whatever_the_daemon_sends(
    follower: tuple[FakeDaemon, AgentGym],
    load: Callable[..., int],
    until: Callable[..., None],
    report: Any,
) -> None:
    """Bad files over gRPC: 0 accepted, the last good one decides, each refusal is counted."""
    daemon, gym = follower
    rng = random.Random(1)
    changed = rng.sample(list(damaged(load)), load(500, 25))
    sent = [(GOOD, data) for data in changed] + [(data, data) for data in WELL_HASHED.values()]

    for number, (announced, data) in enumerate(sent, 1):
        entry = daemon.publish(announced, version="p-000002", agent=AGENT)
        daemon.artifacts[entry.sha256] = data
        daemon.push(entry)
        until(lambda n=number: gym.live.refused >= n, f"file {number} to be refused")
        assert decides(gym.live) == "p-000001"

    report.load["files"] = len(sent)
    report.figures["accepted"] = len(gym.live.applied) - 1
    assert gym.status()["refused"] == len(sent)
    assert gym.status()["applied"] == ["p-000001"]
    daemon.push(daemon.publish(GOOD, version="p-000002", agent=AGENT))
    until(lambda: decides(gym.live) == "p-000002", "the good file to be applied")


@pytest.mark.parametrize("target", ["older", "endless", "nowhere"])
def test_a_link_in_place_of_a_file_changes_nothing(target: str, home: Path) -> None:
    """The route of forked children: a symlink is worth what its content is."""
    live, daemon = LivePolicies(), FakeDaemon(home)
    key = daemon.key
    pointer = Pointer(home, AGENT, live, key_file=home / "signing.pub")
    place = home / "policies"
    (place / "current").mkdir(parents=True)
    update = policy_pb2.PolicyUpdate(feature_key=b"any", steering=daemon.update.steering)
    update.features.number = 1
    announce(key, update, made("p-000001", seed=0), "p-000001", place)
    assert pointer.poll()
    assert decides(live) == "p-000001"

    announce(key, update, GOOD, "p-000002", place)
    path = place / "p-000002.safetensors"
    path.unlink()
    to = {"older": place / "p-000001.safetensors", "endless": Path("/dev/zero")}
    path.symlink_to(to.get(target, place / "nowhere"))
    pointer.poll()

    assert decides(live) == "p-000001"
    assert live.refused == 1
    assert live.applied == ["p-000001"]


def announce(
    key: SigningKey, update: policy_pb2.PolicyUpdate, data: bytes, version: str, place: Path
) -> None:
    """Lays a policy and its pointer down, as the daemon does."""
    (place / f"{version}.safetensors").write_bytes(data)
    del update.live[:]
    entry = update.live.add(version=version, sha256=snapshot.digest(data), size=len(data))
    entry.scope.agent = entry.scope.agent_name = AGENT
    entry.scope.feature_schema = 1
    name = hashlib.sha256(AGENT.encode()).hexdigest()
    signed = key.sign(update, agent=AGENT, serial=int(version[2:]))
    (place / "current" / f"{name}.update").write_bytes(signed.SerializeToString())


def forged(daemon: FakeDaemon, old: policy_pb2.SignedUpdate) -> dict[str, policy_pb2.SignedUpdate]:
    """Envelopes with a policy that nothing is wrong with, which must not get through."""
    entry = daemon.publish(GOOD, version="p-000002", agent=AGENT)
    wanted = policy_pb2.PolicyUpdate()
    wanted.CopyFrom(daemon.update)
    del wanted.live[:]
    wanted.live.append(entry)
    serial = daemon.serial + 1000
    good = daemon.key.sign(wanted, agent=AGENT, serial=serial)
    stranger = SigningKey()
    now_ns, week_ns = time.time_ns(), 7 * 86_400 * 10**9
    past = {"issued_unix_nano": now_ns - 2 * week_ns, "expires_unix_nano": now_ns - week_ns}
    last = bytes([good.update[-1] ^ 1])
    return {
        "a replayed older update": old,
        "another key": stranger.sign(wanted, agent=AGENT, serial=serial),
        "another key under our name": like(
            stranger.sign(wanted, agent=AGENT, serial=serial), key_id=daemon.key.key_id
        ),
        "an older serial": daemon.key.sign(wanted, agent=AGENT, serial=1),
        "expired": daemon.key.sign(wanted, agent=AGENT, serial=serial, **past),
        "for another agent": daemon.key.sign(wanted, agent="other", serial=serial),
        "for any agent": daemon.key.sign(wanted, agent="", serial=serial),
        "changed": like(good, update=good.update[:-1] + last),
        "cut": like(good, update=good.update[: len(good.update) // 2]),
        "the signature of another": like(good, signature=old.signature),
        "unsigned": like(good, signature=b""),
        "an older daemon's": policy_pb2.SignedUpdate.FromString(wanted.SerializeToString()),
        "huge": daemon.key.sign_bytes(good.update + b"\0" * MAX_UPDATE_BYTES),
        "signed nonsense": daemon.key.sign_bytes(b"\xff" * 64),
    }


def like(signed: policy_pb2.SignedUpdate, **changes: Any) -> policy_pb2.SignedUpdate:
    """An envelope with some of its fields replaced."""
    fields = {"update": signed.update, "key_id": signed.key_id, "signature": signed.signature}
    return policy_pb2.SignedUpdate(**(fields | changes))


def test_an_agent_keeps_its_policy_whoever_speaks_for_the_daemon(
    follower: tuple[FakeDaemon, AgentGym], until: Callable[..., None], report: Any
) -> None:
    """Forged, replayed, expired and misdirected updates over gRPC: 0 accepted, each is counted."""
    daemon, gym = follower
    old = daemon.signed(AGENT)
    daemon.push(*daemon.update.live, temperature=0.2)
    until(lambda: gym.live.current.exploration.temperature == 0.2, "the newer update")
    attacks = forged(daemon, old)

    for number, (name, envelope) in enumerate(attacks.items(), 1):
        daemon.push_signed(envelope)
        until(lambda n=number: gym.live.refused >= n, f"{name} to be refused")
        assert decides(gym.live) == "p-000001", name

    report.load["updates"] = len(attacks)
    report.figures["accepted"] = len(gym.live.applied) - 1
    assert gym.status()["refused"] == len(attacks)
    assert gym.status()["applied"] == ["p-000001"]
    assert gym.live.current.exploration.temperature == 0.2
    daemon.push(daemon.publish(GOOD, version="p-000002", agent=AGENT))
    until(lambda: decides(gym.live) == "p-000002", "the good update to be applied")


def test_a_pointer_file_that_nobody_signed_changes_nothing(home: Path) -> None:
    """The route of forked children: the same attacks, by file."""
    with FakeDaemon(home) as daemon:
        daemon.push(daemon.publish(made("p-000001", seed=0), version="p-000001", agent=AGENT))
        old = daemon.signed(AGENT)
        daemon.push(*daemon.update.live)
        live = LivePolicies()
        pointer = Pointer(home, AGENT, live, key_file=home / "signing.pub")
        assert pointer.poll()
        attacks = forged(daemon, old)
    name = hashlib.sha256(AGENT.encode()).hexdigest()
    path = home / "policies" / "current" / f"{name}.update"
    (home / "policies" / "p-000002.safetensors").write_bytes(GOOD)

    for number, (attack, envelope) in enumerate(attacks.items(), 1):
        path.write_bytes(envelope.SerializeToString())
        os.utime(path, ns=(0, time.time_ns() + number * 10**9))
        pointer.poll()
        assert decides(live) == "p-000001", attack

    assert live.applied == ["p-000001"]
    # One is cut where the file is read, and is no envelope any more.
    assert live.refused >= len(attacks) - 1
