"""A small world to learn in: requests, tools, and an agent that is systematically wrong.

It plays the plugin's part (decide, sample, record) in-process and writes the trainer's snapshot
file, so that learning is tested from the contract's bytes on.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agentgym.policy.arms import Exploration, decide, force_arms, show_arms
from agentgym.policy.evaluate import Catalogue, Scorer
from agentgym.policy.features import GRAMS_ONLY, Featuriser, TextHasher, TextVector
from agentgym.policy.parameters import Parameters
from agentgym.proto.v1 import common_pb2, decision_pb2, training_pb2
from agentgym.testing import make_preferences
from agentgym.trajectory import ArmKind, Assignment, Decision, Fallback, PastCall, Tool

KEY = b"a key of this install"
CALLS_PER_SLOT = 2
Encode = Callable[[str], NDArray[np.float32]]


@dataclass(frozen=True)
class Request:
    """A user's request and the tools that it needs, in order."""

    text: str
    tools: tuple[str, ...]


@dataclass
class Run:
    """What happened in one run, for the referee."""

    wanted: list[str]
    needed: int = field(init=False)
    first_attempts: list[bool] = field(default_factory=list)
    all_right: bool = True
    _retrying: bool = False

    def __post_init__(self) -> None:
        self.needed = len(self.wanted)

    def call(self, tool: str) -> bool:
        """Whether the call is right; after a wrong one, further calls are retries of its slot."""
        extra, right = not self.wanted, tool in self.wanted
        if right:
            self.wanted.remove(tool)
        self.all_right = self.all_right and right
        if not self._retrying:
            self.first_attempts.append(right)
        self._retrying = not right and not extra
        return right

    def finish(self) -> bool:
        """Counts slots that were never attempted as wrong; returns whether all went right."""
        missing = self.needed - len(self.first_attempts)
        self.first_attempts += [False] * max(0, missing)
        return self.all_right and not self.wanted


class Brain:
    """The frozen model: a fixed ranking per slot, one retry after a visible error."""

    def __init__(self, slots: Sequence[Sequence[str]]) -> None:
        self._slots, self._done, self._tried = slots, 0, list[str]()

    def choose(self, shown: Sequence[str] | None) -> str | None:
        """The tool to call, or None to respond."""
        if self._done >= len(self._slots):
            return None
        ranking = [t for t in self._slots[self._done] if t not in self._tried]
        ranking = [t for t in ranking if shown is None or t in shown] or list(shown or ranking)
        return ranking[0]

    def count(self, tool: str, *, error: bool) -> None:
        self._tried.append(tool)
        if not error or len(self._tried) >= CALLS_PER_SLOT:
            self._done += 1
            self._tried.clear()


