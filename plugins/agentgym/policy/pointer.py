"""Follows the policies by the files that the daemon keeps in the shared directory, without gRPC.

For forked children of a process that had a channel, and for the features' key while no daemon is
there. A file that is no valid update, signed with a trusted key, changes nothing.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from agentgym.errors import AgentGymError, EncoderError, SnapshotError
from agentgym.policy.applier import Applier
from agentgym.policy.snapshot import MAX_BYTES
from agentgym.policy.trust import MAX_UPDATE_BYTES, Trust
from agentgym.proto.v1 import policy_pb2

if TYPE_CHECKING:
    from agentgym.live import LivePolicies
    from agentgym.policy.features import Featuriser

logger = logging.getLogger(__name__)

_POLICIES = "policies"
_DIRECTORY = "current"
_HANDSHAKE = "handshake.update"
_SUFFIX = ".update"
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Pointer:
    """The files for one agent; one thread polls."""

    def __init__(self, home: Path, agent: str, live: LivePolicies, *, key_file: Path) -> None:
        self._policies = home / _POLICIES
        name = hashlib.sha256(agent.encode("utf-8", "surrogatepass")).hexdigest() + _SUFFIX
        self._paths = (
            self._policies / _DIRECTORY / name,
            self._policies / _DIRECTORY / _HANDSHAKE,
        )
        self._live = live
        self._applier = Applier(home, live, Trust(key_file, home, agent))
        self._seen: tuple[Path, int] | None = None
        self._applied = b""
        self._said = ""

    def poll(self) -> bool:
        """Puts what the files say into force if it changed; True if there was news of any kind."""
        found = self._newest()
        if found is None or found == self._seen:
            return False
        path, mtime_ns = found
        age_s = max(0.0, time.time() - mtime_ns / 1e9)
        try:
            data = _read(path)
            if data == self._applied:
                self._live.touch(age_s=age_s)
            else:
                signed = policy_pb2.SignedUpdate.FromString(data)
                common = path == self._paths[1]
                if self._applier.receive(signed, self, age_s=age_s, common=common):
                    self._applied = data
        except (OSError, DecodeError, AgentGymError, ValueError, ArithmeticError) as error:
            self._say(f"could not apply {path}: {error!r}")
            if isinstance(error, OSError):
                return False  # replaced at this moment: the next poll finds it
        self._seen = found
        return True

    def features(self) -> Featuriser | None:
        """How this install turns texts into features, by the last handshake that left a file."""
        try:
            signed = policy_pb2.SignedUpdate.FromString(_read(self._paths[1]))
            return self._applier.featuriser(signed, self)
        except FileNotFoundError:
            return None
        except (OSError, DecodeError, AgentGymError, ValueError) as error:
            self._say(f"could not read {self._paths[1]}: {error!r}")
            return None

    def _newest(self) -> tuple[Path, int] | None:
        for path in self._paths:
            try:
                return path, path.stat().st_mtime_ns
            except OSError:
                continue
        return None

    # ---- files, verified by whoever asked for them

    def snapshot(self, version: policy_pb2.PolicyVersion) -> bytes:
        """The file of a policy version."""
        if not _VERSION.fullmatch(version.version):
            raise SnapshotError(f"expected the name of a version, got {version.version!r}")
        path = self._policies / f"{version.version}.safetensors"
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise SnapshotError(f"cannot read {path}: {error}") from error
        if len(data) > MAX_BYTES:
            raise SnapshotError(f"the file is longer than {MAX_BYTES} bytes")
        return data

    def encoder(self, sha256: str) -> bytes:
        """Encoders lie in the shared directory already; one that does not cannot be had here."""
        raise EncoderError(f"encoder {sha256} is not in the shared directory")

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            logger.warning("AgentGym: %s", text)


def _read(path: Path) -> bytes:
    # A little more than an update may have: the envelope, and what tells that it is too long.
    with path.open("rb") as file:
        return file.read(MAX_UPDATE_BYTES + 2**10)
