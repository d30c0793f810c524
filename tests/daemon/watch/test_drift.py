from __future__ import annotations

import numpy as np
import pytest

from agentgym.proto.v1 import decision_pb2
from agentgym_daemon.store.record import Content, Run
from agentgym_daemon.watch.drift import (
    EARLIER,
    EARLIER_CONTROL,
    RECENT,
    RECENT_CONTROL,
    drifts,
    shift,
)

TOPICS = 12


def content(no: int, topic: int, tool: str, *, control: bool, embedded: bool) -> Content:
    features = decision_pb2.TaskFeatures(index=[3 * topic, 3 * topic + 1], quantised=b"\xff\x80")
    if embedded:
        vector = np.random.default_rng([no, topic]).integers(-20, 20, 16)
        vector[topic] += 100
        features.embedding = vector.astype(np.int8).tobytes()
        features.embedding_scale = 1.0
    return Content(no, control, features, (tool,))


def history(
    *, moved: bool = False, embedded: bool = True, swapped: bool = False, paid: float = 0.7
) -> tuple[list[Content], list[Run]]:
    """Runs about six topics; later ones may be about others, call other tools, be paid less."""
    rng = np.random.default_rng(5)
    total = EARLIER + RECENT
    contents, runs = [], []
    for no in range(10 * total):
        late = no >= 10 * total - RECENT
        control = no % 10 == 0
        # The control group is a tenth, so its latest runs go further back.
        late_control = no >= 10 * total - 10 * RECENT_CONTROL
        topic = int(rng.integers(0, TOPICS // 2)) + (TOPICS // 2 if moved and late else 0)
        tool = f"tool_{(topic + 1 if swapped and late_control else topic) % 6}"
        contents.append(content(no, topic, tool, control=control, embedded=embedded))
        rate = paid if late_control else 0.7
        runs.append(Run(no, no, control, bool(rng.random() < rate), "p-000001"))
    assert sum(c.control for c in contents) >= RECENT_CONTROL + EARLIER_CONTROL
    return contents, runs


@pytest.mark.parametrize("embedded", [True, False])
def test_the_same_traffic_is_no_drift(embedded: bool) -> None:
    found = drifts(*history(embedded=embedded))

    assert set(found) == {"inputs", "tools", "rewards"}
    assert not [name for name, one in found.items() if one.alarming]


@pytest.mark.parametrize("embedded", [True, False])
def test_other_questions_are_a_drift_of_inputs(embedded: bool) -> None:
    found = drifts(*history(moved=True, embedded=embedded))

    assert [name for name, one in found.items() if one.alarming] == ["inputs"]


def test_other_tools_for_a_part_of_the_questions_change_the_mix() -> None:
    contents, runs = history()
    late = len(contents) - 10 * RECENT_CONTROL
    changed = [
        Content(c.no, c.control, c.features, ("tool_0",))
        if i >= late and c.called in (("tool_1",), ("tool_2",), ("tool_3",))
        else c
        for i, c in enumerate(contents)
    ]

    found = drifts(changed, runs)

    assert [name for name, one in found.items() if one.alarming] == ["tools"]


def test_other_rewards_of_the_control_group_are_a_drift() -> None:
    found = drifts(*history(paid=0.2))

    assert [name for name, one in found.items() if one.alarming] == ["rewards"]


def test_few_runs_say_nothing() -> None:
    contents, runs = history()

    assert drifts(contents[:200], runs[:200]) == {}


def test_values_that_are_all_alike_have_not_moved() -> None:
    one = shift(np.ones((50, 3)), np.ones((20, 3)))

    assert (one.z, one.effect, one.alarming) == (0.0, 0.0, False)
