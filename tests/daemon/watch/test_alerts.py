from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from agentgym_daemon.watch.alerts import KEPT, Alert, Alerts, LogSink, WebhookSink
from tests.hook import Hook, serving

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


class Hanging(Kept):
    """A sink that waits until it is let go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def send(self, alert: Alert) -> None:
        assert self.go_on.wait(30)
        super().send(alert)


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

    told = [alerts.tell("drift", "desk", f"look {i}", {}, about="inputs") for i in range(3)]
    clock.ns += DAY_NS
    later = alerts.tell("drift", "desk", "still", {}, about="inputs")
    alerts.over("desk", "inputs")
    again = alerts.tell("drift", "desk", "anew", {}, about="inputs")
    other = alerts.tell("drift", "other", "too", {}, about="inputs")
    alerts.drain()

    assert (told, later, again, other) == ([True, False, False], True, True, True)
    assert [alert.text for alert in sink.got] == ["look 0", "still", "anew", "too"]
    assert counts == {"alerts": 4}
    assert list(alerts.recent) == sink.got


async def test_a_sink_that_fails_keeps_nothing_from_the_others(clock: Hand) -> None:
    sink, counts = Kept(), Counter[str]()
    alerts = Alerts([Broken(), sink], clock=clock, count=lambda name: counts.update([name]))

    assert alerts.tell("rollback", "desk", "p-000002 rolled back", {"rate": 0.5})
    alerts.drain()
    await asyncio.sleep(0)  # what failed is counted on the loop

    assert len(sink.got) == 1
    assert counts == {"alerts": 1, "alerts_failed": 1}


async def test_a_sink_that_hangs_keeps_nobody_waiting(clock: Hand) -> None:
    hanging = Hanging()
    alerts = Alerts([hanging], clock=clock, count=lambda name: None)

    assert [alerts.tell("drift", "desk", f"{i}", {}) for i in range(3)] == [True] * 3
    assert len(alerts.recent) == 3
    assert hanging.got == []
    hanging.go_on.set()
    alerts.drain()
    assert len(hanging.got) == 3


async def test_only_the_newest_alerts_are_kept(clock: Hand) -> None:
    alerts = Alerts([], clock=clock, count=lambda name: None)
    for i in range(KEPT + 5):
        alerts.tell("drift", "desk", f"{i}", {})

    assert [alerts.recent[0].text, alerts.recent[-1].text] == ["5", f"{KEPT + 4}"]


def test_the_log_has_every_alert(caplog: pytest.LogCaptureFixture) -> None:
    LogSink().send(Alert("hold", "desk", "p-000001 is pinned", 1))

    assert "hold of desk: p-000001 is pinned" in caplog.text


@pytest.fixture
def hook() -> Iterator[Hook]:
    with serving() as made:
        yield made


def test_a_webhook_gets_json_and_another_try(hook: Hook) -> None:
    hook.refusals = 2

    WebhookSink(hook.url, pause_s=0.0).send(Alert("rollback", "desk", "why", 7, {"rate": 0.5}))

    (body,) = hook.bodies
    assert hook.content_types == ["application/json"]
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
