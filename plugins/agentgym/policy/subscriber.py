"""Follows the daemon's policies: one stream, verified downloads, one atomic swap.

A snapshot that fails verification is never loaded; the policies in force stay.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from agentgym import semconv
from agentgym.config import Config
from agentgym.connection import Metadata, credentials, read_token, status_name
from agentgym.errors import AgentGymError, DaemonError, EncoderError, SnapshotError
from agentgym.live import LivePolicies
from agentgym.policy.arms import Exploration
from agentgym.policy.encoder import cache
from agentgym.policy.evaluate import CatalogueCache, ScorerCache
from agentgym.policy.features import GRAMS_ONLY, Featuriser, TextHasher
from agentgym.policy.policy_set import PolicySet
from agentgym.policy.snapshot import MAX_BYTES, Snapshot, parse
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


@dataclass(frozen=True, slots=True)
class _Texts:
    """How texts become features, and the handshake that said so."""

    identity: tuple[bytes, bytes]
    features: Featuriser
    catalogues: CatalogueCache
    scorers: ScorerCache = field(default_factory=ScorerCache)


class Subscriber:
    """One thread reading `PolicyService.Subscribe`; the only writer of `LivePolicies`."""

    def __init__(
        self, config: Config, live: LivePolicies, channel: grpc.Channel, producer_id: bytes
    ) -> None:
        self.config = config
        self.live = live
        self.connected = threading.Event()
        self.rejected = 0
        self._producer_id = producer_id
        self._policies = PolicyServiceStub(channel)
        self._artifacts = ArtifactServiceStub(channel)
        self._texts: _Texts | None = None
        self._said = ""

    def start(
        self,
        stop: threading.Event,
        *,
        on_ready: Callable[[], None],
        on_reconnect: Callable[[], None],
    ) -> None:
        """Starts the thread; `on_ready` is called after every handshake."""
        thread = threading.Thread(
            target=self._run,
            args=(stop, on_ready, on_reconnect),
            name="agentgym-subscriber",
            daemon=True,
        )
        thread.start()

    def _run(
        self, stop: threading.Event, on_ready: Callable[[], None], on_reconnect: Callable[[], None]
    ) -> None:
        delay = _BACKOFF_S[0]
        while not stop.is_set():
            try:
                metadata = credentials(read_token(self.config.token_file))
                for update in self._policies.Subscribe(self._request(), metadata=metadata):
                    self._apply(update, metadata)
                    if not self.connected.is_set():
                        on_reconnect()
                        self.live.follow(True)
                        self.connected.set()
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
            if self.connected.is_set():
                self.connected.clear()
                self.live.follow(False)
            stop.wait(delay * _jitter.uniform(0.5, 1.0))
            delay = min(2 * delay, _BACKOFF_S[1])

    def _request(self) -> policy_pb2.SubscribeRequest:
        return policy_pb2.SubscribeRequest(
            contract_version=semconv.CONTRACT_VERSION,
            plugin_version=VERSION,
            agent=self.config.agent,
            producer_id=self._producer_id,
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

    # ---- updates

    def _apply(self, update: policy_pb2.PolicyUpdate, metadata: Metadata) -> None:
        identity = (update.feature_key, update.features.SerializeToString(deterministic=True))
        if self._texts is None or self._texts.identity != identity:
            features = self._featuriser(update, metadata)
            self._texts = _Texts(identity, features, CatalogueCache(features))
        steering = update.steering
        exploration = Exploration(
            temperature=steering.temperature,
            floor=steering.floor,
            defer_floor=steering.defer_floor,
            top_k=steering.top_k,
        )
        self.live.swap(
            PolicySet(
                features=self._texts.features,
                catalogues=self._texts.catalogues,
                exploration=exploration,
                control_share=steering.control_share,
                stale_after_s=float(steering.stale_after_s),
                killed=steering.killed,
                policies=self._snapshots(update, metadata),
                down=frozenset(update.down),
                scorers=self._texts.scorers,  # a heartbeat changes neither policies nor texts
            )
        )

    def _featuriser(self, update: policy_pb2.PolicyUpdate, metadata: Metadata) -> Featuriser:
        hasher = TextHasher(update.feature_key)
        number, sha256 = update.features.number, update.features.encoder_sha256
        if not sha256:
            return Featuriser(hasher, schema=number or GRAMS_ONLY)
        encoder = cache.load(
            self.config.home, sha256, lambda: self._download(sha256, metadata, EncoderError)
        )
        return Featuriser.of(hasher, encoder, number)

    def _snapshots(
        self, update: policy_pb2.PolicyUpdate, metadata: Metadata
    ) -> dict[str, Snapshot]:
        current = self.live.current
        loaded = dict(current.policies) if current else {}
        wanted: dict[str, Snapshot] = {}
        for entry in update.live:
            if entry.scope.feature_schema != (update.features.number or GRAMS_ONLY):
                continue
            name = entry.scope.agent_name
            before = loaded.get(name)
            if before is not None and before.sha256 == entry.sha256:
                wanted[name] = before
                continue
            try:
                wanted[name] = parse(
                    self._download(entry.sha256, metadata, SnapshotError), entry.sha256
                )
            except SnapshotError as error:
                self.rejected += 1
                logger.warning("AgentGym refused policy %s: %s", entry.version, error)
                if before is not None:
                    wanted[name] = before
        return wanted

    def _download(self, sha256: str, metadata: Metadata, error: type[AgentGymError]) -> bytes:
        data = bytearray()
        request = artifact_pb2.GetArtifactRequest(sha256=sha256)
        try:
            for chunk in self._artifacts.Get(request, metadata=metadata, timeout=30):
                data += chunk.data
                if len(data) > MAX_BYTES:
                    raise error(f"the file is longer than {MAX_BYTES} bytes")
        except grpc.RpcError as cause:
            if status_name(cause) not in _LASTING:
                raise  # the stream starts again, and with it the download
            raise error(f"the file cannot be had: {status_name(cause)}") from cause
        return bytes(data)
