"""Steps as arrays: what is the same task stays one, what differs anywhere does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agentgym.policy.evaluate import Catalogue
from agentgym.policy.features import Embedding, Featuriser, TextHasher, TextVector
from agentgym.trajectory import PastCall, Tool
from agentgym_daemon.learning.arrays import Ragged, step_arrays, task_arrays
from agentgym_daemon.learning.dataset import Step, Trajectory

TOOLS = (Tool("find", "Finds."), Tool("pay", "Pays."), Tool("ask"))


def encode(text: str) -> np.ndarray:
    return np.array([len(text), 1.0, -2.0], np.float32)


FEATURES = Featuriser(TextHasher(b"key"), encode, schema=7, dim=3)
UNIVERSE = Catalogue(TOOLS, FEATURES)
TASK = FEATURES("pay order 1")


def step(x: TextVector, **more: object) -> Step:
    plain = Step(
        x=x,
        offered=(0, 1, 2),
        allowed=(True, True, False),
        history=(),
        called=(),
        failed=(),
        responded=True,
        alone=True,
        gradient=None,
    )
    return replace(plain, **more)  # type: ignore[arg-type]


def embedded(quantised: list[int], scale: float = 1.0) -> TextVector:
    return replace(TASK, embedding=Embedding(np.array(quantised, np.int8), scale))


def test_equal_tasks_are_held_once() -> None:
    same = FEATURES("pay order 2")  # n-grams read every digit as 0, and the lengths are equal
    other = FEATURES("find it")
    runs = [
        Trajectory(b"1", 1.0, (step(TASK), step(other), step(same)), 0),
        Trajectory(b"2", 1.0, (step(other),), 0),
    ]

    arrays, tasks, steps = step_arrays(runs, UNIVERSE)

    assert arrays.task.tolist() == [0, 1, 0, 1]
    assert arrays.trajectory.tolist() == [0, 0, 0, 1]
    assert tasks.embedding.shape == (2, 3)
    assert [s.x for s in steps] == [TASK, other, same, other]


@pytest.mark.parametrize(
    "other",
    [
        embedded([1, 2, 4]),
        embedded([1, 2, 3], 0.5),
        replace(TASK, embedding=None),
        replace(embedded([1, 2, 3]), scale=TASK.scale / 2),
    ],
    ids=["direction", "length", "none", "n-grams"],
)
def test_tasks_that_differ_anywhere_stay_two(other: TextVector) -> None:
    """Two texts with the same words may still mean something else."""
    one = embedded([1, 2, 3])
    run = Trajectory(b"1", 1.0, (step(one), step(other)), 0)

    arrays, tasks, _ = step_arrays([run], UNIVERSE)

    assert arrays.task.tolist() == [0, 1]
    wanted = np.zeros(3) if other.embedding is None else other.embedding.values()
    assert np.array_equal(tasks.embedding[1], wanted)


def test_tools_and_tasks_have_their_numbers_in_both_spaces() -> None:
    arrays = task_arrays([TASK, FEATURES("")], UNIVERSE)

    assert arrays.rows.start.tolist() == [0, len(TASK.index), len(TASK.index)]
    assert np.array_equal(arrays.value, TASK.values())
    assert np.array_equal(arrays.tool_grams, UNIVERSE.grams())
    assert np.array_equal(arrays.tool_embedding, UNIVERSE.embeddings(3))
    assert arrays.embedding.shape == (2, 3)


def test_without_an_encoder_there_are_no_embeddings() -> None:
    grams = Featuriser(TextHasher(b"key"))

    arrays = task_arrays([grams("pay")], Catalogue(TOOLS, grams))

    assert arrays.embedding.shape == (1, 0)
    assert arrays.tool_embedding.shape == (0, 3)


def test_history_mask_and_what_was_left_out_have_their_columns() -> None:
    history = (PastCall(TOOLS[0].fingerprint, error=True), PastCall(b"unknown!", error=False))
    run = Trajectory(
        b"1", 1.0, (step(TASK, history=history, called=(1,), failed=(1,), down=(0, 2)),), 0
    )

    arrays, _, _ = step_arrays([run], UNIVERSE)

    assert arrays.down.tolist() == [[True, False, True, False]]
    assert arrays.allowed.tolist() == [[True, True, False]]
    assert arrays.repeat_error.tolist() == [[1.0, 0.0, 0.0, 0.0]]
    assert arrays.repeat_ok.tolist() == [[0.0] * 4]
    assert arrays.last.tolist() == [3]
    assert arrays.action.tolist() == arrays.failed.tolist() == [[0.0, 1.0, 0.0, 0.0]]
    assert (arrays.stage.tolist(), arrays.first.tolist()) == ([1], [0.0])
    assert arrays.wrong.tolist() == [True]


def test_rows_of_different_lengths_are_taken_in_order() -> None:
    ragged = Ragged(np.array([0, 2, 2, 5]))

    entries, offset = ragged.take(np.array([2, 1, 0]))

    assert entries.tolist() == [2, 3, 4, 0, 1]
    assert offset.tolist() == [0, 3, 3, 5]
