"""What must hold across `os.fork`: grpc does not survive it, and half an import never does.

A child whose parent ever had a channel never touches gRPC. Our threads import under `importing`;
a fork waits for them, because a module lock that is held then stays held in the child for ever.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_WAIT_S = 2.0


class Forked(Protocol):
    """Something with threads, locks or files, which are the parent's."""

    def after_fork_in_child(self) -> None:
        """Starts anew in the child."""


class _Process:
    """What is true of this process and, after a fork, of its parent."""

    opened_channel = False
    inherited_channel = False
    imports = (threading.RLock(), threading.RLock())
    waited: tuple[bool, ...] = ()


_all: weakref.WeakSet[Forked] = weakref.WeakSet()


def watch(forked: Forked) -> None:
    """Tells it of every fork, for as long as it lives."""
    _all.add(forked)


def opens_channel() -> None:
    """Must be said before grpc is imported: from then on children go without it."""
    _Process.opened_channel = True


def inherited_channel() -> bool:
    """Whether this is a child of a process that had a channel."""
    return _Process.inherited_channel


@contextmanager
def importing(*, grpc: bool = False) -> Iterator[None]:
    """Imports of our own threads happen inside; a fork waits until they are done.

    That of grpc takes long, and the others do not wait for it.
    """
    with _Process.imports[grpc]:
        yield


def _before() -> None:
    _Process.waited = tuple(lock.acquire(timeout=_WAIT_S) for lock in _Process.imports)


def _after_in_parent() -> None:
    waited, _Process.waited = _Process.waited, ()
    for lock, acquired in zip(_Process.imports, waited, strict=False):
        if acquired:
            lock.release()


def _after_in_child() -> None:
    _Process.imports, _Process.waited = (threading.RLock(), threading.RLock()), ()
    _Process.inherited_channel |= _Process.opened_channel
    _Process.opened_channel = False
    for forked in list(_all):
        forked.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
