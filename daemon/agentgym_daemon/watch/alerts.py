"""Tells people what they should look at: one interface, and sinks behind it.

An alert changes nothing. The same one is told again only after it was gone for a while.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from queue import Queue
from typing import Any, Protocol

from agentgym_daemon.clock import Clock

_log = logging.getLogger(__name__)

KEPT = 100
_AGAIN_NS = 86_400 * 10**9
_TRIES, _TIMEOUT_S, _PAUSE_S = 3, 5.0, 1.0


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that people should know."""

    kind: str  # rollback, hold, release, fall, drift
    agent: str
    text: str
    time_ns: int
    figures: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As it is sent: a JSON object."""
        return {**asdict(self), "figures": dict(self.figures)}


class Sink(Protocol):
    """Where alerts go."""

    def send(self, alert: Alert) -> None:
        """Passes an alert on; may block, and may raise: neither harms anything else."""


class LogSink:
    """Into the daemon's own log."""

    def send(self, alert: Alert) -> None:
        """Writes one warning."""
        _log.warning("%s of %s: %s", alert.kind, alert.agent, alert.text)


class WebhookSink:
    """To a URL, as a JSON object by POST; any 2xx answer will do."""

    def __init__(self, url: str, *, pause_s: float = _PAUSE_S) -> None:
        self._url = url
        self._pause_s = pause_s

    def send(self, alert: Alert) -> None:
        """Posts; raises OSError if no try got through."""
        body = json.dumps(alert.plain(), sort_keys=True).encode()
        headers = {"Content-Type": "application/json"}
        for left in reversed(range(_TRIES)):
            post = urllib.request.Request(self._url, body, headers)
            try:
                with urllib.request.urlopen(post, timeout=_TIMEOUT_S) as response:
                    response.read(1)
                return
            except OSError:
                if not left:
                    raise
                time.sleep(self._pause_s)


class Alerts:
    """Passes alerts on to all sinks, and keeps the newest ones; used on the event loop.

    A thread of its own sends: a sink that hangs delays neither the watch nor the daemon's end.
    """

    def __init__(
        self, sinks: Sequence[Sink], *, clock: Clock, count: Callable[[str], None]
    ) -> None:
        self._sinks = sinks
        self._clock = clock
        self._count = count
        self._told: dict[tuple[str, str], int] = {}
        self._waiting: Queue[tuple[Alert, asyncio.AbstractEventLoop]] = Queue()
        self._sender: threading.Thread | None = None
        self.recent: deque[Alert] = deque(maxlen=KEPT)
        """The newest ones, oldest first; a restart forgets them, the log of changes does not."""

    def tell(
        self, kind: str, agent: str, text: str, figures: Mapping[str, Any], *, about: str = ""
    ) -> bool:
        """Passes an alert on unless one about the same was told within a day."""
        key, now_ns = (agent, about or text), self._clock.now_ns()
        if now_ns - self._told.get(key, -_AGAIN_NS) < _AGAIN_NS:
            return False
        self._told[key] = now_ns
        alert = Alert(kind, agent, text, now_ns, figures)
        self.recent.append(alert)
        self._count("alerts")
        self._waiting.put((alert, asyncio.get_running_loop()))
        if self._sender is None:
            self._sender = threading.Thread(target=self._send, name="alerts", daemon=True)
            self._sender.start()
        return True

    def over(self, agent: str, about: str) -> None:
        """Lets an alert be told again: what it was about is gone."""
        self._told.pop((agent, about), None)

    def drain(self) -> None:
        """Waits until everything that was told is sent."""
        self._waiting.join()

    def _send(self) -> None:
        while True:
            alert, loop = self._waiting.get()
            for sink in self._sinks:
                try:
                    sink.send(alert)
                except Exception:  # noqa: BLE001 - whatever a sink does, the others get theirs
                    _log.exception("an alert could not be sent by %s", type(sink).__name__)
                    with suppress(RuntimeError):  # the loop has ended
                        loop.call_soon_threadsafe(self._count, "alerts_failed")
            self._waiting.task_done()
