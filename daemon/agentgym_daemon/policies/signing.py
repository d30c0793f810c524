"""The installation's key: signs what agents are told, and bundles; it never leaves the daemon.

home/signing.key      seed of the ed25519 key, hex, 0600
home/signing.pub      the public key, hex: what agents trust, copied to theirs as the token is
home/signing.serial   a number that no update had yet

An update's serial rises with every change of what is told, over restarts too. Numbers are reserved
in blocks, so that the disk is not asked at every change.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentgym.policy.trust import key_id
from agentgym.proto.v1 import policy_pb2
from agentgym_daemon.clock import Clock
from agentgym_daemon.errors import DirectoryError
from agentgym_daemon.lock import SIGNING_PUBLIC_NAME, read_signing_key, write_private

_log = logging.getLogger(__name__)

SERIAL_NAME = "signing.serial"
RENEW_S = 30.0
"""An update that is repeated on a stream is signed anew when it is older than this."""
LEAST_LIFE_S = 300.0
_BLOCK = 1000
_SECOND_NS = 1_000_000_000
_MOST_AGENTS = 4096


@dataclass(slots=True)
class _Told:
    """What an agent was told last; the number belongs to the content, not to the envelope."""

    content: bytes
    serial: int
    issued: dict[float, tuple[int, policy_pb2.SignedUpdate]] = field(default_factory=dict)


class Signer:
    """Holds the key; used on the event loop."""

    def __init__(self, home: Path, clock: Clock) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(read_signing_key(home))
        self.public = self._key.public_key().public_bytes_raw()
        """32 bytes: what agents and importers are given to trust."""
        self.key_id = key_id(self.public)
        self._clock = clock
        self._path = home / SERIAL_NAME
        # The time stands in where the file was lost; a block per start keeps up with it.
        self._serial = self._reserved = max(_read(self._path), clock.now_ns() // 1_000_000)
        self._reserve()
        self._told: OrderedDict[str, _Told] = OrderedDict()
        public = public_file(home)
        if _bytes(home / SIGNING_PUBLIC_NAME) != public:
            write_private(home / SIGNING_PUBLIC_NAME, public)

    def sign(self, data: bytes) -> bytes:
        """The signature under exactly these bytes."""
        return self._key.sign(data)

    def update(
        self, update: policy_pb2.PolicyUpdate, *, life_s: float, renew_s: float = RENEW_S
    ) -> policy_pb2.SignedUpdate:
        """An update as it travels: numbered, dated and signed as a whole.

        What was signed less than `renew_s` ago, for the same `renew_s`, is given again.
        """
        told = self._told_of(update.agent, update.SerializeToString(deterministic=True))
        now_ns = self._clock.now_ns()
        at_ns, signed = told.issued.get(renew_s, (0, policy_pb2.SignedUpdate()))
        if at_ns and now_ns - at_ns < renew_s * _SECOND_NS:
            return signed
        dated = policy_pb2.PolicyUpdate()
        dated.CopyFrom(update)
        dated.serial, dated.issued_unix_nano = told.serial, now_ns
        dated.expires_unix_nano = now_ns + int(max(life_s, LEAST_LIFE_S) * _SECOND_NS)
        data = dated.SerializeToString(deterministic=True)
        signed = policy_pb2.SignedUpdate(update=data, key_id=self.key_id, signature=self.sign(data))
        told.issued[renew_s] = now_ns, signed
        return signed

    def _told_of(self, agent: str, content: bytes) -> _Told:
        told = self._told.get(agent)
        if told is None or told.content != content:
            told = self._told[agent] = _Told(content, self._next())
            while len(self._told) > _MOST_AGENTS:
                self._told.popitem(last=False)
        self._told.move_to_end(agent)
        return told

    def _next(self) -> int:
        if self._serial + 1 >= self._reserved:
            self._reserve()
        self._serial += 1
        return self._serial

    def _reserve(self) -> None:
        reserved = max(self._reserved, self._serial) + _BLOCK
        try:
            write_private(self._path, f"{reserved}\n".encode())
        except DirectoryError as error:
            # A full disk must not keep a kill from the agents; the time stands in at a restart.
            _log.warning("the numbers of updates cannot be kept: %s", error)
        else:
            self._reserved = reserved


def public_file(home: Path) -> bytes:
    """What belongs into signing.pub."""
    key = Ed25519PrivateKey.from_private_bytes(read_signing_key(home))
    return f"{key.public_key().public_bytes_raw().hex()}\n".encode()


def _read(path: Path) -> int:
    text = _bytes(path).decode("ascii", "replace").strip()
    return int(text) if text.isdecimal() and len(text) < 20 else 0


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
