"""No source takes over a training, and cost takes from successes alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgym_daemon.store.caps import LEAST_OTHERS, Caps, factors
from agentgym_daemon.store.costs import MOST, Spent, penalty


def trained(masses: dict[str, float], caps: Caps) -> dict[str, float]:
    """The shares of the training weight."""
    factor = factors(masses, caps)
    weights = {source: mass * factor[source] for source, mass in masses.items()}
    return {source: weight / sum(weights.values()) for source, weight in weights.items()}


def test_a_flood_among_twenty_sources_gets_a_tenth() -> None:
    masses = {**{f"s{number}": 10.0 for number in range(19)}, "flood": 1000.0}

    shares = trained(masses, Caps())

    assert shares["flood"] == pytest.approx(0.1)
    assert factors(masses, Caps())["s0"] == 1.0


def test_a_sole_source_and_one_with_nobody_to_fall_back_on_are_not_capped() -> None:
    assert factors({"qa": 1000.0}, Caps()) == {"qa": 1.0}
    assert factors({"qa": 1000.0, "cli": LEAST_OTHERS - 1}, Caps())["qa"] == 1.0


def test_few_sources_share_alike_at_worst() -> None:
    shares = trained({"a": 1000.0, "b": 100.0, "c": 100.0}, Caps())

    assert shares["a"] == pytest.approx(1 / 3)


def test_the_main_source_is_not_capped_and_the_others_are() -> None:
    shares = trained({"user": 900.0, "flood": 9000.0, "qa": 10.0}, Caps(each=0.1))
    strict = trained({"user": 900.0, "qa": 100.0, "b": 100.0}, Caps(own={"user": 0.5}))

    assert shares["flood"] == pytest.approx(1 / 3)
    assert strict["user"] == pytest.approx(0.5)


def test_caps_that_leave_room_for_too_little_are_meant_in_proportion() -> None:
    shares = trained({"a": 1000.0, "b": 100.0}, Caps(own={"a": 0.1, "b": 0.3}))

    assert shares == {"a": pytest.approx(0.25), "b": pytest.approx(0.75)}


@given(
    masses=st.dictionaries(
        st.text(min_size=1, max_size=3), st.floats(0.1, 1e6), min_size=2, max_size=30
    ),
    cap=st.floats(0.01, 1.0),
)
def test_every_factor_is_a_share_and_every_cap_holds(masses: dict[str, float], cap: float) -> None:
    factor, shares = factors(masses, Caps(cap, {})), trained(masses, Caps(cap, {}))

    assert all(0.0 < value <= 1.0 + 1e-9 for value in factor.values())
    total = sum(masses.values())
    for source, mass in masses.items():
        if total - mass >= LEAST_OTHERS:
            assert shares[source] <= max(cap, 1 / len(masses)) + 1e-6


def test_cost_is_a_weighted_sum_that_takes_half_at_most() -> None:
    spent = Spent(tokens=2000, seconds=3.0, calls=4)

    assert penalty(spent, {}) == 0.0
    assert penalty(spent, {"tokens_per_1k": 0.01, "second": 0.02, "call": 0.005}) == pytest.approx(
        0.02 + 0.06 + 0.02
    )
    assert penalty(spent, {"call": 10.0}) == MOST
    assert penalty(Spent(0, -5.0, 0), {"second": 1.0}) == 0.0
