"""Starts trajectories, decides their steps and takes their rewards; one per `AgentGym`."""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from agentgym import kill, semconv
from agentgym.assignment import Draw, assign, draw, limited, point_of, policy_share
from agentgym.config import Config, Mode
from agentgym.guard import Guard
from agentgym.items import RewardItem, Sink, TaskItem
from agentgym.trajectory import ArmKind, Assignment, Decision, Fallback, Stage, Tool
from agentgym.tree import (
    Call,
    Node,
    Run,
    Trajectory,
    Turn,
    active,
    current,
    latest,
    remember,
    reserve,
)

_Allowed = tuple[tuple[Tool, ...], frozenset[str], tuple[bool, ...]]
"""Offered tools, the protected names, and which of the tools may be forced by these."""

if TYPE_CHECKING:
    from agentgym.live import LivePolicies
    from agentgym.policy.evaluate import Catalogue
    from agentgym.policy.features import TextVector
    from agentgym.policy.policy_set import PolicySet
    from agentgym.policy.snapshot import Snapshot

__all__ = ["Call", "Recorder", "Run", "Trajectory", "Turn", "active", "current", "reserve"]


class Recorder:
    """Starts trajectories and decides their steps; one per `AgentGym`."""

    def __init__(
        self, config: Config, live: LivePolicies, sink: Sink, *, guard: Guard | None = None
    ) -> None:
        self.config = config
        self.live = live
        self.sink = sink
        self.guard = guard or Guard()
        self.disabled = config.disabled
        # Seeded from the system unless the user asks. No lock: its draws are single C calls, and a
        # lock that another thread holds during a fork would stop the child for ever.
        self._rng = random.Random(config.seed)
        self.protected = frozenset(config.protected)
        """Names of tools whose effect cannot be taken back."""
        self._last_allowed: _Allowed = ((), self.protected, ())

    def start_run(
        self,
        name: str,
        *,
        framework: str,
        task: str | None = None,
        operation: str = semconv.INVOKE_AGENT,
        parent: Run | Call | None = None,
        key: str = "",
        unit: str = "",
        applies: bool = True,
        explore: bool | None = None,
    ) -> Run:
        """Starts an agent run below `parent`, or below the context's, or as a new trajectory.

        `applies=False` marks a route that can watch but not act: it shadows at most.
        """
        above = parent or current()
        trajectory = (
            above.trajectory
            if above
            else self._trajectory(framework, key, unit, applies=applies, explore=explore)
        )
        if above is None:
            remember(trajectory)
        elif not trajectory.framework:
            trajectory.framework = framework
        return Run(
            self, trajectory, above, name=name, operation=operation, task=task, applies=applies
        )

    def _trajectory(
        self, framework: str, key: str, unit: str, *, applies: bool, explore: bool | None
    ) -> Trajectory:
        policies = self.live.current
        mode = limited(self.config.mode, policies)
        explore = self.config.explore if explore is None else explore
        if not applies and mode in (Mode.ADVISE, Mode.STEER):
            mode = Mode.SHADOW
        point = point_of(self.config.agent, unit) if unit else self._rng.random()
        share = policy_share(policies, self.config.control_share, explore=explore)
        drawn = self._draw_arm(policies, mode, point, share, unit)
        if drawn is not None:
            share = drawn.edge
            if drawn.arm is not None:
                mode = drawn.arm.mode or mode
                policies = _under(policies, drawn.arm.policies)
        assignment, probability = assign(mode, point, share, explore=explore)
        return Trajectory(
            id=os.urandom(16),
            key=key,
            agent=self.config.agent,
            framework=framework,
            mode=mode,
            assignment=assignment,
            assignment_probability=probability,
            greedy=not explore,
            point=point,
            policy_share=share,
            unit=policies.features.hasher.pseudonym(unit) if unit and policies else "",
            policies={id(self): policies},
            part=drawn.part if drawn else None,
            asked=bool(unit),
        )

    def _draw_arm(
        self, policies: PolicySet | None, mode: Mode, point: float, share: float, unit: str
    ) -> Draw | None:
        """The part in the experiment that runs; None where a kill or the ladder leaves no room."""
        experiment = policies.experiment if policies else None
        if policies is None or experiment is None:
            return None
        if policies.stage not in (Stage.CANARY, Stage.LIVE):
            return None
        if mode not in (Mode.ADVISE, Mode.STEER) and not experiment.labels_only:
            return None
        if self._killed() or self._stale(policies):
            return None
        agent, name = self.config.agent, experiment.name
        second = point_of(agent, unit, name) if unit else self._rng.random()
        return draw(experiment, point=point, second=second, share=share)

    def arm(self, experiment: str, unit: str) -> str:
        """The arm of the open trajectory, or else of a unit; '' if it has no part.

        Raises LookupError where there is neither.
        """
        node = current()
        if node is not None:
            return node.trajectory.ask(experiment)
        if not unit:
            raise LookupError(
                "no trajectory is open in this context; pass unit=, or ask inside "
                "`with gym.trajectory():`"
            )
        policies = self.live.current
        mode = limited(self.config.mode, policies)
        share = policy_share(policies, self.config.control_share, explore=self.config.explore)
        point = point_of(self.config.agent, unit)
        drawn = self._draw_arm(policies, mode, point, share, unit)
        return drawn.part.arm if drawn and drawn.part.experiment == experiment else ""

    def end(self, trajectory: Trajectory) -> None:
        """Closes a trajectory and lets its rewards follow it."""
        with trajectory.lock:
            trajectory.ended = True
            held, trajectory.rewards = trajectory.rewards, []
        self.sink.end(trajectory.id)
        for reward in held:
            self.sink.put(reward)

    # ---- decisions

    def decide(self, turn: Turn, task: str, *, force: str, text_agent: bool) -> None:
        """Fills in the turn's decision and what is to be applied of it.

        A turn whose decision fails is a fallback like any other: the agent is left alone.
        """
        try:
            self._decide(turn, task, force=force, text_agent=text_agent)
        except Exception:
            turn.fallback, turn.decision, turn.force = Fallback.ERROR, None, ""
            turn.forced = turn.hint = turn.shown = None
            raise

    def _decide(self, turn: Turn, task: str, *, force: str, text_agent: bool) -> None:
        trajectory, run = turn.trajectory, turn.run
        turn.allowed = self._allowed(turn.offered)
        policies = self._policies(trajectory)
        _place(turn, policies)
        if (text_agent or not run.applies) and turn.mode in (Mode.ADVISE, Mode.STEER):
            hinted = text_agent and run.applies and self.config.hint_text
            turn.mode = Mode.ADVISE if hinted else Mode.SHADOW
            force = "hint" if hinted else ""
        if turn.mode is Mode.SHADOW and turn.assignment is not Assignment.CONTROL:
            turn.assignment = Assignment.SHADOW
        turn.feature_schema = policies.features.schema if policies else 0
        if turn.mode is Mode.OBSERVE:
            self._features(turn, task, None)
            return
        turn.policy_version = policies.version(run.agent_name) if policies else ""
        turn.fallback = self._fallback(policies, turn.policy_version)
        if turn.fallback or turn.assignment is Assignment.CONTROL:
            self._features(turn, task, None)
            if policies is not None:
                policies.catalogue(turn.offered, 0.0)  # made meanwhile for a step that needs it
            return
        if trajectory.irreversible:
            self._features(turn, task, None)
            turn.fallback = Fallback.PROTECTED
            return
        assert policies is not None  # _fallback says NO_POLICY otherwise
        vector = self._features(turn, task, policies)
        if vector is None:
            turn.fallback = Fallback.TIMEOUT if turn.features_id else Fallback.ERROR
            return
        catalogue = policies.catalogue(turn.offered, self.config.encoder_wait_s)
        if catalogue is None:
            turn.fallback = Fallback.TIMEOUT
            return
        if run.forced >= self.config.max_forced:
            # A policy that never lets the model answer must not keep the host's agent busy.
            turn.fallback = Fallback.PROTECTED
            return
        showing = turn.mode is Mode.ADVISE and force != "hint"
        kind = ArmKind.SHOW if showing else ArmKind.FORCE
        decision = self._draw(policies, turn, vector, catalogue, kind)
        if decision is None:
            turn.fallback = Fallback.PROTECTED
            return
        turn.decision = decision
        if turn.mode is not Mode.SHADOW:
            _apply(turn, decision, force)

    def _allowed(self, offered: tuple[Tool, ...]) -> tuple[bool, ...]:
        # Mostly the tools of the step before; one slot, read and written whole.
        known, by, allowed = self._last_allowed
        protected = self.protected
        if known is not offered or by is not protected:
            allowed = tuple(not (t.protected or t.name in protected) for t in offered)
            self._last_allowed = offered, protected, allowed
        return allowed

    def protect(self, names: Iterable[str]) -> None:
        """Adds tools that say of themselves that their effect cannot be taken back."""
        more = frozenset(names) - self.protected
        if more:
            self.protected |= more

    def _draw(
        self,
        policies: PolicySet,
        turn: Turn,
        vector: TextVector,
        catalogue: Catalogue,
        kind: ArmKind,
    ) -> Decision | None:
        return policies.decide(
            turn.run.agent_name,
            vector,
            catalogue,
            turn.history,
            allowed=turn.allowed,
            kind=kind,
            rng=None if turn.trajectory.greedy else self._rng,
        )

    def _policies(self, trajectory: Trajectory) -> PolicySet | None:
        # A nested agent with an AgentGym of its own captures its policies at its first step.
        return trajectory.policies.setdefault(id(self), self.live.current)

    def _features(self, turn: Turn, task: str, policies: PolicySet | None) -> TextVector | None:
        """The task's features; without `policies` nobody waits for them, the sender makes them."""
        if self.config.features == "off" or not task:
            return None
        trajectory = turn.trajectory
        known = trajectory.tasks.get(task)
        if known is None:
            vector = self._vector(task, policies)
            known = trajectory.tasks[task] = (os.urandom(8), vector)
            schema = policies.features.schema if policies else 0
            self.sink.put(TaskItem(trajectory.id, known[0], task, vector, schema))
        elif known[1] is None:
            known = trajectory.tasks[task] = (known[0], self._vector(task, policies))
        turn.features_id = known[0]
        return known[1]

    def _vector(self, task: str, policies: PolicySet | None) -> TextVector | None:
        """None where nothing is decided, and where encoding takes longer than a step may wait."""
        if policies is None:
            return None
        return policies.features.within(task, self.config.encoder_wait_s)

    def _fallback(self, policies: PolicySet | None, version: str) -> Fallback:
        if self._killed():
            return Fallback.KILLED
        if policies is None or not version:
            return Fallback.NO_POLICY
        return Fallback.STALE if self._stale(policies) else Fallback.NONE

    def _killed(self) -> bool:
        now = self.live.current
        return self.live.halted or (now is not None and now.killed) or kill.in_environment()

    def _stale(self, policies: PolicySet) -> bool:
        return self.live.silent_s > (self.config.stale_after_s or policies.stale_after_s)

    # ---- rewards

    def reward(
        self,
        value: float,
        *,
        trajectory: Trajectory | Node | str | bytes | None = None,
        key: str = "",
        name: str = "",
        source: str = "",
        idempotency_key: str = "",
        reason: str = "",
    ) -> None:
        """Queues a reward; inside an open trajectory it waits for the trajectory's end.

        Raises ValueError, TypeError or LookupError for a reward that cannot be meant.
        """
        number = float(value)
        if not (math.isfinite(number) and 0.0 <= number <= 1.0):
            raise ValueError(
                f"expected a reward between 0 and 1, got {value!r}; "
                "scale it, or leave it out if the outcome is not known"
            )
        target = _target(trajectory, key)
        item = RewardItem(
            trajectory_id=target if isinstance(target, bytes) else target.id,
            key=key,
            agent=self.config.agent,
            value=number,
            name=name,
            source=source,
            idempotency_key=idempotency_key,
            reason=reason,
            time_ns=time.time_ns(),
        )
        if isinstance(target, Trajectory):
            with target.lock:
                if not target.ended:
                    target.rewards.append(item)
                    return
        self.sink.put(item)


