"""What the writer keeps in memory of a trajectory while records about it come in.

open ──root span──> closed (incomplete if its root says so)
open ──Closure───> incomplete ──root span after all──> closed
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentgym import semconv
from agentgym.proto.v1 import common_pb2
from agentgym_daemon.store.aggregate import Rules, effective_reward
from agentgym_daemon.store.database import Cursor, fetch
from agentgym_daemon.store.numbers import among
from agentgym_daemon.store.rollups import Contributions, contributions
from agentgym_daemon.store.rows import Scope, SpanRow

OPEN, CLOSED, INCOMPLETE = "open", "closed", "incomplete"
BY_ROOT, IDLE = "root", "idle"
"""`closed_reason` of a trajectory whose root span ended by itself, and of one that fell silent."""
# Only these ask a model; the spans around them may repeat the same tokens as a sum.
_MODEL_CALLS = frozenset({semconv.CHAT, "text_completion", "generate_content"})

_DRAWN = (common_pb2.ASSIGNMENT_POLICY, common_pb2.ASSIGNMENT_CONTROL)

SUMMARY_COLUMNS = (
    "no, id, key, agent, framework, mode, assignment, policy_version, start_ns, end_ns, state, "
    "closed_reason, closed_ns, received_ns, spans, decisions, tool_calls, tool_errors, "
    "input_tokens, output_tokens, reward, killed, policy_share, "
    "experiment, experiment_arm, experiment_treatment, experiment_share, unit"
)


@dataclass(slots=True)
class RewardState:
    """One reward, as in the table `rewards`."""

    no: int
    trajectory_no: int
    reward_id: str
    value: float
    name: str
    source: str
    idempotency_key: str
    time_ns: int
    received_ns: int
    revoked: bool
    reason: str
    actor: str = ""
    provenance: str = ""

    def row(self) -> tuple[Any, ...]:
        """The table's row."""
        return tuple(getattr(self, name) for name in self.__slots__)


