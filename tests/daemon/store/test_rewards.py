"""Rewards as they are given, repeated, taken back and aggregated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgym import semconv
from agentgym.proto.v1 import log_pb2
from agentgym_daemon.store import rewards
from agentgym_daemon.store.aggregate import Rules, effective_reward, judge
from agentgym_daemon.store.counters import counters
from agentgym_daemon.store.trajectories import summary


@dataclass
class Given:
    """A reward as aggregation sees it."""

    value: float
    no: int = 0
    source: str = "user"
    name: str = "outcome"
    time_ns: int = 0
    revoked: bool = False


def reward_of(bench: Any, trajectory_id: bytes) -> float | None:
    with bench.store.reading() as cursor:
        found = summary(cursor, trajectory_id)
    assert found is not None
    return found.reward


@pytest.mark.parametrize(
    ("aggregation", "expected"), [("last", 0.5), ("mean", 0.5), ("median", 0.5), ("min", 0.25)]
)
def test_rewards_aggregate_by_the_setting(aggregation: Any, expected: float) -> None:
    given_rewards = [
        Given(0.5, no=3, time_ns=9, source="a"),
        Given(0.25, no=4, time_ns=1, source="b"),
        Given(0.75, no=5, time_ns=2, source="c"),
    ]

    assert effective_reward(given_rewards, Rules(aggregation)) == expected


def test_a_later_reward_replaces_one_of_the_same_source_and_name() -> None:
    repeated = [Given(0.0, no=number, time_ns=number) for number in range(100)]
    rewards_given = [*repeated, Given(1.0, no=100, time_ns=100), Given(0.0, no=101, source="b")]

    assert effective_reward(rewards_given, Rules("mean")) == 0.5
    assert effective_reward(rewards_given[:-1], Rules("min")) == 1.0


def test_weights_of_sources_enter_mean_and_median_and_0_never_counts() -> None:
    rewards_given = [
        Given(1.0, no=1, source="a"),
        Given(0.0, no=2, source="b"),
        Given(0.25, no=3, source="c"),
    ]

    assert effective_reward(rewards_given, Rules("mean", {"a": 2, "b": 1, "c": 1})) == 0.5625
    assert effective_reward(rewards_given, Rules("median", {"a": 3})) == 1.0
    assert effective_reward(rewards_given, Rules("median", {"a": 2})) == 0.625
    for aggregation in ("last", "mean", "median", "min"):
        weights = {"b": 0.0, "c": 0.0}
        assert effective_reward(rewards_given, Rules(aggregation, weights)) == 1.0  # type: ignore[arg-type]
        assert effective_reward(rewards_given[1:], Rules(aggregation, weights)) is None  # type: ignore[arg-type]


def test_a_source_has_its_weight_once_however_many_names_it_uses() -> None:
    many = [Given(0.0, no=number, source="a", name=f"n{number}") for number in range(9)]
    rewards_given = [*many, Given(1.0, no=9, source="b")]

    assert effective_reward(rewards_given, Rules("mean")) == 0.5
    assert effective_reward(rewards_given, Rules("median")) == 0.5


def test_a_verdict_names_the_rewards_that_decided_it() -> None:
    rewards_given = [
        Given(0.0, no=1, time_ns=1, source="a"),
        Given(1.0, no=2, time_ns=3, source="b"),
        Given(1.0, no=3, time_ns=2, source="c"),
    ]

    assert judge(rewards_given, Rules("last")).shares == {2: 1.0}
    assert judge(rewards_given, Rules("min")).shares == {1: 1.0}
    assert judge(rewards_given, Rules("median")).shares == {2: 0.5, 3: 0.5}
    assert judge(rewards_given, Rules("mean", {"a": 2.0})).shares == {1: 0.5, 2: 0.25, 3: 0.25}


def test_a_default_reward_counts_only_where_nobody_judged() -> None:
    default = Given(0.0, source="default", time_ns=9)

    assert effective_reward([default], Rules("last")) == 0.0
    assert effective_reward([default, Given(1.0)], Rules("last")) == 1.0
    assert effective_reward([default, Given(1.0, revoked=True)], Rules("min")) == 0.0
    assert effective_reward([], Rules("mean")) is None


@given(
    values=st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abc")), min_size=1),
    weights=st.dictionaries(st.sampled_from("abc"), st.floats(0.01, 100)),
    order=st.randoms(use_true_random=False),
)
def test_a_verdict_is_in_bounds_whoever_comes_first(values: Any, weights: Any, order: Any) -> None:
    in_order = [Given(v, no=n, source=source) for n, (v, source) in enumerate(values)]
    shuffled = order.sample(in_order, len(in_order))

    for aggregation in ("last", "mean", "median", "min"):
        rules = Rules(aggregation, weights)  # type: ignore[arg-type]
        verdict = judge(in_order, rules)
        assert verdict == judge(shuffled, rules)
        assert verdict.value is not None
        assert 0.0 <= verdict.value <= 1.0
        assert math.isclose(sum(verdict.shares.values()), 1.0)


def test_a_repeated_idempotency_key_changes_nothing(records: Any, bench: Any) -> None:
    bench.apply(*records.episode(1), records.reward(1, 1.0, reward_id="a"))
    batch = bench.apply(records.reward(1, 0.0, reward_id="b", idempotency_key="key-a"))

    assert reward_of(bench, records.trace(1)) == 1.0
    assert batch.rewarded == ()
    with bench.store.reading() as cursor:
        (found,) = rewards.rewards_by_idempotency_key(cursor, "key-a")
    assert (found.trajectory_id, found.reward_id) == (records.trace(1), "a")


def test_one_reward_may_go_to_several_trajectories_and_is_revoked_everywhere(
    records: Any, bench: Any
) -> None:
    bench.apply(*records.episode(1), *records.episode(2))
    batch = bench.apply(
        records.reward(1, 1.0, reward_id="a"), records.reward(2, 1.0, reward_id="a")
    )
    assert set(batch.rewarded) == {records.trace(1), records.trace(2)}
    bench.writer.reset()
    bench.apply(records.revocation("a", reason="wrong ticket"))

    assert reward_of(bench, records.trace(1)) is None
    assert reward_of(bench, records.trace(2)) is None
    with bench.store.reading() as cursor:
        found = rewards.rewards_by_id(cursor, "a")
    assert [(r.revoked, r.reason) for r in found] == [(True, "wrong ticket")] * 2


def test_a_reward_can_be_revoked_in_the_batch_that_gave_it(records: Any, bench: Any) -> None:
    bench.apply(
        *records.episode(1, reward=1.0),
        records.revocation("r1"),
        records.revocation("r1"),
        records.revocation("unknown"),
    )

    assert reward_of(bench, records.trace(1)) is None
    with bench.store.reading() as cursor:
        found = counters(cursor)
    assert (found["revocations"], found["revocations_unknown"]) == (1, 2)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.1])
def test_an_impossible_reward_in_the_log_is_counted_not_stored(
    records: Any, bench: Any, value: float
) -> None:
    batch = bench.apply(*records.episode(1), records.reward(1, value, reward_id="a"))

    assert batch.rejected == 1
    assert reward_of(bench, records.trace(1)) is None


def test_a_reward_without_key_or_time_gets_both(records: Any, bench: Any) -> None:
    bench.apply(
        *records.episode(1),
        records.reward(1, 1.0, reward_id="a", at=3, idempotency_key="", time_unix_nano=0),
    )

    with bench.store.reading() as cursor:
        (found,) = rewards.rewards_by_id(cursor, "a")
    assert (found.idempotency_key, found.time_ns % 10**12) == ("a", 3 * 10**9)


def test_evaluation_events_are_rewards(records: Any, bench: Any) -> None:
    span = {"trace": 1, "span_id": 1, "scores": [0.25, 3.0]}
    batch = bench.apply(records.spans(span))
    bench.apply(records.spans(span))

    assert batch.rejected == 1
    assert reward_of(bench, records.trace(1)) == 0.25
    with bench.store.reading() as cursor:
        stored = summary(cursor, records.trace(1))
        assert stored is not None
        (found,) = rewards.rewards_of(cursor, stored.no, trajectory_id=stored.trajectory_id)
    assert (found.source, found.name) == ("evaluation", "evaluation")


def test_a_key_leads_to_its_trajectories_newest_first(records: Any, bench: Any) -> None:
    key = {semconv.TRAJECTORY_KEY: "ticket"}
    bench.apply(
        records.spans(
            records.ours(1, 1, "chat", start=1.0, attributes=key),
            records.ours(2, 1, "chat", start=2.0, attributes=key),
            records.ours(3, 1, "chat", start=3.0, attributes={**key, semconv.AGENT: "other"}),
        ),
        records.reward(1, 1.0, reward_id="a"),
        records.reward(2, 1.0, reward_id="b", source="default"),
    )

    with bench.store.reading() as cursor:
        found = rewards.candidates(cursor, key="ticket", agent="desk")
        everywhere = rewards.candidates(cursor, key="ticket")
        by_id = rewards.candidate(cursor, records.trace(3))
        unknown = rewards.candidate(cursor, records.trace(4))
    assert [(c.trajectory_id[-1], c.rewarded) for c in found] == [(2, False), (1, True)]
    assert [c.trajectory_id[-1] for c in everywhere] == [3, 2, 1]
    assert by_id == everywhere[0]
    assert unknown is None


def test_a_reward_names_no_trajectory(records: Any, bench: Any) -> None:
    fact = log_pb2.RewardFact(reward_id="a")

    assert bench.apply(records.record(reward=fact)).rejected == 1
