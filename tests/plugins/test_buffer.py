"""The inbox: an append per item, counted when it is drained, shed whole trajectories at a time."""

from __future__ import annotations

from agentgym.buffer import Inbox, size_of
from agentgym.items import RewardItem, SpanItem
from agentgym.ledger import Ledger


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


def reward() -> RewardItem:
    return RewardItem(b"", "key", "agent", 1.0, "", "", "", "", 1)


def test_what_nobody_has_taken_over_yet_is_in_the_report() -> None:
    inbox = Inbox(2**20, Ledger())
    inbox.put(span(1))
    inbox.put(span(2))
    inbox.put(reward())

    assert inbox.report() == {
        "produced.spans": 2,
        "pending.spans": 2,
        "produced.rewards": 1,
        "pending.rewards": 1,
    }
    before = inbox.report()
    assert inbox.drain(2) == [span(1), span(2)]
    assert inbox.report() == before
    assert len(inbox) == 1


def test_above_its_limit_it_sheds_whole_oldest_trajectories() -> None:
    inbox = Inbox(300 * size_of(span(0)), Ledger())
    shed: set[bytes] = set()
    inbox.on_shed = shed.update
    for i in range(1100):
        inbox.put(span(i // 10))

    report = inbox.report()

    assert report["produced.spans"] == 1100
    assert report["dropped.spans.buffer_full"] + report["pending.spans"] == 1100
    left = {item.trajectory_id for item in inbox.drain()}
    assert left.isdisjoint(shed)
    assert {int.from_bytes(i, "big") for i in shed} == set(range(len(shed)))


def test_a_closed_inbox_takes_nothing_and_says_so() -> None:
    inbox = Inbox(2**20, Ledger())
    inbox.put(span(0))

    inbox.close("closed")
    inbox.put(span(1))

    assert inbox.report() == {"produced.spans": 2, "dropped.spans.closed": 2}
