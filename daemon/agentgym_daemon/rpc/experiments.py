"""ExperimentService: starts and stops experiments, and says what they have come to."""

from __future__ import annotations

import asyncio

from agentgym.proto.v1 import experiment_pb2, experiment_pb2_grpc
from agentgym.proto.v1.experiment_pb2 import Experiment, ExperimentFigures, Verdict
from agentgym_daemon.errors import NotFoundError
from agentgym_daemon.experiments.definition import completed
from agentgym_daemon.experiments.receipts import current, kept, receipt
from agentgym_daemon.policies.experiments import ACTING, Experimenter
from agentgym_daemon.rpc.actor import actor_of
from agentgym_daemon.rpc.stages import Stages
from agentgym_daemon.rpc.status import Context, unary
from agentgym_daemon.store.arms import metric_means
from agentgym_daemon.store.database import Store

_RUNS_BEFORE = 5_000
"""The newest runs before the start, from which the size of amounts is known."""


class ExperimentService(experiment_pb2_grpc.ExperimentServiceServicer):
    """Experiments as people see them."""

    def __init__(self, experimenter: Experimenter, stages: Stages, store: Store) -> None:
        self._experimenter = experimenter
        self._experiments = experimenter.experiments
        self._stages = stages
        self._store = store

    @unary
    async def Start(
        self, request: experiment_pb2.StartExperimentRequest, context: Context
    ) -> ExperimentFigures:
        """Starts an experiment; agents hear of it at once."""
        wanted = request.experiment
        seen = await self._stages.seen()
        if wanted.agent and wanted.agent not in seen and not request.unseen:
            raise NotFoundError(
                f"unknown agent {wanted.agent!r}; known are: {sorted(seen)}. "
                "--new starts an experiment of one that is still to come"
            )
        known = await asyncio.to_thread(self._known, wanted.agent)
        checked = completed(wanted, known)
        started = await self._experimenter.start(checked, actor=actor_of(context))
        return await self._figures(started)

    @unary
    async def List(
        self, request: experiment_pb2.ListExperimentsRequest, context: Context
    ) -> experiment_pb2.ListExperimentsResponse:
        """All experiments of an agent, or of everyone, newest first."""
        found = self._experiments.all(request.agent)
        return experiment_pb2.ListExperimentsResponse(
            experiments=[await self._figures(experiment) for experiment in found]
        )

    @unary
    async def Show(
        self, request: experiment_pb2.ShowExperimentRequest, context: Context
    ) -> ExperimentFigures:
        """What an experiment has come to."""
        return await self._figures(self._experiments.get(request.name))

    @unary
    async def Stop(
        self, request: experiment_pb2.StopExperimentRequest, context: Context
    ) -> ExperimentFigures:
        """Ends an experiment, with the figures so far as its receipt."""
        figures = await self._figures(self._experiments.get(request.name))
        figures.verdict, figures.winner, figures.next = Verdict.VERDICT_STOPPED, "", ""
        figures.why = request.reason or "stopped without a reason"
        ended = await self._experimenter.stop(
            request.name,
            figures,
            receipt(figures),
            actor=actor_of(context),
            reason=request.reason,
        )
        return await self._figures(ended)

    async def _figures(self, experiment: Experiment) -> ExperimentFigures:
        if experiment.verdict:
            return kept(experiment)
        figures = await asyncio.to_thread(current, self._store, experiment)
        waiting = self._waiting(experiment)
        if waiting:
            figures.why = f"{figures.why}; {waiting}"
        return figures

    def _waiting(self, experiment: Experiment) -> str:
        """Why no trajectory gets an arm at present; empty if they do."""
        ladder, agent = self._stages.ladder, experiment.agent
        if ladder.is_killed(agent):
            return "no run gets an arm, because the agent is killed"
        rung = ladder.rung(agent)
        if rung.name not in ACTING:
            return f"no run gets an arm, because the agent is at stage {rung.name}"
        return self._experiments.obstacle(experiment)

    def _known(self, agent: str) -> dict[str, tuple[int, float]]:
        with self._store.reading() as cursor:
            return metric_means(cursor, agent, _RUNS_BEFORE)
