from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from agentgym_daemon.watch.alerts import KEPT, Alert, Alerts, LogSink, WebhookSink

DAY_NS = 86_400 * 10**9


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.ns = 10**18

    def now_ns(self) -> int:
        return self.ns

    def monotonic(self) -> float:
        return self.ns / 1e9


class Kept:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[Alert] = []

    def send(self, alert: Alert) -> None:
        self.got.append(alert)


class Broken:
    """A sink that never works."""

    def send(self, alert: Alert) -> None:
        raise OSError("no way")


@pytest.fixture
def clock() -> Hand:
    return Hand()


async def test_an_alert_is_told_once_a_day_and_again_after_it_was_over(clock: Hand) -> None:
    sink, counts = Kept(), Counter[str]()
    alerts = Alerts([sink], clock=clock, count=lambda name: counts.update([name]))

    told = [await alerts.tell("drift", "desk", f"look {i}", {}, about="inputs") for i in range(3)]
    clock.ns += DAY_NS
    later = await alerts.tell("drift", "desk", "still", {}, about="inputs")
    alerts.over("desk", "inputs")
    again = await alerts.tell("drift", "desk", "anew", {}, about="inputs")
    other = await alerts.tell("drift", "other", "too", {}, about="inputs")

    assert (told, later, again, other) == ([True, False, False], True, True, True)
    assert [alert.text for alert in sink.got] == ["look 0", "still", "anew", "too"]
    assert counts == {"alerts": 4}
    assert list(alerts.recent) == sink.got


async def test_a_sink_that_fails_keeps_nothing_from_the_others(clock: Hand) -> None:
    sink, counts = Kept(), Counter[str]()
    alerts = Alerts([Broken(), sink], clock=clock, count=lambda name: counts.update([name]))

    assert await alerts.tell("rollback", "desk", "p-000002 rolled back", {"rate": 0.5})

    assert len(sink.got) == 1
    assert counts == {"alerts": 1, "alerts_failed": 1}


async def test_only_the_newest_alerts_are_kept(clock: Hand) -> None:
    alerts = Alerts([], clock=clock, count=lambda name: None)
    for i in range(KEPT + 5):
        await alerts.tell("drift", "desk", f"{i}", {})

    assert [alerts.recent[0].text, alerts.recent[-1].text] == ["5", f"{KEPT + 4}"]


def test_the_log_has_every_alert(caplog: pytest.LogCaptureFixture) -> None:
    LogSink().send(Alert("hold", "desk", "p-000001 is pinned", 1))

    assert "hold of desk: p-000001 is pinned" in caplog.text


class Hook:
    """An HTTP server that keeps what is posted, after it has refused a few times."""

    def __init__(self) -> None:
        self.refusals = 0
        self.bodies: list[Any] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if hook.refusals:
                    hook.refusals -= 1
                    self.send_error(503)
                    return
                hook.bodies.append((self.headers["Content-Type"], json.loads(body)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def test_a_webhook_gets_json_and_another_try(hook: Hook) -> None:
    hook.refusals = 2

    WebhookSink(hook.url, pause_s=0.0).send(Alert("rollback", "desk", "why", 7, {"rate": 0.5}))

    ((kind, body),) = hook.bodies
    assert kind == "application/json"
    assert body == {
        "kind": "rollback",
        "agent": "desk",
        "text": "why",
        "time_ns": 7,
        "figures": {"rate": 0.5},
    }


async def test_a_webhook_that_never_answers_well_is_an_error(hook: Hook) -> None:
    hook.refusals = 9

    with pytest.raises(OSError, match="503"):
        await asyncio.to_thread(
            WebhookSink(hook.url, pause_s=0.0).send, Alert("hold", "desk", "x", 1)
        )
    assert hook.refusals == 6
