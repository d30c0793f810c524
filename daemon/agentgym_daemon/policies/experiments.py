"""Which experiments there are and which one runs per agent: a fold over the log's facts.

start ── running ── stop (by its verdict, or by a person)       one at a time per agent
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from agentgym.errors import SnapshotError
from agentgym.proto.v1 import common_pb2, log_pb2, policy_pb2
from agentgym.proto.v1.experiment_pb2 import Experiment, ExperimentArm, ExperimentFigures, Verdict
from agentgym_daemon.clock import Clock
from agentgym_daemon.errors import InvalidRequestError, NotFoundError, PolicyStateError
from agentgym_daemon.policies.book import Change
from agentgym_daemon.policies.ladder import Ladder
from agentgym_daemon.policies.registry import Registry

_log = logging.getLogger(__name__)

Append = Callable[[log_pb2.LogRecord], Awaitable[int]]
ACTING = ("canary", "live")
"""Stages at which an experiment shares out anything."""


class Experiments:
    """All experiments; changed only by facts that are in the log, on the event loop."""

    def __init__(self, registry: Registry, *, feature_schema: int) -> None:
        self._registry = registry
        self._schema = feature_schema
        self._known: dict[str, Experiment] = {}

    def change(self, change: Change) -> None:
        """Takes in a start or a stop; other changes say nothing here."""
        told = change.experiment
        if change.kind == Change.KIND_EXPERIMENT_START:
            copy = Experiment()
            copy.CopyFrom(told)
            self._known[told.name] = copy
        elif change.kind == Change.KIND_EXPERIMENT_STOP and told.name in self._known:
            self._known[told.name].MergeFrom(told)
            self._known[told.name].receipt_json = change.receipt_json

    def get(self, name: str) -> Experiment:
        """An experiment by its name; raises NotFoundError naming those that there are."""
        found = self._known.get(name)
        if found is None:
            names = ", ".join(reversed(self._known)) or "none"
            raise NotFoundError(f"unknown experiment {name!r}; there are: {names}")
        return found

    def all(self, agent: str = "") -> list[Experiment]:
        """The experiments of an agent, or of all, newest first."""
        found = reversed(self._known.values())
        return [one for one in found if agent in ("", one.agent)]

    def running(self, agent: str = "") -> list[Experiment]:
        """Those that have not ended; of one agent at most one."""
        return [one for one in self.all(agent) if not one.verdict]

    def agents(self) -> set[str]:
        """Agents of which an experiment runs."""
        return {one.agent for one in self.running()}

    def versions(self) -> set[str]:
        """Policy versions that running experiments need."""
        return {arm.version for one in self.running() for arm in one.arms if arm.version}

    def obstacle(self, experiment: Experiment) -> str:
        """Why an arm can no longer be had; empty if all can."""
        book = self._registry.book
        for arm in experiment.arms:
            if arm.kind != ExperimentArm.KIND_VERSION:
                continue
            if book.quarantined(arm.version) is not None:
                return f"{arm.version} of arm {arm.name} is quarantined"
            if book.is_pruned(arm.version):
                return f"{arm.version} of arm {arm.name} was pruned"
            if book.get(arm.version).scope.feature_schema != self._schema:
                return f"{arm.version} of arm {arm.name} reads features of another encoder"
        return ""

    def tell(self, agent: str, update: policy_pb2.PolicyUpdate) -> None:
        """Adds the agent's running experiment, as far as agents need it, and its versions."""
        for experiment in self.running(agent):
            if self.obstacle(experiment):
                continue  # until it is stopped, nobody gets an arm of it
            told = Experiment(name=experiment.name, agent=agent, arms=experiment.arms)
            update.experiment.CopyFrom(told)
            names = dict.fromkeys(arm.version for arm in experiment.arms if arm.version)
            update.arms.extend(self._registry.book.get(name) for name in names)


