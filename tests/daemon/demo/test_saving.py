"""What a success costs less, and how often its interval holds where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from agentgym_daemon.demo.saving import LEAST_REQUESTS, Sums, saving


def drawn(rng: np.random.Generator, requests: int, tokens: float, success: float) -> list[Sums]:
    """Requests that three agents serve much alike: hard ones are dear and fail for all."""
    found = []
    for _ in range(requests):
        ease = rng.beta(2 * success, 2 * (1 - success))
        spent = sum(int(rng.gamma(4.0, tokens * (1.5 - ease) / 4.0)) for _ in range(3))
        found.append((spent, int(rng.binomial(3, ease))))
    return found


def cost(tokens: float, success: float) -> float:
    """Tokens per success of what is drawn, in the long run."""
    return tokens * (1.5 - success) / success


def test_equal_runs_save_exactly_what_they_cost_less() -> None:
    found = saving([(60, 1)] * 30, [(100, 1)] * 50)

    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((0.4, 0.4, 0.4))


def test_a_dearer_group_saves_less_than_nothing() -> None:
    found = saving([(150, 1)] * 30, [(100, 1)] * 30)

    assert found is not None
    assert found.value == pytest.approx(-0.5)


@pytest.mark.parametrize(
    ("now", "before"),
    [
        ([], [(100, 1)] * 30),
        ([(100, 1)] * 30, [(100, 0)] * 30),
        ([(0, 1)] * 30, [(100, 1)] * 30),
        ([(100, 1)] * (LEAST_REQUESTS - 1), [(100, 1)] * 30),
    ],
    ids=["no runs", "no success", "no tokens", "too few"],
)
def test_what_cannot_be_told_is_none(now: list[Sums], before: list[Sums]) -> None:
    assert saving(now, before) is None


@pytest.mark.parametrize(
    ("requests", "before", "after"),
    [((265, 930), (1000.0, 0.65), (700.0, 0.95)), ((60, 60), (1000.0, 0.5), (1000.0, 0.5))],
    ids=["like the demo", "few and no saving"],
)
def test_95_of_100_intervals_hold(
    requests: tuple[int, int], before: tuple[float, float], after: tuple[float, float]
) -> None:
    truth = 1.0 - cost(*after) / cost(*before)
    held, values = 0, []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        found = saving(drawn(rng, requests[0], *after), drawn(rng, requests[1], *before))
        assert found is not None
        held += found.low <= truth <= found.high
        values.append(found.value)

    assert 0.92 <= held / 400 <= 0.98
    assert np.median(values) == pytest.approx(truth, abs=0.02)
