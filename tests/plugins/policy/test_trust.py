"""Which updates are taken: every way to send another one is tried."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from agentgym.errors import UntrustedError
from agentgym.policy.trust import LENIENCE_S, MAX_UPDATE_BYTES, Trust, key_id, read_keys
from agentgym.proto.v1 import common_pb2, policy_pb2
from agentgym.testing.signing import SigningKey

AGENT = "agent"
SECOND = 1_000_000_000
NOW = 1_800_000_000 * SECOND
DAY_S = 86_400.0


class Clocks:
    """The agent's two clocks."""

    def __init__(self) -> None:
        self.now, self.monotonic = NOW, 5 * SECOND

    def pass_(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)
        self.monotonic += int(seconds * SECOND)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def key() -> SigningKey:
    return SigningKey()


@pytest.fixture
def key_file(tmp_path: Path, key: SigningKey) -> Path:
    path = tmp_path / "signing.pub"
    path.write_text(f"# of the desk\n{key.public.hex()}\n")
    return path


@pytest.fixture
def make_trust(key_file: Path, tmp_path: Path, clocks: Clocks) -> Callable[..., Trust]:
    def make(agent: str = AGENT, home: Path = tmp_path) -> Trust:
        return Trust(
            key_file,
            home,
            agent,
            now_ns=lambda: clocks.now,
            monotonic_ns=lambda: clocks.monotonic,
        )

    return make


@pytest.fixture
def trust(make_trust: Callable[..., Trust]) -> Trust:
    return make_trust()


def update(
    version: str = "p-000001",
    *,
    agent: str = AGENT,
    serial: int = 1,
    issued_ns: int = NOW,
    life_s: float = DAY_S,
    killed: bool = False,
) -> policy_pb2.PolicyUpdate:
    """What the daemon says."""
    made = policy_pb2.PolicyUpdate(
        agent=agent,
        serial=serial,
        issued_unix_nano=issued_ns,
        expires_unix_nano=issued_ns + int(life_s * SECOND),
    )
    made.steering.killed = killed
    made.live.add(version=version, scope=common_pb2.Scope(agent=agent))
    return made


def reason(trust: Trust, signed: policy_pb2.SignedUpdate) -> str:
    """Why an update is not taken; "" if it is."""
    try:
        trust.open(signed)
    except UntrustedError as error:
        return error.reason
    return ""


def test_what_the_daemon_signed_for_this_agent_is_taken(trust: Trust, key: SigningKey) -> None:
    trusted = trust.open(key.sign(update()))

    assert trusted.update == update()
    assert trusted.holds_s == pytest.approx(DAY_S)


def test_no_bit_of_an_envelope_can_be_changed(trust: Trust, key: SigningKey) -> None:
    whole = key.sign(update()).SerializeToString(deterministic=True)
    parts = {"update": key.sign(update()).update, "signature": key.sign(update()).signature}
    rng = random.Random(0)
    accepted = 0

    for name, part in parts.items():
        for at in range(len(part)):
            changed = bytearray(part)
            changed[at] ^= 1 << rng.randrange(8)
            signed = policy_pb2.SignedUpdate.FromString(whole)
            setattr(signed, name, bytes(changed))
            accepted += reason(trust, signed) != "bad_signature"

    assert accepted == 0
    assert reason(trust, key.sign(update())) == ""


def test_nothing_of_an_update_can_be_cut_off_or_added(trust: Trust, key: SigningKey) -> None:
    good = key.sign(update())

    for size in range(1, len(good.update)):
        signed = policy_pb2.SignedUpdate()
        signed.CopyFrom(good)
        signed.update = good.update[:size]
        assert reason(trust, signed) == "bad_signature"
    longer = policy_pb2.SignedUpdate()
    longer.CopyFrom(good)
    longer.update += update("p-000002").SerializeToString()  # messages behind each other are merged
    assert reason(trust, longer) == "bad_signature"