class Experimenter:
    """Starts and stops experiments, each change written to the log before it holds."""

    def __init__(
        self,
        experiments: Experiments,
        registry: Registry,
        ladder: Ladder,
        *,
        append: Append,
        clock: Clock,
        changed: Callable[[str], None],
    ) -> None:
        self.experiments = experiments
        self._registry = registry
        self._ladder = ladder
        self._append = append
        self._clock = clock
        self._changed = changed  # called with the agent
        self._changing = asyncio.Lock()

    def load(self, changes: Iterable[Change]) -> None:
        """Takes up what the log says."""
        for change in changes:
            self.experiments.change(change)

    async def start(self, wanted: Experiment, *, actor: str) -> Experiment:
        """Starts a checked experiment; aliases of versions are resolved once, here.

        Raises NotFoundError, InvalidRequestError or PolicyStateError.
        """
        async with self._changing:
            self._require_room(wanted)
            experiment = Experiment()
            experiment.CopyFrom(wanted)
            for arm in experiment.arms:
                if arm.kind == ExperimentArm.KIND_VERSION:
                    arm.version = await self._version(arm, experiment.agent)
            obstacle = self.experiments.obstacle(experiment)
            if obstacle:
                raise PolicyStateError(f"experiment {experiment.name}: {obstacle}")
            experiment.started_unix_nano = self._clock.now_ns()
            experiment.started_by = actor
            change = _change(Change.KIND_EXPERIMENT_START, experiment, actor, experiment.reason)
            await self._commit(change)
            return self.experiments.get(experiment.name)

    async def stop(
        self, name: str, figures: ExperimentFigures, receipt: str, *, actor: str, reason: str = ""
    ) -> Experiment:
        """Ends an experiment with the figures that it has come to.

        Without a verdict of its own the figures' is *stopped*. Raises PolicyStateError if it has
        ended already.
        """
        async with self._changing:
            experiment = self.experiments.get(name)
            if experiment.verdict:
                raise PolicyStateError(f"experiment {name!r} has ended already: {experiment.why}")
            stopped = figures.verdict in (Verdict.VERDICT_UNSPECIFIED, Verdict.VERDICT_RUNNING)
            end = Experiment(
                name=name,
                ended_unix_nano=self._clock.now_ns(),
                ended_by=actor,
                verdict=Verdict.VERDICT_STOPPED if stopped else figures.verdict,
                why=(reason or "stopped without a reason") if stopped else figures.why,
                winner="" if stopped else figures.winner,
            )
            change = _change(Change.KIND_EXPERIMENT_STOP, end, actor, end.why)
            change.scope.agent = experiment.agent
            change.receipt_json = receipt
            await self._commit(change)
            return self.experiments.get(name)

    def _require_room(self, wanted: Experiment) -> None:
        agent = wanted.agent
        if any(one.name == wanted.name for one in self.experiments.all()):
            raise PolicyStateError(
                f"experiment {wanted.name!r} was there before; names are used once, take another"
            )
        for other in self.experiments.running(agent):
            raise PolicyStateError(
                f"agent {agent!r} is in experiment {other.name!r}, and takes part in one at a "
                f"time; stop it first: agentgym experiment stop {other.name}"
            )
        if self._ladder.is_killed(agent):
            raise PolicyStateError(f"agent {agent!r} is killed; agentgym revive comes first")
        rung = self._ladder.rung(agent)
        if rung.name not in ACTING:
            raise PolicyStateError(
                f"agent {agent!r} is at stage {rung.name}, where nothing is shared out; go to "
                f"{' or '.join(ACTING)} first: agentgym stage {agent} canary"
            )

    async def _version(self, arm: ExperimentArm, agent: str) -> str:
        version = self._registry.book.get(arm.version)
        if version.scope.agent != agent:
            raise InvalidRequestError(
                f"arm {arm.name}: expected a version of agent {agent!r}, got {version.version} of "
                f"{version.scope.agent!r}"
            )
        if not self._registry.book.is_pruned(version.version):
            try:
                await asyncio.to_thread(self._registry.read, version.sha256)
            except SnapshotError as error:
                raise PolicyStateError(f"arm {arm.name} cannot be had: {error}") from error
        return version.version

    async def _commit(self, change: Change) -> None:
        await self._append(log_pb2.LogRecord(change=change))
        self.experiments.change(change)
        self._changed(change.scope.agent)
        name = Change.Kind.Name(change.kind).removeprefix("KIND_").lower()
        _log.info("%s %s by %s: %s", name, change.experiment.name, change.actor, change.reason)


def _change(kind: Change.Kind, experiment: Experiment, actor: str, reason: str) -> Change:
    scope = common_pb2.Scope(agent=experiment.agent)
    return Change(kind=kind, scope=scope, actor=actor, reason=reason, experiment=experiment)
