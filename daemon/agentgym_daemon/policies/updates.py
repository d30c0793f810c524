"""What an agent is told: how to act, its live versions, its experiment, and its broken tools."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from agentgym import semconv
from agentgym.proto.v1 import policy_pb2
from agentgym_daemon.config import DaemonConfig
from agentgym_daemon.policies.experiments import Experiments
from agentgym_daemon.policies.ladder import Ladder
from agentgym_daemon.policies.registry import Registry
from agentgym_daemon.policies.signing import RENEW_S, Signer


def handshake(
    config: DaemonConfig, version: str, feature_key: bytes, features: policy_pb2.FeatureSchema
) -> policy_pb2.PolicyUpdate:
    """What every agent is told, whatever its policies."""
    return policy_pb2.PolicyUpdate(
        contract_version=semconv.CONTRACT_VERSION,
        daemon_version=version,
        feature_key=feature_key,
        features=features,
        steering=_steering(config),
    )


def _steering(config: DaemonConfig) -> policy_pb2.Steering:
    return policy_pb2.Steering(
        control_share=config.control_share,
        temperature=config.temperature,
        floor=config.floor,
        defer_floor=config.defer_floor,
        top_k=config.top_k,
        stale_after_s=config.stale_after_s,
    )


class Updates:
    """Makes updates from what holds now; used on the event loop."""

    def __init__(
        self,
        registry: Registry,
        *,
        handshake: policy_pb2.PolicyUpdate,
        signer: Signer,
        ladder: Ladder | None = None,
        experiments: Experiments | None = None,
        down: Callable[[str], Iterable[bytes]] = lambda _agent: (),
        agents_down: Callable[[], Iterable[str]] = lambda: (),
    ) -> None:
        self._registry = registry
        self.handshake = handshake
        """What every agent is told; replaced as a whole when settings change."""
        self._signer = signer
        self._ladder = ladder
        self._experiments = experiments
        self._down = down
        self._agents_down = agents_down

    def steer(self, config: DaemonConfig) -> None:
        """Takes up how agents act from now on."""
        fresh = policy_pb2.PolicyUpdate()
        fresh.CopyFrom(self.handshake)
        fresh.steering.CopyFrom(_steering(config))
        self.handshake = fresh

    def of(self, agent: str) -> policy_pb2.PolicyUpdate:
        """The update that an agent's subscribers get."""
        update = self.common(agent)
        # Also versions whose files were changed since: nobody can load them any more, but agents
        # that verified one before keep it.
        update.live.extend(
            version
            for version in self._registry.book.live(agent)
            if version.scope.feature_schema == self.handshake.features.number
        )
        if self._experiments is not None:
            self._experiments.tell(agent, update)
        for version in (*update.live, *update.arms):  # what people call it is nothing to agents
            version.ClearField("aliases")
            version.ClearField("note")
        update.down.extend(self._down(agent))
        return update

    def signed(self, update: policy_pb2.PolicyUpdate) -> policy_pb2.SignedUpdate:
        """An update as it travels to subscribers."""
        return self._signer.update(update, life_s=update.steering.stale_after_s)

    def kept(self, update: policy_pb2.PolicyUpdate) -> policy_pb2.SignedUpdate:
        """An update as it lies in a file: signed anew only when a part of its life is over."""
        life_s = float(update.steering.stale_after_s)
        return self._signer.update(update, life_s=life_s, renew_s=max(RENEW_S, life_s / 4))

    def common(self, agent: str = "") -> policy_pb2.PolicyUpdate:
        """The handshake as it holds for an agent: its stage, and whether it is killed."""
        update = policy_pb2.PolicyUpdate()
        update.CopyFrom(self.handshake)
        update.agent = agent
        if self._ladder is not None:
            place = self._ladder.status(agent)
            update.steering.stage = place.stage
            update.steering.canary_share = place.canary_share
            update.steering.killed = place.killed
        return update

    def placed(self) -> set[str]:
        """Agents whose stage is recorded, that are killed by name, or in an experiment."""
        placed = self._ladder.agents() if self._ladder is not None else set()
        return placed | (self._experiments.agents() if self._experiments is not None else set())

    def agents(self) -> set[str]:
        """Agents that are told more than the handshake."""
        live = {version.scope.agent for version in self._registry.book.live()}
        return live | set(self._agents_down()) | self.placed()
