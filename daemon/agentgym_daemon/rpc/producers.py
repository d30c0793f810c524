"""ProducerService: what plugins say of themselves, so that nothing is lost silently."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Callable

from agentgym.proto.v1 import admin_pb2, producer_pb2, producer_pb2_grpc
from agentgym_daemon.clock import Clock
from agentgym_daemon.errors import InvalidRequestError
from agentgym_daemon.rpc import validate
from agentgym_daemon.rpc.status import Context, unary

MAX_PRODUCERS = 1000
FORGET_S = 24 * 3600.0
MAX_COUNTERS = 256
_MAX_NAMES = 2000
_MAX_TEXT = 200
_NAME = re.compile(r"[a-z0-9_.]{1,100}")
_LASTING = ("produced.", "acked.", "dropped.")
"""Counters that only grow; the others say what is now, and end with their process."""


class Producers:
    """The latest report of every plugin heard of lately; used on the event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: OrderedDict[bytes, admin_pb2.ProducerStatus] = OrderedDict()
        self._gone: Counter[str] = Counter()

    def take(self, report: producer_pb2.ProducerReport) -> None:
        """Keeps a report in place of the sender's last one."""
        now_ns = self._clock.now_ns()
        self._known[report.producer_id] = admin_pb2.ProducerStatus(
            report=report, received_unix_nano=now_ns
        )
        self._known.move_to_end(report.producer_id)
        self._forget(now_ns)

    def newest(self) -> list[admin_pb2.ProducerStatus]:
        """The reports, newest first."""
        self._forget(self._clock.now_ns())
        return list(reversed(self._known.values()))

    def sums(self) -> dict[str, int]:
        """Counters of all plugins heard of since the start, summed."""
        total = Counter(self._gone)
        for status in self._known.values():
            total.update(status.report.counters)
        return dict(total)

    def _forget(self, now_ns: int) -> None:
        oldest_ns = now_ns - int(FORGET_S * 1e9)
        while self._known:
            first = next(iter(self._known.values()))
            if len(self._known) <= MAX_PRODUCERS and first.received_unix_nano >= oldest_ns:
                return
            self._known.popitem(last=False)
            for name, count in first.report.counters.items():
                if name.startswith(_LASTING) and (
                    name in self._gone or len(self._gone) < _MAX_NAMES
                ):
                    self._gone[name] += count


class ProducerService(producer_pb2_grpc.ProducerServiceServicer):
    """Takes the reports in."""

    def __init__(self, producers: Producers, count: Callable[[str], None]) -> None:
        self._producers = producers
        self._count = count

    @unary
    async def Report(
        self, request: producer_pb2.ProducerReport, context: Context
    ) -> producer_pb2.ProducerReportResponse:
        """Keeps a report; counters that are no names are left out."""
        validate.identifier(request.producer_id, 16, "producer_id")
        if len(request.agent) > _MAX_TEXT or len(request.plugin_version) > _MAX_TEXT:
            raise InvalidRequestError(
                f"agent and plugin_version: expected at most {_MAX_TEXT} characters, got "
                f"{len(request.agent)} and {len(request.plugin_version)}"
            )
        if len(request.counters) > MAX_COUNTERS:
            raise InvalidRequestError(
                f"counters: expected at most {MAX_COUNTERS}, got {len(request.counters)}"
            )
        for name in [name for name in request.counters if not _NAME.fullmatch(name)]:
            del request.counters[name]
            self._count("producer_counters_rejected")
        self._producers.take(request)
        return producer_pb2.ProducerReportResponse()
