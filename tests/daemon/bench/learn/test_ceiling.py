"""The classifier with labels: that it learns what its form can say, and how it is judged."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agentgym.trajectory import Tool
from agentgym_daemon.bench.learn import oracle
from agentgym_daemon.bench.learn.ceiling import GRAMS, Oracle, Texts, reliability


def texts(embedding: Any) -> Texts:
    rows = np.asarray(embedding, np.float32)
    return Texts(rows, np.zeros((len(rows), GRAMS), np.float32))


@pytest.mark.parametrize("several", [False, True])
def test_labels_teach_it_tools_whose_text_says_nothing(several: bool) -> None:
    rng = np.random.default_rng(0)
    kinds = np.eye(4)
    kind = rng.integers(4, size=80)
    tasks = texts(kinds[kind] + rng.normal(0, 0.05, (80, 4)))
    tools = texts(np.full((4, 4), 0.5))  # all read the same
    right = kinds[kind].astype(np.float32)
    gold = [frozenset({int(k)}) for k in kind]
    classifier = Oracle(tools, several=several)

    before = reliability(classifier.scores(tasks), gold)["call"]
    classifier.fit(tasks, right, seed=0)

    assert before < 0.5
    assert reliability(classifier.scores(tasks), gold)["call"] > 0.95


def test_the_same_seed_gives_the_same_classifier() -> None:
    rng = np.random.default_rng(0)
    tasks, tools = texts(rng.normal(size=(50, 3))), texts(np.eye(3))
    right = np.eye(3, dtype=np.float32)[rng.integers(3, size=50)]
    pair = Oracle(tools), Oracle(tools)
    for classifier in pair:
        classifier.fit(tasks, right, seed=1)

    assert np.array_equal(*(classifier.scores(tasks) for classifier in pair))


def test_a_task_gets_as_many_tools_as_it_needs() -> None:
    scores = np.array([[3.0, 2.0, 1.0, 0.0], [3.0, 2.0, 1.0, 0.0]], np.float32)
    gold = [frozenset({0, 1}), frozenset({0, 3})]

    assert reliability(scores, gold) == {"call": 3 / 4, "task": 1 / 2}


def test_a_set_is_measured_on_the_referees_own_split_without_an_encoder() -> None:
    words = ("refund", "parcel", "invoice")
    asked = [f"my {word} number {i}" for word in words for i in range(12)]
    gold = tuple(frozenset({i // 12}) for i in range(36))
    tools = tuple(Tool(f"tool_{name}", "") for name in "abc")  # their names say nothing
    data = SimpleNamespace(texts=asked, tools=tools, gold=gold, multi=False)
    held = [3, 15, 27]
    stream = [i for i in range(36) if i not in held]
    arena = SimpleNamespace(data=data, _gold=(gold, ()), _stream=stream * 2, _test=held)

    found = oracle.measure(arena, seed=0, encodes=False)

    assert found["call"] == 1.0
    assert found["labels"] == 33  # each task once
