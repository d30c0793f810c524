"""The daemon's directory: made private, filled with its secrets, held by one process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from agentgym_daemon.errors import DirectoryError, DirectoryHeldError

LOCK_NAME = "daemon.lock"
TOKEN_NAME = "token"
FEATURE_KEY_NAME = "feature.key"
FEATURE_KEY_BYTES = 32
SIGNING_KEY_NAME = "signing.key"
SIGNING_PUBLIC_NAME = "signing.pub"
SIGNING_KEY_BYTES = 32


def prepare(home: Path) -> None:
    """Makes the directory (0700), its token and its keys (0600) where they are missing."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if home.stat().st_mode & 0o077:
            home.chmod(0o700)
    except (FileExistsError, NotADirectoryError) as error:
        raise DirectoryError(home, "it is a file, or lies below one") from error
    except OSError as error:
        raise DirectoryError(home, f"it cannot be made or entered ({error.strerror})") from error
    _make_secret(home / TOKEN_NAME, lambda: (secrets.token_hex(32) + "\n").encode())
    _make_secret(home / FEATURE_KEY_NAME, lambda: secrets.token_bytes(FEATURE_KEY_BYTES))
    _make_secret(
        home / SIGNING_KEY_NAME, lambda: f"{secrets.token_hex(SIGNING_KEY_BYTES)}\n".encode()
    )


def read_token(home: Path) -> str:
    """The token with all scopes."""
    token = _read(home / TOKEN_NAME).decode("ascii", "replace").strip()
    if len(token) < 32:
        raise DirectoryError(
            home, f"{TOKEN_NAME} holds no token; remove it and a new one is made at the next start"
        )
    return token


def read_feature_key(home: Path) -> bytes:
    """The key of this installation's feature hashes."""
    key = _read(home / FEATURE_KEY_NAME)
    if len(key) != FEATURE_KEY_BYTES:
        raise DirectoryError(
            home,
            f"{FEATURE_KEY_NAME} has {len(key)} bytes, expected {FEATURE_KEY_BYTES}; restore it",
        )
    return key


def read_signing_key(home: Path) -> bytes:
    """The seed of the key that signs what agents are told."""
    text = _read(home / SIGNING_KEY_NAME).decode("ascii", "replace").strip()
    try:
        seed = bytes.fromhex(text)
    except ValueError:
        seed = b""
    if len(seed) != SIGNING_KEY_BYTES:
        raise DirectoryError(
            home,
            f"{SIGNING_KEY_NAME} holds no key of {2 * SIGNING_KEY_BYTES} hex digits; restore it, "
            "or remove it: the next start makes a new one, which agents must be given",
        )
    return seed


def write_private(path: Path, data: bytes) -> None:
    """Replaces a file by one with mode 0600, atomically and durably."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise DirectoryError(
            path.parent, f"{path.name} cannot be written ({error.strerror})"
        ) from error


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_secret(path: Path, make: Callable[[], bytes]) -> None:
    try:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except FileNotFoundError:
        fresh = path.with_name(f".{path.name}.new.{secrets.token_hex(4)}")
        write_private(fresh, make())
        # Linked, not renamed: of two that start at once, the first one's secret stays.
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
        fresh.unlink()
    except OSError as error:
        raise DirectoryError(
            path.parent, f"{path.name} is not usable ({error.strerror})"
        ) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DirectoryError(
            path.parent, f"{path.name} is missing; start the daemon once: agentgym-daemon serve"
        ) from error
    except OSError as error:
        raise DirectoryError(
            path.parent, f"{path.name} cannot be read ({error.strerror})"
        ) from error


class HomeLock:
    """Holds the directory for this process; the lock ends with the process, however it ends."""

    def __init__(self, home: Path) -> None:
        self._path = home / LOCK_NAME
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Takes the lock; raises DirectoryHeldError with the holder's pid if it is taken."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DirectoryError(
                self._path.parent, f"it cannot be written ({error.strerror})"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise DirectoryHeldError(self._path.parent, holder(self._path.parent)) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Gives the directory back; harmless when it is not held."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def holder(home: Path) -> int | None:
    """Pid written by the last process that took the lock and did not give it back."""
    try:
        text = (home / LOCK_NAME).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdecimal() else None


def is_held(home: Path) -> bool:
    """Whether some process holds the directory now."""
    try:
        with HomeLock(home):
            return False
    except DirectoryHeldError:
        return True
