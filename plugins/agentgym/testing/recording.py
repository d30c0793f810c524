"""An `AgentGym` without a daemon: records into a list, and its policy can be told what to do."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from agentgym.export import Way
from agentgym.gym import AgentGym
from agentgym.items import Item, RewardItem, SpanItem, StepItem, TaskItem
from agentgym.policy.arms import Exploration
from agentgym.policy.evaluate import CatalogueCache
from agentgym.policy.features import Featuriser, TextHasher
from agentgym.policy.parameters import Parameters, initial
from agentgym.policy.policy_set import PolicySet
from agentgym.policy.snapshot import Snapshot
from agentgym.trajectory import Tool

_CERTAIN = 30.0


def certain(tools: Sequence[Tool], wanted: str, embedding_dim: int = 0) -> Parameters:
    """A policy that is certain that `wanted` is right, before any call was made.

    After a successful call it is certain that no tool is needed and leaves the agent alone.
    """
    parameters = initial(
        tuple(tool.fingerprint.hex() for tool in tools),
        tuple(tool.name for tool in tools),
        embedding_dim,
    )
    if embedding_dim:
        parameters.tensors["meaning.gain"][:] = 0.0  # whatever the texts mean
    names = [tool.name for tool in tools]
    parameters.tensors["tool.bias"][names.index(wanted)] = _CERTAIN
    parameters.tensors["history.effect"][3] = 3 * _CERTAIN  # respond_per_ok
    parameters.tensors["defer.bias"][:] = (-_CERTAIN, _CERTAIN)
    return parameters


class RecordingSink:
    """Keeps every item, in order."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.ended: list[bytes] = []
        self._lock = threading.Lock()

    def put(self, item: Item) -> None:
        """Keeps the item."""
        with self._lock:
            self.items.append(item)

    def end(self, trajectory_id: bytes) -> None:
        """Keeps the id of the complete trajectory."""
        with self._lock:
            self.ended.append(trajectory_id)

    @property
    def spans(self) -> list[SpanItem]:
        """Finished spans, in order of their ends."""
        return [item for item in self.items if isinstance(item, SpanItem)]

    @property
    def steps(self) -> list[StepItem]:
        """Finished steps, in order."""
        return [item for item in self.items if isinstance(item, StepItem)]

    @property
    def tasks(self) -> list[TaskItem]:
        """Task texts."""
        return [item for item in self.items if isinstance(item, TaskItem)]

    @property
    def rewards(self) -> list[RewardItem]:
        """Rewards."""
        return [item for item in self.items if isinstance(item, RewardItem)]


class RecordingGym(AgentGym):
    """An `AgentGym` whose sender is a `RecordingSink`; use `force` to script it."""

    def __init__(self, agent: str = "agent", **settings: Any) -> None:
        super().__init__(agent, **{"seed": 1, **settings})  # the same draws in every run
        self.guard.strict = True
        self.sink = RecordingSink()
        self.recorder.sink = self.sink
        self.sender.way = Way.NONE  # no threads that look for a daemon for ever

    def ready(self, timeout_s: float = 10.0) -> bool:
        """There is no daemon to wait for."""
        return True

    def force(
        self, tools: Sequence[Tool], wanted: str, *agents: str, control_share: float = 0.0
    ) -> None:
        """Swaps in a policy that is `certain` for each of the agents."""
        parameters = certain(tools, wanted)
        features = Featuriser(TextHasher(b"test"))
        self.live.swap(
            PolicySet(
                features=features,
                catalogues=CatalogueCache(features),
                exploration=Exploration(temperature=0.001, floor=0.0),
                control_share=control_share,
                stale_after_s=3600.0,
                policies={a: Snapshot("p-000001", "0" * 64, parameters, {}) for a in agents},
            )
        )
