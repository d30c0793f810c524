"""Puts the rooms together: the only module that knows them all.

gRPC -> segment log -> (applier thread) -> DuckDB -> rewards, training -> registry -> hub -> gRPC
                                              `-> tool health -------------^
spools of dead agents -> segment log                              hub -> pointer files
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from functools import partial
from importlib import metadata
from pathlib import Path

from agentgym.policy.arms import Exploration
from agentgym.policy.features import TextHasher
from agentgym.proto.v1 import log_pb2
from agentgym_daemon.adoption import Adoption, Intake
from agentgym_daemon.chores import Chores
from agentgym_daemon.clock import Clock, SteadyClock, SystemClock
from agentgym_daemon.config import RELOADABLE, DaemonConfig, changed, reloaded
from agentgym_daemon.encoders.choice import Choice, choose
from agentgym_daemon.experimenting import Referee
from agentgym_daemon.health import METRICS_TYPE, Answer, HealthServer, verdict
from agentgym_daemon.ingest.otlp import decode_traces
from agentgym_daemon.learning.supervisor import Trainer, TrainJob, TrainResult, command_of
from agentgym_daemon.lock import HomeLock, prepare, read_feature_key
from agentgym_daemon.metrics import Figures, Instruments, Meters
from agentgym_daemon.policies.audit import Chain
from agentgym_daemon.policies.book import Change
from agentgym_daemon.policies.curation import Curator
from agentgym_daemon.policies.experiments import Experimenter, Experiments
from agentgym_daemon.policies.history import history
from agentgym_daemon.policies.hub import Hub
from agentgym_daemon.policies.ladder import Climb, Ladder
from agentgym_daemon.policies.pointer import Pointer
from agentgym_daemon.policies.registry import Registry
from agentgym_daemon.policies.signing import Signer
from agentgym_daemon.policies.updates import Updates, handshake
from agentgym_daemon.retention import Retention
from agentgym_daemon.retraining import Retraining, settings_of
from agentgym_daemon.rewards.graders import Grading, graders
from agentgym_daemon.rewards.housekeeping import Housekeeping
from agentgym_daemon.rewards.lookup import StoreLookup
from agentgym_daemon.rewards.resolve import Rewards
from agentgym_daemon.rewards.tracing import Tracer
from agentgym_daemon.rpc.admin import AdminService, Vitals
from agentgym_daemon.rpc.admission import Admission, Disk, Limits
from agentgym_daemon.rpc.artifacts import ArtifactService
from agentgym_daemon.rpc.auth import Gate
from agentgym_daemon.rpc.evaluation import EvaluationService
from agentgym_daemon.rpc.experiments import ExperimentService
from agentgym_daemon.rpc.ingest import CatalogueService, DecisionService, TraceService
from agentgym_daemon.rpc.journal import Journal
from agentgym_daemon.rpc.policies import PolicyService
from agentgym_daemon.rpc.producers import Producers, ProducerService
from agentgym_daemon.rpc.registry import RegistryService
from agentgym_daemon.rpc.rewards import RewardService
from agentgym_daemon.rpc.server import RpcServer
from agentgym_daemon.rpc.services import Services
from agentgym_daemon.rpc.stages import Stages
from agentgym_daemon.rpc.stored import Sources
from agentgym_daemon.rpc.tokens import Tokens
from agentgym_daemon.rpc.trajectories import Tails, TrajectoryService
from agentgym_daemon.rpc.watch import WatchService
from agentgym_daemon.storage import Storage
from agentgym_daemon.store.audit import audit_head
from agentgym_daemon.store.batch import AppliedBatch
from agentgym_daemon.store.database import DATABASE_NAME
from agentgym_daemon.store.rows import Scope
from agentgym_daemon.watch.alerts import Alerts, LogSink, WebhookSink
from agentgym_daemon.watch.guard import Watch
from agentgym_daemon.watching import ToolWatch

DRAIN_S = 5.0
ACTOR = "daemon"
_GRACE_S = 1.0
_CATCH_UP_S = 10.0
_HOPELESS_S = 30.0
_TICK_S = 1.0
_STUCK_S = 5.0  # a loop that has not turned for this long is not alive
_FIGURES_S = 5.0
_FULL_S = 1.0  # after a write that found the disk full
_GUARD_S = 1.0
_GUARD_PAUSE = 20.0
_TRAINING_PAUSE_S = 0.25  # between looks at the progress, however fast rewards come
_JUDGING_TICK_S = 30.0
_JUDGING_PAUSE_S = 2.0  # between looks at experiments: each reads all of their runs

_logger = logging.getLogger(__name__)
TrainerFactory = Callable[[DaemonConfig], Trainer]


def version() -> str:
    """Version of this distribution."""
    return metadata.version("agentgym")


def make_trainer(config: DaemonConfig) -> Trainer:
    """The trainer's process, supervised."""
    return Trainer(
        config.home / "trainer.log",
        timeout_s=config.trainer_timeout_s,
        memory_bytes=config.trainer_memory_bytes,
        nice=config.trainer_nice,
        command=command_of(config.engine, config.engine_python),
    )


