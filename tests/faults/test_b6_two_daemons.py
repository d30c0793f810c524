"""Row B6: two daemons on one directory, and what the dead leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(300)  # many starts of a daemon, on whatever machine

EX_TEMPFAIL = 75


def test_of_two_that_start_at_once_exactly_one_serves_and_the_other_names_it(
    load: Callable[..., int], report: Any, make_daemon: Any, until: Any
) -> None:
    """Exactly one of two daemons serves; the other ends with 75 and the holder's pid."""
    starts = load(50)
    first, second = make_daemon(), None
    second = make_daemon(home=first.home)

    for _ in range(starts):
        pair = [first.start(wait=False), second.start(wait=False)]
        until(lambda pair=pair: any(one.popen.poll() is not None for one in pair), "one gives up")
        loser, winner = sorted(pair, key=lambda one: one.popen.poll() is None)
        code = loser.wait()
        winner.wait_ready()

        assert code == EX_TEMPFAIL, first.log
        assert f"pid {winner.pid}" in first.log.splitlines()[-1] or f"pid {winner.pid}" in first.log
        assert winner.status().pid == winner.pid
        winner.kill()  # its lock file and socket stay behind, for the next two

    report.load["starts"] = starts
    report.figures["served_by_exactly_one"] = starts


def test_a_lock_file_with_the_pid_of_somebody_else_who_lives_does_not_keep_a_daemon_out(
    load: Callable[..., int], report: Any, make_daemon: Any
) -> None:
    """A stale lock whose pid was given to another process is no obstacle."""
    daemon = make_daemon()
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        for pid in (stranger.pid, os.getpid(), 1)[: load(60)]:
            (daemon.home / "daemon.lock").write_text(str(pid))
            (daemon.home / "daemon.sock").unlink(missing_ok=True)
            daemon.start()
            assert daemon.status().pid == daemon.pid
            daemon.kill()
    finally:
        stranger.communicate(b"\n")
    report.load["stale_locks"] = 3
    report.figures["started"] = 3
