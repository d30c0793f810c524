"""AdminService: the daemon's own state."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from agentgym import semconv
from agentgym.proto.v1 import admin_pb2, admin_pb2_grpc
from agentgym_daemon.config import DaemonConfig
from agentgym_daemon.errors import StorageError
from agentgym_daemon.learning import schedule
from agentgym_daemon.policies.book import scope_of
from agentgym_daemon.policies.hub import Hub
from agentgym_daemon.policies.registry import Registry
from agentgym_daemon.rpc.producers import Producers
from agentgym_daemon.rpc.stages import Stages
from agentgym_daemon.rpc.status import Context, unary
from agentgym_daemon.store.counters import counters
from agentgym_daemon.store.database import Store
from agentgym_daemon.store.rows import Scope
from agentgym_daemon.store.training import Progress, scope_progress


@dataclass(slots=True)
class Vitals:
    """What only the running process knows; read at every call."""

    version: str
    uptime_s: Callable[[], float]
    log_end: Callable[[], int]
    applied: Callable[[], int]
    trainer: Callable[[], str]
    listeners: Callable[[], tuple[str, ...]]
    counts: Mapping[str, int]
    not_ready: Callable[[], str]
    disk_free: Callable[[], int]
    log_start: Callable[[], int]
    damages: Callable[[], Iterable[Damage]]
    producers: Producers


class Damage(Protocol):
    """A file that could not be read and was set aside."""

    @property
    def path(self) -> str:
        """Where it lies now."""

    @property
    def reason(self) -> str:
        """What was wrong with it."""

    @property
    def lost_bytes(self) -> int:
        """What cannot be had from anywhere else."""

    @property
    def time_unix_nano(self) -> int:
        """When it was found."""


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """Says how the daemon is."""

    def __init__(
        self,
        config: DaemonConfig,
        store: Store,
        registry: Registry,
        hub: Hub,
        vitals: Vitals,
        *,
        stages: Stages,
        reward_alarms: Callable[[], list[str]] = list,
        down: Callable[[Scope], list[str]] = lambda _scope: [],
    ) -> None:
        self.config = config
        """Replaced as a whole when settings change."""
        self._store = store
        self._registry = registry
        self._hub = hub
        self._vitals = vitals
        self._down = down
        self._stages = stages
        self._alarms = reward_alarms

    @unary
    async def Status(
        self, request: admin_pb2.StatusRequest, context: Context
    ) -> admin_pb2.StatusResponse:
        """Counters, progress per scope, positions in the log."""
        vitals = self._vitals
        not_ready = vitals.not_ready()
        # First, so that the counters are at least as new as the position that is told with them.
        log_end, log_applied = vitals.log_end(), vitals.applied()
        progress, counted = await asyncio.to_thread(self._read)
        alarms = await asyncio.to_thread(self._reward_alarms)
        ladder = self._stages.ladder
        agents = {row.scope.agent for row, _ in progress} | self._stages.here()
        for name, count in vitals.counts.items():
            counted[name] = counted.get(name, 0) + count
        return admin_pb2.StatusResponse(
            daemon_version=vitals.version,
            contract_version=semconv.CONTRACT_VERSION,
            pid=os.getpid(),
            uptime_s=vitals.uptime_s(),
            home=str(self.config.home),
            listeners=vitals.listeners(),
            counters=counted,
            scopes=[self._scope(row, down) for row, down in progress],
            subscribers=len(self._hub),
            log_end=log_end,
            log_applied=log_applied,
            trainer=vitals.trainer(),
            ready=not not_ready,
            not_ready=not_ready,
            disk_free=vitals.disk_free(),
            log_start=vitals.log_start(),
            damages=[_damage(damage) for damage in vitals.damages()],
            producers=vitals.producers.newest(),
            produced=vitals.producers.sums(),
            stages=[ladder.status(agent) for agent in sorted(agents)],
            all_killed=ladder.all_killed,
            reward_alarms=alarms,
        )

    def _read(self) -> tuple[list[tuple[Progress, list[str]]], dict[str, int]]:
        try:
            with self._store.reading() as cursor:
                progress, counted = scope_progress(cursor), counters(cursor)
            return [(row, self._down(row.scope)) for row in progress], counted
        except StorageError:  # the database is being opened again; all else can be said
            return [], {}

    def _reward_alarms(self) -> list[str]:
        try:
            return self._alarms()
        except StorageError:
            return []

    def _scope(self, row: Progress, down: list[str]) -> admin_pb2.ScopeStatus:
        scope = scope_of(row.scope)
        return admin_pb2.ScopeStatus(
            scope=scope,
            live=self._registry.book.live_version(scope),
            pinned=self._registry.book.is_pinned(scope),
            trajectories=row.trajectories,
            rewarded=row.rewarded,
            reliability_policy=row.reliability_policy,
            n_policy=row.n_policy,
            reliability_control=row.reliability_control,
            n_control=row.n_control,
            down=down,
            until_training=schedule.needed(
                schedule.Progress(row.rewarded, row.rewarded_at_last_training),
                self.config.retrain_trajectories,
            ),
        )


def _damage(damage: Damage) -> admin_pb2.Damage:
    return admin_pb2.Damage(
        path=damage.path,
        reason=damage.reason,
        lost_bytes=damage.lost_bytes,
        time_unix_nano=damage.time_unix_nano,
    )