def test_parts_of_two_updates_cannot_be_mixed(trust: Trust, key: SigningKey) -> None:
    """The versions of one with the kill of another: both are signed, their mixture is not."""
    one, other = update("p-000001"), update("p-000002", serial=2, killed=True)
    mixed = policy_pb2.PolicyUpdate()
    mixed.CopyFrom(one)
    mixed.steering.CopyFrom(other.steering)

    for signature in (key.sign(one).signature, key.sign(other).signature):
        signed = policy_pb2.SignedUpdate(
            update=mixed.SerializeToString(deterministic=True),
            key_id=key.key_id,
            signature=signature,
        )
        assert reason(trust, signed) == "bad_signature"


def test_another_key_is_refused_also_under_the_name_of_ours(trust: Trust, key: SigningKey) -> None:
    stranger = SigningKey()
    signed = stranger.sign(update())

    assert reason(trust, signed) == "unknown_key"
    signed.key_id = key.key_id
    assert reason(trust, signed) == "bad_signature"


def test_a_rotated_key_is_refused_until_it_is_copied(
    trust: Trust, key: SigningKey, key_file: Path
) -> None:
    fresh = SigningKey()
    assert reason(trust, fresh.sign(update())) == "unknown_key"

    key_file.write_text(f"{key.public.hex()}\n{fresh.public.hex()}  # from May on\n")

    assert reason(trust, fresh.sign(update())) == ""
    assert reason(trust, key.sign(update())) == ""


@pytest.mark.parametrize("content", [None, "", "# nothing yet", "zz" * 32, "ab" * 31, "\xff"])
def test_without_a_trusted_key_nothing_is_taken_and_it_is_said_what_to_do(
    content: str | None, trust: Trust, key: SigningKey, key_file: Path
) -> None:
    key_file.unlink()
    if content is not None:
        key_file.write_text(content)

    with pytest.raises(UntrustedError, match=r"signing\.pub") as caught:
        trust.open(key.sign(update()))

    assert caught.value.reason in ("no_key", "unknown_key")


def test_unsigned_updates_are_those_of_an_older_daemon(trust: Trust) -> None:
    old = policy_pb2.PolicyUpdate(contract_version=1, daemon_version="0.1.0", feature_key=b"key")

    assert reason(trust, policy_pb2.SignedUpdate.FromString(old.SerializeToString())) == "unsigned"
    assert reason(trust, policy_pb2.SignedUpdate()) == "unsigned"


def test_what_is_for_another_agent_is_refused(trust: Trust, key: SigningKey) -> None:
    for agent in ("other", "", "Agent", "agent "):
        assert reason(trust, key.sign(update(agent=agent))) == "other_agent"


def test_what_any_agent_may_read_is_taken_only_as_that(trust: Trust, key: SigningKey) -> None:
    common = key.sign(update(agent=""))

    assert trust.open(common, common=True).update.agent == ""
    assert reason(trust, common) == "other_agent"
    with pytest.raises(UntrustedError, match="for agent"):
        trust.open(key.sign(update()), common=True)


def test_an_older_update_is_refused_and_the_same_again_is_not(
    trust: Trust, key: SigningKey
) -> None:
    old, new = key.sign(update("p-000001", serial=7)), key.sign(update("p-000002", serial=8))

    assert [reason(trust, signed) for signed in (old, old, new, old, new)] == [
        "",
        "",
        "",
        "replayed",
        "",
    ]


def test_a_rollback_is_a_new_update_of_an_old_version(trust: Trust, key: SigningKey) -> None:
    for serial, version in enumerate(("p-000001", "p-000002", "p-000001"), 1):
        assert (
            trust.open(key.sign(update(version, serial=serial))).update.live[0].version == version
        )


def test_a_new_process_remembers_what_was_taken(
    make_trust: Callable[..., Trust], key: SigningKey, tmp_path: Path
) -> None:
    assert reason(make_trust(), key.sign(update(serial=8))) == ""

    assert reason(make_trust(), key.sign(update(serial=7))) == "replayed"
    assert reason(make_trust("other"), key.sign(update(agent="other", serial=1))) == ""
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "trust").iterdir()}
    assert modes == {0o600}


