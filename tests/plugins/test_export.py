"""The sender: conservation in every weather, a prompt end, nothing inherited across a fork."""

from __future__ import annotations

import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from agentgym import AgentGym, export, forking
from agentgym.testing import spools
from agentgym.testing.daemon import FakeDaemon

pytestmark = pytest.mark.usefixtures("quick")

KINDS = ("spans", "decisions", "features", "rewards")


def totals(gym: AgentGym, kind: str) -> dict[str, int]:
    report = gym.status()["counters"]
    return {
        what: sum(n for name, n in report.items() if name.startswith(f"{what}.{kind}"))
        for what in ("produced", "acked", "pending", "spooled", "dropped")
    }


def assert_conserved(gym: AgentGym) -> None:
    for kind in KINDS:
        total = totals(gym, kind)
        rest = sum(total.values()) - total["produced"]
        assert total["produced"] == rest, kind


@pytest.fixture
def black_hole() -> Iterator[str]:
    """An address that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def everywhere(**counts: int) -> dict[str, int]:
    return dict.fromkeys(("produced", "acked", "pending", "spooled", "dropped"), 0) | counts


def until(condition: Callable[[], Any], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_without_a_daemon_what_was_recorded_lies_in_the_spool(
    make_gym: Callable[..., AgentGym], run_once: Callable[..., Any], home: Path
) -> None:
    gym = make_gym()
    runs = [run_once(gym) for _ in range(5)]
    assert not gym.flush(0.05)
    assert until(lambda: totals(gym, "spans")["spooled"] == 15)
    assert_conserved(gym)

    gym.close(1.0)
    run_once(gym)

    assert totals(gym, "spans") == everywhere(produced=18, spooled=15, dropped=3)
    assert_conserved(gym)
    left = spools.read_all(home)
    assert {span.trace_id for span in left.spans} == {run.trajectory.id for run in runs}
    assert left.items == {"spans": 15, "decisions": 5}
    assert gym.status()["counters"]["dropped.features.no_key"] == 5
    assert left.tools[0].name == "find_order"
    assert left.headers[0].agent == "agent"
    assert left.resource().resource_spans[0].scope_spans[0].scope.name == "agentgym"
    assert not spools.is_owned(spools.directories(home)[0])
    assert gym.guard.errors == {}


def test_without_a_spool_everything_waits_in_memory_and_is_dropped_at_the_end(
    make_gym: Callable[..., AgentGym],
    run_once: Callable[..., Any],
    home: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gym = make_gym(spool=False)
    for _ in range(5):
        run_once(gym)

    gym.close(0.3)

    assert totals(gym, "spans") == everywhere(produced=15, dropped=15)
    assert_conserved(gym)
    assert "ends with 25 items that no daemon" in caplog.text
    assert not (home / "spool").exists()


def test_what_was_spooled_arrives_once_in_order_when_the_daemon_is_back(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], run_once: Callable[..., Any], home: Path
) -> None:
    gym = make_gym()
    assert gym.ready()
    daemon.stop()
    runs = [run_once(gym) for _ in range(30)]
    gym.reward(1.0, trajectory=runs[0].trajectory)
    assert until(lambda: totals(gym, "spans")["spooled"] == 90)
    assert spools.is_owned(spools.directories(home)[0])

    daemon.start()

    assert gym.flush(20.0)
    assert [d.trajectory_id for d in daemon.decisions] == [run.trajectory.id for run in runs]
    assert len(daemon.spans) == 90
    assert len(daemon.rewards) == 1
    assert {f.features_id for f in daemon.features} == {d.features_id for d in daemon.decisions}
    assert totals(gym, "spans") == everywhere(produced=90, acked=90)
    assert_conserved(gym)
    gym.close(5.0)
    assert spools.directories(home) == []


def test_a_hanging_daemon_holds_nothing_up_and_loses_nothing(
    daemon: FakeDaemon,
    make_gym: Callable[..., AgentGym],
    run_once: Callable[..., Any],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agentgym.transport.DEADLINE_S", 0.1)
    gym = make_gym()
    assert gym.ready()
    daemon.hang()
    run_once(gym)
    assert daemon.wait_for(lambda d: sum(d.retries.values()) >= 2)
    assert_conserved(gym)
    # What waits for its ack is on disk too, and so is what came after it.
    assert until(lambda: totals(gym, "spans")["spooled"] == 3)
    run_once(gym)
    assert until(lambda: totals(gym, "spans")["spooled"] == 6)
    assert spools.read_all(home).items["spans"] == 6

    daemon.hang(False)

    assert gym.flush(10.0)
    assert len(daemon.spans) == 6
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


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"spool": False, "buffer_bytes": 2**16}, "buffer_full"),
        ({"spool_bytes": 2**16}, "spool_full"),
    ],
)
def test_above_its_room_whole_oldest_trajectories_are_dropped_and_counted(
    settings: dict[str, Any],
    reason: str,
    daemon: FakeDaemon,
    make_gym: Callable[..., AgentGym],
    run_once: Callable[..., Any],
) -> None:
    gym = make_gym(**settings)
    assert gym.ready()
    daemon.stop()
    runs = [run_once(gym) for _ in range(150)]
    assert until(lambda: not len(gym.sender.inbox) and totals(gym, "spans")["dropped"] > 0)
    assert_conserved(gym)

    daemon.start()

    assert gym.flush(10.0)
    report = gym.status()["counters"]
    dropped = report[f"dropped.spans.{reason}"]
    assert dropped % 3 == 0
    assert dropped == totals(gym, "spans")["dropped"] == 3 * report[f"dropped.features.{reason}"]
    arrived = {span.trace_id for span in daemon.spans}
    kept = [run for run in runs if run.trajectory.id in arrived]
    assert len(daemon.spans) == 3 * len(kept) == totals(gym, "spans")["acked"]
    assert kept == runs[dropped // 3 :]
    assert_conserved(gym)


def test_a_home_that_takes_no_files_is_said_once_and_memory_serves(
    daemon: FakeDaemon,
    make_gym: Callable[..., AgentGym],
    run_once: Callable[..., Any],
    home: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (home / "spool").write_text("not a directory")
    gym = make_gym()
    assert gym.ready()
    daemon.stop()
    for _ in range(5):
        run_once(gym)
    assert until(lambda: "cannot write below" in caplog.text)
    assert totals(gym, "spans") == everywhere(produced=15, pending=15)

    daemon.start()

    assert gym.flush(10.0)
    assert len(daemon.spans) == 15
    assert caplog.text.count("cannot write below") == 1


def test_the_retry_delay_that_the_daemon_asks_for_is_kept(
    daemon: FakeDaemon, make_gym: Callable[..., AgentGym], run_once: Callable[..., Any]
) -> None:
    gym = make_gym()
    assert gym.ready()
    daemon.refuse("Export", grpc.StatusCode.RESOURCE_EXHAUSTED, retry_s=0.5)
    run_once(gym)

    start = time.monotonic()
    assert gym.flush(10.0)

    assert time.monotonic() - start >= 0.45  # at least what was asked for; the backoff is .05 s
    assert len(daemon.spans) == 3


def test_the_daemon_is_told_what_became_of_everything(
    daemon: FakeDaemon,
    make_gym: Callable[..., AgentGym],
    run_once: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agentgym.courier.REPORT_S", 0.1)
    gym = make_gym()
    assert gym.ready()
    run_once(gym)
    assert gym.flush()
    assert daemon.wait_for(lambda d: any("acked.spans" in r.counters for r in d.reports))

    gym.close(5.0)

    assert daemon.wait_for(lambda d: d.reports[-1].counters["acked.spans"] == 3)
    assert daemon.reports[-1].producer_id == gym.sender.producer_id
    assert daemon.reports[-1].on
    assert daemon.reports[-1].pid == os.getpid()


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
    assert totals(gym, "spans") == everywhere(produced=480, acked=480)
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
    from agentgym.courier import Courier

    gym = make_gym()
    assert gym.ready()
    tick, failures = Courier.tick, iter([True])

    def fails_once(self: Courier, *, hurry: bool) -> float:
        if next(failures, False):
            raise RuntimeError("ours")
        return tick(self, hurry=hurry)

    monkeypatch.setattr(Courier, "tick", fails_once)
    run_once(gym)

    assert gym.flush()
    assert gym.guard.errors == {"send": 1}
    assert len(daemon.spans) == 3


@pytest.fixture
def inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process looks like the child of one that had a channel."""
    monkeypatch.setattr(forking._Process, "inherited_channel", True)


