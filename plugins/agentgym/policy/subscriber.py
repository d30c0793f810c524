"""Follows the daemon's policies over one stream, and downloads what it names."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

import grpc

from agentgym import semconv
from agentgym.config import Config
from agentgym.connection import Metadata, credentials, read_token, status_name
from agentgym.errors import AgentGymError, DaemonError, EncoderError, SnapshotError
from agentgym.live import LivePolicies
from agentgym.policy.applier import Applier
from agentgym.policy.snapshot import MAX_BYTES
from agentgym.policy.trust import Trust
from agentgym.proto.v1 import artifact_pb2, policy_pb2
from agentgym.proto.v1.artifact_pb2_grpc import ArtifactServiceStub
from agentgym.proto.v1.policy_pb2_grpc import PolicyServiceStub
from agentgym.version import VERSION

logger = logging.getLogger(__name__)

_BACKOFF_S = (0.1, 2.0)
_jitter = random.Random()  # of our own: the host may have seeded the global one
_OPERATOR_BACKOFF_S = 5.0
_OPERATOR = frozenset(
    ("FAILED_PRECONDITION", "UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED")
)
_LASTING = _OPERATOR | {"NOT_FOUND", "INVALID_ARGUMENT", "DATA_LOSS", "INTERNAL", "UNKNOWN"}
"""Statuses of a download that asking again would not change."""


class Subscriber:
    """One thread reading `PolicyService.Subscribe`."""

    def __init__(
        self, config: Config, live: LivePolicies, channel: grpc.Channel, producer_id: bytes
    ) -> None:
        self.config = config
        self.live = live
        self.connected = threading.Event()
        trust = Trust(config.trusted_key_file, config.home, config.agent)
        self._applier = Applier(config.home, live, trust)
        self._producer_id = producer_id
        self._policies = PolicyServiceStub(channel)
        self._artifacts = ArtifactServiceStub(channel)
        self._metadata: Metadata = ()
        self._said = ""
        self._following = False

    def start(
        self,
        stop: threading.Event,
        *,
        on_ready: Callable[[], None],
        on_reconnect: Callable[[], None],
    ) -> None:
        """Starts the thread; `on_ready` is called after every handshake."""
        thread = threading.Thread(
            target=self.run,
            args=(stop, on_ready, on_reconnect),
            name="agentgym-subscriber",
            daemon=True,
        )
        thread.start()

    def run(
        self, stop: threading.Event, on_ready: Callable[[], None], on_reconnect: Callable[[], None]
    ) -> None:
        """Follows until `stop`, in the calling thread."""
        delay = _BACKOFF_S[0]
        while not stop.is_set():
            try:
                self._metadata = credentials(read_token(self.config.token_file))
                for signed in self._policies.Subscribe(self._request(), metadata=self._metadata):
                    taken = self._applier.receive(signed, self)
                    if not self.connected.is_set():
                        on_reconnect()
                        self.connected.set()
                    self._follow(taken)
                    if taken:
                        on_ready()
                    delay, self._said = _BACKOFF_S[0], ""
            except DaemonError as error:
                self._say(str(error))
            except EncoderError as error:
                self._say(f"texts cannot be encoded, so no newer policy is taken: {error}")
                delay = _OPERATOR_BACKOFF_S
            except grpc.RpcError as error:
                if self._operator_error(error):
                    delay = _OPERATOR_BACKOFF_S
            except Exception as error:  # noqa: BLE001 - the thread must live; it is said
                if not stop.is_set():  # the channel was closed under us otherwise
                    self._say(f"could not apply a policy update: {error!r}", exc_info=True)
            self.connected.clear()
            self._follow(False)
            stop.wait(delay * _jitter.uniform(0.5, 1.0))
            delay = min(2 * delay, _BACKOFF_S[1])

    def _follow(self, taken: bool) -> None:
        """What is refused keeps no policy fresh, however alive the stream is."""
        if taken != self._following:
            self._following = taken
            self.live.follow(taken)

    def _request(self) -> policy_pb2.SubscribeRequest:
        return policy_pb2.SubscribeRequest(
            contract_version=semconv.CONTRACT_VERSION,
            plugin_version=VERSION,
            agent=self.config.agent,
            producer_id=self._producer_id,
            signed=True,
        )

    def _operator_error(self, error: grpc.RpcError) -> bool:
        code = status_name(error)
        if code not in _OPERATOR:
            return False
        details = error.details() if hasattr(error, "details") else ""
        self._say(
            f"the daemon at {self.config.endpoint} refused to be followed: {details} ({code})"
        )
        return True

    def _say(self, text: str, *, exc_info: bool = False) -> None:
        if text != self._said:
            self._said = text
            logger.warning("AgentGym: %s", text, exc_info=exc_info)

    # ---- files, verified by the applier

    def snapshot(self, version: policy_pb2.PolicyVersion) -> bytes:
        """The file of a policy version."""
        return self._download(version.sha256, SnapshotError)

    def encoder(self, sha256: str) -> bytes:
        """The file of an encoder."""
        return self._download(sha256, EncoderError)

    def _download(self, sha256: str, error: type[AgentGymError]) -> bytes:
        data = bytearray()
        request = artifact_pb2.GetArtifactRequest(sha256=sha256)
        try:
            for chunk in self._artifacts.Get(request, metadata=self._metadata, timeout=30):
                data += chunk.data
                if len(data) > MAX_BYTES:
                    raise error(f"the file is longer than {MAX_BYTES} bytes")
        except grpc.RpcError as cause:
            if status_name(cause) not in _LASTING:
                raise  # the stream starts again, and with it the download
            raise error(f"the file cannot be had: {status_name(cause)}") from cause
        return bytes(data)
