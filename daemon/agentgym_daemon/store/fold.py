"""One batch of decoded records, folded in log order into rows that wait to be written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from agentgym.proto.v1 import catalogue_pb2, common_pb2, decision_pb2, log_pb2
from agentgym_daemon.store import facts
from agentgym_daemon.store.aggregate import Rules
from agentgym_daemon.store.audit import write_audit
from agentgym_daemon.store.database import Cursor
from agentgym_daemon.store.expire import expire, take_receipt
from agentgym_daemon.store.memory import Memory
from agentgym_daemon.store.numbers import NUMBER_BITS
from agentgym_daemon.store.rollups import ToolMinutes
from agentgym_daemon.store.rows import MAX_BIGINT, DecodedTraces, Evaluation, Scope, SpanRow
from agentgym_daemon.store.state import (
    BY_ROOT,
    CLOSED,
    INCOMPLETE,
    OPEN,
    RewardState,
    TrajectoryState,
)

EVALUATION_SOURCE = "evaluation"
"""Source of rewards that came as evaluation events of spans."""
_STORED_SPAN_FIELDS = SpanRow._fields.index("attributes") + 1
_Row = tuple[Any, ...]


class Fold:
    """Rows and changes of one batch; `memory` already reflects them."""

    def __init__(
        self,
        memory: Memory,
        cursor: Cursor,
        *,
        rules: Rules,
        rewarded_by_id: dict[str, set[bytes]],
    ) -> None:
        self.memory = memory
        self.spans: list[_Row] = []
        self.decisions: list[_Row] = []
        self.features: list[_Row] = []
        self.trajectory_scopes: list[_Row] = []
        self.tools: list[_Row] = []
        self.scope_tools: list[_Row] = []
        self.rewards: list[RewardState] = []
        self.revoked: list[tuple[int, str]] = []
        self.tool_minutes = ToolMinutes()
        self.touched: dict[bytes, TrajectoryState] = {}
        self.closed: dict[bytes, None] = {}
        self.rewarded: dict[bytes, None] = {}
        self.producers: dict[bytes, int] = {}
        self.counts: Counter[str] = Counter()
        self.policies_changed = False
        self._base = 0
        self._order: dict[bytes, int] = {}
        self._expired: frozenset[bytes] = frozenset()
        self._cursor = cursor
        self._rules = rules
        self._rewarded_by_id = rewarded_by_id

    def begin(self, end: int, expired: Iterable[bytes] = ()) -> None:
        """The next record; what it says of expired trajectories counts no more.

        Row numbers come from the record alone, so that they are the same after a rebuild, whatever
        older records are gone by then.
        """
        self._base = end << NUMBER_BITS
        self._order = {}
        self._expired = frozenset(expired)

    def producer(self, record: log_pb2.LogRecord, received_ns: int) -> None:
        """Keeps the highest sequence of the sender; a repeat is harmless, its ids are known."""
        if not record.producer_id:
            return
        sequence = min(record.sequence, MAX_BIGINT)
        if sequence > self.memory.producers.get(record.producer_id, 0):
            self.memory.producers[record.producer_id] = sequence
            self.producers[record.producer_id] = received_ns

    def traces(self, decoded: DecodedTraces, received_ns: int, *, may_reward: bool = True) -> None:
        """Spans, and rewards among their events, if the sender may give any."""
        self.counts["spans_rejected"] += decoded.rejected
        for span in decoded.spans:
            self._span(span, received_ns)
        if not may_reward:
            self.counts["rewards_refused"] += len(decoded.evaluations)
            return
        for position, evaluation in enumerate(decoded.evaluations):
            self._evaluation(evaluation, received_ns, position=position)

    def _span(self, span: SpanRow, received_ns: int) -> None:
        state = self._touch(span.trace_id, start_ns=span.start_ns, received_ns=received_ns)
        if state is None:
            return
        if span.span_id in state.seen:
            self.counts["spans_duplicate"] += 1
            return
        state.add_span(span)
        self.counts["spans"] += 1
        self.spans.append((state.no, *span[:_STORED_SPAN_FIELDS], received_ns))
        self.tool_minutes.add(span)
        if span.is_root:
            self._close(
                state,
                to=INCOMPLETE if span.incomplete else CLOSED,
                reason=span.incomplete or BY_ROOT,
                received_ns=received_ns,
            )

    def _evaluation(self, evaluation: Evaluation, received_ns: int, *, position: int) -> None:
        trace, span, number = evaluation.trace_id, evaluation.span_id, evaluation.number
        identifier = f"e-{trace.hex()}-{span.hex()}-{number}"
        self._reward(
            evaluation.trace_id,
            RewardState(
                no=0,
                trajectory_no=0,
                reward_id=identifier,
                value=evaluation.value,
                name=evaluation.name,
                source=EVALUATION_SOURCE,
                idempotency_key=identifier,
                time_ns=evaluation.time_ns,
                received_ns=received_ns,
                revoked=False,
                reason=evaluation.reason,
            ),
            position=position,
        )

    def decisions_and_features(self, request: decision_pb2.RecordRequest, received_ns: int) -> None:
        """Decisions with what they were made from."""
        for features in request.features:
            self._features(features, received_ns)
        for decision in request.decisions:
            self._decision(decision, received_ns)

    def _features(self, features: decision_pb2.TaskFeatures, received_ns: int) -> None:
        if len(features.trajectory_id) != 16 or not features.features_id:
            self.counts["features_rejected"] += 1
            return
        state = self._touch(features.trajectory_id, start_ns=received_ns, received_ns=received_ns)
        if state is None:
            return
        mark = b"f" + features.features_id
        if mark in state.seen:
            return
        state.seen.add(mark)
        self.counts["features"] += 1
        self.features.append(
            (state.no, features.features_id, features.SerializeToString(), received_ns)
        )

    def _decision(self, decision: decision_pb2.DecisionRecord, received_ns: int) -> None:
        if (
            len(decision.decision_id) != 8
            or len(decision.trajectory_id) != 16
            or decision.time_unix_nano > MAX_BIGINT
        ):
            self.counts["decisions_rejected"] += 1
            return
        time_ns = decision.time_unix_nano or received_ns
        state = self._touch(decision.trajectory_id, start_ns=time_ns, received_ns=received_ns)
        if state is None:
            # What was ever offered outlives the trajectories in which it was.
            self._offer(facts.scope_of(decision.scope), decision.offered, received_ns)
            return
        mark = b"d" + decision.decision_id
        if mark in state.seen:
            self.counts["decisions_duplicate"] += 1
            return
        state.seen.add(mark)
        state.decisions += 1
        state.start_ns = min(state.start_ns, time_ns)
        self.counts["decisions"] += 1
        state.agent = state.agent or decision.scope.agent
        state.describe(decision.mode, decision.assignment, decision.policy_version)
        state.draw(decision.assignment, decision.assignment_probability)
        state.killed = state.killed or decision.fallback == common_pb2.FALLBACK_KILLED
        scope = facts.scope_of(decision.scope)
        self._enter_scope(state, scope, decision.offered, received_ns)
        taken = (
            decision.support[decision.arm].kind if 0 <= decision.arm < len(decision.support) else 0
        )
        self.decisions.append(
            (
                state.no,
                decision.decision_id,
                decision.step,
                *scope,
                time_ns,
                decision.mode,
                decision.assignment,
                decision.fallback,
                decision.policy_version,
                taken,
                decision.arm_propensity,
                list(decision.called),
                decision.SerializeToString(),
                received_ns,
            )
        )

    def _enter_scope(
        self, state: TrajectoryState, scope: Scope, offered: Any, received_ns: int
    ) -> None:
        if scope not in state.scopes:
            state.scopes.add(scope)
            self.trajectory_scopes.append((state.no, *scope))
        self._offer(scope, offered, received_ns)

    def _offer(self, scope: Scope, offered: Any, received_ns: int) -> None:
        known = self.memory.scope_tools
        for fingerprint in offered:
            if (scope, fingerprint) not in known:
                known.add((scope, fingerprint))
                self.scope_tools.append((*scope, fingerprint, received_ns))

    def catalogue(self, request: catalogue_pb2.PutRequest, received_ns: int) -> None:
        """Tools, once per agent and fingerprint."""
        for tool in request.tools:
            self._tool(request.agent, tool, received_ns)

    def _tool(self, agent: str, tool: common_pb2.Tool, received_ns: int) -> None:
        identity = (agent, tool.fingerprint)
        if identity in self.memory.tools:
            return
        self.memory.tools.add(identity)
        self.counts["tools"] += 1
        self.tools.append(
            (*identity, tool.name, tool.description, tool.parameters_json, received_ns)
        )

    def reward(self, fact: log_pb2.RewardFact, received_ns: int) -> None:
        """A reward that was resolved to a trajectory."""
        reward = fact.reward
        value = reward.value
        valid = math.isfinite(value) and 0.0 <= value <= 1.0
        if not valid or len(reward.trajectory_id) != 16 or reward.time_unix_nano > MAX_BIGINT:
            self.counts["rewards_rejected"] += 1
            return
        self._reward(
            reward.trajectory_id,
            RewardState(
                no=0,
                trajectory_no=0,
                reward_id=fact.reward_id,
                value=value,
                name=reward.name,
                source=reward.source,
                idempotency_key=reward.idempotency_key or fact.reward_id,
                time_ns=reward.time_unix_nano or received_ns,
                received_ns=received_ns,
                revoked=False,
                reason=reward.reason,
                actor=reward.actor,
                provenance=reward.provenance_json,
            ),
        )

    def _reward(self, trajectory_id: bytes, reward: RewardState, *, position: int = 0) -> None:
        received_ns = reward.received_ns
        state = self._touch(trajectory_id, start_ns=received_ns, received_ns=received_ns)
        if state is None:
            return
        if any(known.idempotency_key == reward.idempotency_key for known in state.rewards):
            self.counts["rewards_duplicate"] += 1
            return
        reward.no, reward.trajectory_no = self._base | position, state.no
        state.rewards.append(reward)
        self.rewards.append(reward)
        self.counts["rewards"] += 1
        self._rewarded_by_id.setdefault(reward.reward_id, set()).add(state.id)
        self._rate(state)

    def revocation(self, fact: log_pb2.Revocation, received_ns: int) -> None:
        """Takes a reward back, wherever it was given."""
        found = False
        for trajectory_id in sorted(self._rewarded_by_id.get(fact.reward_id, ())):
            state = self._touch(trajectory_id, start_ns=received_ns, received_ns=received_ns)
            if state is None:
                continue
            for reward in state.rewards:
                if reward.reward_id == fact.reward_id and not reward.revoked:
                    reward.revoked, reward.reason = True, fact.reason
                    self.revoked.append((reward.no, fact.reason))
                    found = True
            self._rate(state)
        self.counts["revocations" if found else "revocations_unknown"] += 1

    def _rate(self, state: TrajectoryState) -> None:
        state.rate(self._rules)
        self.rewarded[state.id] = None

    def closure(self, fact: log_pb2.Closure, received_ns: int) -> None:
        """The end of a trajectory that did not end by itself."""
        state = self.memory.known(fact.trajectory_id)
        if state is not None:
            self.touched[state.id] = state
            self._close(state, to=INCOMPLETE, reason=fact.reason, received_ns=received_ns)

    def _close(self, state: TrajectoryState, *, to: str, reason: str, received_ns: int) -> None:
        before = state.state
        if not state.close(state=to, reason=reason, received_ns=received_ns):
            return
        if before != OPEN:
            self.counts[f"trajectories_{before}"] -= 1
        self.counts[f"trajectories_{to}"] += 1
        self.closed[state.id] = None

    def rare(self, record: log_pb2.LogRecord, *, no: int, received_ns: int) -> None:
        """Facts about policies, written at once."""
        match record.WhichOneof("fact"):
            case "policy":
                facts.write_policy(self._cursor, record.policy, no=no)
                self.counts["policies"] += 1
            case "change":
                facts.write_change(self._cursor, record.change, no=no, received_ns=received_ns)
                if record.HasField("audit"):
                    write_audit(self._cursor, record)
                self.counts["policy_changes"] += 1
            case "training":
                facts.write_training(self._cursor, record.training, no=no, received_ns=received_ns)
                self.counts["training_runs"] += 1
            case "retention":
                self._retention(record.retention)
                return
            case None:
                return  # what retention left of a record: its sender's number
            case _:
                self.counts["records_rejected"] += 1
                return
        self.policies_changed = True

    def _retention(self, fact: log_pb2.Retention) -> None:
        if fact.before_unix_nano:
            self.counts["trajectories_expired"] += expire(
                self._cursor, before_ns=min(fact.before_unix_nano, MAX_BIGINT)
            )
            self.memory.forget()
        else:
            take_receipt(self._cursor, fact)

    def _touch(
        self, trajectory_id: bytes, *, start_ns: int, received_ns: int
    ) -> TrajectoryState | None:
        """The trajectory; None if it has expired."""
        # Those that have a number already are counted too: who is known depends on older records.
        position = self._order.setdefault(trajectory_id, len(self._order))
        if trajectory_id in self._expired:
            return None
        state = self.touched.get(trajectory_id)
        if state is None:
            state = self.memory.known(trajectory_id)
            if state is None:
                number = self._base | position
                state = self.memory.new_trajectory(trajectory_id, no=number, start_ns=start_ns)
                self.counts["trajectories"] += 1
            self.touched[trajectory_id] = state
        if received_ns > state.received_ns:
            state.received_ns = received_ns
        return state
