"""The kill file and the variable: who is stopped, and when it is looked at."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agentgym import AgentGym
from agentgym.kill import ENV, FILE_NAME, KillFile, in_environment


@pytest.mark.parametrize(
    ("content", "killed"),
    [
        ("", True),
        ("\n  \n", True),
        ("desk\n", True),
        ("other\n desk \n", True),
        ("other\n", False),
        ("desk-2\n", False),
    ],
)
def test_a_file_stops_all_agents_or_those_that_it_names(
    home: Path, content: str, killed: bool
) -> None:
    file = KillFile(home, "desk")
    assert not file.look()

    (home / FILE_NAME).write_text(content)

    assert file.look() is killed
    (home / FILE_NAME).unlink()
    assert not file.look()


def test_a_changed_file_is_read_again(home: Path) -> None:
    file, path = KillFile(home, "desk"), home / FILE_NAME
    path.write_text("other\n")
    assert not file.look()

    path.write_text("other\ndesk\n")
    assert file.look()
    path.write_text("other\n")
    assert not file.look()


def test_what_is_there_and_cannot_be_read_stops_all(home: Path) -> None:
    (home / FILE_NAME).mkdir()

    assert KillFile(home, "desk").look()


@pytest.mark.parametrize("word", ["1", "true", "yes", "on", "please"])
def test_any_word_but_a_clear_no_stops(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV, word)

    assert in_environment()


@pytest.mark.parametrize("word", ["", "0", "false", "No", " off "])
def test_a_clear_no_does_not_stop(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV, word)

    assert not in_environment()
    monkeypatch.delenv(ENV)
    assert not in_environment()


def test_the_file_is_looked_at_off_the_agents_thread(
    home: Path, make_gym: Callable[..., AgentGym]
) -> None:
    gym = make_gym("desk")
    gym.sender.start()
    seen = threading.Event()

    (home / FILE_NAME).touch()
    while not gym.live.halted:
        seen.wait(0.01)
    os.unlink(home / FILE_NAME)
    while gym.live.halted:
        seen.wait(0.01)

    assert not gym.status()["killed"]