def test_a_child_of_a_process_with_a_channel_writes_files_that_the_daemon_adopts(
    daemon: FakeDaemon,
    home: Path,
    make_gym: Callable[..., AgentGym],
    run_once: Callable[..., Any],
    inherited: None,
) -> None:
    """The hook by itself; test_process.py forks."""
    gym = make_gym()

    run = run_once(gym)
    gym.reward(1.0, trajectory=run)

    # On disk at once: a worker may be killed right after its last result.
    [directory] = spools.directories(home)
    left = spools.read(directory)
    assert len(left.spans) == 3
    assert len(left.rewards) == 1
    assert left.headers[0].shared
    assert left.headers[0].producer_id.hex() == directory.name
    assert until(lambda: len(spools.read(directory, parts=False).spans) == 3)
    assert totals(gym, "spans") == everywhere(produced=3, spooled=3)

    adopted = spools.Spooled()
    spools.adopt(home, adopted)

    assert gym.flush(5.0)
    assert len(adopted.spans) == 3
    assert totals(gym, "spans") == everywhere(produced=3, acked=3)
    assert gym.status()["delivery"]["way"] == "files"
    assert_conserved(gym)


@pytest.mark.parametrize("settings", [{"endpoint": "127.0.0.1:1"}, {"spool": False}])
def test_a_child_without_a_shared_directory_counts_what_it_cannot_send(
    settings: dict[str, Any],
    make_gym: Callable[..., AgentGym],
    run_once: Callable[..., Any],
    inherited: None,
) -> None:
    gym = make_gym(**settings)
    run_once(gym)

    assert gym.sender._thread is None
    assert gym.status()["counters"]["dropped.spans.forked"] == 3
    assert gym.flush(0.0)
    assert_conserved(gym)


def test_the_hooks_of_exit_and_fork_reach_every_sender(
    daemon: FakeDaemon,
    make_gym: Callable[..., AgentGym],
    run_once: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By themselves, because coverage does not see the end of a process."""
    monkeypatch.setattr(forking._Process, "opened_channel", False)
    monkeypatch.setattr(forking._Process, "inherited_channel", False)
    monkeypatch.setattr(forking, "_all", weakref.WeakSet())
    gym = make_gym(exit_timeout_s=5.0)
    before = gym.sender.producer_id

    forking._before()
    forking._after_in_child()
    assert not forking.inherited_channel()
    assert gym.sender.producer_id != before
    assert gym.ready()
    run_once(gym)
    export._close(weakref.ref(gym.sender))

    assert len(daemon.spans) == 3
    assert gym.sender._thread is not None
    assert not gym.sender._thread.is_alive()


def test_the_end_of_a_sender_that_is_gone_is_nothing() -> None:
    gone = weakref.ref(type("Gone", (), {})())

    export._close(gone)
