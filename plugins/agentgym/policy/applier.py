"""From a PolicyUpdate to the policies in force: verified files, then one atomic swap.

A snapshot that fails verification is never loaded; the policies in force stay. Where files come
from is the caller's: `Fetch` downloads them, or reads them from the shared directory.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from agentgym.errors import SnapshotError, UntrustedError
from agentgym.policy.arms import Exploration
from agentgym.policy.encoder import cache
from agentgym.policy.evaluate import CatalogueCache, ScorerCache
from agentgym.policy.experiment import Experiment, experiment_of
from agentgym.policy.features import GRAMS_ONLY, Featuriser, TextHasher
from agentgym.policy.policy_set import PolicySet
from agentgym.policy.snapshot import Snapshot, parse
from agentgym.policy.trust import Trust
from agentgym.proto.v1 import policy_pb2
from agentgym.trajectory import Stage

if TYPE_CHECKING:
    from agentgym.live import LivePolicies

logger = logging.getLogger(__name__)


class Fetch(Protocol):
    """Where files come from; both raise what says that a file cannot be had."""

    def snapshot(self, version: policy_pb2.PolicyVersion) -> bytes:
        """A policy's file; raises SnapshotError."""

    def encoder(self, sha256: str) -> bytes:
        """An encoder's file; raises EncoderError."""


@dataclass(frozen=True, slots=True)
class _Texts:
    """How texts become features, and the handshake that said so."""

    identity: tuple[bytes, bytes]
    features: Featuriser
    catalogues: CatalogueCache
    scorers: ScorerCache = field(default_factory=ScorerCache)


class Applier:
    """The only writer of a `LivePolicies`; one thread uses it."""

    def __init__(self, home: Path, live: LivePolicies, trust: Trust) -> None:
        self._home = home
        self._live = live
        self._trust = trust
        self._texts: _Texts | None = None
        self._said: set[str] = set()

    def receive(
        self,
        signed: policy_pb2.SignedUpdate,
        fetch: Fetch,
        *,
        age_s: float = 0.0,
        common: bool = False,
    ) -> bool:
        """Puts an update into force if it is to be trusted; what is in force stays otherwise.

        A refusal is counted, and said once per reason.
        """
        try:
            trusted = self._trust.open(signed, common=common)
        except UntrustedError as error:
            self._live.refused += 1
            if error.reason not in self._said:
                self._said.add(error.reason)
                logger.warning("AgentGym does not take %s", error)
            return False
        self.apply(trusted.update, fetch, age_s=age_s)
        self._live.hold(trusted.holds_s)
        self._said.clear()
        return True

    def apply(self, update: policy_pb2.PolicyUpdate, fetch: Fetch, *, age_s: float = 0.0) -> None:
        """Puts an update into force that is trusted, and that the daemon gave `age_s` ago."""
        texts = self._texts_of(update, fetch)
        steering = update.steering
        exploration = Exploration(
            temperature=steering.temperature,
            floor=steering.floor,
            defer_floor=steering.defer_floor,
            top_k=steering.top_k,
        )
        policies = PolicySet(
            features=texts.features,
            catalogues=texts.catalogues,
            exploration=exploration,
            control_share=steering.control_share,
            stale_after_s=float(steering.stale_after_s),
            killed=steering.killed,
            stage=_stage(steering.stage),
            canary_share=steering.canary_share,
            policies=self._snapshots(update, fetch),
            down=frozenset(update.down),
            scorers=texts.scorers,  # a heartbeat changes neither policies nor texts
            experiment=self._experiment(update, fetch),
        )
        self._live.swap(policies, age_s=age_s)

    def featuriser(self, signed: policy_pb2.SignedUpdate, fetch: Fetch) -> Featuriser:
        """How texts become features, by what any agent was once told; nothing comes into force.

        Raises UntrustedError for what the daemon did not sign.
        """
        update = self._trust.timeless(signed)
        return self._texts_of(update, fetch).features

    def _texts_of(self, update: policy_pb2.PolicyUpdate, fetch: Fetch) -> _Texts:
        identity = (update.feature_key, update.features.SerializeToString(deterministic=True))
        if self._texts is None or self._texts.identity != identity:
            features = self._featuriser(update, fetch)
            self._texts = _Texts(identity, features, CatalogueCache(features))
        return self._texts

    def _featuriser(self, update: policy_pb2.PolicyUpdate, fetch: Fetch) -> Featuriser:
        hasher = TextHasher(update.feature_key)
        number, sha256 = update.features.number, update.features.encoder_sha256
        if not sha256:
            return Featuriser(hasher, schema=number or GRAMS_ONLY)
        encoder = cache.load(self._home, sha256, lambda: fetch.encoder(sha256))
        return Featuriser.of(hasher, encoder, number)

    def _snapshots(self, update: policy_pb2.PolicyUpdate, fetch: Fetch) -> dict[str, Snapshot]:
        current = self._live.current
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
                wanted[name] = _as_announced(parse(fetch.snapshot(entry), entry.sha256), entry)
            except SnapshotError as error:
                self._live.refused += 1
                logger.warning("AgentGym refused policy %s: %s", entry.version, error)
                if before is not None:
                    wanted[name] = before
        return wanted

    def _experiment(self, update: policy_pb2.PolicyUpdate, fetch: Fetch) -> Experiment | None:
        """The experiment, if the policies of all its arms can be had: else no arm is drawn here.

        With one arm less the others would get its units.
        """
        if not update.HasField("experiment"):
            return None
        loaded = self._known()
        versions: dict[str, tuple[str, Snapshot]] = {}
        try:
            for entry in update.arms:
                known = loaded.get(entry.sha256)
                if known is None or known.version != entry.version:
                    known = parse(fetch.snapshot(entry), entry.sha256)
                versions[entry.version] = entry.scope.agent_name, _as_announced(known, entry)
            return experiment_of(update.experiment, versions)
        except (SnapshotError, KeyError) as error:
            self._live.refused += 1
            logger.warning("AgentGym runs no experiment %s: %s", update.experiment.name, error)
            return None

    def _known(self) -> dict[str, Snapshot]:
        """Snapshots in force that were verified before, by hash: live ones and those of arms."""
        current = self._live.current
        if current is None:
            return {}
        arms = current.experiment.arms if current.experiment else ()
        found = [*current.policies.values(), *(s for arm in arms for s in arm.policies.values())]
        return {snapshot.sha256: snapshot for snapshot in found}


def _stage(number: int) -> Stage:
    """A daemon that says nothing means live; of a stage that is not known nothing is applied."""
    try:
        return Stage(number or Stage.LIVE)
    except ValueError:
        return Stage.OBSERVE


def _as_announced(snapshot: Snapshot, entry: policy_pb2.PolicyVersion) -> Snapshot:
    """The snapshot, if it is the version of the scope that was announced; raises SnapshotError.

    A hash says that a file is the one meant, not that the right one was meant.
    """
    if snapshot.version != entry.version:
        raise SnapshotError(f"expected version {entry.version}, the file is {snapshot.version}")
    scope = snapshot.manifest["scope"]
    if not isinstance(scope, Mapping):
        raise SnapshotError(f"expected the scope of the policy to be an object, got {scope!r}")
    for name in ("agent", "agent_name", "feature_schema"):
        wanted = getattr(entry.scope, name)
        if scope.get(name, wanted) != wanted:
            raise SnapshotError(f"expected a policy of {name} {wanted!r}, got {scope[name]!r}")
    return snapshot
