"""The steps of trajectories as aligned arrays, so that thousands are evaluated at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agentgym.policy.evaluate import Catalogue
from agentgym.policy.features import TextVector
from agentgym.policy.parameters import MAX_OK
from agentgym.trajectory import ArmKind
from agentgym_daemon.learning.dataset import Step, Trajectory

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows of different lengths: row r owns the entries start[r] .. start[r + 1]."""

    start: Ints

    def take(self, rows: Ints) -> tuple[Ints, Ints]:
        """Entries of some rows, in order, and where each row starts among them."""
        length = self.start[rows + 1] - self.start[rows]
        offset = np.concatenate(([0], np.cumsum(length)))
        entries = np.repeat(self.start[rows] - offset[:-1], length) + np.arange(offset[-1])
        return entries, offset


@dataclass(frozen=True, slots=True)
class TaskArrays:
    """Features of the distinct tasks and of the universe's texts."""

    rows: Ragged  # of the tasks' n-grams
    bucket: Ints
    value: Floats
    embedding: Floats  # (K, E)
    tool_grams: Floats  # (DIM, U)
    tool_embedding: Floats  # (E, U)


@dataclass(frozen=True, slots=True)
class StepArrays:
    """N steps over a universe of U tools; column U is RESPOND."""

    task: Ints  # (N,)
    trajectory: Ints  # (N,)
    offered: Flags  # (N, U + 1), RESPOND always
    allowed: Flags  # (N, U)
    last: Ints  # (N,) tool called last; U = none that is known
    repeat_ok: Floats  # (N, U + 1)
    repeat_error: Floats  # (N, U + 1)
    first: Floats  # (N,) no call was made before
    ok_calls: Floats  # (N,) at most MAX_OK
    stage: Ints  # (N,) 1 after a successful call
    after_error: Floats  # (N,)
    action: Floats  # (N, U + 1) executed tools, or RESPOND
    failed: Floats  # (N, U + 1) those that failed visibly
    wrong: Flags  # (N,) some call failed visibly
    alone: Flags  # (N,)
    down: Flags  # (N, U + 1) left out because they failed

    @property
    def columns(self) -> int:
        """U + 1."""
        return int(self.offered.shape[1])


@dataclass(frozen=True, slots=True)
class ArmArrays:
    """The sampled arms of P steps with at most A arms each; arm 0 is defer."""

    step: Ints  # (P,) ascending
    member: Floats  # (P, A, U + 1) columns whose probabilities add up to the arm's score
    present: Flags  # (P, A)
    arm: Ints  # (P,)
    propensity: Floats  # (P,)
    temperature: Floats  # (P,)
    spread: Floats  # (P, A) the floors: what every arm gets, whatever its score
    mass: Floats  # (P,) what is shared out by score


def task_arrays(tasks: Sequence[TextVector], universe: Catalogue) -> TaskArrays:
    """Features of tasks and of the universe's texts."""
    values = [x.values() for x in tasks]
    dim = universe.embedding_dim
    embedding = np.zeros((len(tasks), dim))
    for i, x in enumerate(tasks):
        if x.embedding is not None:
            embedding[i] = x.embedding.values()
    return TaskArrays(
        rows=_ragged([len(value) for value in values]),
        bucket=_ints([x.index.astype(np.int64) for x in tasks]),
        value=_floats(values),
        embedding=embedding,
        tool_grams=universe.grams(),
        tool_embedding=universe.embeddings(dim),
    )


def _key(x: TextVector) -> tuple[object, ...]:
    grams = (x.index.tobytes(), x.quantised.tobytes(), x.scale)
    if x.embedding is None:
        return grams
    return (*grams, x.embedding.quantised.tobytes(), x.embedding.scale)


def _ragged(lengths: Sequence[int]) -> Ragged:
    return Ragged(np.concatenate(([0], np.cumsum(np.array(lengths, np.int64)))).astype(np.int64))


def _ints(parts: Sequence[Ints]) -> Ints:
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _floats(parts: Sequence[Floats]) -> Floats:
    return np.concatenate([np.zeros(0), *parts])


