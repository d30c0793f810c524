"""The tree of one trajectory while it is open: runs, turns of the model, tool calls.

    Trajectory
    └── Run (root: invoke_agent or invoke_workflow)
        ├── Turn (chat)                    one LLM call; a step if tools were offered
        │   ├── Call (execute_tool)
        │   │   └── Run (invoke_agent)     a nested agent
        │   └── Call
        └── Turn

Integrations translate callbacks into `Recorder.start_run`, `Run.turn`, `Turn.finish`, `Run.call`
and `finish`; ids, parents and records are made here. Nothing here blocks.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentgym import semconv
from agentgym.config import Mode
from agentgym.items import RewardItem, SpanItem, StepItem
from agentgym.trajectory import (
    ArmKind,
    Assignment,
    Decision,
    Fallback,
    Part,
    PastCall,
    Tool,
    Treatment,
    slug,
)

if TYPE_CHECKING:
    from agentgym.policy.features import TextVector
    from agentgym.policy.policy_set import PolicySet
    from agentgym.recorder import Recorder

_current: ContextVar[Run | Call | None] = ContextVar("agentgym_current", default=None)
_latest: ContextVar[Latest | None] = ContextVar("agentgym_latest", default=None)


class Latest:
    """Cell for the latest trajectory of a context.

    Frameworks start runs in copies of the caller's context; a cell that the caller's context
    already holds lets `reward()` find the trajectory after the call returned. Until it is filled
    it stands for the trajectory that was the latest before.
    """

    __slots__ = ("before", "trajectory")

    def __init__(self, before: Trajectory | None = None) -> None:
        self.before = before
        self.trajectory: Trajectory | None = None


def reserve() -> None:
    """Puts an empty cell into this context; the next root run below it fills the cell."""
    cell = _latest.get()
    _latest.set(Latest((cell.trajectory or cell.before) if cell else None))


def remember(trajectory: Trajectory) -> None:
    """Notes the latest trajectory of this context."""
    cell = _latest.get()
    if cell is None or cell.trajectory is not None:
        cell = Latest()
        _latest.set(cell)
    cell.trajectory = trajectory


def latest() -> Trajectory | None:
    """The open or latest trajectory of this context."""
    node, cell = current(), _latest.get()
    if node is not None:
        return node.trajectory
    return (cell.trajectory or cell.before) if cell else None


def current() -> Run | Call | None:
    """The innermost open run or call of this context."""
    node: Node | None = _current.get()
    while node is not None:
        if not node.ended and isinstance(node, (Run, Call)):
            return node
        node = node.parent
    return None


def enter(node: Run | Call) -> None:
    """Like `active` without an end, for callbacks: `current` looks past what has ended."""
    _current.set(node)


@contextmanager
def active(node: Run | Call) -> Iterator[None]:
    """Makes `node` the parent of what starts inside the block."""
    token = _current.set(node)
    try:
        yield
    finally:
        try:
            _current.reset(token)
        except ValueError:  # closed in another context (generators, callbacks in threads)
            _current.set(None)


@dataclass(eq=False)
class Trajectory:
    """One outermost run; assignment and policies are drawn once, here, and inherited."""

    id: bytes
    key: str
    agent: str
    framework: str
    mode: Mode
    assignment: Assignment
    assignment_probability: float
    greedy: bool
    point: float = 0.0
    """Where its unit stands in [0, 1): it gets the policy below P(policy)."""
    policy_share: float = 1.0
    unit: str = ""
    """The unit's pseudonym; empty without a unit."""
    irreversible: bool = False
    """Whether a protected tool was called: from then on nothing is explored."""
    policies: dict[int, PolicySet | None] = field(default_factory=dict)
    tasks: dict[str, tuple[bytes, TextVector | None]] = field(default_factory=dict)
    rewards: list[RewardItem] = field(default_factory=list)
    ended: bool = False
    steps: int = 0
    part: Part | None = None
    """In the experiment that ran when it began."""
    asked: bool = False
    """Whether the user's code knows its unit, or has asked for its arm."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def hex(self) -> str:
        """The id as people see it."""
        return self.id.hex()

    def ask(self, experiment: str) -> str:
        """The arm in an experiment, for the user's code; '' if it has no part in that one."""
        if self.part is None or self.part.experiment != experiment:
            return ""
        self.asked = True
        return self.part.arm

    def describe_part(self) -> dict[str, Any]:
        """What the root says of it.

        A label that nobody asked for did nothing: the run is one of the rest.
        """
        part = self.part
        if part is None:
            return {}
        label = part.treatment == Treatment.LABEL.name.lower()
        if not part.arm or (label and not self.asked):
            return {semconv.EXPERIMENT: part.experiment}
        return {
            semconv.EXPERIMENT: part.experiment,
            semconv.EXPERIMENT_ARM: part.arm,
            semconv.EXPERIMENT_TREATMENT: part.treatment,
            semconv.EXPERIMENT_SHARE: part.probability,
        }

    def next_step(self) -> int:
        """Number of the next decided or observed step."""
        with self.lock:
            self.steps += 1
            return self.steps - 1


