"""Slow work off the caller's thread: a step waits a set time for it, and finds it done later.

The thread is a daemon, so that the host's exit never waits for an encoder. At most `MOST_WAITING`
pieces of work wait for it: beyond that a step falls back at once, as if its time had run out.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any, Generic, TypeVar
from weakref import WeakSet

T = TypeVar("T")

MOST_WAITING = 256


class Background(Generic[T]):
    """Results by key, the most recently used `limit`; a failed one is tried again."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: OrderedDict[Hashable, Future[T]] = OrderedDict()
        self._lock = threading.Lock()
        self.dropped = 0
        """How often there was too much to do already."""
        _every.add(self)

    def __call__(
        self, key: Hashable, work: Callable[[], T], timeout_s: float | None = None
    ) -> T | None:
        """The result, or None if it is not there in time; None as the time waits for it.

        Without a limit of time, work for which there is no room is done here.
        """
        if threading.current_thread() is _worker.thread:
            return work()  # within other work: the one thread would wait for itself for ever
        future = self._future(key, work)
        if future is None:
            return work() if timeout_s is None else None
        if not future.done():
            wait((future,), timeout_s)
        if not future.done():
            return None
        if future.exception() is not None:
            self._forget(key, future)
        return future.result()

    def _future(self, key: Hashable, work: Callable[[], T]) -> Future[T] | None:
        with self._lock:
            known = self._known.get(key)
            if known is None:
                known = _worker.submit(work)
                if known is None:
                    self.dropped += 1
                    return None
                self._known[key] = known
                while len(self._known) > self._limit:
                    self._known.popitem(last=False)
            else:
                self._known.move_to_end(key)
            return known

    def _forget(self, key: Hashable, failed: Future[T]) -> None:
        with self._lock:
            if self._known.get(key) is failed:
                del self._known[key]

    def after_fork_in_child(self) -> None:
        """Keeps what is done; what the parent's thread had in hand begins anew."""
        self._lock = threading.Lock()
        done = [(key, future) for key, future in self._known.items() if future.done()]
        self._known = OrderedDict(done)


class _Worker:
    """One thread for the whole process: encoding is arithmetic, more would only take turns."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._waiting: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()

    def submit(self, work: Callable[[], T]) -> Future[T] | None:
        """The future result of `work`; None if too much waits already."""
        if self._waiting.qsize() >= MOST_WAITING:
            return None
        future: Future[T] = Future()
        with self._lock:
            if self.thread is None:
                thread = threading.Thread(target=self._run, name="agentgym-encoder", daemon=True)
                thread.start()
                self.thread = thread
        self._waiting.put((future, work))
        return future

    def _run(self) -> None:
        while True:
            future, work = self._waiting.get()
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                future.set_exception(error)
            del future, work  # not held until the next one comes


_worker = _Worker()
_every: WeakSet[Background[Any]] = WeakSet()


def _after_fork_in_child() -> None:
    global _worker
    _worker = _Worker()  # the thread is the parent's
    for background in list(_every):
        background.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
