"""The sender: conservation in every weather, a prompt end, nothing inherited across a fork."""

from __future__ import annotations

import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentgym import AgentGym, export
from agentgym.testing.daemon import FakeDaemon

pytestmark = pytest.mark.usefixtures("quick")

KINDS = ("spans", "decisions", "features", "rewards")


def totals(gym: AgentGym, kind: str) -> dict[str, int]:
    report = gym.status()["counters"]
    return {
        what: sum(n for name, n in report.items() if name.startswith(f"{what}.{kind}"))
        for what in ("produced", "acked", "pending", "dropped")
    }


def assert_conserved(gym: AgentGym) -> None:
    for kind in KINDS:
        total = totals(gym, kind)
        assert total["produced"] == total["acked"] + total["pending"] + total["dropped"], kind


@pytest.fixture
def black_hole() -> Iterator[str]:
    """An address that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_without_a_daemon_everything_waits_and_is_dropped_at_the_end(
    make_gym: Callable[..., AgentGym],
    run_once: Callable[..., Any],
    home: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gym = make_gym()
    for _ in range(5):
        run_once(gym)
    assert not gym.flush(0.05)
    assert totals(gym, "spans") == {"produced": 15, "acked": 0, "pending": 15, "dropped": 0}
    assert_conserved(gym)

    gym.close(1.0)
    run_once(gym)

    assert totals(gym, "spans") == {"produced": 18, "acked": 0, "pending": 0, "dropped": 18}
    assert_conserved(gym)
    assert "ends with 25 items that no daemon" in caplog.text
    assert gym.guard.errors == {}


def test_a_hanging_daemon_holds_nothing_up_and_loses_nothing(
    daemon: FakeDaemon,
    make_gym: Callable[..., AgentGym],
    run_once: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agentgym.transport.DEADLINE_S", 0.1)
    gym = make_gym()
    assert gym.ready()
    daemon.hang()
    run_once(gym)
    assert daemon.wait_for(lambda d: sum(d.retries.values()) >= 2)
    assert_conserved(gym)
    assert totals(gym, "spans")["pending"] == 3

    daemon.hang(False)

    assert gym.flush(10.0)
    assert len(daemon.spans) == 3
    assert_conserved(gym)


def test_a_daemon_that_restarts_again_and_again_loses_and_doubles_nothing(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], run_once: Callable[..., Any]
) -> None:
    gym = make_gym()
    assert gym.ready()
    runs = []
    for _ in range(4):
        runs += [run_once(gym) for _ in range(10)]
        daemon.stop()
        runs += [run_once(gym) for _ in range(10)]
        daemon.start()
    assert gym.flush(20.0)

    ids = [decision.decision_id for decision in daemon.decisions]
    assert len(ids) == len(set(ids)) == len(runs)
    assert {d.trajectory_id for d in daemon.decisions} == {run.trajectory.id for run in runs}
    assert len(daemon.spans) == 3 * len(runs)
    assert totals(gym, "spans")["dropped"] == 0
    assert_conserved(gym)


def test_above_its_memory_whole_oldest_trajectories_are_dropped(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], run_once: Callable[..., Any]
) -> None:
    daemon.stop()
    gym = make_gym(buffer_bytes=2**16)
    runs = [run_once(gym) for _ in range(60)]
    dropped = totals(gym, "spans")["dropped"]
    assert dropped > 0
    assert dropped % 3 == 0

    daemon.start()

    assert gym.flush(10.0)
    arrived = {span.trace_id for span in daemon.spans}
    kept = [run for run in runs if run.trajectory.id in arrived]
    assert len(daemon.spans) == 3 * len(kept)
    assert kept == runs[dropped // 3 :]
    assert_conserved(gym)


def test_many_threads_lose_nothing(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], run_once: Callable[..., Any]
) -> None:
    gym = make_gym()
    assert gym.ready()
    threads = [
        threading.Thread(target=lambda: [run_once(gym) for _ in range(20)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gym.flush(20.0)

    assert len(daemon.spans) == 480
    assert totals(gym, "spans") == {"produced": 480, "acked": 480, "pending": 0, "dropped": 0}
    assert_conserved(gym)


def test_closing_delivers_what_is_left_and_ends_the_threads(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], run_once: Callable[..., Any]
) -> None:
    gym = make_gym()
    assert gym.ready()
    run_once(gym)

    gym.close(5.0)
    gym.close(5.0)

    assert len(daemon.spans) == 3
    assert gym.sender._thread is not None
    assert not gym.sender._thread.is_alive()
    assert gym.guard.errors == {}
    assert daemon.wait_for(lambda d: d.subscribers == 0)


def test_closing_keeps_to_its_budget_at_a_black_hole(
    black_hole: str, home: Path, make_gym: Callable[..., AgentGym], run_once: Callable[..., Any]
) -> None:
    (home / "token").write_text("token")
    gym = make_gym(endpoint=black_hole, exit_timeout_s=0.3)
    run_once(gym)

    start = time.monotonic()
    gym.close()

    # A requirement with a figure; the margin is for a busy machine.
    assert time.monotonic() - start < 2.0
    assert_conserved(gym)


def test_the_recorder_is_not_slowed_by_a_daemon_that_is_not_there(
    black_hole: str, make_gym: Callable[..., AgentGym], run_once: Callable[..., Any]
) -> None:
    gym = make_gym(endpoint=black_hole)
    run_once(gym)

    start = time.process_time()
    for _ in range(100):
        run_once(gym)

    assert (time.process_time() - start) / 100 < 0.02
    assert gym.guard.errors == {}


def test_a_process_without_threads_runs_on(
    make_gym: Callable[..., AgentGym],
    run_once: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def no_thread(_: object) -> None:
        raise RuntimeError("can't start new thread")

    gym = make_gym()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        run_once(gym)
        run_once(gym)

    assert totals(gym, "spans")["dropped"] == 6
    assert caplog.text.count("no thread can be started") == 1
    assert gym.guard.errors == {}


def test_a_failure_of_ours_in_one_round_is_not_the_end(
    daemon: FakeDaemon,
    make_gym: Callable[..., AgentGym],
    run_once: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from agentgym.transport import Transport

    gym = make_gym()
    assert gym.ready()
    deliver, failures = Transport.deliver, iter([True])

    def fails_once(self: Transport) -> bool:
        if next(failures, False):
            raise RuntimeError("ours")
        return deliver(self)

    monkeypatch.setattr(Transport, "deliver", fails_once)
    run_once(gym)

    assert gym.flush()
    assert gym.guard.errors == {"send": 1}
    assert len(daemon.spans) == 3


def test_a_child_of_a_process_with_a_channel_sends_nothing(
    daemon: FakeDaemon,
    make_gym: Callable[..., AgentGym],
    run_once: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The hook by itself; test_process.py forks."""
    monkeypatch.setattr(export._Process, "opened_channel", True)
    monkeypatch.setattr(export._Process, "inherited_channel", True)
    gym = make_gym()
    gym.sender.after_fork_in_child()

    run_once(gym)
    later = AgentGym("made-in-the-child", home=gym.config.home)
    run_once(later)

    for one in (gym, later):
        assert one.sender._thread is None
        assert one.status()["counters"]["dropped.spans.forked"] == 3
        assert one.flush(0.0)
        assert_conserved(one)


def test_the_hooks_of_exit_and_fork_reach_every_sender(
    daemon: FakeDaemon,
    make_gym: Callable[..., AgentGym],
    run_once: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By themselves, because coverage does not see the end of a process."""
    monkeypatch.setattr(export._Process, "opened_channel", False)
    monkeypatch.setattr(export._Process, "inherited_channel", False)
    monkeypatch.setattr(export, "_senders", weakref.WeakSet())
    gym = make_gym(exit_timeout_s=5.0)

    export._after_fork_in_child()
    assert not export._Process.inherited_channel
    run_once(gym)
    export._close_at_exit(weakref.ref(gym.sender))

    assert len(daemon.spans) == 3
    assert gym.sender._thread is not None
    assert not gym.sender._thread.is_alive()


def test_the_end_of_a_sender_that_is_gone_is_nothing() -> None:
    gone = weakref.ref(type("Gone", (), {})())

    export._close_at_exit(gone)
