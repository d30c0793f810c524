"""What agents left on disk: their directories, guarded against strangers, and frames of files.

home/spool/<producer id, hex>/
├── lock             its owner holds an flock for as long as it lives
├── 00000001.spool   complete
└── 00000002.part    being written, or torn where its owner died

proto/agentgym/proto/v1/spool.proto is the contract. Here nothing is decided; `adoption` does that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

from agentgym_daemon.errors import DaemonError
from agentgym_daemon.ingest.frames import BadFrameError, read_frames

LOCK_NAME = "lock"
DAMAGED = "damaged"
COMPLETE, UNFINISHED = ".spool", ".part"
SETTLED_S = 2.0
"""A lock this young may belong to a process that has just made it and is about to take it."""
_PRODUCER = re.compile(r"[0-9a-f]{32}")
_FILE = re.compile(r"\d{8}\.(?:spool|part)")
_OTHERS_MAY_WRITE = 0o022
_TAGS = re.compile(rb"[\x0a\x12\x1a]")  # SpoolFrame.header, .record, .dropped
_WINDOW_BYTES = 8 * 2**20
_FRAME_HEADER_BYTES = 8


class RefusedSpoolError(DaemonError):
    """A directory or file of the spool is not what its owner alone could have made."""


def candidates(spool: Path) -> list[str]:
    """Names of the directories in the spool that a plugin may have made."""
    try:
        return sorted(name for name in os.listdir(spool) if _PRODUCER.fullmatch(name))
    except FileNotFoundError:
        return []


class SpoolDirectory:
    """One producer's directory, held open; nothing below it is reached by a path."""

    def __init__(self, spool: Path, name: str) -> None:
        self.name = name
        self._spool = spool
        self._lock = -1
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._descriptor = os.open(spool / name, flags)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise RefusedSpoolError(f"{spool / name}: expected a directory, {error}") from error
        try:
            _refuse_foreign(self._descriptor, spool / name)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self) -> bool:
        """Whether its owner is dead; nobody else can take the directory then until `close`."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(LOCK_NAME, flags, dir_fd=self._descriptor)
        except FileNotFoundError:
            if _age_s(os.fstat(self._descriptor)) < SETTLED_S:
                return False
            descriptor = os.open(LOCK_NAME, flags | os.O_CREAT, 0o600, dir_fd=self._descriptor)
        else:
            if _age_s(os.fstat(descriptor)) < SETTLED_S:
                os.close(descriptor)
                return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._lock = descriptor
        return True

    def files(self, *suffixes: str) -> list[str]:
        """Names of its files in the order in which they were written."""
        names = (name for name in os.listdir(self._descriptor) if _FILE.fullmatch(name))
        return sorted(name for name in names if name.endswith(suffixes))

    def open(self, name: str) -> BinaryIO:
        """One of its files; raises RefusedSpoolError for a link or somebody else's file."""
        where = self._spool / self.name / name
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=self._descriptor)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise RefusedSpoolError(f"{where}: expected a file, {error}") from error
        try:
            _refuse_foreign(descriptor, where)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise RefusedSpoolError(f"{where}: expected a regular file")
        except BaseException:
            os.close(descriptor)
            raise
        return os.fdopen(descriptor, "rb")

    def unlink(self, name: str) -> None:
        """Forgets a file whose facts are durable."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._descriptor)

    def set_aside(self, name: str) -> Path:
        """Moves a damaged file to where nobody looks for work; returns its new place."""
        damaged = self._spool / DAMAGED
        damaged.mkdir(mode=0o700, exist_ok=True)
        target = damaged / f"{self.name}-{name}"
        os.rename(name, target, src_dir_fd=self._descriptor)
        return target

    def remove(self) -> bool:
        """Removes the directory if nothing is left in it but the lock; says whether it did."""
        if any(name != LOCK_NAME for name in os.listdir(self._descriptor)):
            return False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(LOCK_NAME, dir_fd=self._descriptor)
        with contextlib.suppress(OSError):
            os.rmdir(self._spool / self.name)
        return True

    def close(self) -> None:
        """Gives the directory back; a second call does nothing."""
        for descriptor in (self._lock, self._descriptor):
            if descriptor >= 0:
                os.close(descriptor)
        self._lock = self._descriptor = -1


class SpoolReader:
    """The frames of one file; what cannot be read is skipped and counted."""

    def __init__(self, file: BinaryIO) -> None:
        self.damaged_frames = 0
        self.lost_bytes = 0
        """Bytes between good frames that were none."""
        self.torn_bytes = 0
        """Bytes behind the last good frame."""
        self._file = file
        self.size = os.fstat(file.fileno()).st_size

    def payloads(self) -> Iterator[bytes]:
        """Every payload whose checksum is right."""
        offset = 0
        while offset < self.size:
            self._file.seek(offset)
            try:
                yield from (payload for _, payload in read_frames(self._file, offset, self.size))
                return
            except BadFrameError as bad:
                following = self._next_frame(bad.offset + 1)
                if following is None:
                    self.torn_bytes = self.size - bad.offset
                    return
                self.damaged_frames += 1
                self.lost_bytes += following - bad.offset
                offset = following

    def _next_frame(self, start: int) -> int | None:
        """Where the next good frame begins: its first bytes repeat its length."""
        self._file.seek(start)
        window = self._file.read(_WINDOW_BYTES)
        for match in _TAGS.finditer(window, _FRAME_HEADER_BYTES):
            begin = match.start() - _FRAME_HEADER_BYTES
            length = int.from_bytes(window[begin : begin + 4], "little")
            if _inner_length(window, match.start() + 1) != length:
                continue
            if self._is_frame(start + begin):
                return start + begin
        return None

    def _is_frame(self, offset: int) -> bool:
        self._file.seek(offset)
        try:
            next(read_frames(self._file, offset, self.size))
        except BadFrameError:
            return False
        return True


def _inner_length(window: bytes, offset: int) -> int:
    """Length of a payload that is one tagged field whose length varint stands at `offset`."""
    value = shift = 0
    for place, byte in enumerate(window[offset : offset + 5], start=2):
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value + place
    return -1


def _refuse_foreign(descriptor: int, where: Path) -> None:
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid() or found.st_mode & _OTHERS_MAY_WRITE:
        raise RefusedSpoolError(
            f"{where}: expected to belong to uid {os.geteuid()} and to be writable by it alone, "
            f"got uid {found.st_uid} and mode {stat.S_IMODE(found.st_mode):04o}"
        )


def _age_s(found: os.stat_result) -> float:
    # The file system's own time, which no clock of the daemon's can be compared with.
    return time.time() - found.st_ctime