class World:
    """Requests, a catalogue, the agent's opinions, and the recorded trajectories."""

    request_class = Request

    def __init__(
        self,
        requests: Sequence[Request],
        tools: Sequence[Tool],
        *,
        seed: int,
        mode: int = common_pb2.MODE_STEER,
        preferences: Mapping[str, tuple[tuple[str, ...], ...]] | None = None,
        exploration: Exploration | None = None,
        encode: Encode | None = None,
        schema: int = GRAMS_ONLY,
        dim: int = 0,
    ) -> None:
        self.requests, self.tools, self.mode = list(requests), tuple(tools), mode
        self.rng = random.Random(seed)
        self.exploration = exploration or Exploration()
        self.preferences = preferences or make_preferences(self.requests, self.tools, seed=seed)
        featuriser = Featuriser(TextHasher(KEY), encode, schema=schema, dim=dim)
        self.schema = schema
        self.catalogue = Catalogue(self.tools, featuriser)
        self.features = {r.text: featuriser(r.text) for r in self.requests}
        self.recorded: list[training_pb2.TrainingTrajectory] = []
        self.versions: list[str] = []
        self.control_share, self.visible = 0.15, 0.6
        self.down: set[str] = set()  # names of tools that the plugin leaves out

    def episode(
        self,
        request: Request,
        policy: Parameters | None,
        version: str = "",
        *,
        greedy: bool = False,
    ) -> tuple[Run, int]:
        """One run; recorded and rewarded unless it is greedy. Also returns its assignment."""
        assignment = int(Assignment.NONE)
        if policy is not None:
            control = not greedy and self.rng.random() < self.control_share
            assignment = int(Assignment.CONTROL if control else Assignment.POLICY)
        run, brain, history = (
            Run(list(request.tools)),
            Brain(self.preferences[request.text]),
            list[PastCall](),
        )
        message = training_pb2.TrainingTrajectory(
            trajectory_id=self.rng.randbytes(16), closed_unix_nano=len(self.recorded) + 1
        )
        x = self.features[request.text]
        message.features.append(self._features(x, message.trajectory_id))
        for number in range(8):
            record = message.decisions.add(
                decision_id=number.to_bytes(8, "big"),
                trajectory_id=message.trajectory_id,
                step=number,
                mode=self.mode,
                assignment=assignment,
                fallback=int(Fallback.NONE if policy is not None else Fallback.NO_POLICY),
                offered=[t.fingerprint for t in self.tools],
                arm=-1,
                features_id=b"task",
                completed=True,
            )
            for past in history:
                record.history.add(tool=past.tool, error=past.error)
            name = self._act(record, brain, policy, version, x, history, greedy=greedy)
            if name is None:
                break
            run.call(name)
            error = name not in request.tools and self.rng.random() < self.visible
            brain.count(name, error=error)
            record.called.append(name)
            message.calls.add(decision_id=record.decision_id, tool=name, error=error)
            history.append(PastCall(self._tool(name).fingerprint, error=error))
        success = run.finish()
        if not greedy:
            flip = self.rng.random() < (0.03 if success else 0.02)
            message.reward = float(success != flip)
            self.recorded.append(message)
        return run, assignment

    def _act(
        self,
        record: decision_pb2.DecisionRecord,
        brain: Brain,
        policy: Parameters | None,
        version: str,
        x: TextVector,
        history: Sequence[PastCall],
        *,
        greedy: bool,
    ) -> str | None:
        if policy is None or record.assignment == Assignment.CONTROL:
            return brain.choose(None)
        down = tuple(i for i, t in enumerate(self.tools) if t.name in self.down)
        result = Scorer(policy, self.catalogue)(x, history, down)
        arms = force_arms if self.mode == common_pb2.MODE_STEER else show_arms
        allowed = [not t.protected and i not in down for i, t in enumerate(self.tools)]
        support = arms(result, allowed, self.exploration.top_k)
        decision = decide(support, self.exploration, None if greedy else self.rng, down=down)
        write_decision(record, decision, version)
        match decision.taken.kind:
            case ArmKind.DEFER:
                return brain.choose(None)
            case ArmKind.FORCE:
                return self.tools[decision.taken.tools[0]].name
            case _:
                return brain.choose([self.tools[i].name for i in decision.taken.tools])

    def _tool(self, name: str) -> Tool:
        return next(t for t in self.tools if t.name == name)

    def _features(self, x: TextVector, trajectory_id: bytes) -> decision_pb2.TaskFeatures:
        return decision_pb2.TaskFeatures(
            features_id=b"task",
            trajectory_id=trajectory_id,
            feature_schema=self.schema,
            index=x.index.tolist(),
            quantised=x.quantised.tobytes(),
            scale=x.scale,
            embedding=x.embedding.quantised.tobytes() if x.embedding else b"",
            embedding_scale=x.embedding.scale if x.embedding else 0.0,
        )

    def write(self, path: Path, *, parent: str = "", window: int = 3000) -> Path:
        """The trainer's snapshot file of the newest `window` trajectories."""
        kept = self.recorded[-window:]
        header = training_pb2.TrainingHeader(
            scope=common_pb2.Scope(agent="desk", agent_name="agent", feature_schema=self.schema),
            parent=parent,
            feature_key=KEY,
            trajectories=len(kept),
            versions=self.versions,
        )
        for tool in self.tools:
            header.tools.add(
                fingerprint=tool.fingerprint, name=tool.name, description=tool.description
            )
        self.write_messages(
            path, [header.SerializeToString(), *(m.SerializeToString() for m in kept)]
        )
        return path

    @staticmethod
    def write_messages(path: Path, messages: Sequence[bytes]) -> None:
        """Length-prefixed messages, as training.proto has them."""
        path.write_bytes(b"".join(struct.pack("<I", len(m)) + m for m in messages))

    def reliability(self, policy: Parameters | None, requests: Sequence[Request]) -> float:
        """Call reliability of first attempts, greedy."""
        outcomes = [
            right
            for request in requests
            for right in self.episode(request, policy, greedy=True)[0].first_attempts
        ]
        return sum(outcomes) / len(outcomes)


def write_decision(record: decision_pb2.DecisionRecord, decision: Decision, version: str) -> None:
    """Fills a DecisionRecord as the plugin does."""
    for arm in decision.support:
        record.support.add(
            kind=int(arm.kind), tools=arm.tools, score=arm.score, probability=arm.probability
        )
    record.arm, record.arm_propensity = decision.arm, decision.propensity
    record.temperature, record.floor = decision.temperature, decision.floor
    record.defer_floor, record.top_k = decision.defer_floor, decision.top_k
    record.greedy, record.policy_version = decision.greedy, version
    record.down.extend(decision.down)


@pytest.fixture(scope="session")
def world_class() -> type[World]:
    return World