class Node:
    """A span that has started: common part of runs, turns and calls."""

    def __init__(
        self,
        recorder: Recorder,
        trajectory: Trajectory,
        parent: Node | None,
        owner: Node | None = None,
    ) -> None:
        self.recorder = recorder
        self.trajectory = trajectory
        self.parent = parent  # of the span
        self.owner = owner or parent  # whose end ends this node too
        self.span_id = os.urandom(8)
        self.start_ns = time.time_ns()
        self.ended = False
        self.attributes: dict[str, Any] = {}
        self._children: set[Node] = set()
        if self.owner is not None:
            self.owner._children.add(self)

    @property
    def trajectory_id(self) -> str:
        """Hex id of the trajectory that this belongs to."""
        return self.trajectory.hex

    def _claim(self) -> bool:
        """True for the one caller that may end this node."""
        with self.trajectory.lock:
            first, self.ended = not self.ended, True
            return first

    def _put(self, name: str, error: str) -> None:
        """Ends all that is still open below, then hands on the finished span."""
        for child in list(self._children):
            child.abandon(error or "abandoned")
        if self.owner is not None:
            self.owner._children.discard(self)
        self.recorder.sink.put(
            SpanItem(
                trajectory_id=self.trajectory.id,
                span_id=self.span_id,
                parent_id=self.parent.span_id if self.parent else b"",
                name=name,
                start_ns=self.start_ns,
                end_ns=max(time.time_ns(), self.start_ns),
                attributes={k: v for k, v in self.attributes.items() if v not in (None, "")},
                error=error,
            )
        )

    def abandon(self, reason: str) -> None:
        """Ends the node because something above it ended first."""
        raise NotImplementedError


