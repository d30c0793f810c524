"""Trains the scopes that are due: export, train, gate, register, promote; each run is a fact."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentgym.errors import SnapshotError
from agentgym.proto.v1 import common_pb2, log_pb2
from agentgym_daemon.clock import Clock
from agentgym_daemon.config import DaemonConfig
from agentgym_daemon.encoders.choice import Choice
from agentgym_daemon.errors import ConfigError, DirectoryError, PolicyStateError
from agentgym_daemon.learning import schedule, twin_files
from agentgym_daemon.learning.phases import Phases
from agentgym_daemon.learning.settings import LearningSettings
from agentgym_daemon.learning.supervisor import TrainJob, TrainResult
from agentgym_daemon.policies.book import scope_key, scope_of
from agentgym_daemon.policies.registry import Registry
from agentgym_daemon.rewards.tracing import treatment
from agentgym_daemon.store.database import Store
from agentgym_daemon.store.targets import Shares, Treatment
from agentgym_daemon.store.training import (
    Progress,
    export_snapshot,
    held_back,
    imported,
    scope_progress,
)

_log = logging.getLogger(__name__)

ACTOR = "trainer"
_MOST_SOURCES = 100
PROMOTED, REJECTED, KEPT, FAILED = "promoted", "rejected", "kept", "failed"
Append = Callable[[log_pb2.LogRecord], Awaitable[int]]
Train = Callable[[TrainJob], Awaitable[TrainResult]]


class Retraining:
    """Runs one training at a time; used on the event loop."""

    def __init__(
        self,
        config: DaemonConfig,
        store: Store,
        registry: Registry,
        *,
        train: Train,
        append: Append,
        feature_key: bytes,
        encoder: Choice,
        clock: Clock,
        warm: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._store = store
        self._registry = registry
        self._train = train
        self._warm = warm  # called once there is something to learn from
        self._append = append
        self._feature_key = feature_key
        self._encoder = encoder
        self._clock = clock
        self._directory = config.home / "training"
        self._twins = config.home / "twins"
        self._settings = settings_of(config)

    def configure(self, config: DaemonConfig) -> None:
        """Takes up new settings; they hold from the next training. Raises ConfigError."""
        self._settings = settings_of(config)
        self._config = config

    def clean(self) -> None:
        """Removes what a training left that did not end."""
        shutil.rmtree(self._directory, ignore_errors=True)

    async def run_due(self) -> list[log_pb2.TrainingRun]:
        """Trains every scope that is due now, one after the other."""
        progress = await asyncio.to_thread(self._progress)
        if any(row.rewarded for row in progress):
            self._warm()
        return [await self._run(row) for row in progress if self._is_due(row)]

    def _progress(self) -> list[Progress]:
        since_ns = self._treatment().received_before_ns
        with self._store.reading() as cursor:
            progress = scope_progress(cursor)
            if not self._config.reward_hold_s:
                return progress
            # What is held back counts when it may be learned from.
            return [
                replace(row, rewarded=row.rewarded - held_back(cursor, row.scope, since_ns))
                for row in progress
            ]

    def _treatment(self) -> Treatment:
        return treatment(self._config, self._store.rules, self._clock.now_ns())

    def _is_due(self, row: Progress) -> bool:
        return row.scope.feature_schema == self._encoder.schema and schedule.due(
            schedule.Progress(row.rewarded, row.rewarded_at_last_training),
            row.last_training_ns or None,
            self._clock.now_ns(),
            trajectories=self._config.retrain_trajectories,
            minutes=self._config.retrain_minutes,
        )

    async def _run(self, row: Progress) -> log_pb2.TrainingRun:
        began, phases = self._clock.monotonic(), Phases(self._clock.monotonic)
        scope = scope_of(row.scope)
        version = self._registry.book.next_version()
        _log.info("training %s of %s on %d rewarded", version, scope_key(scope), row.rewarded)
        try:
            result, window = await self._train_once(row, version, phases)
            with phases("register"):
                verdict, report = await self._conclude(scope, result)
            report["window"] = window
            report["seconds"] = {**phases.seconds, **result.seconds}
        except (OSError, SnapshotError, DirectoryError) as error:
            _log.exception("training %s failed", version)
            verdict, report = FAILED, {"error": str(error)}
        report["imported_trajectories"] = await asyncio.to_thread(self._imported, row)
        run = log_pb2.TrainingRun(
            scope=scope,
            version="" if verdict == FAILED else version,
            trajectories=row.rewarded,
            verdict=verdict,
            report_json=json.dumps(report, sort_keys=True),
            duration_s=self._clock.monotonic() - began,
        )
        await self._append(log_pb2.LogRecord(training=run))
        _log.info("training %s: %s in %.1f s", version, verdict, run.duration_s)
        await asyncio.to_thread(twin_files.keep_only, self._twins, self._anchors())
        return run

    def _imported(self, row: Progress) -> int:
        with self._store.reading() as cursor:
            return imported(cursor, row.scope)

    async def _train_once(
        self, row: Progress, version: str, phases: Phases
    ) -> tuple[TrainResult, dict[str, Any]]:
        """The result, and the window of trajectories that the trainer was given."""
        parent = self._parent(scope_of(row.scope))
        job = TrainJob(
            snapshot=self._directory / f"{version}.snapshot",
            out=self._directory / f"{version}.safetensors",
            version=version,
            created_unix_nano=self._clock.now_ns(),
            seed=self._config.seed,
            parent=self._registry.path(parent) if parent else None,
            best=self._best(scope_of(row.scope)),
            twins=self._twins,
            encoder=self._encoder.path,
            settings=self._settings,
        )
        try:
            with phases("export"):
                window = await asyncio.to_thread(self._export, row, job.snapshot, parent)
            return await self._train(job), window
        finally:
            with contextlib.suppress(OSError):
                job.snapshot.unlink(missing_ok=True)

    def _parent(self, scope: common_pb2.Scope) -> str:
        """The live version; empty where there is none, or its file is broken."""
        live = self._registry.book.live_version(scope)
        intact = {version.version for version in self._registry.live(scope.agent)}
        return live if live in intact else ""

    def _best(self, scope: common_pb2.Scope) -> Path | None:
        """The file of the best version so far; None where there is none, or it is gone."""
        best = self._registry.book.best_version(scope)
        path = self._registry.path(best) if best else None
        return path if path is not None and path.exists() else None

    def _anchors(self) -> set[str]:
        """The versions that a later training may go on from, or is held against."""
        book = self._registry.book
        scopes = [version.scope for version in book.live()]
        of = (book.live_version, book.previous_version, book.best_version)
        return {version(scope) for scope in scopes for version in of}

    def _export(self, row: Progress, path: Path, parent: str) -> dict[str, Any]:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        how = self._treatment()
        with self._store.reading() as cursor:
            # Not what is stored as live: the database may be a promotion behind.
            exported = export_snapshot(
                cursor,
                row.scope,
                path,
                feature_key=self._feature_key,
                treatment=how,
                parent=parent,
            )
        return {
            "trajectories": exported.trajectories,
            "first_no": exported.first_no,
            "last_no": exported.last_no,
            "last_closed_ns": exported.last_closed_ns,
            "received_before_ns": how.received_before_ns,
            "held_out_in": self._settings.held_out_in,
            "sources": dict(sorted(_largest(exported.sources).items())),
        }

    async def _conclude(
        self, scope: common_pb2.Scope, result: TrainResult
    ) -> tuple[str, dict[str, Any]]:
        if not result.ok:
            _log.error("training %s failed: %s", result.job.version, result.error)
            return FAILED, {"error": result.error}
        accepted = bool(result.receipt.get("accepted"))
        data = await asyncio.to_thread(_take, result.job.out)
        await self._registry.register(
            data,
            sha256=result.sha256,
            scope=scope,
            status="candidate" if accepted else "rejected",
            receipt=result.receipt,
        )
        report = dict(result.report)
        if not accepted:
            reasons = list(result.receipt.get("reasons", ()))
            _log.info("the gate rejected %s: %s", result.job.version, "; ".join(reasons))
            return REJECTED, {**report, "reasons": reasons}
        return await self._promote(result.job.version, scope), report

    async def _promote(self, version: str, scope: common_pb2.Scope) -> str:
        if self._registry.book.is_pinned(scope):
            return KEPT
        try:
            await self._registry.promote(version, actor=ACTOR, reason="the gate passed")
        except PolicyStateError:  # pinned while it was being registered
            return KEPT
        return PROMOTED


def _largest(sources: Mapping[str, Shares]) -> dict[str, Any]:
    """The sources that are most of a training; whoever makes up names must not fill the log."""
    largest = sorted(sources, key=lambda name: -sources[name].given)[:_MOST_SOURCES]
    return {name: sources[name]._asdict() for name in largest}


def settings_of(config: DaemonConfig) -> LearningSettings:
    """The learner's settings; raises ConfigError for one that cannot be set."""
    steering = {
        "temperature": config.temperature,
        "floor": config.floor,
        "defer_floor": config.defer_floor,
        "top_k": config.top_k,
    }
    try:
        values = LearningSettings.parse(config.learning)
        if twice := sorted(values.keys() & steering.keys()):
            raise ValueError(f"{twice[0]} has a setting of its own")
        return LearningSettings.of(steering | values)
    except ValueError as error:
        raise ConfigError(f"learning: {error}") from error


def _take(path: Path) -> bytes:
    data = path.read_bytes()
    path.unlink()
    return data
