"""A producer's directory and its files: private, locked from the first moment, renamed when full.

The directory appears under its name only when its lock is held, so whoever can take the lock of a
directory that it sees knows that the owner is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agentgym.spool import frames

DIRECTORY = "spool"
"""Below AGENTGYM_HOME."""
_ID_BYTES = 16


def claim(root: Path, name: str) -> tuple[Path, int]:
    """A new directory of ours below `root`, and the descriptor that holds its lock."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    path, hidden = root / name, root / f".{name}"
    hidden.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(hidden / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        hidden.rename(path)
    except OSError:
        os.close(descriptor)
        raise
    return path, descriptor


@dataclass(slots=True)
class File:
    """One file: `path` is its name now, `size` its whole frames, `unread` its items."""

    number: int
    path: Path
    descriptor: int  # for writing; -1 once it is complete
    size: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    """Items that nobody has taken back into memory."""
    void: set[bytes] = field(default_factory=set)
    """Trajectories that were dropped after the file was begun."""
    _open_ids: set[bytes] = field(default_factory=set)
    _ids: bytes = b""

    @classmethod
    def create(cls, directory: Path, number: int, header: bytes) -> File:
        """A new `.part` file with its header."""
        path = directory / f"{number:08d}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        file = cls(number, path, os.open(path, flags, 0o600))
        try:
            file.append(header)
        except OSError:
            os.close(file.descriptor)
            path.unlink(missing_ok=True)
            raise
        return file

    @property
    def complete(self) -> bool:
        """Whether nothing will be appended any more."""
        return self.descriptor < 0

    def append(self, payload: bytes, trajectory_id: bytes = b"") -> None:
        """One frame; survives the process, not the machine. Leaves no half frame behind."""
        data = frames.encode(payload)
        try:
            written = os.write(self.descriptor, data)
            if written < len(data):
                raise OSError(f"{self.path}: {written} of {len(data)} bytes were written")
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self.descriptor, self.size)
                os.lseek(self.descriptor, self.size, os.SEEK_SET)
            raise
        self.size += len(data)
        if trajectory_id:
            self._open_ids.add(trajectory_id)

    def finish(self) -> None:
        """Renames a full file to `.spool`."""
        descriptor, self.descriptor = self.descriptor, -1
        os.close(descriptor)
        # A set costs ten times the bytes, and there may be sixty files.
        self._ids, self._open_ids = b"".join(self._open_ids), set()
        target = self.path.with_suffix(".spool")
        self.path.rename(target)
        self.path = target

    def having(self, trajectory_ids: set[bytes]) -> set[bytes]:
        """Those of the trajectories that have records here."""
        here = self._open_ids or {
            self._ids[i : i + _ID_BYTES] for i in range(0, len(self._ids), _ID_BYTES)
        }
        return trajectory_ids & here

    def read(self, offset: int) -> Iterator[tuple[int, bytes]]:
        """(end offset, payload) of the frames from `offset`."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            yield from frames.read(descriptor, offset, self.size)
        finally:
            os.close(descriptor)