class Run(Node):
    """One run of an agent or a team; the outermost one is the trajectory's root."""

    def __init__(
        self,
        recorder: Recorder,
        trajectory: Trajectory,
        parent: Node | None,
        *,
        name: str,
        operation: str,
        task: str | None,
        applies: bool,
    ) -> None:
        super().__init__(recorder, trajectory, parent)
        self.name = name
        self.agent_name = slug(name)
        above = parent
        while above is not None and not isinstance(above, Run):
            above = above.parent
        self.agent_path: tuple[str, ...] = (*(above.agent_path if above else ()), self.agent_name)
        self.operation = operation
        self.task = task
        self.applies = applies
        self.history: list[PastCall] = []
        self.forced = 0
        self.last_turn: Turn | None = None
        self._offered: dict[str, bytes] = {}
        self._turn_of_call: dict[str, Turn] = {}
        config = recorder.config
        self.attributes = {
            semconv.OPERATION_NAME: operation,
            semconv.AGENT_NAME: name,
            semconv.AGENT: config.agent,
            semconv.AGENT_PATH: "/".join(self.agent_path),
            semconv.FRAMEWORK: trajectory.framework,
            semconv.TRAJECTORY_ID: trajectory.hex,
        }
        if parent is None:
            self.attributes |= {
                semconv.TRAJECTORY_ROOT: True,
                semconv.TRAJECTORY_KEY: trajectory.key,
                semconv.CONVERSATION_ID: trajectory.key,
                semconv.UNIT: trajectory.unit,
                semconv.MODE: trajectory.mode.value,
                semconv.ASSIGNMENT: trajectory.assignment.name.lower(),
            }

    def turn(
        self,
        offered: Sequence[Tool],
        *,
        model: str = "",
        provider: str = "",
        task: str | None = None,
        force: str = "hard",
        text_agent: bool = False,
    ) -> Turn:
        """Starts one LLM call and, if tools are offered, decides the step.

        `force` says how this framework applies a forced tool: "hard" (tool_choice) or "soft"
        (narrow and hint). `text_agent` marks models that see their tools only as prompt text.
        """
        turn = Turn(self, tuple(offered), model=model, provider=provider)
        if self.last_turn is None or turn.offered is not self.last_turn.offered:
            self._offered.update((tool.name, tool.fingerprint) for tool in turn.offered)
        self.last_turn = turn
        if turn.offered:
            with self.recorder.guard("decide"):
                self.recorder.decide(
                    turn, task or self.task or "", force=force, text_agent=text_agent
                )
        return turn

    def call(
        self, tool: str, *, call_id: str = "", arguments: Any = None, turn: Turn | None = None
    ) -> Call:
        """Starts the execution of a tool, below the turn that asked for it."""
        owner = turn or self._turn_of_call.pop(call_id, None) or self.last_turn
        return Call(self, owner, tool=tool, call_id=call_id, arguments=arguments)

    def asked(self, turn: Turn, call_ids: Sequence[str]) -> None:
        """Remembers which turn asked for which calls."""
        for call_id in call_ids:
            if call_id:
                self._turn_of_call[call_id] = turn

    def touches(self, tool: str) -> None:
        """Notes that a tool is called; what a protected one does cannot be taken back."""
        if tool in self.recorder.protected:
            self.trajectory.irreversible = True

    def done(self, tool: str, *, error: bool) -> None:
        """Appends a finished call to the run's history."""
        self.history.append(PastCall(self._offered.get(tool, b""), error))

    def finish(self, error: str = "") -> None:
        """Ends the run; the root ends the trajectory."""
        if not self._claim():
            return
        if self.parent is None:
            self.attributes[semconv.FRAMEWORK] = self.trajectory.framework
            self.attributes |= self.trajectory.describe_part()
        self._put(f"{self.operation} {self.name}", error)
        if self.parent is None:
            self.recorder.end(self.trajectory)

    def abandon(self, reason: str) -> None:
        self.attributes[semconv.INCOMPLETE] = reason
        self.finish(reason)


class Turn(Node):
    """One LLM call. `forced` and `shown` say what to apply; both None: leave the agent alone."""

    def __init__(self, run: Run, offered: tuple[Tool, ...], *, model: str, provider: str) -> None:
        super().__init__(run.recorder, run.trajectory, run)
        self.run = run
        self.offered = offered
        self.model = model
        self.mode = run.trajectory.mode
        self.assignment = run.trajectory.assignment
        self.assignment_probability = run.trajectory.assignment_probability
        self.fallback = Fallback.NONE
        self.decision: Decision | None = None
        self.policy_version = ""
        self.feature_schema = 0
        self.force = ""
        self.features_id = b""
        self.history: tuple[PastCall, ...] = tuple(run.history)
        self.forced: Tool | None = None
        self.hint: Tool | None = None
        self.shown: tuple[int, ...] | None = None
        self.allowed: tuple[bool, ...] = ()
        self.step = run.trajectory.next_step() if offered else -1
        self.attributes = {
            semconv.OPERATION_NAME: semconv.CHAT,
            semconv.PROVIDER_NAME: provider,
            semconv.REQUEST_MODEL: model,
            semconv.AGENT: run.recorder.config.agent,
            semconv.AGENT_NAME: run.name,
        }

    @property
    def shown_tools(self) -> tuple[Tool, ...]:
        """The offered tools in the order in which the model is to see them."""
        if self.shown is None:
            return self.offered
        return tuple(self.offered[i] for i in self.shown)

    def may_call(self, tool: str) -> bool:
        """False for a tool that was hidden, or not the forced one, in this turn."""
        if self.forced is not None:
            return tool == self.forced.name
        return self.shown is None or any(t.name == tool for t in self.shown_tools)

    def finish(
        self,
        called: Sequence[tuple[str, str]] = (),
        *,
        input_tokens: int = 0,
        output_tokens: int = 0,
        response_model: str = "",
        error: str = "",
    ) -> None:
        """Ends the call with what the model asked for: (tool name, call id) pairs."""
        if not self._claim():
            return
        self.run.asked(self, [call_id for _, call_id in called])
        for name, _ in called:
            self.run.touches(name)
        self.attributes[semconv.INPUT_TOKENS] = input_tokens or None
        self.attributes[semconv.OUTPUT_TOKENS] = output_tokens or None
        self.attributes[semconv.RESPONSE_MODEL] = response_model
        if self.offered:
            self._put_step(tuple(name for name, _ in called), completed=not error)
        self._put(f"{semconv.CHAT} {self.model}".strip(), error)

    def _put_step(self, called: tuple[str, ...], *, completed: bool) -> None:
        decision = self.decision
        self.attributes[semconv.DECISION_ID] = self.span_id.hex()
        self.attributes[semconv.POLICY_VERSION] = self.policy_version
        if self.fallback:
            self.attributes[semconv.FALLBACK_REASON] = self.fallback.name.lower()
        if decision:
            self.attributes[semconv.ARM] = self._arm_text(decision)
            self.attributes[semconv.ARM_PROPENSITY] = decision.propensity
        trajectory = self.trajectory
        shown = tuple(range(len(self.offered))) if self.shown is None else self.shown
        self.recorder.sink.put(
            StepItem(
                trajectory_id=trajectory.id,
                span_id=self.span_id,
                step=self.step,
                agent=self.recorder.config.agent,
                agent_name=self.run.agent_name,
                agent_path=self.run.agent_path,
                time_ns=self.start_ns,
                mode=self.mode,
                assignment=self.assignment,
                assignment_probability=self.assignment_probability,
                fallback=self.fallback,
                policy_version=self.policy_version,
                feature_schema=self.feature_schema,
                offered=self.offered,
                shown=shown,
                decision=decision,
                force=self.force,
                history=self.history,
                features_id=self.features_id,
                called=called,
                completed=completed,
                allowed=() if all(self.allowed) else self.allowed,
            )
        )

    def _arm_text(self, decision: Decision) -> str:
        arm = decision.taken
        match arm.kind:
            case ArmKind.DEFER:
                return "defer"
            case ArmKind.FORCE:
                return f"force {self.offered[arm.tools[0]].name}"
        return f"show {len(arm.tools)}"

    def abandon(self, reason: str) -> None:
        self.attributes[semconv.INCOMPLETE] = reason
        self.finish(error=reason)