def step_arrays(
    trajectories: Sequence[Trajectory], universe: Catalogue
) -> tuple[StepArrays, TaskArrays, list[Step]]:
    """All steps of `trajectories`, in order, and their distinct tasks."""
    steps = [step for trajectory in trajectories for step in trajectory.steps]
    owner = np.repeat(np.arange(len(trajectories)), [len(t.steps) for t in trajectories])
    tasks: dict[tuple[object, ...], int] = {}
    vectors: list[TextVector] = []
    n, u = len(steps), len(universe.tools)
    task, last = np.zeros(n, np.int64), np.full(n, u, np.int64)
    offered, allowed = np.zeros((n, u + 1), np.bool_), np.zeros((n, u), np.bool_)
    repeat_ok, repeat_error = np.zeros((n, u + 1)), np.zeros((n, u + 1))
    action, failed = np.zeros((n, u + 1)), np.zeros((n, u + 1))
    down = np.zeros((n, u + 1), np.bool_)
    offered[:, u] = True
    for i, step in enumerate(steps):
        key = _key(step.x)
        if key not in tasks:
            tasks[key] = len(vectors)
            vectors.append(step.x)
        task[i] = tasks[key]
        offered[i, list(step.offered)] = True
        allowed[i, list(step.offered)] = step.allowed
        action[i, list(step.called) if step.called else u] = 1.0
        failed[i, list(step.failed)] = 1.0
        down[i, list(step.down)] = True
        for call in step.history:
            column = universe.index.get(call.tool)
            if column is not None:
                (repeat_error if call.error else repeat_ok)[i, column] = 1.0
        if step.history:
            last[i] = universe.index.get(step.history[-1].tool, u)
    ok_calls = np.array([sum(not c.error for c in s.history) for s in steps], np.int64)
    return (
        StepArrays(
            task=task,
            trajectory=owner.astype(np.int64),
            offered=offered,
            allowed=allowed,
            last=last,
            repeat_ok=repeat_ok,
            repeat_error=repeat_error,
            first=np.array([not s.history for s in steps], np.float64),
            ok_calls=np.minimum(ok_calls, MAX_OK).astype(np.float64),
            stage=np.minimum(ok_calls, 1),
            after_error=np.array(
                [bool(s.history) and s.history[-1].error for s in steps], np.float64
            ),
            action=action,
            failed=failed,
            wrong=failed.sum(axis=1) > 0,
            alone=np.array([s.alone for s in steps], np.bool_),
            down=down,
        ),
        task_arrays(vectors, universe),
        steps,
    )


def arm_arrays(steps: Sequence[Step], chosen: Sequence[int], columns: int) -> ArmArrays:
    """The arms of the `chosen` steps, each of which has a gradient arm."""
    arms = [gradient for i in chosen if (gradient := steps[i].gradient) is not None]
    width = max((len(g.support) for g in arms), default=1)
    shape = (len(arms), width)
    member, present, spread = (
        np.zeros((*shape, columns)),
        np.zeros(shape, np.bool_),
        np.zeros(shape),
    )
    for i, gradient in enumerate(arms):
        n = len(gradient.support)
        present[i, :n] = True
        spread[i, 1:n] = gradient.floor / max(n - 1, 1)
        spread[i, 0] = gradient.defer_floor if n > 1 else 0.0
        for j, arm in enumerate(gradient.support):
            member[i, j, list(arm.tools)] = 1.0
            member[i, j, -1] = arm.kind == ArmKind.SHOW  # the model may also respond
    single = present.sum(axis=1) == 1
    floors = np.array([g.floor + g.defer_floor for g in arms])
    return ArmArrays(
        step=np.array(chosen, np.int64),
        member=member,
        present=present,
        arm=np.array([g.arm for g in arms], np.int64),
        propensity=np.array([g.propensity for g in arms]),
        temperature=np.array([g.temperature for g in arms]),
        spread=spread,
        mass=np.where(single, 1.0, 1.0 - floors),
    )