@dataclass(slots=True)
class TrajectoryState:
    """The summary row of a trajectory and the ids that were seen in it."""

    no: int
    id: bytes
    key: str | None
    agent: str
    framework: str | None
    mode: int
    assignment: int
    policy_version: str | None
    start_ns: int
    end_ns: int
    state: str
    closed_reason: str | None
    closed_ns: int | None
    received_ns: int
    spans: int = 0
    decisions: int = 0
    tool_calls: int = 0
    tool_errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    reward: float | None = None
    killed: bool = False
    """Whether a step fell back because of a kill: the run says nothing of its assignment."""
    policy_share: float | None = None
    """With which probability it was to get the policy; None where nothing was drawn."""
    experiment: str | None = None
    """That ran when it began; the rest is None where it has no part in it."""
    experiment_arm: str | None = None
    experiment_treatment: str | None = None
    experiment_share: float | None = None
    unit: str | None = None
    seen: set[bytes] = field(default_factory=set)
    """Ids of its spans, decisions (behind b'd') and features (behind b'f')."""
    scopes: set[Scope] = field(default_factory=set)
    rewards: list[RewardState] = field(default_factory=list)
    indexed_key: str | None = None
    """The key under which it can be found."""
    counted: Contributions = field(default_factory=dict)
    """What of it lies in the roll-ups."""

    @classmethod
    def new(cls, *, no: int, trajectory_id: bytes, start_ns: int) -> TrajectoryState:
        """A trajectory of which nothing is known yet."""
        return cls(no, trajectory_id, None, "", None, 0, 0, None, start_ns, 0, OPEN, None, None, 0)

    def row(self) -> tuple[Any, ...]:
        """The table's row."""
        return (
            self.no,
            self.id,
            self.key,
            self.agent,
            self.framework,
            self.mode,
            self.assignment,
            self.policy_version,
            self.start_ns,
            self.end_ns,
            self.state,
            self.closed_reason,
            self.closed_ns,
            self.received_ns,
            self.spans,
            self.decisions,
            self.tool_calls,
            self.tool_errors,
            self.input_tokens,
            self.output_tokens,
            self.reward,
            self.killed,
            self.policy_share,
            self.experiment,
            self.experiment_arm,
            self.experiment_treatment,
            self.experiment_share,
            self.unit,
        )

    def add_span(self, span: SpanRow) -> None:
        """Counts a span that was not seen before; the root's words win over the others'."""
        self.seen.add(span.span_id)
        self.spans += 1
        self.start_ns = min(self.start_ns, span.start_ns)
        self.end_ns = max(self.end_ns, span.end_ns)
        operation = span.operation
        if operation in _MODEL_CALLS:
            self.input_tokens += span.input_tokens or 0
            self.output_tokens += span.output_tokens or 0
        elif operation == semconv.EXECUTE_TOOL:
            self.tool_calls += 1
            self.tool_errors += bool(span.error_type) or span.status == 2
        if span.is_root:
            self.agent = span.agent
            self.key = span.key or self.key
            self.framework = span.framework or self.framework
            self.describe(span.mode, span.assignment, span.policy_version, root=True)
            self.experiment, self.experiment_arm = span.experiment, span.experiment_arm
            self.experiment_treatment = span.experiment_treatment
            self.experiment_share = span.experiment_share
            self.unit = span.unit
            return
        self.agent = self.agent or span.agent
        self.key = self.key or span.key
        self.framework = self.framework or span.framework
        self.describe(span.mode, span.assignment, span.policy_version)

    def describe(
        self, mode: int, assignment: int, policy_version: str | None, *, root: bool = False
    ) -> None:
        """Takes over how the trajectory runs: the root's word, else the first."""
        if root:
            self.mode = mode or self.mode
            self.assignment = assignment or self.assignment
            self.policy_version = policy_version or self.policy_version
        else:
            self.mode = self.mode or mode
            self.assignment = self.assignment or assignment
            self.policy_version = self.policy_version or policy_version or None

    def draw(self, assignment: int, probability: float) -> None:
        """Notes how likely the policy was, from the first step that says so."""
        if self.policy_share is None and assignment in _DRAWN and 0.0 < probability <= 1.0:
            drawn = assignment == common_pb2.ASSIGNMENT_POLICY
            # The plugin's own rounding: both assignments of one draw must give one number.
            self.policy_share = round(probability if drawn else 1.0 - probability, 9)

    def close(self, *, state: str, reason: str, received_ns: int) -> bool:
        """Ends the trajectory; a root span may still end one that had only been idle."""
        was_idle = self.closed_reason == IDLE and reason == BY_ROOT
        if self.state != OPEN and not was_idle:
            return False
        self.state, self.closed_reason, self.closed_ns = state, reason, received_ns
        return True

    def rate(self, rules: Rules) -> None:
        """Recomputes the effective reward."""
        self.reward = effective_reward(self.rewards, rules)


def load(cursor: Cursor, numbers: Sequence[int]) -> Iterator[TrajectoryState]:
    """The stored trajectories with these numbers, with everything that was seen of them."""
    rows = fetch(cursor, f"SELECT {SUMMARY_COLUMNS} FROM trajectories WHERE {among('no', numbers)}")
    states = {row[0]: TrajectoryState(*row) for row in rows}
    if states:
        _load_contents(cursor, states)
    for state in states.values():
        state.indexed_key = state.key
        state.counted = contributions(state)
        yield state


def _load_contents(cursor: Cursor, states: dict[int, TrajectoryState]) -> None:
    where = "WHERE " + among("trajectory_no", list(states))
    for prefix, column, table in (
        (b"", "span_id", "spans"),
        (b"d", "decision_id", "decisions"),
        (b"f", "features_id", "task_features"),
    ):
        for number, identifier in fetch(
            cursor, f"SELECT trajectory_no, {column} FROM {table} {where}"
        ):
            states[number].seen.add(prefix + identifier)
    for row in fetch(cursor, f"SELECT * FROM trajectory_scopes {where}"):
        states[row[0]].scopes.add(Scope(*row[1:]))
    for row in fetch(cursor, f"SELECT * FROM rewards {where} ORDER BY no"):
        states[row[1]].rewards.append(RewardState(*row))
