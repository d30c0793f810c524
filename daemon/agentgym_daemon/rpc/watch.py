"""WatchService: how live policies have done lately, and what people were alerted to."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable

from agentgym.proto.v1 import watch_pb2, watch_pb2_grpc
from agentgym_daemon.policies.book import ScopeKey, scope_of
from agentgym_daemon.rpc.status import Context, unary
from agentgym_daemon.store.rows import Scope
from agentgym_daemon.watch.alerts import Alert
from agentgym_daemon.watch.fall import ENOUGH
from agentgym_daemon.watch.guard import Seen, Watch


class WatchService(watch_pb2_grpc.WatchServiceServicer):
    """Shows the last look; changes nothing."""

    def __init__(
        self, watch: Watch, *, mode: Callable[[], str], tools_down: Callable[[Scope], list[str]]
    ) -> None:
        self._watch = watch
        self._mode = mode
        self._tools_down = tools_down

    @unary
    async def Show(
        self, request: watch_pb2.ShowWatchRequest, context: Context
    ) -> watch_pb2.ShowWatchResponse:
        """Every scope that was looked at, and the newest alerts."""
        agent, seen = request.agent, sorted(self._watch.seen.items(), key=lambda item: item[0])
        wanted = [item for item in seen if agent in ("", item[0][0])]
        return watch_pb2.ShowWatchResponse(
            mode=self._mode(),
            scopes=[await asyncio.to_thread(self._scope, *item) for item in wanted],
            alerts=[_alert(a) for a in self._watch.alerts.recent if agent in ("", a.agent)],
        )

    def _scope(self, key: ScopeKey, seen: Seen) -> watch_pb2.ScopeWatch:
        verdict = seen.verdict
        beside, record = verdict.lift, verdict.record
        known = math.isfinite(beside.low)
        return watch_pb2.ScopeWatch(
            scope=scope_of(key),
            live=seen.live,
            runs=verdict.policy_runs,
            reference=record.reference,
            recent=verdict.recent,
            evidence=record.evidence,
            enough=ENOUGH,
            lift=beside.effect,
            lift_low=beside.low if known else math.nan,
            lift_high=beside.high if known else math.nan,
            act=verdict.act,
            reason=verdict.reason,
            drifts=[
                watch_pb2.Drift(what=name, z=one.z, effect=one.effect, alarming=one.alarming)
                for name, one in seen.drifts.items()
            ],
            tools_down=self._tools_down(Scope(*key)),
        )


def _alert(alert: Alert) -> watch_pb2.Alert:
    return watch_pb2.Alert(
        kind=alert.kind,
        agent=alert.agent,
        text=alert.text,
        time_unix_nano=alert.time_ns,
        figures_json=json.dumps(dict(alert.figures), sort_keys=True),
    )
