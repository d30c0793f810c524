"""The steps of trajectories as aligned arrays, so that thousands are evaluated at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentgym.policy.evaluate import Catalogue
from agentgym.policy.features import TextVector
from agentgym.policy.parameters import MAX_OK
from agentgym.trajectory import ArmKind
from agentgym_daemon.learning.dataset import Act, Step, Trajectory

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
    tools: Ints  # (P, A, M) columns whose probabilities add up to the arm's score; U + 1 = none
    present: Flags  # (P, A)
    arm: Ints  # (P,)
    propensity: Floats  # (P,)
    temperature: Floats  # (P,)
    spread: Floats  # (P, A) the floors: what every arm gets, whatever its score
    mass: Floats  # (P,) what is shared out by score


def task_arrays(tasks: Sequence[TextVector], universe: Catalogue) -> TaskArrays:
    """Features of tasks and of the universe's texts."""
    dim = universe.embedding_dim
    lengths = np.array([len(x.quantised) for x in tasks], np.int64)
    scale = np.array([x.scale for x in tasks]) / 255.0
    quantised = np.concatenate([np.zeros(0, np.uint8), *(x.quantised for x in tasks)])
    return TaskArrays(
        rows=Ragged(np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))),
        bucket=np.concatenate([np.zeros(0, np.int64), *(x.index for x in tasks)], dtype=np.int64),
        value=quantised.astype(np.float64) * np.repeat(scale, lengths),
        embedding=_embeddings(tasks, dim),
        tool_grams=universe.grams(),
        tool_embedding=universe.embeddings(dim),
    )


def _embeddings(tasks: Sequence[TextVector], dim: int) -> Floats:
    quantised, scale = np.zeros((len(tasks), dim), np.int8), np.zeros(len(tasks))
    for i, x in enumerate(tasks):
        if x.embedding is not None:
            quantised[i], scale[i] = x.embedding.quantised, x.embedding.scale
    return quantised.astype(np.float64) * (scale / 127.0)[:, None]


def _key(x: TextVector) -> tuple[object, ...]:
    grams = (x.index.tobytes(), x.quantised.tobytes(), x.scale)
    if x.embedding is None:
        return grams
    return (*grams, x.embedding.quantised.tobytes(), x.embedding.scale)


def step_arrays(
    trajectories: Sequence[Trajectory], universe: Catalogue
) -> tuple[StepArrays, TaskArrays, list[Step]]:
    """All steps of `trajectories`, in order, and their distinct tasks."""
    steps = [step for trajectory in trajectories for step in trajectory.steps]
    owner = np.repeat(np.arange(len(trajectories)), [len(t.steps) for t in trajectories])
    u = len(universe.tools)
    task, vectors = _tasks(steps)
    offered, allowed = _menus(steps, u)
    past, last = _history(steps, universe)
    failed = _marked([step.failed for step in steps], u + 1, np.float64)
    action = _marked([step.called or (u,) for step in steps], u + 1, np.float64)
    errors = np.array([bool(s.history) and s.history[-1].error for s in steps], np.float64)
    ok_calls = np.array([sum([not c.error for c in s.history]) for s in steps], np.int64)
    return (
        StepArrays(
            task=task,
            trajectory=owner.astype(np.int64),
            offered=offered,
            allowed=allowed,
            last=last,
            repeat_ok=past[0],
            repeat_error=past[1],
            first=np.array([not s.history for s in steps], np.float64),
            ok_calls=np.minimum(ok_calls, MAX_OK).astype(np.float64),
            stage=np.minimum(ok_calls, 1),
            after_error=errors,
            action=action,
            failed=failed,
            wrong=failed.sum(axis=1) > 0,
            alone=np.array([s.alone for s in steps], np.bool_),
            down=_marked([step.down for step in steps], u + 1, np.bool_),
        ),
        task_arrays(vectors, universe),
        steps,
    )


