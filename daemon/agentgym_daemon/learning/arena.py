"""The whole loop in one process, driven by a referee: `agentgym_daemon.learning.arena:learner`.

What an agent's plugin does (features, decision), what the daemon stores (steps, rewards), when it
trains, the training itself and the gate are the product's own functions. Left out are processes,
wire and disk, and the control group: the referee measures the agent alone itself.

The referee calls `decide(request, explore)` before every tool call and `finish(trajectory)` after
every episode; a request has `task`, `history` (tool, error) and `offered` (name, description,
parameters), a trajectory `requests`, `decisions`, `calls` and `reward`.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentgym.policy.evaluate import Catalogue, CatalogueCache
from agentgym.policy.features import Featuriser, TextHasher, TextVector
from agentgym.policy.policy_set import PolicySet
from agentgym.policy.snapshot import Snapshot
from agentgym.trajectory import ArmKind, PastCall, Tool
from agentgym.trajectory import Decision as Drawn
from agentgym_daemon.encoders.choice import featuriser_of
from agentgym_daemon.learning import schedule
from agentgym_daemon.learning.crossfit import Fitted
from agentgym_daemon.learning.dataset import Act, Dataset, GradientArm, Step, Trajectory
from agentgym_daemon.learning.health import Health, calls
from agentgym_daemon.learning.improve import improve
from agentgym_daemon.learning.proof import Anchors
from agentgym_daemon.learning.settings import LearningSettings

ENCODER_ENV = "AGENTGYM_ENCODER"
_AGENT = "arena"
_KEY = b"arena"
_RETRAIN = 100


@dataclass(frozen=True, slots=True)
class Decision:
    """What the referee is told; `tool` None leaves the agent alone."""

    tool: str | None = None
    shortlist: tuple[str, ...] = ()
    propensity: float = 1.0
    mode: str = ""
    drawn: Drawn | None = None


class Learner:
    """One agent with its plugin, daemon and trainer; without `gate` every candidate goes live."""

    def __init__(
        self,
        seed: int,
        features: Featuriser,
        *,
        settings: LearningSettings | None = None,
        gate: bool = True,
    ) -> None:
        self.settings = settings or LearningSettings()
        self._seed, self._gate = seed, gate
        self._anchors = Anchors()
        self._incumbent: Fitted | None = None
        self._features = features
        self._rng = random.Random(seed)
        self._catalogues = CatalogueCache(features)
        self._tasks: dict[str, TextVector] = {}
        self._menus: dict[int, tuple[Any, tuple[Tool, ...]]] = {}
        self._universe = _Universe(features)
        self._trajectories: list[Trajectory] = []
        self._health = Health()
        self._trained_at = 0
        self._versions: list[str] = []
        self._policies = PolicySet(
            features=features,
            catalogues=self._catalogues,
            exploration=self.settings.exploration,
            control_share=0.0,
            stale_after_s=float("inf"),
        )

    # ---- the plugin's side

    def decide(self, request: Any, explore: bool) -> Decision:
        """The decision of a step; greedy and without a trace unless `explore`."""
        if not self._versions:
            return Decision()
        offered = self._offered(request.offered)
        catalogue = self._catalogues(offered)
        assert catalogue is not None  # it waits as long as it takes
        drawn = self._policies.decide(
            _AGENT,
            self._task(request.task),
            catalogue,
            self._history(request),
            allowed=[True] * len(offered),
            kind=ArmKind.FORCE,
            rng=self._rng if explore else None,
        )
        if drawn is None:
            return Decision()
        arm = drawn.taken
        tool = offered[arm.tools[0]].name if arm.kind is ArmKind.FORCE else None
        return Decision(tool=tool, propensity=drawn.propensity, drawn=drawn)

    def _task(self, text: str) -> TextVector:
        known = self._tasks.get(text)
        if known is None:
            known = self._tasks[text] = self._features(text)
        return known

    def _offered(self, offered: Sequence[Any]) -> tuple[Tool, ...]:
        known = self._menus.get(id(offered))
        if known is None or known[0] is not offered:
            tools = tuple(Tool(t.name, t.description, t.parameters) for t in offered)
            known = self._menus[id(offered)] = (offered, tools)
        return known[1]

    def _history(self, request: Any) -> tuple[PastCall, ...]:
        if not request.history:
            return ()
        by_name = {tool.name: tool.fingerprint for tool in self._offered(request.offered)}
        return tuple(PastCall(by_name[c.tool], error=c.error) for c in request.history)

    # ---- the daemon's side

    def finish(self, trajectory: Any) -> None:
        """Stores an episode, and trains when that is due."""
        number = len(self._trajectories)
        steps = [
            self._step(request, decision, call)
            for request, decision, call in zip(
                trajectory.requests, trajectory.decisions, trajectory.calls, strict=True
            )
        ]
        self._trajectories.append(
            Trajectory(
                hashlib.sha256(f"{self._seed} {number}".encode()).digest()[:16],
                trajectory.reward,
                tuple(steps),
                0,
                number,
            )
        )
        if self._health.observe(calls(self._trajectories[-1]), number):
            fingerprints = self._universe.catalogue.fingerprints
            down = frozenset(fingerprints[int(str(tool))] for tool in self._health.since)
            self._policies = replace(self._policies, down=down)
        progress = schedule.Progress(len(self._trajectories), self._trained_at)
        if schedule.due(progress, None, 0, trajectories=_RETRAIN, minutes=float("inf")):
            self._trained_at = len(self._trajectories)
            self._train()

    def _step(self, request: Any, decision: Decision, call: Any) -> Step:
        offered = self._offered(request.offered)
        columns = self._universe.columns(offered)
        by_name = dict(zip((tool.name for tool in offered), columns, strict=True))
        called = (by_name[call.tool],)
        drawn = decision.drawn
        return Step(
            x=self._task(request.task),
            offered=columns,
            allowed=(True,) * len(columns),
            history=self._history(request),
            called=called,
            failed=called if call.error else (),
            responded=False,
            alone=decision.tool is None,
            down=tuple(columns[i] for i in drawn.down) if drawn else (),
            scores={
                columns[arm.tools[0]]: arm.score
                for arm in (drawn.support if drawn else ())
                if arm.kind is ArmKind.FORCE
            },
            gradient=_gradient(drawn, columns, self._versions[-1]) if drawn else None,
        )

    def _train(self) -> None:
        parent = self._policies.policies.get(_AGENT)
        version = f"p-{self._trained_at:06d}"
        dataset = Dataset(
            scope=("arena", _AGENT, self._features.schema),
            parent=parent.version if parent else "",
            versions=tuple(self._versions),
            universe=self._universe.catalogue,
            tools=self._universe.fingerprints,
            names=self._universe.names,
            features=self._features,
            trajectories=tuple(self._trajectories),
        )
        manifest = {
            "version": version,
            "parent": dataset.parent,
            "created_unix_nano": 0,
            "scope": {},
            "lineage": {},
        }
        outcome = improve(
            dataset,
            replace(self._anchors, incumbent=self._incumbent),
            manifest,
            settings=self.settings,
            seed=self._seed,
        )
        if outcome.receipt.accepted or not self._gate:
            self._versions.append(version)
            self._incumbent = outcome.candidate
            snapshot = Snapshot(version, outcome.sha256, outcome.candidate.policy, manifest)
            if outcome.receipt.best == version:
                self._anchors = Anchors(best=outcome.candidate, best_version=version)
            self._policies = replace(self._policies, policies={_AGENT: snapshot})


class _Universe:
    """The tools ever offered, in the order in which they came."""

    def __init__(self, features: Featuriser) -> None:
        self._features = features
        self._known: dict[bytes, int] = {}
        self._columns: dict[int, tuple[tuple[Tool, ...], tuple[int, ...]]] = {}
        self.catalogue = Catalogue((), features.exactly)

    def columns(self, offered: tuple[Tool, ...]) -> tuple[int, ...]:
        """Columns of the offered tools; new ones get the next."""
        known = self._columns.get(id(offered))
        if known is None:
            new = [tool for tool in offered if tool.fingerprint not in self._known]
            for tool in new:
                self._known[tool.fingerprint] = len(self._known)
            if new:
                self.catalogue = Catalogue((*self.catalogue.tools, *new), self._features.exactly)
            columns = tuple(self._known[tool.fingerprint] for tool in offered)
            known = self._columns[id(offered)] = (offered, columns)
        return known[1]

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Hex fingerprints, in column order."""
        return tuple(fingerprint.hex() for fingerprint in self.catalogue.fingerprints)

    @property
    def names(self) -> tuple[str, ...]:
        """Names, in column order."""
        return tuple(tool.name for tool in self.catalogue.tools)


def _gradient(drawn: Drawn, columns: Sequence[int], version: str) -> GradientArm:
    return GradientArm(
        support=tuple(Act(arm.kind, tuple(columns[i] for i in arm.tools)) for arm in drawn.support),
        arm=drawn.arm,
        propensity=drawn.propensity,
        temperature=drawn.temperature,
        floor=drawn.floor,
        defer_floor=drawn.defer_floor,
        version=version,
    )


def learner(seed: int, encoder: str = "default") -> Learner:
    """A learner with the daemon's defaults; AGENTGYM_ENCODER names another encoder."""
    features = featuriser_of(os.environ.get(ENCODER_ENV, encoder), TextHasher(_KEY))
    return Learner(seed, features)
