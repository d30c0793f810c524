"""Row B7: signals under load."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

RATE = 5000  # spans per second
DRAIN_S = 5.0


def test_a_daemon_that_is_told_to_end_keeps_what_it_acknowledged(
    load: Callable[..., int], report: Any, daemon: Any, pump: Any, until: Any
) -> None:
    """SIGTERM under load: the end takes at most five seconds, is clean, and loses nothing."""
    ends = load(20, least=2)
    pumps = [pump(rate=RATE / 2) for _ in range(2)]
    took_s = []

    for _ in range(ends):
        seen = sum(one.acked for one in pumps)
        until(lambda seen=seen: sum(one.acked for one in pumps) > seen + 500, "acks")
        began = time.monotonic()
        daemon.signal(signal.SIGTERM)
        code = daemon.wait()
        took_s.append(time.monotonic() - began)
        assert code == 0, daemon.log
        daemon.start()
    for one in pumps:
        one.end()
    stored = daemon.stored_spans()

    acked = set().union(*(one.ids for one in pumps))
    report.load |= {"ends": ends, "spans_per_s": RATE}
    report.figures |= {
        "acked": len(acked),
        "lost": len(acked - set(stored)),
        "doubled": sum(count - 1 for count in stored.values()),
        "slowest_end_s": round(max(took_s), 2),
    }
    assert report.figures["lost"] == report.figures["doubled"] == 0
    assert report.figures["slowest_end_s"] <= DRAIN_S


def test_a_second_signal_ends_at_once(daemon: Any, pump: Any, until: Any, report: Any) -> None:
    """Who asks twice does not wait; what was acknowledged is there nevertheless."""
    sender = pump(rate=RATE)
    until(lambda: sender.acked > 500, "acks")
    # It must be under way, but not through, when the second one comes.
    daemon.signal(signal.SIGTERM)
    until(lambda: "stopping" in daemon.log, "the first signal")
    daemon.signal(signal.SIGTERM)
    code = daemon.wait(10)
    sender.end()
    daemon.start()
    stored = daemon.stored_spans()

    report.figures |= {"code": code, "lost": len(sender.ids - set(stored))}
    assert code in (0, -signal.SIGTERM)  # it may have been through just then
    assert report.figures["lost"] == 0


def test_reloading_under_load_fails_no_call(
    load: Callable[..., int], report: Any, daemon: Any, pump: Any, until: Any
) -> None:
    """SIGHUP again and again, with settings that are good and bad: 0 failed calls."""
    reloads = load(100, least=10)

    def said() -> int:
        return (daemon.home / "daemon.err").read_text(errors="replace").count("settings")

    sender = pump(rate=RATE)
    until(lambda: sender.acked > 500, "acks")
    pid = daemon.pid

    for number in range(reloads):
        text = "top_k = 'many'\n" if number % 5 == 4 else f"top_k = {number % 7 + 1}\n"
        (daemon.home / "daemon.toml").write_text(text)
        before = said()
        daemon.signal(signal.SIGHUP)
        until(lambda before=before: said() != before, "a reload")
    (daemon.home / "daemon.toml").unlink()
    seen = sender.acked
    until(lambda: sender.acked > seen, "acks after the last reload")
    sender.end()

    report.load |= {"reloads": reloads, "spans_per_s": RATE}
    report.figures |= {"failed_calls": sender.repeated, "acked": sender.acked}
    assert sender.repeated == 0
    assert daemon.pid == pid
    assert "settings stay as they are" in daemon.log


def test_a_signal_before_the_start_has_ended_ends_it_too(make_daemon: Any) -> None:
    """Who changes their mind need not wait for the start."""
    daemon = make_daemon().start(wait=False)
    lock = daemon.home / "daemon.lock"
    while not lock.exists() or not lock.read_text():
        time.sleep(0.01)
    os.kill(daemon.pid, signal.SIGTERM)

    assert daemon.wait(30) == 0
    assert daemon.start().status().pid
