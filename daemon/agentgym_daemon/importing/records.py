"""Past runs as our records: spans without content, undecided steps, tasks, rewards.

Nothing of it was randomised, so every step is an observed one: mode observe, no assignment, no
policy, no propensity. It may teach what came of which tool; it can enter no policy gradient and no
off-policy ratio.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentgym import semconv
from agentgym.config import Mode
from agentgym.items import RewardItem, SpanItem, StepItem, TaskItem
from agentgym.trajectory import Assignment, Fallback, Tool, slug
from agentgym_daemon.importing.judging import Judged
from agentgym_daemon.importing.model import SourceSpan
from agentgym_daemon.importing.steps import PastStep, Played
from agentgym_daemon.importing.tree import RunTree
from agentgym_daemon.ingest.foreign import Kind

SOURCE = "import"
"""Source of rewards that came with past traces."""
_NO_NAMES = frozenset(("langgraph", "agentexecutor"))
"""What frameworks call an agent without a name; the live plugin uses its own name then."""
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class PastTrajectory:
    """One past run, ready to be sent."""

    id: bytes
    agent: str
    start_ns: int
    spans: tuple[SpanItem, ...]  # the root is the last: it closes the trajectory
    steps: tuple[StepItem, ...]
    tasks: tuple[TaskItem, ...]
    rewards: tuple[RewardItem, ...]
    tools: tuple[Tool, ...]
    scopes: frozenset[str]
    inferred: int  # steps whose offered tools were only seen
    unclear: int  # turns that may have asked for anything


def trajectory_id(run: str) -> bytes:
    """16 bytes: the source's own trace id where it is one, else made of its id of the run."""
    return _id(run, 16, "run")


def span_id(run: str, span: str) -> bytes:
    """8 bytes: the source's own span id where it is one, else made of its ids."""
    return _id(span, 8, f"span of {run}")


def _id(text: str, size: int, what: str) -> bytes:
    if len(text) == 2 * size and set(text.lower()) <= _HEX and text.strip("0"):
        return bytes.fromhex(text)
    return hashlib.sha256(f"agentgym import {what}: {text}".encode()).digest()[:size]


def provenance(origin: str) -> str:
    """What marks a trajectory as imported, in the place of its framework: import/FORMAT."""
    return semconv.IMPORT_PREFIX + origin.partition(":")[0]


def record(
    run: str,
    tree: RunTree,
    played: Sequence[Played],
    judged: Sequence[Judged],
    *,
    agent: str,
    agent_name: str = "",
) -> PastTrajectory:
    """A past run as records; `agent_name` overrides the recorded names of its agents."""
    maker = _Maker(run, tree, agent, agent_name)
    for part in played:
        maker.add(part)
    spans = [span for span in maker.spans if span.parent_id]
    roots = [span for span in maker.spans if not span.parent_id]
    return PastTrajectory(
        id=maker.id,
        agent=agent,
        start_ns=tree.root.span.start_ns,
        spans=(*spans, *roots),
        steps=tuple(maker.numbered()),
        tasks=tuple(maker.tasks.values()),
        rewards=tuple(reward(run, one, agent) for one in judged),
        tools=tuple({t.fingerprint: t for s in maker.steps for t in s.offered}.values()),
        scopes=frozenset(step.agent_name for step in maker.steps),
        inferred=sum(step.inferred for part in played for step in part.steps),
        unclear=sum(part.unclear for part in played),
    )


def reward(run: str, judged: Judged, agent: str) -> RewardItem:
    """A judgement as a reward; the source's id keeps it from counting twice."""
    score = judged.score
    identifier = hashlib.sha256(f"{run}|{score.id}".encode()).hexdigest()[:32]
    return RewardItem(
        trajectory_id=trajectory_id(run),
        key="",
        agent=agent,
        value=judged.value,
        name=score.name[:200],
        source=SOURCE,
        idempotency_key=f"import-{identifier}",
        reason=f"imported, by {score.source}"[:200] if score.source else "imported",
        time_ns=score.time_ns if score.time_ns > 10**15 else 0,
    )


