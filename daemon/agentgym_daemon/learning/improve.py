"""One improvement: a training and the gate's verdict on the file that it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from agentgym.policy import snapshot
from agentgym_daemon.learning import gate
from agentgym_daemon.learning.checks import Receipt
from agentgym_daemon.learning.crossfit import Fitted
from agentgym_daemon.learning.dataset import Dataset
from agentgym_daemon.learning.health import replay as health_after
from agentgym_daemon.learning.health import stale
from agentgym_daemon.learning.phases import Phases
from agentgym_daemon.learning.proof import Anchors
from agentgym_daemon.learning.settings import LearningSettings
from agentgym_daemon.learning.train import TrainReport, train_with_twins


@dataclass(frozen=True, slots=True)
class Outcome:
    """A trained candidate, its file, and what training and gate say of it."""

    candidate: Fitted
    data: bytes
    sha256: str
    report: TrainReport
    receipt: Receipt


def improve(
    dataset: Dataset,
    anchors: Anchors,
    manifest: Mapping[str, Any],
    *,
    settings: LearningSettings,
    seed: int,
    phases: Phases | None = None,
) -> Outcome:
    """Trains a candidate and passes its file to the gate; the same for the same arguments."""
    parent = anchors.incumbent
    phases = phases or Phases()
    with phases("train"):
        dataset, dropped = _without_stale(dataset)
        candidate, report = train_with_twins(
            dataset, parent, settings=settings, seed=seed, phases=phases
        )
        data = snapshot.dump(candidate.policy, manifest)
        sha256 = snapshot.digest(data)
    with phases("gate"):
        receipt = gate.judge(
            data, sha256, dataset, twins=candidate.twins, anchors=anchors, settings=settings
        )
    return Outcome(candidate, data, sha256, replace(report, stale=dropped), receipt)


def _without_stale(dataset: Dataset) -> tuple[Dataset, int]:
    since = health_after(dataset.trajectories).confirmed
    fresh = tuple(t for t in dataset.trajectories if not stale(t, since))
    return replace(dataset, trajectories=fresh), len(dataset.trajectories) - len(fresh)
