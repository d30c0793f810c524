"""Finished parts of trajectories on their way to the sender (plain immutable data)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from agentgym.config import Mode
from agentgym.trajectory import Assignment, Decision, Fallback, PastCall, Tool

if TYPE_CHECKING:
    from agentgym.policy.features import TextVector


@dataclass(frozen=True, slots=True)
class SpanItem:
    """A finished span."""

    trajectory_id: bytes
    span_id: bytes
    parent_id: bytes
    name: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any]
    error: str


@dataclass(frozen=True, slots=True)
class TaskItem:
    """A task text on its way to becoming features; the text itself is never sent."""

    trajectory_id: bytes
    features_id: bytes
    text: str
    vector: TextVector | None
    feature_schema: int = 0  # of `vector`


@dataclass(frozen=True, slots=True)
class StepItem:
    """A finished step: what was offered, decided and asked for."""

    trajectory_id: bytes
    span_id: bytes
    step: int
    agent: str
    agent_name: str
    agent_path: tuple[str, ...]
    time_ns: int
    mode: Mode
    assignment: Assignment
    assignment_probability: float
    fallback: Fallback
    policy_version: str
    feature_schema: int  # 0: whatever is in force when it is sent; nothing was decided then
    offered: tuple[Tool, ...]
    shown: tuple[int, ...]
    decision: Decision | None
    force: str
    history: tuple[PastCall, ...]
    features_id: bytes
    called: tuple[str, ...]
    completed: bool
    allowed: tuple[bool, ...] = ()  # over offered; () = all may be forced and promoted


@dataclass(frozen=True, slots=True)
class RewardItem:
    """An outcome on its way to the daemon."""

    trajectory_id: bytes
    key: str
    agent: str
    value: float
    name: str
    source: str
    idempotency_key: str
    reason: str
    time_ns: int


Item = SpanItem | TaskItem | StepItem | RewardItem


class Sink(Protocol):
    """Where finished parts go; must never block or raise."""

    def put(self, item: Item) -> None:
        """Takes one item."""

    def end(self, trajectory_id: bytes) -> None:
        """Says that a trajectory is complete."""