class _Maker:
    def __init__(self, run: str, tree: RunTree, agent: str, agent_name: str) -> None:
        self.run, self.id = run, trajectory_id(run)
        self.spans: list[SpanItem] = []
        self.steps: list[StepItem] = []
        self.tasks: dict[str, TaskItem] = {}
        self._tree = tree
        self._agent, self._agent_name = agent, agent_name
        self._root_id = span_id(run, tree.root.span.id)

    def add(self, part: Played) -> None:
        """The spans and steps of one agent."""
        agent = part.agent
        self._put(agent.span, self._parent(agent.above), self._root_labels(agent.span))
        decisions: dict[str, tuple[bytes, bytes]] = {}  # call -> (decision, span above it)
        for step in part.steps:
            identifier = self._decision_id(step)
            self.steps.append(self._step(step, identifier, part))
            above = identifier if step.turn is not None else self._span(agent.span)
            decisions |= {call.id: (identifier, above) for call in step.calls}
        stepped = {step.turn.id for step in part.steps if step.turn is not None}
        for turn in agent.turns:
            labels = self._chat_labels(turn)
            if turn.id in stepped:
                labels[semconv.DECISION_ID] = self._span(turn).hex()
            self._put(turn, self._span(agent.span), labels)
        calls = {c.id: c for c in (*part.loose, *(c for s in part.steps for c in s.calls))}
        calls |= {c.id: c for c in agent.calls if c.id not in calls}
        for call in calls.values():
            decision, above = decisions.get(call.id, (b"", self._span(agent.span)))
            self._put(call, above, _call_labels(call, decision, made=call.id in part.made))

    def numbered(self) -> Iterator[StepItem]:
        """The steps in the order in which they were taken."""
        ordered = sorted(self.steps, key=lambda step: step.time_ns)
        for number, step in enumerate(ordered):
            yield replace(step, step=number)

    def _span(self, span: SourceSpan) -> bytes:
        return span_id(self.run, span.id)

    def _parent(self, above: Any) -> bytes:
        return b"" if above is None else self._span(above.span)

    def _decision_id(self, step: PastStep) -> bytes:
        if step.turn is not None:
            return self._span(step.turn)
        # No turn was recorded, so no span has this id.
        return hashlib.sha256(
            f"agentgym import decision of {self.run}: {step.calls[0].id}".encode()
        ).digest()[:8]

    def _name(self, recorded: str) -> str:
        named = "" if slug(recorded) in _NO_NAMES else recorded
        return self._agent_name or named or self._agent

    def _step(self, step: PastStep, identifier: bytes, part: Played) -> StepItem:
        span = step.turn or step.calls[0]
        return StepItem(
            trajectory_id=self.id,
            span_id=identifier,
            step=0,
            agent=self._agent,
            agent_name=slug(self._name(part.agent.name)),
            agent_path=tuple(slug(self._name(name)) for name in part.agent.path),
            time_ns=span.start_ns,
            mode=Mode.OBSERVE,
            assignment=Assignment.NONE,
            assignment_probability=1.0,
            fallback=Fallback.NONE,
            policy_version="",
            feature_schema=0,  # of the installation, known when it is sent
            offered=step.offered,
            shown=tuple(range(len(step.offered))),
            decision=None,
            force="",
            history=step.history,
            features_id=self._task(step.task),
            called=step.called,
            completed=step.turn is None or not step.turn.error,
        )

    def _task(self, text: str) -> bytes:
        if not text:
            return b""
        if text not in self.tasks:
            identifier = hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8]
            self.tasks[text] = TaskItem(self.id, identifier, text, None)
        return self.tasks[text].features_id

    def _put(self, span: SourceSpan, parent: bytes, labels: Mapping[str, Any]) -> None:
        operation = span.kind.value
        agent = span.agent_name or span.name or self._agent
        what = {Kind.LLM: span.model, Kind.TOOL: span.tool}.get(span.kind, agent)
        self.spans.append(
            SpanItem(
                trajectory_id=self.id,
                span_id=self._span(span),
                parent_id=parent,
                name=f"{operation} {what}".strip(),
                start_ns=span.start_ns,
                end_ns=max(span.end_ns, span.start_ns + 1),
                attributes={
                    semconv.OPERATION_NAME: operation,
                    semconv.AGENT: self._agent,
                    semconv.TRAJECTORY_ID: self.id.hex(),
                    semconv.IMPORTED: span.origin,
                    **{name: value for name, value in labels.items() if value not in ("", None)},
                },
                error=span.error[:200],
            )
        )

    def _root_labels(self, span: SourceSpan) -> dict[str, Any]:
        labels: dict[str, Any] = {semconv.AGENT_NAME: span.agent_name or span.name or self._agent}
        if self._span(span) == self._root_id:
            labels |= {
                semconv.TRAJECTORY_ROOT: True,
                semconv.TRAJECTORY_KEY: span.conversation,
                semconv.FRAMEWORK: provenance(span.origin),
                semconv.MODE: Mode.OBSERVE.value,
                semconv.ASSIGNMENT: "none",
                semconv.INFERRED: "root" if self._tree.made_root else "",
                semconv.INCOMPLETE: "" if span.end_ns else "unfinished",
            }
        return labels

    def _chat_labels(self, turn: SourceSpan) -> dict[str, Any]:
        return {
            semconv.REQUEST_MODEL: turn.model,
            semconv.PROVIDER_NAME: turn.provider,
            semconv.INPUT_TOKENS: turn.input_tokens or None,
            semconv.OUTPUT_TOKENS: turn.output_tokens or None,
        }


def _call_labels(call: SourceSpan, decision: bytes, *, made: bool) -> dict[str, Any]:
    return {
        semconv.TOOL_NAME: call.tool,
        semconv.TOOL_CALL_ID: call.call_id,
        semconv.DECISION_ID: decision.hex(),
        semconv.INFERRED: "call" if made else "",
    }


def unique_tools(trajectories: Iterable[PastTrajectory]) -> Iterator[tuple[str, list[Tool]]]:
    """The tools of each agent, each once."""
    found: dict[str, dict[bytes, Tool]] = {}
    for trajectory in trajectories:
        for tool in trajectory.tools:
            found.setdefault(trajectory.agent, {})[tool.fingerprint] = tool
    for agent, tools in found.items():
        yield agent, list(tools.values())
