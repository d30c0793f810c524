from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from agentgym_daemon.watch.fall import ENOUGH, LEAST_REFERENCE, watched


def record(seed: int, *parts: tuple[int, float]) -> list[bool]:
    """Runs one after the other: so many with this success rate."""
    rng = np.random.default_rng(seed)
    return [bool(rng.random() < rate) for runs, rate in parts for _ in range(runs)]


def delays(parts: Sequence[tuple[int, float]], seeds: int = 40) -> list[float]:
    """Runs after the first part until its end was seen; inf if it never was."""
    found = [watched(record(seed, *parts)).fall for seed in range(seeds)]
    return [fall.at + 1 - parts[0][0] if fall else math.inf for fall in found]


@pytest.mark.parametrize(("before", "by", "within"), [(0.85, 0.2, 200), (0.85, 0.1, 800)])
def test_a_fall_is_found_in_time(before: float, by: float, within: int) -> None:
    found = delays([(1_200, before), (within, before - by)])

    assert sum(0 < delay <= within for delay in found) >= 0.9 * len(found)


def test_a_fall_says_when_it_began_and_how_far_it_went() -> None:
    fall = watched(record(1, (1_000, 0.9), (200, 0.5))).fall

    assert fall is not None
    assert 950 <= fall.since <= 1_020
    assert fall.before[1] <= fall.since
    assert fall.reference == pytest.approx(0.9, abs=0.03)
    assert fall.rate < 0.7
    assert fall.points == pytest.approx(fall.reference - fall.rate)


@pytest.mark.parametrize("rate", [0.6, 0.9, 1.0])
def test_without_a_fall_none_is_found(rate: float) -> None:
    falls = [watched(record(seed, (3_000, rate))).fall for seed in range(10)]

    assert sum(fall is not None for fall in falls) <= 1


def test_an_improving_policy_has_no_fall() -> None:
    runs = record(2, (300, 0.6), (300, 0.75), (300, 0.85), (600, 0.95))

    assert watched(runs).fall is None


def test_too_short_a_record_says_nothing() -> None:
    found = watched([True] * LEAST_REFERENCE + [False] * 20)

    assert found.fall is None
    assert math.isnan(found.reference)
    assert found.evidence == 1.0


def test_what_is_known_already_is_not_found_again() -> None:
    runs = record(3, (800, 0.9), (150, 0.4))

    assert watched(runs).fall is not None
    again = watched([*runs, *record(4, (40, 0.9))], known=len(runs))
    assert again.fall is None
    assert 1.0 <= again.evidence < ENOUGH
