"""The file system as the log uses it: every call that changes a disk goes through one object.

A test hands in a disk whose n-th call fails, and a disk that records the order of the calls.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

BUFFER_BYTES = 1 << 20

_sync_data = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


class FailedSyncError(OSError):
    """What should be durable may be lost; asking again could be answered with a lie."""


class Disk:
    """The machine's disk."""

    def open(self, path: Path, flags: int) -> int:
        """A descriptor; what is made is private."""
        return os.open(path, flags | os.O_CLOEXEC, 0o600)

    def write(self, fd: int, data: memoryview) -> int:
        """Writes what fits; returns how much."""
        return os.write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        """Cuts the file off behind `size` bytes."""
        os.ftruncate(fd, size)

    def sync_data(self, fd: int) -> None:
        """Makes the file's content durable."""
        _sync_data(fd)

    def sync(self, fd: int) -> None:
        """Makes the file or directory durable."""
        os.fsync(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Moves a file; replaces the target."""
        source.rename(target)

    def unlink(self, path: Path) -> None:
        """Removes a file."""
        path.unlink()

    def make_directory(self, path: Path) -> None:
        """Makes a private directory where there is none."""
        path.mkdir(parents=True, exist_ok=True, mode=0o700)


DISK = Disk()


def write_all(disk: Disk, fd: int, data: bytes) -> None:
    """Writes everything, however often the system takes only a part."""
    view = memoryview(data)
    while view:
        view = view[disk.write(fd, view) :]


def write_file(disk: Disk, path: Path, parts: Iterable[bytes]) -> None:
    """Writes a whole file through a temporary one: afterwards it is there, durable, or not at all.

    Its name is durable only after the directory was synced.
    """
    temporary = path.with_name(path.name + ".tmp")
    fd = disk.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        for part in parts:
            write_all(disk, fd, part)
        disk.sync(fd)
    except BaseException:
        os.close(fd)
        remove(disk, temporary)
        raise
    os.close(fd)
    try:
        disk.rename(temporary, path)
    except OSError:
        remove(disk, temporary)
        raise


def remove(disk: Disk, path: Path) -> bool:
    """Removes a file that is of no use any more; False if the system refused, which is no harm."""
    try:
        disk.unlink(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def open_for_reading(disk: Disk, path: Path) -> BinaryIO:
    """A buffered stream of the file."""
    return os.fdopen(disk.open(path, os.O_RDONLY), "rb", buffering=BUFFER_BYTES)


def sync_directory(disk: Disk, directory: Path) -> None:
    """Makes the directory's entries durable; raises FailedSyncError if that cannot be known."""
    fd = disk.open(directory, os.O_RDONLY)
    try:
        disk.sync(fd)
    except OSError as error:
        raise FailedSyncError(error.errno, error.strerror, str(directory)) from error
    finally:
        os.close(fd)
