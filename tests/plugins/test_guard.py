"""The guard: our errors end here, the host's do not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from agentgym.guard import BREAKER_ERRORS, BREAKER_WINDOW_S, Guard


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def broken() -> None:
    raise RuntimeError("ours")


def swallow_by_block(guard: Guard, function: Callable[[], None]) -> None:
    with guard("place"):
        function()


def swallow_by_call(guard: Guard, function: Callable[[], None]) -> None:
    guard.call("place", None, function)


def swallow_by_wrap(guard: Guard, function: Callable[[], None]) -> None:
    guard.wrap("place", function)()


WAYS = [swallow_by_block, swallow_by_call, swallow_by_wrap]


@pytest.mark.parametrize("way", WAYS)
def test_an_error_of_ours_is_swallowed_counted_and_said_once(
    way: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    guard = Guard()

    way(guard, broken)
    way(guard, broken)

    assert guard.errors == {"place": 2}
    assert len(caplog.records) == 1
    assert "the agent goes on" in caplog.text
    assert "RuntimeError: ours" in caplog.text


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "stop", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError]
)
def test_the_hosts_ways_of_stopping_pass_through(
    way: Callable[..., None], stop: type[BaseException]
) -> None:
    guard = Guard()

    def stopped() -> None:
        raise stop

    with pytest.raises(stop):
        way(guard, stopped)

    assert not guard.errors


def test_a_call_gives_the_result_or_the_default() -> None:
    guard = Guard()

    assert guard.call("place", 0, lambda: 7) == 7
    assert guard.call("place", 0, lambda: 1 // 0) == 0


def test_the_breaker_opens_after_five_errors_within_a_minute() -> None:
    clock = Clock()
    guard = Guard(clock=clock)

    for _ in range(BREAKER_ERRORS - 1):
        swallow_by_block(guard, broken)
        clock.now += BREAKER_WINDOW_S / BREAKER_ERRORS
    assert not guard.open
    swallow_by_block(guard, broken)

    assert guard.open
    assert guard.call("place", "default", lambda: "never called") == "default"


def test_errors_that_are_far_apart_leave_the_breaker_closed() -> None:
    clock = Clock()
    guard = Guard(clock=clock)

    for _ in range(3 * BREAKER_ERRORS):
        swallow_by_block(guard, broken)
        clock.now += BREAKER_WINDOW_S / (BREAKER_ERRORS - 2)

    assert not guard.open


def test_a_strict_guard_raises_for_our_own_tests() -> None:
    with pytest.raises(RuntimeError, match="ours"):
        swallow_by_block(Guard(strict=True), broken)
    with pytest.raises(ValueError, match="user's"):
        Guard(strict=True).refuse("reward", ValueError("user's"))


def test_mistakes_of_the_user_never_open_the_breaker(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard()

    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            guard.refuse("reward", ValueError("expected a reward between 0 and 1"))

    assert not guard.open
    assert guard.errors == {"reward.ValueError": 50}
    assert len(caplog.records) == 1


def test_a_child_gets_a_lock_of_its_own() -> None:
    guard = Guard()
    guard._lock.acquire()

    guard.after_fork_in_child()

    swallow_by_block(guard, broken)
    assert guard.errors == {"place": 1}
