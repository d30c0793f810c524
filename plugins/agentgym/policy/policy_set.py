"""A set of verified policies with the settings to run them by; immutable."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agentgym.policy.arms import Exploration, decide, force_arms, show_arms
from agentgym.policy.evaluate import Catalogue, CatalogueCache, ScorerCache
from agentgym.policy.experiment import Experiment
from agentgym.policy.features import Featuriser, TextVector
from agentgym.policy.snapshot import Snapshot
from agentgym.trajectory import ArmKind, Decision, PastCall, Stage, Tool

PROBE_SHARE = 0.05
"""How often a tool that is down is tried again where it would be chosen."""


@dataclass(frozen=True, slots=True)
class PolicySet:
    """Verified policies by agent name (slug), with the settings to run them by."""

    features: Featuriser
    catalogues: CatalogueCache
    exploration: Exploration
    control_share: float
    stale_after_s: float
    killed: bool = False
    stage: Stage = Stage.LIVE
    canary_share: float = 0.0
    """At the canary stage, of the units that get the policy."""
    policies: Mapping[str, Snapshot] = field(default_factory=dict)
    down: frozenset[bytes] = frozenset()
    """Fingerprints of tools that fail at present."""
    scorers: ScorerCache = field(default_factory=ScorerCache)
    experiment: Experiment | None = None
    """What is compared at present."""

    def version(self, agent_name: str) -> str:
        """The version that serves an agent; '' if there is none."""
        snapshot = self.policies.get(agent_name)
        return snapshot.version if snapshot else ""

    def catalogue(self, offered: Sequence[Tool], timeout_s: float | None) -> Catalogue | None:
        """The features of the offered tools; None if they are not there in time."""
        return self.catalogues(offered, timeout_s)

    def decide(
        self,
        agent_name: str,
        task: TextVector,
        catalogue: Catalogue,
        history: Sequence[PastCall],
        *,
        allowed: Sequence[bool],
        kind: ArmKind,
        rng: random.Random | None,
    ) -> Decision | None:
        """Draws an arm for one step; None if no offered tool may be forced or promoted."""
        down = self._down(catalogue, rng) if self.down else ()
        free = [ok and i not in down for i, ok in enumerate(allowed)] if down else allowed
        if not any(free):
            return None
        scorer = self.scorers(self.policies[agent_name].parameters, catalogue)
        evaluation = scorer(task, history, down)
        arms = force_arms if kind is ArmKind.FORCE else show_arms
        support = arms(evaluation, free, self.exploration.top_k)
        return decide(support, self.exploration, rng, down=down)

    def _down(self, catalogue: Catalogue, rng: random.Random | None) -> tuple[int, ...]:
        """Positions of the tools that this step leaves out; now and then one is let through."""
        return tuple(
            i
            for i, fingerprint in enumerate(catalogue.fingerprints)
            if fingerprint in self.down and (rng is None or rng.random() >= PROBE_SHARE)
        )
