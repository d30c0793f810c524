"""What the daemon measures, under the names that docs/operating.md lists."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agentgym_daemon.policies.book import Book
from agentgym_daemon.rpc.admin import Vitals
from agentgym_daemon.store.counters import counters
from agentgym_daemon.store.database import Store

_ACK_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
TRAINER_STATES = ("idle", "training", "restarting", "failed")


@dataclass(slots=True)
class Figures:
    """One look at the daemon."""

    not_ready: str = ""
    counters: Mapping[str, int] = field(default_factory=dict)
    produced: Mapping[str, int] = field(default_factory=dict)
    producers: int = 0
    subscribers: int = 0
    log_start: int = 0
    log_end: int = 0
    log_applied: int = 0
    commit_s: float = 0.0
    waiting_bytes: int = 0
    disk_free: int = 0
    damages: int = 0
    trainer: str = ""
    live: Iterable[tuple[str, str, str]] = ()
    """Agent, name and version of every live policy."""


class Instruments:
    """Reads what a running daemon's parts say of themselves."""

    def __init__(
        self,
        vitals: Vitals,
        store: Store,
        book: Book,
        *,
        subscribers: Callable[[], int],
        commit_s: Callable[[], float],
        waiting_bytes: Callable[[], int],
    ) -> None:
        self._vitals = vitals
        self._store = store
        self._book = book
        self._subscribers = subscribers
        self._commit_s = commit_s
        self._waiting_bytes = waiting_bytes

    async def read(self) -> Figures:
        """One look; on the event loop."""
        vitals = self._vitals
        return Figures(
            not_ready=vitals.not_ready(),
            counters=Counter(await asyncio.to_thread(self._stored)) + Counter(vitals.counts),
            produced=vitals.producers.sums(),
            producers=len(vitals.producers.newest()),
            subscribers=self._subscribers(),
            log_start=vitals.log_start(),
            log_end=vitals.log_end(),
            log_applied=vitals.applied(),
            commit_s=self._commit_s(),
            waiting_bytes=self._waiting_bytes(),
            disk_free=vitals.disk_free(),
            damages=len(tuple(vitals.damages())),
            trainer=vitals.trainer(),
            live=[(v.scope.agent, v.scope.agent_name, v.version) for v in self._book.live()],
        )

    def _stored(self) -> dict[str, int]:
        with self._store.reading() as cursor:
            return counters(cursor)


class Meters:
    """The registry: what is measured on the way, and what is read when somebody asks."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.ack_s = Histogram(
            "agentgym_ack_seconds",
            "From a request to its acknowledgement, which means durable.",
            buckets=_ACK_BUCKETS,
            registry=self._registry,
        )
        ProcessCollector(registry=self._registry)
        self._figures = Figures()
        self._turn = threading.Lock()
        self._registry.register(_Reader(lambda: self._figures))

    def observe_ack(self, seconds: float) -> None:
        """An acknowledgement was given."""
        self.ack_s.observe(seconds)

    def text(self, figures: Figures) -> bytes:
        """Everything in Prometheus' text format; for any thread."""
        with self._turn:
            self._figures = figures
            return generate_latest(self._registry)


class _Reader(Collector):
    def __init__(self, figures: Callable[[], Figures]) -> None:
        self._figures = figures

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        figures = self._figures()
        yield _gauge("ready", "Whether facts are taken.", float(not figures.not_ready))
        yield _gauge("log_bytes", "Log that is kept.", figures.log_end - figures.log_start)
        backlog = figures.log_end - figures.log_applied
        yield _gauge("log_backlog_bytes", "Log that the database lacks.", backlog)
        yield _gauge("log_commit_seconds", "The last write and sync of the log.", figures.commit_s)
        yield _gauge("waiting_bytes", "Requests that are not durable yet.", figures.waiting_bytes)
        yield _gauge("disk_free_bytes", "Free space of the directory.", figures.disk_free)
        yield _gauge("damages", "Files that were set aside.", figures.damages)
        yield _gauge("producers", "Plugins heard of within a day.", figures.producers)
        yield _gauge("subscribers", "Open policy subscriptions.", figures.subscribers)
        yield _gauge("threads", "Python threads of the daemon.", threading.active_count())
        yield _trainer(figures.trainer)
        yield _live(figures.live)
        yield from _counters(figures.counters)
        yield from _produced(figures.produced)


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"agentgym_{name}", help_text, value=value)


def _trainer(status: str) -> Metric:
    family = GaugeMetricFamily("agentgym_trainer", "What the trainer does.", labels=["state"])
    for state in TRAINER_STATES:
        family.add_metric([state], float(status.startswith(state)))
    return family


def _live(live: Iterable[tuple[str, str, str]]) -> Metric:
    labels = ["agent", "agent_name", "version"]
    family = GaugeMetricFamily("agentgym_policy_live", "Live policy versions.", labels=labels)
    for row in live:
        family.add_metric(row, 1.0)
    return family


def _counters(counters: Mapping[str, int]) -> Iterator[Metric]:
    spans = CounterMetricFamily(
        "agentgym_spans", "Spans, by what became of them.", labels=["result"]
    )
    refused = CounterMetricFamily("agentgym_refused", "Calls that were refused.", labels=["reason"])
    adopted = CounterMetricFamily("agentgym_adopted", "Taken over from spools.", labels=["kind"])
    held = GaugeMetricFamily("agentgym_trajectories", "Trajectories, by state.", labels=["state"])
    events = CounterMetricFamily("agentgym_events", "Everything counted.", labels=["event"])
    for name, count in sorted(counters.items()):
        if name.startswith("refused_"):
            refused.add_metric([name.removeprefix("refused_")], count)
        elif name.startswith("adopted_"):
            adopted.add_metric([name.removeprefix("adopted_")], count)
        elif name == "spans" or name.startswith("spans_"):
            spans.add_metric([name.removeprefix("spans").strip("_") or "accepted"], count)
        elif name.startswith("trajectories_"):
            held.add_metric([name.removeprefix("trajectories_")], count)
        else:
            events.add_metric([name], count)
    yield from (spans, refused, adopted, held, events)


def _produced(produced: Mapping[str, int]) -> Iterator[Metric]:
    lasting = CounterMetricFamily(
        "agentgym_producer_items",
        "What plugins made: produced = acked + pending + spooled + dropped.",
        labels=["state", "kind", "reason"],
    )
    present = GaugeMetricFamily(
        "agentgym_producer_waiting_items", "What plugins still hold.", labels=["state", "kind"]
    )
    for name, count in sorted(produced.items()):
        state, _, rest = name.partition(".")
        kind, _, reason = rest.partition(".")
        if state in ("produced", "acked", "dropped"):
            lasting.add_metric([state, kind, reason], count)
        elif state in ("pending", "spooled"):
            present.add_metric([state, kind], count)
    yield from (lasting, present)
