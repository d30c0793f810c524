"""Which updates of policies are taken: signed by a trusted key, for this agent, new, not expired.

In this order: size, signature, agent, serial, expiry. The key comes from a file that a person or
the daemon laid into this machine's home, never over the channel that brings the updates.

The clocks of both machines may be off. Expiry is judged by the agent's clock with `LENIENCE_S` to
spare, and without any by what has passed since the newest update was received: a lower bound of
the daemon's time that no clock can bend.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from agentgym import forking
from agentgym.errors import UntrustedError
from agentgym.proto.v1 import policy_pb2

MAX_UPDATE_BYTES = 8 * 2**20
LENIENCE_S = 3600.0
KEY_BYTES = 32
_MOST_KEYS = 64
_MAX_FILE_BYTES = 2**16
_SECOND_NS = 1_000_000_000
_DIRECTORY = "trust"


@dataclass(frozen=True, slots=True)
class Trusted:
    """An update that may be put into force, and for how long it holds."""

    update: policy_pb2.PolicyUpdate
    holds_s: float


def key_id(public: bytes) -> str:
    """The short name of a public key."""
    return hashlib.sha256(public).hexdigest()[:16]


def read_keys(text: str) -> dict[str, bytes]:
    """Public keys by id: 64 hex digits a line, `#` begins a comment; raises ValueError."""
    keys: dict[str, bytes] = {}
    for line in text.splitlines()[:_MOST_KEYS]:
        words = line.partition("#")[0].strip()
        if not words:
            continue
        public = bytes.fromhex(words)
        if len(public) != KEY_BYTES:
            raise ValueError(f"expected {2 * KEY_BYTES} hex digits, got {len(words)}")
        keys[key_id(public)] = public
    return keys


def verify(public: bytes, signature: bytes, data: bytes) -> bool:
    """Whether an ed25519 signature is that of the key under exactly these bytes."""
    with forking.importing():
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


class Trust:
    """Judges the updates for one agent; used by one thread."""

    def __init__(
        self,
        key_file: Path,
        home: Path,
        agent: str,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._key_file = key_file
        self._agent = agent
        self._now_ns = now_ns
        self._monotonic_ns = monotonic_ns
        self._serials = _Serials(home / _DIRECTORY / f"{_hashed(agent)}.json")
        self._ahead_ns: dict[str, int] = {}  # by key: the daemon's time less our monotonic one

    def open(self, signed: policy_pb2.SignedUpdate, *, common: bool = False) -> Trusted:
        """The update in an envelope, if it may be put into force; raises UntrustedError.

        `common` means the one that is for any agent, as it lies in the shared directory.
        """
        update = self._verified(signed, common=common)
        name = f"{signed.key_id}/common" if common else signed.key_id
        newest = self._serials.newest(name)
        if update.serial < newest:
            raise UntrustedError(
                "replayed", f"an older update (serial {update.serial}, taken was {newest})"
            )
        holds_s = self._holds_s(update, name)
        self._serials.take(name, update.serial)
        return Trusted(update, holds_s)

    def timeless(self, signed: policy_pb2.SignedUpdate) -> policy_pb2.PolicyUpdate:
        """What the daemon once said to any agent, however long ago; raises UntrustedError."""
        return self._verified(signed, common=True)

    def _verified(
        self, signed: policy_pb2.SignedUpdate, *, common: bool
    ) -> policy_pb2.PolicyUpdate:
        if len(signed.update) > MAX_UPDATE_BYTES:
            raise UntrustedError(
                "too_large",
                f"an update of {len(signed.update)} bytes; at most {MAX_UPDATE_BYTES} are read",
            )
        if not signed.update or not signed.signature:
            raise UntrustedError(
                "unsigned", "an update without a signature; upgrade the daemon, it is too old"
            )
        public = self._key(signed.key_id)
        if not verify(public, signed.signature, signed.update):
            raise UntrustedError(
                "bad_signature", "an update that was changed on its way, or signed by another key"
            )
        try:
            update = policy_pb2.PolicyUpdate.FromString(signed.update)
        except DecodeError as error:
            raise UntrustedError("unreadable", f"an update that cannot be read: {error}") from error
        whom = "" if common else self._agent
        if update.agent != whom:
            raise UntrustedError(
                "other_agent", f"an update for agent {update.agent!r}, expected {whom!r}"
            )
        return update

    def _key(self, wanted: str) -> bytes:
        keys = self._keys()
        if wanted not in keys:
            raise UntrustedError(
                "unknown_key",
                f"an update signed with key {wanted[:64]!r}; {self._key_file} has {sorted(keys)}. "
                "If the daemon got a new key, copy its signing.pub there",
            )
        return keys[wanted]

    def _keys(self) -> Mapping[str, bytes]:
        try:
            with self._key_file.open("rb") as file:
                return read_keys(file.read(_MAX_FILE_BYTES).decode("ascii"))
        except FileNotFoundError:
            raise UntrustedError(
                "no_key",
                f"a policy, because no key is trusted yet: copy signing.pub of the daemon's home "
                f"to {self._key_file}, as its token is copied, or set AGENTGYM_TRUSTED_KEY_FILE",
            ) from None
        except (OSError, ValueError) as error:
            raise UntrustedError(
                "no_key",
                f"a policy, because {self._key_file} holds no key that can be read ({error}); "
                "copy signing.pub of the daemon's home there",
            ) from error

    def _holds_s(self, update: policy_pb2.PolicyUpdate, name: str) -> float:
        monotonic_ns = self._monotonic_ns()
        ahead_ns = update.issued_unix_nano - monotonic_ns
        if name in self._ahead_ns:
            ahead_ns = max(ahead_ns, self._ahead_ns[name])
        by_ours_s = (update.expires_unix_nano - self._now_ns()) / _SECOND_NS + LENIENCE_S
        by_theirs_s = (update.expires_unix_nano - monotonic_ns - ahead_ns) / _SECOND_NS
        holds_s = min(by_ours_s, by_theirs_s)
        if holds_s <= 0:
            raise UntrustedError(
                "expired",
                f"an update that expired {-holds_s:.0f} s ago; is the daemon running, and are the "
                "clocks of both machines right?",
            )
        self._ahead_ns[name] = ahead_ns
        return holds_s


class _Serials:
    """The highest serial taken per key: in memory, and in a file where one can be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._newest: dict[str, int] | None = None

    def newest(self, name: str) -> int:
        if self._newest is None:
            self._newest = self._read()
        return self._newest.get(name, 0)

    def take(self, name: str, serial: int) -> None:
        if serial <= self.newest(name) or self._newest is None:
            return
        # Another process of this agent may have seen more.
        for known, seen in self._read().items():
            self._newest[known] = max(seen, self._newest.get(known, 0))
        self._newest[name] = max(serial, self._newest.get(name, 0))
        with suppress(OSError):  # a home that cannot be written: memory has it
            self._write(self._newest)

    def _read(self) -> dict[str, int]:
        try:
            with self._path.open("rb") as file:
                found = json.loads(file.read(_MAX_FILE_BYTES))
            return {str(name): serial for name, serial in found.items() if type(serial) is int}
        except (OSError, ValueError, AttributeError, RecursionError):
            return {}

    def _write(self, newest: Mapping[str, int]) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(newest, file, sort_keys=True)
        part.replace(self._path)


def _hashed(agent: str) -> str:
    return hashlib.sha256(agent.encode("utf-8", "surrogatepass")).hexdigest()
