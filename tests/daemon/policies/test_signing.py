"""What agents are told is signed as a whole, numbered upwards, and dated."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentgym.errors import UntrustedError
from agentgym.policy.trust import Trust
from agentgym.proto.v1 import policy_pb2
from agentgym_daemon.clock import ManualClock
from agentgym_daemon.errors import DirectoryError
from agentgym_daemon.lock import SIGNING_KEY_NAME, SIGNING_PUBLIC_NAME, prepare
from agentgym_daemon.policies.signing import LEAST_LIFE_S, RENEW_S, SERIAL_NAME, Signer

DAY_S = 86_400


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def prepared(home: Path) -> Path:
    prepare(home)
    return home


@pytest.fixture
def signer(prepared: Path, clock: ManualClock) -> Signer:
    return Signer(prepared, clock)


def update(text: str = "", *, agent: str = "desk") -> policy_pb2.PolicyUpdate:
    return policy_pb2.PolicyUpdate(agent=agent, daemon_version=text)


def told(signed: policy_pb2.SignedUpdate) -> policy_pb2.PolicyUpdate:
    return policy_pb2.PolicyUpdate.FromString(signed.update)


def trust(home: Path, clock: ManualClock, agent: str = "desk") -> Trust:
    return Trust(
        home / SIGNING_PUBLIC_NAME,
        home,
        agent,
        now_ns=clock.now_ns,
        monotonic_ns=lambda: int(clock.monotonic() * 1e9),
    )


def test_an_agent_that_has_the_public_key_takes_it(
    signer: Signer, prepared: Path, clock: ManualClock
) -> None:
    trusted = trust(prepared, clock).open(signer.update(update("1"), life_s=DAY_S))

    assert trusted.update.daemon_version == "1"
    assert trusted.holds_s == pytest.approx(DAY_S, abs=1e-3)
    assert (prepared / SIGNING_KEY_NAME).stat().st_mode & 0o777 == 0o600


def test_a_change_has_a_new_number_and_a_repetition_has_not(signer: Signer) -> None:
    first = told(signer.update(update("1"), life_s=DAY_S))
    again = told(signer.update(update("1"), life_s=DAY_S))
    changed = told(signer.update(update("2"), life_s=DAY_S))
    back = told(signer.update(update("1"), life_s=DAY_S))

    assert again == first
    assert first.serial < changed.serial < back.serial


def test_what_is_repeated_is_dated_anew_after_a_while(signer: Signer, clock: ManualClock) -> None:
    first = told(signer.update(update(), life_s=DAY_S))
    clock.advance(RENEW_S + 1)
    later = told(signer.update(update(), life_s=DAY_S))

    assert later.serial == first.serial
    assert later.expires_unix_nano - first.expires_unix_nano == (RENEW_S + 1) * 1_000_000_000


def test_a_file_and_a_stream_have_the_same_number_for_the_same_content(
    signer: Signer, clock: ManualClock
) -> None:
    """Or whoever read one would take the other for a replay."""
    streamed = told(signer.update(update("1"), life_s=DAY_S))
    clock.advance(RENEW_S * 2)
    kept = told(signer.update(update("1"), life_s=DAY_S, renew_s=DAY_S / 4))
    clock.advance(RENEW_S * 2)

    assert kept.serial == streamed.serial
    assert told(signer.update(update("1"), life_s=DAY_S, renew_s=DAY_S / 4)) == kept


@pytest.mark.parametrize("lost", [False, True])
def test_a_restart_never_goes_back(
    lost: bool, signer: Signer, prepared: Path, clock: ManualClock
) -> None:
    for number in range(2500):  # more than are reserved at once
        last = told(signer.update(update(str(number)), life_s=DAY_S)).serial
    clock.advance(3)
    if lost:
        (prepared / SERIAL_NAME).unlink()

    again = told(Signer(prepared, clock).update(update(), life_s=DAY_S)).serial

    assert again > last


def test_numbers_that_cannot_be_kept_stop_nobody(
    prepared: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a full disk: a kill must reach the agents all the same."""
    (prepared / SERIAL_NAME).mkdir()
    signer = Signer(prepared, clock)

    serials = [told(signer.update(update(str(n)), life_s=DAY_S)).serial for n in range(3)]
    clock.advance(1)
    later = told(Signer(prepared, clock).update(update("later"), life_s=DAY_S)).serial

    assert serials == sorted(set(serials))
    assert later > serials[-1]
    assert "cannot be kept" in caplog.text


def test_a_clock_that_went_back_does_not_take_the_numbers_with_it(
    signer: Signer, prepared: Path, clock: ManualClock
) -> None:
    last = told(signer.update(update(), life_s=DAY_S)).serial
    clock.step(-30 * DAY_S)

    assert told(Signer(prepared, clock).update(update(), life_s=DAY_S)).serial > last


def test_an_update_outlives_the_pause_between_two_however_short_its_life_is_set(
    signer: Signer,
) -> None:
    made = told(signer.update(update(), life_s=1))

    assert made.expires_unix_nano - made.issued_unix_nano == LEAST_LIFE_S * 1_000_000_000


def test_a_new_key_is_one_that_nobody_trusts_yet(
    signer: Signer, prepared: Path, clock: ManualClock
) -> None:
    """Rotation: stop, remove signing.key, start, copy signing.pub."""
    old = (prepared / SIGNING_PUBLIC_NAME).read_bytes()
    (prepared / SIGNING_KEY_NAME).unlink()
    prepare(prepared)
    fresh = Signer(prepared, clock)
    theirs = prepared / "theirs.pub"
    theirs.write_bytes(old)
    agent = Trust(theirs, prepared, "desk", now_ns=clock.now_ns)

    with pytest.raises(UntrustedError, match=r"copy its signing\.pub"):
        agent.open(fresh.update(update(), life_s=DAY_S))
    theirs.write_bytes((prepared / SIGNING_PUBLIC_NAME).read_bytes())

    assert agent.open(fresh.update(update(), life_s=DAY_S)).update.agent == "desk"
    assert fresh.key_id != signer.key_id


@pytest.mark.parametrize("content", ["", "ab" * 31, "xy" * 32])
def test_a_key_that_cannot_be_read_stops_the_start(
    content: str, prepared: Path, clock: ManualClock
) -> None:
    (prepared / SIGNING_KEY_NAME).write_text(content)

    with pytest.raises(DirectoryError, match="remove it: the next start makes a new one"):
        Signer(prepared, clock)


def test_a_public_key_that_was_exchanged_is_put_right(
    signer: Signer, prepared: Path, clock: ManualClock
) -> None:
    (prepared / SIGNING_PUBLIC_NAME).write_text("00" * 32)

    Signer(prepared, clock)

    assert (prepared / SIGNING_PUBLIC_NAME).read_text().strip() == signer.public.hex()
