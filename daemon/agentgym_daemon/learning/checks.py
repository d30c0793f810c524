"""What the gate finds: conditions with their figures, and the receipt of a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Check:
    """One condition: passed, failed, or (None) not applicable, and why."""

    name: str
    passed: bool | None
    reason: str
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Receipt:
    """The gate's verdict with every figure that it rests on."""

    tier: int
    accepted: bool
    checks: tuple[Check, ...]
    best: str = ""
    """The best version so far, if the candidate goes live: the next one's anchor."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the candidate was rejected; empty if it was not."""
        return tuple(
            f"{check.name}: {check.reason}" for check in self.checks if check.passed is False
        )

    def plain(self) -> dict[str, Any]:
        """The receipt as JSON values."""
        return {
            **asdict(self),
            "checks": [asdict(c) for c in self.checks],
            "reasons": list(self.reasons),
        }