def test_a_fast_forward_under_one_key_does_not_bind_the_next(
    make_trust: Callable[..., Trust], key: SigningKey, key_file: Path
) -> None:
    """TUF's recovery: a stolen key's highest number says nothing of another key's."""
    assert reason(make_trust(), key.sign(update(serial=2**64 - 1))) == ""
    fresh = SigningKey()
    key_file.write_text(fresh.public.hex())

    assert reason(make_trust(), fresh.sign(update(serial=1))) == ""


@pytest.mark.parametrize("content", ["", "[", "[1]", '{"a": "b"}', "[" * 100_000, None])
def test_a_memory_that_cannot_be_read_or_written_is_no_hindrance(
    content: str | None, make_trust: Callable[..., Trust], key: SigningKey, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    if content is None:
        (home / "trust").write_text("in the way")
    else:
        make_trust(home=home).open(key.sign(update()))
        [path] = (home / "trust").iterdir()
        path.write_text(content)
    trust = make_trust(home=home)

    assert reason(trust, key.sign(update(serial=5))) == ""
    assert reason(trust, key.sign(update(serial=4))) == "replayed"


def test_an_expired_update_is_refused(trust: Trust, key: SigningKey, clocks: Clocks) -> None:
    signed = key.sign(update())
    clocks.pass_(DAY_S + LENIENCE_S + 1)

    assert reason(trust, signed) == "expired"


def test_a_frozen_stream_ends_when_what_it_repeats_does(
    trust: Trust, key: SigningKey, clocks: Clocks
) -> None:
    """However the agent's clock is set meanwhile: what has passed since is known without it."""
    signed = key.sign(update())
    assert trust.open(signed).holds_s == pytest.approx(DAY_S)
    clocks.pass_(DAY_S / 2)
    assert trust.open(signed).holds_s == pytest.approx(DAY_S / 2)

    clocks.pass_(DAY_S / 2 + 1)
    clocks.now = NOW - 100 * SECOND

    assert reason(trust, signed) == "expired"
    fresh = update(issued_ns=NOW + int((DAY_S + 1) * SECOND))
    assert trust.open(key.sign(fresh)).holds_s == pytest.approx(DAY_S)


@pytest.mark.parametrize("off_s", [-10 * DAY_S, -60.0, 60.0, DAY_S + LENIENCE_S - 60])
def test_a_clock_that_is_off_is_borne(
    off_s: float, trust: Trust, key: SigningKey, clocks: Clocks
) -> None:
    clocks.now += int(off_s * SECOND)

    assert reason(trust, key.sign(update())) == ""


def test_a_huge_update_is_not_even_verified(trust: Trust, key: SigningKey) -> None:
    assert reason(trust, key.sign_bytes(b"\0" * (MAX_UPDATE_BYTES + 1))) == "too_large"


def test_signed_nonsense_is_refused(trust: Trust, key: SigningKey) -> None:
    assert reason(trust, key.sign_bytes(b"\xff" * 40)) == "unreadable"


def test_refusals_leave_no_trace(trust: Trust, key: SigningKey) -> None:
    """A refused update's number does not count, or one could lock the agent out."""
    assert reason(trust, SigningKey().sign(update(serial=2**63))) == "unknown_key"
    assert reason(trust, key.sign(update(agent="other", serial=2**63))) == "other_agent"
    expired = update(serial=2**63, issued_ns=NOW - int(9 * DAY_S * SECOND))
    assert reason(trust, key.sign(expired)) == "expired"

    assert reason(trust, key.sign(update(serial=1))) == ""


def test_what_was_once_said_to_all_may_be_read_long_after(
    trust: Trust, key: SigningKey, clocks: Clocks
) -> None:
    """The features' key, for a start without a daemon."""
    clocks.pass_(1000 * DAY_S)

    assert trust.timeless(key.sign(update(agent=""))).agent == ""
    with pytest.raises(UntrustedError):
        trust.timeless(SigningKey().sign(update(agent="")))


def test_a_file_of_keys_has_one_a_line() -> None:
    keys = [SigningKey() for _ in range(2)]
    text = "\n".join(["# two", "", *(f" {key.public.hex().upper()} # x" for key in keys)])

    assert read_keys(text) == {key_id(key.public): key.public for key in keys}
