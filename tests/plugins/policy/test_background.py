"""Work off the caller's thread: waited for a set time, found later, never in the way."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentgym.policy.background import Background


class Work:
    """Counts its calls, and waits until it is let go."""

    def __init__(self, result: str = "done", *, held: bool = False) -> None:
        self.result, self.calls = result, 0
        self.go = threading.Event()
        if not held:
            self.go.set()

    def __call__(self) -> str:
        self.calls += 1
        assert self.go.wait(20)
        return self.result


def test_work_is_done_once_and_off_the_callers_thread() -> None:
    background: Background[threading.Thread] = Background(4)

    first = background("key", threading.current_thread)

    assert background("key", threading.current_thread) is first
    assert first is not threading.current_thread()
    assert first is not None
    assert first.daemon  # the host's exit does not wait for it


def test_what_takes_too_long_is_found_later() -> None:
    background: Background[str] = Background(4)
    slow = Work(held=True)

    began = time.monotonic()
    assert background("key", slow, 0.02) is None
    assert background("key", slow, 0.0) is None
    assert time.monotonic() - began < 5

    slow.go.set()
    assert background("key", slow) == "done"
    assert background("key", slow, 0.0) == "done"
    assert slow.calls == 1


def test_many_callers_wait_for_one_work() -> None:
    background: Background[str] = Background(4)
    slow = Work(held=True)
    with ThreadPoolExecutor(4) as callers:
        waiting = [callers.submit(background, "key", slow) for _ in range(4)]
        slow.go.set()

        assert [w.result(20) for w in waiting] == ["done"] * 4
    assert slow.calls == 1


@pytest.mark.parametrize("error", [ValueError("no"), TimeoutError("of its own"), SystemExit(3)])
def test_a_failure_is_told_and_tried_again(error: BaseException) -> None:
    background: Background[str] = Background(4)

    def fail() -> str:
        raise error

    for _ in range(2):
        with pytest.raises(type(error)):
            background("key", fail, 20.0)

    assert background("key", Work()) == "done"


def test_a_failure_after_the_time_is_told_to_the_next_caller() -> None:
    background: Background[str] = Background(4)
    go = threading.Event()

    def fail_late() -> str:
        assert go.wait(20)
        raise ValueError("late")

    assert background("key", fail_late, 0.0) is None
    go.set()
    with pytest.raises(ValueError, match="late"):
        background("key", fail_late)

    assert background("key", Work()) == "done"


def test_a_failure_that_others_saw_too_takes_nothing_newer_away() -> None:
    background: Background[str] = Background(4)

    def fail() -> str:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        background("key", fail)
    failed = background._future("other", fail)
    work = Work()
    assert background("key", work) == "done"

    background._forget("key", failed)

    assert background("key", work) == "done"
    assert work.calls == 1


def test_only_the_most_recently_used_are_kept() -> None:
    background: Background[str] = Background(2)
    a, b, c = Work("a"), Work("b"), Work("c")
    background("a", a)
    background("b", b)
    background("a", a)  # used again: b is the older one now
    background("c", c)

    background("a", a)
    background("b", b)

    assert (a.calls, b.calls, c.calls) == (1, 2, 1)


def test_work_may_need_other_work() -> None:
    background: Background[str] = Background(4)
    inner: Background[str] = Background(4)

    def outer() -> str:
        return f"outer of {inner('inner', Work())}"

    assert background("outer", outer, 20.0) == "outer of done"


FORK = """
import os, threading
from agentgym.policy.background import Background

background = Background(4)
go = threading.Event()
background("done", lambda: "before")
assert background("open", lambda: go.wait(60), 0.0) is None
child = os.fork()
if not child:
    ok = background("done", lambda: "again", 0.0) == "before"
    ok = ok and background("open", lambda: "anew", 20.0) == "anew"
    ok = ok and background("new", lambda: "new", 20.0) == "new"
    os._exit(0 if ok else 1)
_, status = os.waitpid(child, 0)
go.set()
assert background("open", lambda: None) is True
raise SystemExit(os.waitstatus_to_exitcode(status))
"""

EXIT = """
import threading
from agentgym.policy.background import Background

started = threading.Event()
def work():
    started.set()
    threading.Event().wait()
background = Background(4)
for key in range(3):
    background(key, work, 0.0)
assert started.wait(20)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("script", [FORK, EXIT], ids=["fork", "exit"])
def test_in_a_process_of_its_own(script: str) -> None:
    """A forked child gets a thread of its own, and an exit waits for no work."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]

    done = subprocess.run(command, timeout=60, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_beyond_what_may_wait_a_step_falls_back_at_once_and_it_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agentgym.policy.background.MOST_WAITING", 3)
    background: Background[str] = Background(100)
    held = Work(held=True)
    assert background("held", held, 0.0) is None  # the thread is busy, or about to be
    while not held.calls:
        time.sleep(0.001)

    waiting = [background(number, Work(), 0.0) for number in range(10)]

    assert waiting == [None] * 10
    assert background.dropped == 7
    assert background("no limit of time", Work("done here")) == "done here"
    held.go.set()
    assert background(2, Work("late")) == "done"
    assert background(9, Work("tried again")) == "tried again"
