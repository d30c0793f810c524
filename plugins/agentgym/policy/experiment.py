"""The experiment that an agent is to run: its arms, and the verified policies that they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentgym.config import Mode
from agentgym.policy.snapshot import Snapshot
from agentgym.proto.v1 import experiment_pb2
from agentgym.trajectory import Treatment

_MODES = dict(enumerate(Mode, start=1))  # numbers as in common.proto


@dataclass(frozen=True, slots=True)
class ExperimentArm:
    """One of the alternatives; `share` is of all units."""

    name: str
    treatment: Treatment
    share: float
    version: str = ""
    mode: Mode | None = None
    policies: Mapping[str, Snapshot] = field(default_factory=dict)
    """What decides in place of the live policies, by agent name; of a version's arm."""

    @property
    def word(self) -> str:
        """What is done to its trajectories, in one word: a version, a mode, live, none, label."""
        if self.mode is not None:
            return self.mode.value
        return self.version or self.treatment.name.lower()


@dataclass(frozen=True, slots=True)
class Experiment:
    """Arms that are shared out by chance."""

    name: str
    arms: tuple[ExperimentArm, ...]

    @property
    def none(self) -> ExperimentArm | None:
        """The arm without a policy, if there is one."""
        return next((arm for arm in self.arms if arm.treatment is Treatment.NONE), None)

    @property
    def labels_only(self) -> bool:
        """Whether it changes nothing of what policies do."""
        return all(arm.treatment is Treatment.LABEL for arm in self.arms)


def experiment_of(
    message: experiment_pb2.Experiment, versions: Mapping[str, tuple[str, Snapshot]]
) -> Experiment | None:
    """An experiment as it was told; None if this plugin does not know one of its arms' kinds.

    `versions` has the agent name and the snapshot of every version; KeyError if one is missing.
    """
    arms = [_arm(arm, versions) for arm in message.arms]
    known = [arm for arm in arms if arm is not None]
    return Experiment(message.name, tuple(known)) if len(known) == len(arms) else None


def _arm(
    arm: experiment_pb2.ExperimentArm, versions: Mapping[str, tuple[str, Snapshot]]
) -> ExperimentArm | None:
    try:
        treatment = Treatment(int(arm.kind))
    except ValueError:
        return None
    mode = _MODES.get(int(arm.mode)) if treatment is Treatment.MODE else None
    if treatment is Treatment.MODE and mode is None:
        return None
    policies: dict[str, Snapshot] = {}
    if treatment is Treatment.VERSION:
        agent_name, snapshot = versions[arm.version]
        policies[agent_name] = snapshot
    return ExperimentArm(arm.name, treatment, arm.share, arm.version, mode, policies)
