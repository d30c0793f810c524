"""The buffer: produced = acked + pending + dropped, whole oldest trajectories go first."""

from __future__ import annotations

import threading
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agentgym.buffer import Buffer, kind_of, size_of
from agentgym.items import Item, RewardItem, SpanItem, TaskItem

KINDS = ("spans", "decisions", "features", "rewards")


def span(trajectory: int, size: int = 0) -> SpanItem:
    return SpanItem(
        trajectory_id=trajectory.to_bytes(16, "big"),
        span_id=b"12345678",
        parent_id=b"",
        name="chat",
        start_ns=1,
        end_ns=2,
        attributes={"text": "x" * size, "number": 1},
        error="",
    )


def reward(trajectory_id: bytes = b"", key: str = "") -> RewardItem:
    return RewardItem(trajectory_id, key, "agent", 1.0, "", "", "", "", 1)


def balance(counters: dict[str, int]) -> Counter[str]:
    """produced - acked - pending - dropped per kind; all zero if the law holds."""
    total: Counter[str] = Counter()
    for name, n in counters.items():
        what, kind = name.split(".")[:2]
        total[kind] += n if what == "produced" else -n
    return total


def test_above_the_limit_the_oldest_trajectory_goes_whole_and_is_counted_exactly() -> None:
    buffer = Buffer(10 * size_of(span(0)))
    for _ in range(3):
        for trajectory in range(3):
            buffer.put(span(trajectory))
    buffer.put(span(3))
    buffer.put(span(3))

    assert buffer.report() == {
        "produced.spans": 11,
        "dropped.spans.buffer_full": 3,
        "pending.spans": 8,
    }
    assert {item.trajectory_id[-1] for item in buffer.take(100)} == {1, 2, 3}


def test_the_rest_of_a_dropped_trajectory_is_dropped_too() -> None:
    buffer = Buffer(2 * size_of(span(0)))
    for trajectory in (0, 1, 2):
        buffer.put(span(trajectory))

    buffer.put(span(0))
    buffer.put(reward(span(0).trajectory_id))

    assert buffer.report()["dropped.spans.buffer_full"] == 2
    assert buffer.report()["dropped.rewards.buffer_full"] == 1


def test_an_item_above_the_limit_drops_its_own_trajectory() -> None:
    buffer = Buffer(5_000)

    buffer.put(span(0, size=10_000))

    assert buffer.report() == {"produced.spans": 1, "dropped.spans.buffer_full": 1}
    assert buffer.bytes == 0


def test_remembered_drops_are_bounded() -> None:
    buffer = Buffer(1)
    for trajectory in range(10_010):
        buffer.put(span(trajectory))

    assert len(buffer._dropped) == 10_000


def test_a_reward_by_key_comes_after_the_trajectories_it_may_mean() -> None:
    buffer = Buffer(2**20)
    buffer.put(reward(key="a"))
    buffer.put(span(1))
    buffer.put(reward(key="b"))

    assert [kind_of(item) for item in buffer.take(10)] == ["spans", "rewards", "rewards"]


def test_taking_goes_by_whole_trajectories_and_leaves_the_rest_waiting() -> None:
    buffer = Buffer(2**20)
    for trajectory in (0, 1, 0, 1):
        buffer.put(span(trajectory))

    first = buffer.take(1)

    assert [item.trajectory_id[-1] for item in first] == [0, 0]
    assert buffer.wake.is_set()
    buffer.take(1)
    assert not buffer.wake.is_set()
    assert buffer.report()["pending.spans"] == 4


def test_waiting_ends_when_everything_was_counted() -> None:
    buffer = Buffer(2**20)
    assert buffer.wait_settled(0.0)
    buffer.put(span(0))
    assert not buffer.wait_settled(0.0)

    [item] = buffer.take(1)
    assert not buffer.wait_settled(0.0)
    threading.Thread(target=buffer.count, args=("acked", item)).start()

    assert buffer.wait_settled(10.0)


def test_a_closed_buffer_takes_nothing_and_says_so() -> None:
    buffer = Buffer(2**20)
    buffer.put(span(0))

    buffer.close("closed")
    buffer.put(span(1))

    assert buffer.report() == {"produced.spans": 2, "dropped.spans.closed": 2}


def test_a_forked_child_starts_from_nothing() -> None:
    buffer = Buffer(2**20)
    buffer.put(span(0))
    buffer._settled.acquire()

    buffer.reset_after_fork("")

    assert buffer.report() == {}
    buffer.put(span(1))
    assert len(buffer.take(10)) == 1
    buffer.reset_after_fork("forked")
    buffer.put(span(2))
    assert buffer.report() == {"produced.spans": 1, "dropped.spans.forked": 1}


class Conservation(RuleBasedStateMachine):
    """Any order of putting, taking, acking, dropping and closing."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = Buffer(8 * size_of(span(0)))
        self.taken: list[Item] = []

    @rule(trajectory=st.integers(0, 6), size=st.integers(0, 900))
    def put_span(self, trajectory: int, size: int) -> None:
        self.buffer.put(span(trajectory, size))

    @rule(trajectory=st.integers(0, 6))
    def put_task(self, trajectory: int) -> None:
        self.buffer.put(TaskItem(trajectory.to_bytes(16, "big"), b"1" * 8, "text", None))

    @rule()
    def put_reward(self) -> None:
        self.buffer.put(reward(key="k"))

    @rule(limit=st.integers(1, 5))
    def take(self, limit: int) -> None:
        self.taken += self.buffer.take(limit)

    @rule(ack=st.booleans())
    def settle(self, ack: bool) -> None:
        if self.taken:
            self.buffer.count("acked" if ack else "dropped", self.taken.pop(), "" if ack else "x")

    @invariant()
    def everything_is_somewhere(self) -> None:
        report = self.buffer.report()
        assert not any(balance(report).values())
        assert all(n >= 0 for n in report.values())
        waiting = sum(n for name, n in report.items() if name.startswith("pending."))
        held = sum(len(group) for group in self.buffer._groups.values())
        assert waiting == held + len(self.taken)
        assert 0 <= self.buffer.bytes <= self.buffer.limit_bytes


TestConservation = Conservation.TestCase
TestConservation.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