def _tasks(steps: Sequence[Step]) -> tuple[Ints, list[TextVector]]:
    """Which of the distinct tasks each step has, and those."""
    objects: dict[int, int] = {}  # the steps of a run share theirs
    known: dict[tuple[object, ...], int] = {}
    vectors: list[TextVector] = []
    for x in {id(step.x): step.x for step in steps}.values():
        number = objects[id(x)] = known.setdefault(_key(x), len(vectors))
        if number == len(vectors):
            vectors.append(x)
    return np.array([objects[id(step.x)] for step in steps], np.int64), vectors


def _menus(steps: Sequence[Step], columns: int) -> tuple[Flags, Flags]:
    """Offered columns and RESPOND (N, U + 1), and the allowed ones (N, U)."""
    known: dict[tuple[object, ...], int] = {}
    which = [known.setdefault((s.offered, s.allowed), len(known)) for s in steps]
    distinct: list[Any] = list(known)
    offered = _marked([menu for menu, _ in distinct], columns + 1, np.bool_)
    offered[:, -1] = True
    allowed = _marked(
        [[c for c, ok in zip(*pair, strict=True) if ok] for pair in distinct], columns, np.bool_
    )
    return offered[which], allowed[which]


def _history(steps: Sequence[Step], universe: Catalogue) -> tuple[Floats, Ints]:
    """Calls that went right, and calls that failed (2, N, U + 1); and the last called tool (N,)."""
    index, none = universe.index, len(universe.tools)
    past = np.zeros((2, len(steps), none + 1))
    last = np.array(
        [index.get(s.history[-1].tool, none) if s.history else none for s in steps], np.int64
    )
    calls = [
        (call.error, i, column)
        for i, step in enumerate(steps)
        for call in step.history
        if (column := index.get(call.tool)) is not None
    ]
    if calls:
        past[tuple(np.array(calls, np.int64).T)] = 1.0
    return past, last


def _marked(columns: Sequence[Sequence[int]], width: int, kind: type[np.generic]) -> NDArray[Any]:
    """A matrix with 1 in the named columns of each row."""
    out = np.zeros((len(columns), width), kind)
    rows = np.repeat(np.arange(len(columns)), [len(row) for row in columns])
    out[rows, np.fromiter(chain.from_iterable(columns), np.int64, len(rows))] = 1
    return out


def arm_arrays(steps: Sequence[Step], chosen: Sequence[int], columns: int) -> ArmArrays:
    """The arms of the `chosen` steps, each of which has a gradient arm."""
    arms = [gradient for i in chosen if (gradient := steps[i].gradient) is not None]
    lengths = np.array([len(g.support) for g in arms], np.int64)
    present = np.arange(lengths.max(initial=1)) < lengths[:, None]
    single = lengths == 1
    floor = np.array([g.floor for g in arms])
    defer_floor = np.array([g.defer_floor for g in arms])
    spread = np.where(present, (floor / np.maximum(lengths - 1, 1))[:, None], 0.0)
    spread[:, 0] = np.where(single, 0.0, defer_floor)
    return ArmArrays(
        step=np.array(chosen, np.int64),
        tools=_arm_tools([act for g in arms for act in g.support], present, columns),
        present=present,
        arm=np.array([g.arm for g in arms], np.int64),
        propensity=np.array([g.propensity for g in arms]),
        temperature=np.array([g.temperature for g in arms]),
        spread=spread,
        mass=np.where(single, 1.0, 1.0 - (floor + defer_floor)),
    )


def _arm_tools(acts: Sequence[Act], present: Flags, columns: int) -> Ints:
    """The columns of every present arm, in order."""
    objects = {id(act): act for act in acts}  # few, if equal ones are one object
    row = {identity: i for i, identity in enumerate(objects)}
    # the model that is shown some tools may also respond
    members = [
        (*act.tools, columns - 1) if act.kind == ArmKind.SHOW else act.tools
        for act in objects.values()
    ]
    table = np.full((len(members) + 1, max(map(len, members), default=1)), columns, np.int64)
    for i, tools in enumerate(members):
        table[i, : len(tools)] = tools
    which = np.full(present.shape, len(members), np.int64)
    which[present] = [row[id(act)] for act in acts]
    out: Ints = table[which]
    return out
