"""ArtifactService: snapshot files and the encoder by their sha256, in chunks."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

from agentgym.errors import EncoderError
from agentgym.policy.encoder.artefact import digest
from agentgym.proto.v1 import artifact_pb2, artifact_pb2_grpc
from agentgym_daemon.encoders.choice import Choice
from agentgym_daemon.errors import InvalidRequestError
from agentgym_daemon.policies.registry import Registry
from agentgym_daemon.rpc.status import Context, stream

CHUNK_BYTES = 512 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ArtifactService(artifact_pb2_grpc.ArtifactServiceServicer):
    """Serves files of the registry, compared with their hash before the first byte goes out."""

    def __init__(self, registry: Registry, encoder: Choice) -> None:
        self._registry = registry
        self._encoder = encoder

    @stream
    async def Get(
        self, request: artifact_pb2.GetArtifactRequest, context: Context
    ) -> AsyncIterator[artifact_pb2.Chunk]:
        """The file with this address."""
        if not _SHA256.fullmatch(request.sha256):
            raise InvalidRequestError(
                f"sha256: expected 64 hex digits, got {request.sha256[:80]!r}"
            )
        data = await asyncio.to_thread(self._read, request.sha256)
        for start in range(0, len(data), CHUNK_BYTES):
            yield artifact_pb2.Chunk(data=data[start : start + CHUNK_BYTES], total=len(data))

    def _read(self, sha256: str) -> bytes:
        if self._encoder.path is not None and sha256 == self._encoder.sha256:
            data = self._encoder.path.read_bytes()
            if digest(data) != sha256:
                raise EncoderError(f"encoder file {sha256} was changed; start the daemon again")
            return data
        return self._registry.read(sha256)
