"""The demo's child processes: what they say, and how they end."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import pytest

from agentgym_daemon.demo.processes import DemoError, Process, wait_for


def child(code: str, tmp_path: Path, **options: Any) -> Process:
    log = tmp_path / "child.log"
    return Process("child", ["-c", code], environ={}, log=log, **options)


def test_json_lines_reach_the_inbox_and_other_lines_the_log(tmp_path: Path) -> None:
    code = """print('hello'); print('{"ready": 1}', flush=True); input()"""
    process = child(code, tmp_path)

    assert wait_for(process, "ready", 30)["ready"] == 1
    process.stop()

    assert not process.alive
    assert "hello" in (tmp_path / "child.log").read_text()


def test_a_process_that_ends_early_is_reported_with_its_log(tmp_path: Path) -> None:
    process = child("raise SystemExit('no luck')", tmp_path)

    with pytest.raises(DemoError, match="no luck"):
        wait_for(process, "ready", 30)
    process.stop()


def test_a_command_to_a_dead_process_is_an_error(tmp_path: Path) -> None:
    inbox: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
    process = child("pass", tmp_path, inbox=inbox)
    assert inbox.get(timeout=30) == ("child", {"ended": 0})

    with pytest.raises(DemoError, match="ended early"):
        process.tell({"do": "x" * 100_000})
    process.stop()


def test_silence_is_an_error_too(tmp_path: Path) -> None:
    process = child("input()", tmp_path)

    with pytest.raises(DemoError, match="said nothing"):
        wait_for(process, "ready", 0.2)
    process.kill()
    process.stop()


def test_the_users_own_settings_do_not_reach_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTGYM_MODE", "observe")
    code = """import json, os; print(json.dumps({"mode": os.environ.get("AGENTGYM_MODE"),
    "direct": os.environ["NO_PROXY"]}), flush=True)"""
    process = child(code, tmp_path)

    said = wait_for(process, "mode", 30)
    process.stop()

    assert said["mode"] is None
    assert said["direct"].endswith("127.0.0.1,localhost")
