"""A key that signs updates of policies as the daemon does, and wrongly on request."""

from __future__ import annotations

import time
from typing import Any

from agentgym.policy.trust import key_id
from agentgym.proto.v1 import policy_pb2

LIFE_S = 86_400


class SigningKey:
    """An ed25519 key of its own."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self._key = Ed25519PrivateKey.generate()
        self.public = self._key.public_key().public_bytes_raw()
        self.key_id = key_id(self.public)

    def sign_bytes(self, update: bytes) -> policy_pb2.SignedUpdate:
        """An envelope around any bytes."""
        return policy_pb2.SignedUpdate(
            update=update, key_id=self.key_id, signature=self._key.sign(update)
        )

    def sign(self, update: policy_pb2.PolicyUpdate, **changes: Any) -> policy_pb2.SignedUpdate:
        """An update, dated now and good for a day; `changes` are fields of PolicyUpdate."""
        now_ns = time.time_ns()
        dated = policy_pb2.PolicyUpdate(
            issued_unix_nano=now_ns, expires_unix_nano=now_ns + LIFE_S * 1_000_000_000
        )
        dated.MergeFrom(update)
        for name, value in changes.items():
            setattr(dated, name, value)
        return self.sign_bytes(dated.SerializeToString(deterministic=True))
