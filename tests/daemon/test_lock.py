"""The daemon's directory: private, with secrets, held by one process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentgym_daemon.errors import DirectoryError, DirectoryHeldError
from agentgym_daemon.lock import (
    FEATURE_KEY_NAME,
    TOKEN_NAME,
    HomeLock,
    holder,
    is_held,
    prepare,
    read_feature_key,
    read_token,
    write_private,
)


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_new_directory_is_private_and_has_its_secrets(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"

    prepare(home)

    assert _mode(home) == 0o700
    assert _mode(home / TOKEN_NAME) == _mode(home / FEATURE_KEY_NAME) == 0o600
    assert len(bytes.fromhex(read_token(home))) == 32
    assert len(read_feature_key(home)) == 32


def test_secrets_survive_and_loose_permissions_are_tightened(tmp_path: Path) -> None:
    prepare(tmp_path)
    token, key = read_token(tmp_path), read_feature_key(tmp_path)
    tmp_path.chmod(0o755)
    (tmp_path / TOKEN_NAME).chmod(0o644)

    prepare(tmp_path)

    assert (read_token(tmp_path), read_feature_key(tmp_path)) == (token, key)
    assert _mode(tmp_path) == 0o700
    assert _mode(tmp_path / TOKEN_NAME) == 0o600


def test_a_file_in_the_place_of_the_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(DirectoryError, match=r"it is a file.*set AGENTGYM_HOME"):
        prepare(tmp_path / "file")
    with pytest.raises(DirectoryError, match="it is a file"):
        prepare(tmp_path / "file" / "below")


def test_a_directory_that_cannot_be_made_is_named() -> None:
    with pytest.raises(DirectoryError, match="it cannot be made or entered"):
        prepare(Path("/proc/agentgym"))


def test_missing_and_damaged_secrets_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DirectoryError, match=r"token is missing; start the daemon once"):
        read_token(tmp_path)
    (tmp_path / TOKEN_NAME).write_text("short")
    with pytest.raises(DirectoryError, match="holds no token"):
        read_token(tmp_path)
    (tmp_path / FEATURE_KEY_NAME).write_bytes(b"1234")
    with pytest.raises(DirectoryError, match="has 4 bytes, expected 32"):
        read_feature_key(tmp_path)
    (tmp_path / FEATURE_KEY_NAME).unlink()
    (tmp_path / FEATURE_KEY_NAME).mkdir()
    with pytest.raises(DirectoryError, match="cannot be read"):
        read_feature_key(tmp_path)


def test_the_second_holder_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    with HomeLock(tmp_path):
        assert holder(tmp_path) == os.getpid()
        assert is_held(tmp_path)

        with pytest.raises(DirectoryHeldError, match=f"pid {os.getpid()}") as caught:
            HomeLock(tmp_path).acquire()

        assert caught.value.pid == os.getpid()
    assert not is_held(tmp_path)
    assert holder(tmp_path) is None


def test_releasing_twice_is_harmless(tmp_path: Path) -> None:
    lock = HomeLock(tmp_path)
    lock.acquire()
    lock.release()
    lock.release()

    assert not is_held(tmp_path)


def test_a_lock_in_a_missing_directory_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DirectoryError, match="cannot be written"):
        HomeLock(tmp_path / "missing").acquire()
    assert holder(tmp_path / "missing") is None


def test_a_private_write_leaves_nothing_behind_when_it_fails(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "child").touch()

    with pytest.raises(DirectoryError, match="target cannot be written"):
        write_private(tmp_path / "target", b"data")

    assert [path.name for path in tmp_path.iterdir()] == ["target"]
