"""Ends experiments that are decided, or of which an arm can no longer be had; promotes nothing."""

from __future__ import annotations

import asyncio
import logging

from agentgym.proto.v1.experiment_pb2 import Experiment, Verdict
from agentgym_daemon.errors import PolicyStateError
from agentgym_daemon.experiments.receipts import current, receipt
from agentgym_daemon.policies.experiments import Experimenter
from agentgym_daemon.store.database import Store

ACTOR = "referee"
_log = logging.getLogger(__name__)


class Referee:
    """Looks at the running experiments; used on the event loop."""

    def __init__(self, experimenter: Experimenter, store: Store) -> None:
        self._experimenter = experimenter
        self._store = store

    @property
    def busy(self) -> bool:
        """Whether any experiment runs."""
        return bool(self._experimenter.experiments.running())

    async def look(self) -> None:
        """Looks once at every running experiment."""
        for experiment in self._experimenter.experiments.running():
            await self._look_at(experiment)

    async def _look_at(self, experiment: Experiment) -> None:
        figures = await asyncio.to_thread(current, self._store, experiment)
        obstacle = self._experimenter.experiments.obstacle(experiment)
        if obstacle:
            figures.verdict, figures.winner = Verdict.VERDICT_STOPPED, ""
            figures.why, figures.next = obstacle, ""
        if figures.verdict == Verdict.VERDICT_RUNNING:
            return
        try:
            await self._experimenter.stop(
                experiment.name, figures, receipt(figures), actor=ACTOR, reason=obstacle
            )
        except PolicyStateError as error:
            _log.info("%s", error)  # a person was quicker