class Daemon:
    """One daemon on one directory, from `start` to `stop`."""

    def __init__(
        self,
        config: DaemonConfig,
        *,
        clock: Clock | None = None,
        trainer_factory: TrainerFactory = make_trainer,
    ) -> None:
        self.config = config
        self.failed = asyncio.Event()
        """Set when the daemon must not go on: nothing can be stored any more."""
        self._clock = SteadyClock(clock or SystemClock())
        self._state = "starting"
        self._beat = self._clock.monotonic()
        self._meters = Meters()
        self._producers = Producers(self._clock)
        self._trainer_factory = trainer_factory
        self._counts: Counter[str] = Counter()
        self._rewarded = asyncio.Event()
        self._unguarded = True
        self._guard_took_s = 0.0
        self._to_judge = asyncio.Event()
        self._to_watch: asyncio.Queue[AppliedBatch] = asyncio.Queue()
        self._chores = Chores(failed=lambda: self._count("chores_failed"))
        self._closing = AsyncExitStack()
        self._threads = ThreadPoolExecutor(thread_name_prefix="agentgym")
        self._hub = Hub()
        self._tails = Tails()
        self._server: RpcServer | None = None
        self._health: HealthServer | None = None

    @property
    def listeners(self) -> tuple[str, ...]:
        """Where the daemon listens; empty before the start."""
        return self._server.listeners if self._server else ()

    @property
    def metrics_address(self) -> str:
        """Where /metrics is served; empty if it is not."""
        return self._health.address if self._health else ""

    async def start(self) -> None:
        """Opens everything, brings the database up to date, and listens.

        Raises DaemonError, and leaves nothing open then.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Accepts nothing more, writes what was accepted, and gives the directory back."""
        self._state = "stopping"
        await self._closing.aclose()

    async def _start(self) -> None:
        config = self.config
        asyncio.get_running_loop().set_default_executor(self._threads)
        prepare(config.home)
        lock = HomeLock(config.home)
        lock.acquire()
        self._closing.callback(lock.release)
        self._serve_health()
        tokens, feature_key = Tokens(config.home), read_feature_key(config.home)
        encoder = choose(config.encoder, config.home, config.encoder_dir)
        began = self._clock.monotonic()

        # First what may be refused: the rest takes time.
        disk = Disk(config.home, config.home / f"{DATABASE_NAME}.wal", self._clock)
        self._admission = Admission(
            _limits(config),
            disk=disk,
            broken=self._broken,
            backlog=lambda: self._log.end - self._applier.applied,
            clock=self._clock,
            count=self._count,
            observe=self._meters.observe_ack,
        )
        gate = Gate(tokens, self._count, self._admission)
        self._server = RpcServer(config.home, config.listen, gate)
        self._closing.push_async_callback(self._server.stop, 0.0)
        self._server.bind()
        self._storage = Storage(config, self._clock, self._threads, drain_s=DRAIN_S - _GRACE_S)
        self._closing.push_async_callback(self._storage.close)
        await self._storage.open()
        self._log, self._store = self._storage.log, self._storage.store
        self._applier = self._storage.applier
        with self._store.reading() as cursor:
            chain = Chain(audit_head(cursor))
        self._journal = Journal(self._log, self._clock, chain=chain)
        self._signer = Signer(config.home, self._clock)
        self._registry = Registry(
            config.home / "policies",
            append=self._journal.append,
            clock=self._clock,
            changed=self._hub.ring,
        )
        self._ladder = Ladder(config)
        climb = Climb(self._ladder, append=self._journal.append, changed=self._moved)
        with self._store.reading() as cursor:
            versions, changes = history(cursor)
        self._registry.load(versions, changes)
        climb.load(changes)
        self._registry.book.at_canary = lambda agent: self._ladder.rung(agent).name == "canary"
        self._experimenter = self._make_experimenter(encoder)
        self._experimenter.load(changes)
        await self._chores.run(lambda: self._note_key(changes))
        features = encoder.featuriser(TextHasher(feature_key))
        self._sources = Sources(config.home, self._store, self._log, features, feature_key)
        self._evaluation = EvaluationService(
            self._registry,
            self._sources,
            held_out_in=lambda: settings_of(self.config).held_out_in,
        )
        self._stages = Stages(
            climb, self._store, present=self._present, evidence=self._evaluation.evidence
        )
        trainer = self._trainer_factory(config)
        self._closing.push_async_callback(asyncio.to_thread, trainer.close)
        lookup = StoreLookup(self._store)
        self._tracer = Tracer(self._store, lambda: self.config, self._clock)
        self._grading = Grading(
            graders(config, self._clock),
            lookup,
            append=self._journal.append,
            clock=self._clock,
            count=self._count,
        )
        self._closing.push_async_callback(self._grading.close)
        self._tools = ToolWatch(self._store, feature_schema=encoder.schema)
        # Without it, tools are found down anew; that is no reason not to start.
        await self._chores.run(lambda: asyncio.to_thread(self._tools.load))
        self._watch(lookup, trainer, feature_key, encoder)
        self._updates = Updates(
            self._registry,
            handshake=handshake(config, version(), feature_key, encoder.message()),
            signer=self._signer,
            ladder=self._ladder,
            experiments=self._experimenter.experiments,
            down=self._tools.down,
            agents_down=self._tools.agents_down,
        )
        vitals = Vitals(
            version=version(),
            uptime_s=lambda: self._clock.monotonic() - began,
            log_end=lambda: self._log.end,
            applied=lambda: self._applier.applied,
            trainer=lambda: trainer.status,
            listeners=lambda: self.listeners,
            counts=self._counts,
            not_ready=self._admission.not_ready,
            disk_free=disk.free,
            log_start=lambda: self._log.start,
            damages=lambda: self._log.damages,
            producers=self._producers,
        )
        self._instruments = Instruments(
            vitals,
            self._store,
            self._registry.book,
            subscribers=self._hub.__len__,
            commit_s=lambda: self._log.commit_s,
            waiting_bytes=lambda: self._admission.waiting_bytes,
        )
        policies = self._register(self._server, lookup, encoder, vitals)
        self._closing.push_async_callback(self._server.stop, _GRACE_S)
        self._closing.callback(policies.stop)
        self._closing.callback(self._tails.stop)
        self._state = ""
        await self._server.start()
        self._chores.spawn(Pointer(config.home / "policies", self._updates, self._hub).run())
        self._chores.spawn(self._adoption.run())
        _logger.info("listening on %s", ", ".join(self.listeners))

    def _watch(
        self, lookup: StoreLookup, trainer: Trainer, feature_key: bytes, encoder: Choice
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()

        def applied(batch: AppliedBatch) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._on_applied, batch)

        self._closing.callback(self._applier.subscribe(applied))
        config = self.config
        self._housekeeping = Housekeeping(
            lookup,
            append=self._journal.append,
            clock=self._clock,
            idle_ttl_s=config.idle_ttl_s,
            default_reward=config.default_reward,
            default_reward_after_s=config.default_reward_after_s,
        )

        self._retention = Retention(
            self._log,
            self._store,
            decode=decode_traces,
            append=self._journal.append,
            caught_up=self._storage.caught_up,
            clock=self._clock,
            days=config.retention_days,
        )

        async def train(job: TrainJob) -> TrainResult:
            return await asyncio.wrap_future(trainer.train(job))

        self._retraining = Retraining(
            config,
            self._store,
            self._registry,
            train=train,
            append=self._journal.append,
            feature_key=feature_key,
            encoder=encoder,
            clock=self._clock,
            warm=trainer.warm,
        )
        self._retraining.clean()
        self._curator = Curator(
            self._registry, self._signer, feature_key=feature_key, clock=self._clock
        )
        hook = [WebhookSink(config.alert_webhook)] if config.alert_webhook else []
        self._guard = Watch(
            self._store,
            self._registry,
            self._curator,
            Alerts([LogSink(), *hook], clock=self._clock, count=self._count),
            caught_up=self._storage.caught_up,
            mode=lambda: self.config.watch,
            tools_down=self._tools.names_down,
            believe=self._believe,
        )
        chores = self._chores
        self._closing.push_async_callback(chores.close)
        chores.repeat(self._beat_once, every_s=lambda: _TICK_S)
        chores.repeat(self._keep_house, every_s=lambda: _TICK_S)
        chores.repeat(self._train_due, every_s=self._training_tick_s, woken=self._rewarded)
        chores.repeat(self._guard_once, every_s=self._guard_tick_s)
        chores.repeat(self._judge_due, every_s=lambda: _JUDGING_TICK_S, woken=self._to_judge)
        chores.follow(self._to_watch, self._look)
        for grader, queue in self._grading.queues:
            chores.follow(queue, partial(self._grading.grade, grader))
        chores.spawn(chores.run(self._grading.catch_up))

    def _on_applied(self, batch: AppliedBatch) -> None:
        if batch.closed:
            self._tails.publish(batch.closed)
            self._grading.ended(batch.closed)
        if batch.rewarded or batch.closed:
            self._to_watch.put_nowait(batch)
            self._rewarded.set()
            self._to_judge.set()
        self._unguarded = self._unguarded or bool(batch.rewarded or batch.closed)

    async def _beat_once(self) -> None:
        self._beat = self._clock.monotonic()
        if self._log.failed and not self.failed.is_set():
            _logger.critical("stopping: %s", self._log.failed)
            self.failed.set()

    async def _keep_house(self) -> None:
        house = self._housekeeping
        for chore in (house.close_idle, house.give_defaults, self._retention.run_due):
            # What the last turn wrote must be visible, or it would be written again.
            if await self._storage.caught_up():
                await self._chores.run(chore)

    async def _train_due(self) -> None:
        await self._retraining.run_due()
        await asyncio.sleep(_TRAINING_PAUSE_S)

    async def _judge_due(self) -> None:
        if self._referee.busy:
            await self._referee.look()
            await asyncio.sleep(_JUDGING_PAUSE_S)

    def _training_tick_s(self) -> float:
        return min(30.0, self.config.retrain_minutes * 60.0)

    async def _guard_once(self) -> None:
        if self._unguarded:
            self._unguarded, began = False, self._clock.monotonic()
            self._unguarded = not await self._guard.look() or self._unguarded
            self._guard_took_s = self._clock.monotonic() - began

    def _guard_tick_s(self) -> float:
        """However much there is to look at, looking takes a small part of the time."""
        return max(_GUARD_S, _GUARD_PAUSE * self._guard_took_s)

    def _believe(self, scope: Scope, until_ns: int | None) -> None:
        if self._tools.believe(scope, until_ns):
            self._loop.call_soon_threadsafe(self._hub.ring, scope.agent)

    async def _look(self, batch: AppliedBatch) -> None:
        for agent in await asyncio.to_thread(self._tools.take, batch):
            self._hub.ring(agent)

    def _reward_alarms(self) -> list[str]:
        problems = self._grading.problems.items()
        return self._tracer.alarms() + [f"no reward by {name}: {why}" for name, why in problems]

    def _count(self, name: str, times: int = 1) -> None:
        self._counts[name] += times

    def _register(
        self,
        rpc: RpcServer,
        lookup: StoreLookup,
        encoder: Choice,
        vitals: Vitals,
    ) -> PolicyService:
        journal, registry = self._journal, self._registry
        rewards = Rewards(
            lookup, append=journal.append, caught_up=self._storage.caught_up, clock=self._clock
        )
        self._admin = AdminService(
            self.config,
            self._store,
            registry,
            self._hub,
            vitals,
            down=self._tools.names_down,
            stages=self._stages,
            reward_alarms=self._reward_alarms,
        )
        services = Services(
            traces=TraceService(journal, self._count),
            decisions=DecisionService(journal, self._count),
            catalogue=CatalogueService(journal, self._count),
            producers=ProducerService(self._producers, self._count),
            rewards=RewardService(rewards, self._tracer, self._count),
            policies=PolicyService(registry, self._hub, updates=self._updates, stages=self._stages),
            registry=RegistryService(
                registry,
                self._curator,
                self._sources,
                exploration=lambda: _exploration(self.config),
            ),
            evaluation=self._evaluation,
            watch=WatchService(
                self._guard, mode=lambda: self.config.watch, tools_down=self._tools.names_down
            ),
            experiments=ExperimentService(self._experimenter, self._stages, self._store),
            artifacts=ArtifactService(registry, encoder),
            trajectories=TrajectoryService(
                self._store,
                registry,
                self._tails,
                features=self._sources.features,
                tracer=self._tracer,
            ),
            admin=self._admin,
        )
        services.register(rpc.server)
        self._adoption = self._make_adoption(
            Intake(services.traces, services.decisions, services.catalogue, rewards.report)
        )
        return services.policies

    def _make_experimenter(self, encoder: Choice) -> Experimenter:
        experiments = Experiments(self._registry, feature_schema=encoder.schema)
        self._registry.book.in_use = experiments.versions
        experimenter = Experimenter(
            experiments,
            self._registry,
            self._ladder,
            append=self._journal.append,
            clock=self._clock,
            changed=self._experimented,
        )
        self._referee = Referee(experimenter, self._store)
        return experimenter

    def _experimented(self, agent: str) -> None:
        self._hub.ring(agent)
        self._to_judge.set()

    def _make_adoption(self, intake: Intake) -> Adoption:
        def note_damage(path: Path, reason: str, lost_bytes: int) -> None:
            self._log.note_damage(path, reason, lost_bytes=lost_bytes)

        return Adoption(
            self.config.home / "spool",
            intake,
            hold=lambda: self._admission.not_ready() or self._admission.overloaded(),
            clock=self._clock,
            count=self._count,
            note_damage=note_damage,
        )

    # ---- settings that change while it runs

    def reload(self, config: DaemonConfig) -> None:
        """Takes up what can change without a restart; raises ConfigError and changes nothing."""
        names = changed(self.config, config)
        fresh = reloaded(self.config, config)
        self._retraining.configure(fresh)
        self.config = self._admin.config = fresh
        self._housekeeping.configure(
            idle_ttl_s=fresh.idle_ttl_s,
            default_reward=fresh.default_reward,
            default_reward_after_s=fresh.default_reward_after_s,
        )
        self._retention.days = fresh.retention_days
        self._admission.limits = _limits(fresh)
        self._ladder.config = fresh
        self._updates.steer(fresh)
        self._hub.ring_all()
        waiting = [name for name in names if name not in RELOADABLE]
        taken = [name for name in names if name in RELOADABLE]
        _logger.info("settings reloaded; changed: %s", ", ".join(taken) or "nothing")
        if taken:
            change = Change(kind=Change.KIND_SETTINGS, actor=ACTOR, reason=", ".join(taken))
            self._chores.spawn(self._note(change))
        if waiting:
            _logger.warning("settings that wait for a restart: %s", ", ".join(waiting))

    # ---- the ladder

    def _moved(self, agent: str) -> None:
        """Tells an agent (empty: all) at once that its stage changed, or a kill."""
        if agent:
            self._hub.ring(agent)
        else:
            self._hub.ring_all()

    def _present(self) -> set[str]:
        return self._hub.agents() | {v.scope.agent for v in self._registry.book.versions()}

    # ---- what the daemon itself changes

    async def _note(self, change: Change) -> None:
        await self._journal.append(log_pb2.LogRecord(change=change))

    async def _note_key(self, changes: Sequence[Change]) -> None:
        keys = [change.reason for change in changes if change.kind == Change.KIND_KEY]
        if keys[-1:] != [self._signer.key_id]:
            _logger.info("policies are signed with key %s from now on", self._signer.key_id)
            reason = self._signer.key_id
            await self._note(Change(kind=Change.KIND_KEY, actor=ACTOR, reason=reason))

    # ---- what others may look at

    def _broken(self) -> str:
        if self._state:
            return self._state
        if self._log.failed:
            return str(self._log.failed)
        # A little later a write tries again: nothing else can tell that there is space.
        if self._clock.monotonic() - self._log.full_at < _FULL_S:
            return "the disk took no more; free some space"
        return ""

    def _serve_health(self) -> None:
        if self.config.metrics is None:
            return
        loop = asyncio.get_running_loop()

        def metrics() -> Answer:
            figures = asyncio.run_coroutine_threadsafe(self._figures(), loop).result(_FIGURES_S)
            return 200, METRICS_TYPE, self._meters.text(figures)

        pages = {
            "/livez": lambda: verdict(self._stuck()),
            "/readyz": lambda: verdict(self._state or self._admission.not_ready()),
            "/metrics": metrics,
        }
        self._health = HealthServer(self.config.metrics, pages)
        self._closing.callback(self._health.close)
        self._health.start()

    async def _figures(self) -> Figures:
        return Figures(not_ready=self._state) if self._state else await self._instruments.read()

    def _stuck(self) -> str:
        if self._state:
            return ""
        silent_s = self._clock.monotonic() - self._beat
        return f"the event loop has not turned for {silent_s:.0f} s" if silent_s > _STUCK_S else ""


def _exploration(config: DaemonConfig) -> Exploration:
    return Exploration(
        temperature=config.temperature,
        floor=config.floor,
        defer_floor=config.defer_floor,
        top_k=config.top_k,
    )


def _limits(config: DaemonConfig) -> Limits:
    return Limits(
        min_free_bytes=config.min_free_bytes,
        max_backlog_bytes=config.max_backlog_bytes,
        quota_bytes_per_s=config.quota_bytes_per_s,
    )
