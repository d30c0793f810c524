"""A set of verified policies with the settings to run them by; immutable."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agentgym.policy.arms import Exploration, decide, force_arms, show_arms
from agentgym.policy.evaluate import CatalogueCache, evaluate
from agentgym.policy.features import SparseVector, TextHasher
from agentgym.policy.snapshot import Snapshot
from agentgym.trajectory import ArmKind, Decision, PastCall, Tool


@dataclass(frozen=True, slots=True)
class PolicySet:
    """Verified policies by agent name (slug), with the settings to run them by."""

    hasher: TextHasher
    catalogues: CatalogueCache
    exploration: Exploration
    control_share: float
    stale_after_s: float
    killed: bool = False
    policies: Mapping[str, Snapshot] = field(default_factory=dict)

    def version(self, agent_name: str) -> str:
        """The version that serves an agent; '' if there is none."""
        snapshot = self.policies.get(agent_name)
        return snapshot.version if snapshot else ""

    def decide(
        self,
        agent_name: str,
        task: SparseVector,
        offered: Sequence[Tool],
        history: Sequence[PastCall],
        *,
        allowed: Sequence[bool],
        kind: ArmKind,
        rng: random.Random | None,
    ) -> Decision | None:
        """Draws an arm for one step; None if no offered tool may be forced or promoted."""
        if not any(allowed):
            return None
        parameters = self.policies[agent_name].parameters
        evaluation = evaluate(parameters, task, self.catalogues(offered), history)
        arms = force_arms if kind is ArmKind.FORCE else show_arms
        return decide(arms(evaluation, allowed, self.exploration.top_k), self.exploration, rng)