class Call(Node):
    """One tool execution."""

    def __init__(
        self, run: Run, turn: Turn | None, *, tool: str, call_id: str, arguments: Any
    ) -> None:
        # A turn has always ended before its calls start, so the run owns them.
        super().__init__(run.recorder, run.trajectory, turn or run, owner=run)
        self.run = run
        self.turn = turn
        self.tool = tool
        self.attributes = {
            semconv.OPERATION_NAME: semconv.EXECUTE_TOOL,
            semconv.TOOL_NAME: tool,
            semconv.TOOL_CALL_ID: call_id,
            semconv.AGENT: run.recorder.config.agent,
            semconv.AGENT_NAME: run.name,
        }
        if turn is not None:
            if turn.offered:
                self.attributes[semconv.DECISION_ID] = turn.span_id.hex()
            if not turn.may_call(tool):
                self.attributes[semconv.HIDDEN] = True
        if run.recorder.config.capture_content and arguments is not None:
            self.attributes[semconv.TOOL_CALL_ARGUMENTS] = str(arguments)[:4096]
        if not self.blocked:
            run.touches(tool)

    @property
    def blocked(self) -> bool:
        """True if the user asked to veto hidden tools and this is one."""
        return self.run.recorder.config.block_hidden and bool(self.attributes.get(semconv.HIDDEN))

    def veto(self, message: str) -> str:
        """Ends the call as blocked and returns the message for the model."""
        self.attributes[semconv.VETOED] = True
        self.finish(error="vetoed", result=message)
        return message

    def finish(self, error: str = "", *, result: Any = None) -> None:
        """Ends the call; `error` is the type of a visible failure."""
        if not self._claim():
            return
        if self.run.recorder.config.capture_content and result is not None:
            self.attributes[semconv.TOOL_CALL_RESULT] = str(result)[:4096]
        self.run.done(self.tool, error=bool(error))
        self._put(f"{semconv.EXECUTE_TOOL} {self.tool}", error)

    def abandon(self, reason: str) -> None:
        # The outcome is unknown: no history, no visible error of the tool's own.
        self.attributes[semconv.INCOMPLETE] = reason
        if self._claim():
            self._put(f"{semconv.EXECUTE_TOOL} {self.tool}", reason)