def _under(policies: PolicySet | None, arm: Mapping[str, Snapshot]) -> PolicySet | None:
    """The policies with those of an arm in their places."""
    if policies is None or not arm:
        return policies
    return replace(policies, policies={**policies.policies, **arm})


def _place(turn: Turn, policies: PolicySet | None) -> None:
    """Keeps a nested agent, whose ladder is its own, below its own rung too."""
    turn.mode = limited(turn.mode, policies)
    if turn.mode is Mode.OBSERVE:
        turn.assignment, turn.assignment_probability = Assignment.NONE, 1.0
    elif policies is not None and policies.stage is Stage.CANARY and turn.mode is not Mode.SHADOW:
        trajectory = turn.trajectory
        turn.assignment, turn.assignment_probability = assign(
            turn.mode,
            trajectory.point,
            min(trajectory.policy_share, policies.canary_share),
            explore=not trajectory.greedy,
        )


def _apply(turn: Turn, decision: Decision, force: str) -> None:
    arm = decision.taken
    if arm.kind is ArmKind.SHOW:
        turn.shown = arm.tools
    elif arm.kind is ArmKind.FORCE:
        turn.force = force
        tool = turn.offered[arm.tools[0]]
        if force == "hint":
            turn.hint = tool
            return
        turn.forced = tool
        turn.run.forced += 1
        if force == "soft":
            turn.shown = arm.tools


def _target(trajectory: Trajectory | Node | str | bytes | None, key: str) -> Trajectory | bytes:
    if isinstance(trajectory, Node):
        return trajectory.trajectory
    if isinstance(trajectory, Trajectory):
        return trajectory
    found = latest()
    if trajectory is not None:
        wanted = _id(trajectory)
        # Of an open trajectory the daemon knows nothing yet: its rewards wait for its end.
        return found if found is not None and found.id == wanted else wanted
    if key:
        return found if found is not None and found.key == key and not found.ended else b""
    if found is None:
        raise LookupError(
            "no trajectory ran in this context; "
            "pass trajectory= (an id) or key=, or reward inside `with gym.trajectory():`"
        )
    return found


def _id(trajectory: str | bytes) -> bytes:
    try:
        value = bytes.fromhex(trajectory) if isinstance(trajectory, str) else bytes(trajectory)
    except ValueError:
        value = b""
    if len(value) != 16:
        raise ValueError(f"expected a trajectory id of 32 hex digits, got {trajectory!r}")
    return value
