"""Clocks are set by hand, by NTP and by sleeping machines; order and ages must survive that."""

from __future__ import annotations

import pytest

from agentgym_daemon.clock import ManualClock, SteadyClock, Timeline

SECOND = 10**9


def test_a_steady_clock_follows_the_clock_while_it_runs() -> None:
    clock = ManualClock()
    steady = SteadyClock(clock)

    for seconds in (0, 1, 5000):
        clock.advance(seconds)
        assert steady.now_ns() == clock.now_ns()
    assert steady.monotonic() == clock.monotonic()


def test_a_steady_clock_goes_on_slowly_after_a_step_back_until_it_is_met() -> None:
    clock = ManualClock()
    steady = SteadyClock(clock)
    before = steady.now_ns()

    clock.step(-3600)
    shown = []
    for _ in range(4):
        clock.advance(1800)
        shown.append(steady.now_ns() - before)

    assert shown == [900 * SECOND, 1800 * SECOND, 2700 * SECOND, 3600 * SECOND]
    clock.advance(10)
    assert steady.now_ns() == clock.now_ns()


def test_a_steady_clock_never_shows_less_than_an_earlier_run_wrote_down() -> None:
    clock = ManualClock()
    steady = SteadyClock(clock)
    written = clock.now_ns() + 3600 * SECOND

    steady.not_before(written)

    assert steady.now_ns() >= written


@pytest.mark.parametrize("step", [7200, -7200])
def test_a_timeline_knows_what_was_shown_before_and_behind_a_step(step: int) -> None:
    clock = ManualClock()
    timeline = Timeline(clock)
    clock.advance(100)
    timeline.look()
    before = clock.now_ns()
    clock.step(step)
    timeline.look()
    clock.advance(50)

    assert timeline.ago(0) == clock.now_ns()
    assert timeline.ago(20) == clock.now_ns() - 20 * SECOND
    assert timeline.ago(60) == before - 10 * SECOND
    assert timeline.ago(1000) == before - 950 * SECOND
