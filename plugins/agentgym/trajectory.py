"""What one agent run consists of: tools, calls, decisions (plain immutable data)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

RESPOND = "respond"
"""The action of answering without a tool."""


class Assignment(IntEnum):
    """Why a trajectory runs with or without the policy; values as in common.proto."""

    NONE = 0
    POLICY = 1
    CONTROL = 2
    SHADOW = 3
    PINNED = 4


class Fallback(IntEnum):
    """Why a step was not decided; values as in common.proto."""

    NONE = 0
    NO_POLICY = 1
    STALE = 2
    TIMEOUT = 3
    ERROR = 4
    PROTECTED = 5
    KILLED = 6


class Stage(IntEnum):
    """How far an agent's policies may go; values as in common.proto."""

    OBSERVE = 1
    SHADOW = 2
    CANARY = 3
    LIVE = 4


class Treatment(IntEnum):
    """Kinds of arms of an experiment; values as in experiment.proto."""

    VERSION = 1
    LIVE = 2
    NONE = 3
    MODE = 4
    LABEL = 5


class Part(NamedTuple):
    """What part a trajectory has in the experiment that ran when it began."""

    experiment: str
    arm: str = ""  # empty: none, for it is of the control group or of the rest
    treatment: str = ""  # a version, a mode, live, none, label
    probability: float = 0.0  # of the arm


class ArmKind(IntEnum):
    """Kinds of arms; values as in decision.proto."""

    DEFER = 1
    FORCE = 2
    SHOW = 3


@dataclass(frozen=True)
class Tool:
    """A tool as it is offered to a model; `protected` tools are never forced or explored."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)
    protected: bool = field(default=False, compare=False)

    @cached_property
    def fingerprint(self) -> bytes:
        """8 bytes over name, description and parameter shape, equal across frameworks."""
        # A tenth of the time that importing the package takes; not needed before the first tool.
        import hashlib
        import json

        shape = _parameter_shape(self.parameters)
        text = json.dumps([self.name, " ".join(self.description.split()), shape])
        return hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8]


def _parameter_shape(schema: Mapping[str, Any]) -> list[list[Any]]:
    # Only what a caller must know: frameworks add titles, defaults and descriptions of their own.
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return []
    required = schema.get("required")
    needed = set(map(str, required)) if isinstance(required, Sequence) else set()
    return sorted(
        [
            str(name),
            str(value.get("type", "")) if isinstance(value, Mapping) else "",
            name in needed,
        ]
        for name, value in properties.items()
    )


@dataclass(frozen=True, slots=True)
class PastCall:
    """A tool call made earlier in the same run; `tool` is a fingerprint, b'' if never offered."""

    tool: bytes
    error: bool


class Arm(NamedTuple):
    """One arm of the support; `tools` are indices into the offered tools."""

    kind: ArmKind
    tools: tuple[int, ...]
    score: float
    probability: float


@dataclass(frozen=True, slots=True)
class Decision:
    """A sampled arm with everything needed to reason about it later."""

    support: tuple[Arm, ...]
    arm: int
    temperature: float
    floor: float
    defer_floor: float
    top_k: int
    greedy: bool
    down: tuple[int, ...] = ()  # offered tools that were left out because they fail at present

    @property
    def taken(self) -> Arm:
        """The arm that was drawn."""
        return self.support[self.arm]

    @property
    def propensity(self) -> float:
        """Probability with which the arm was drawn."""
        return self.taken.probability


@lru_cache(maxsize=4096)
def slug(name: str) -> str:
    """A name as part of a policy scope: lower case, words joined by '-'."""
    return re.sub(r"[\W_]+", "-", name.lower()).strip("-")
