"""What can be set about learning and its gate; one frozen value that travels as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from agentgym.policy.arms import LEAST_DEFER, Exploration


@dataclass(frozen=True, slots=True)
class LearningSettings:
    """Assumptions of the likelihood, the optimiser, and the limits of the gate."""

    # what a reward and a visible error say
    false_success: float = 0.02  # P(reward 1 | a step was wrong)
    false_failure: float = 0.03  # P(reward 0 | every step was right)
    false_error: float = 0.02  # P(a visible error is no sign of a wrong tool)
    unscored_right: float = 0.65  # P(right) of a step that the policy cannot score
    quiet_evidence: float = 1.0  # how far the absence of a visible error counts; 0 = not at all
    stop_weight: float = 1.0  # how far an agent's own stopping says that a task is done
    # optimiser
    rounds: int = 30  # gradient steps of one training
    batch: int = 256  # trajectories of one gradient step
    half_life: float = 5000.0  # newer trajectories after which one counts half as much
    least_weight: float = 0.5  # that the oldest keep
    rate_weight: float = 0.03
    rate_bias: float = 0.03
    rate_effect: float = 0.15
    rate_gain: float = 0.02
    rate_map: float = 0.0002
    rate_defer: float = 0.05
    l2_weight: float = 0.02  # prior precisions: loss = mean NLL + l2 / 2n |theta - prior|^2
    l2_bias: float = 0.1
    l2_effect: float = 0.1
    l2_gain: float = 1.0
    l2_map: float = 20.0
    l2_defer: float = 0.1
    # policy gradient
    pg_weight: float = 0.1
    clip: float = 0.2
    max_age: int = 3  # versions; data of older ones serves replay only
    ratio_tolerance: float = 1e-6  # of the parent's recomputed propensities; above it, replay only
    ratio_limit: float = 1e-2  # above it, the data or the code is broken
    # gate and trust region
    held_out_in: int = 10  # one trajectory in so many is never trained on
    recent_steps: int = 500
    max_changed: float = 0.30
    max_kl: float = 0.20
    least_decisions: int = 1000  # below, the candidate's worth is unproven
    most_decisions: int = 5000  # the newest that judge: more of them cost only time
    anchor_margin: float = 0.01  # below the agent alone
    best_margin: float = 0.02  # below the best version ever promoted
    tool_margin: float = 0.05  # below it on the requests of one tool
    cost_tolerance: float = 0.25  # dearer per run than it, as a share of its cost
    # the distribution of arms by which change is measured: the daemon's steering
    temperature: float = 0.1
    floor: float = 0.02
    defer_floor: float = LEAST_DEFER
    top_k: int = 5

    @property
    def exploration(self) -> Exploration:
        """The steering of the plugin, as far as a distribution of arms needs it."""
        return Exploration(
            temperature=self.temperature,
            floor=self.floor,
            defer_floor=self.defer_floor,
            top_k=self.top_k,
        )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Settings from plain values; raises ValueError naming an unknown one."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown learning setting {unknown[0]!r}; known: {sorted(known)}")
        return cls(**values)

    @classmethod
    def parse(cls, text: str) -> dict[str, Any]:
        """Values from "NAME=VALUE,NAME=VALUE"; raises ValueError for what cannot be set."""
        default = cls().plain()
        values: dict[str, Any] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, _, value = (p.strip() for p in part.partition("="))
            if name not in default:
                raise ValueError(
                    f"expected NAME=VALUE with NAME of {', '.join(default)}; got {part!r}"
                )
            try:
                values[name] = type(default[name])(value)
            except ValueError:
                raise ValueError(f"{name}: expected a number, got {value!r}") from None
        return values

    def plain(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return asdict(self)
