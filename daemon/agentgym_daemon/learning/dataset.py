"""Reads the trainer's snapshot file into immutable steps, and says what each may be used for.

*Observed* steps (tool -> outcome) serve replay, whoever chose the tool. *Gradient* steps may enter
a policy gradient: only what a policy sampled, and nothing else (`gradient_arm`).
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agentgym.policy.arms import LEAST_DEFER
from agentgym.policy.evaluate import Catalogue
from agentgym.policy.features import DIM, Embedding, Featuriser, TextHasher, TextVector
from agentgym.proto.v1 import common_pb2, decision_pb2, training_pb2
from agentgym.trajectory import ArmKind, Assignment, Fallback, PastCall, Tool

_LENGTH = struct.Struct("<I")
_ACTING_MODES = (common_pb2.MODE_ADVISE, common_pb2.MODE_STEER)
# Plain numbers and a table: a comparison with an enum costs more than all else of a step.
_POLICY, _PINNED = int(Assignment.POLICY), int(Assignment.PINNED)
_CONTROL = int(Assignment.CONTROL)
_NO_FALLBACK = int(Fallback.NONE)
_DEFER, _FORCE = int(ArmKind.DEFER), int(ArmKind.FORCE)
_ACTS = frozenset((_FORCE, int(ArmKind.SHOW)))
_KINDS = {int(kind): kind for kind in ArmKind}
_Weighed = tuple[int, tuple[int, ...], float, float]
"""Kind, positions among the offered tools, score and probability of an arm."""


class Act(NamedTuple):
    """What an arm does; its tools are columns of the universe."""

    kind: ArmKind
    tools: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GradientArm:
    """The sampled arm of a step that may enter a policy gradient."""

    support: tuple[Act, ...]  # entry 0 is defer
    arm: int
    propensity: float
    temperature: float
    floor: float
    defer_floor: float
    version: str
    top_k: int = 5
    best: int = 0  # the arm with the highest score


@dataclass(frozen=True, slots=True)
class Step:
    """One decision of the scope with what came of it; tools are columns of the universe."""

    x: TextVector
    offered: tuple[int, ...]
    allowed: tuple[bool, ...]
    history: tuple[PastCall, ...]
    called: tuple[int, ...]  # executed tools, each once
    failed: tuple[int, ...]  # those of them that failed visibly
    responded: bool
    alone: bool  # the agent was left alone: undecided, or the defer arm
    gradient: GradientArm | None
    down: tuple[int, ...] = ()  # offered tools that the policy left out because they failed
    scores: Mapping[int, float] = field(default_factory=dict)  # p of the tools that were weighed


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A closed run: its reward (None = not rewarded) and its steps of this scope."""

    trajectory_id: bytes
    reward: float | None
    steps: tuple[Step, ...]
    unscored: int  # steps that acted but cannot be scored: no features, or an unknown tool
    closed_unix_nano: int = 0
    control: bool = False  # drawn into the control group
    weight: float = 1.0  # of its reward, in [0, 1]
    outcome: float | None = None  # the reward before its cost; None: the same
    tokens: int = 0  # in and out; 0 = not known
    calls: int = 0  # of tools

    @property
    def judged(self) -> float | None:
        """How the run turned out, whatever it cost; None = not rewarded."""
        return self.reward if self.outcome is None else self.outcome

    @property
    def went_well(self) -> bool:
        """Whether it was rewarded as a success, whatever it cost."""
        return self.judged is not None and self.judged >= 0.5

    @property
    def failed_visibly(self) -> bool:
        """Whether some call of a scored step failed visibly."""
        return any(step.failed for step in self.steps)

    def held_out(self, one_in: int) -> bool:
        """Whether the trajectory is kept from training, by its id alone: for good."""
        digest = hashlib.sha256(self.trajectory_id).digest()
        return int.from_bytes(digest[:8], "little") % one_in == 0

    def half(self) -> int:
        """In which half of all runs this one is, by its id alone: 0 or 1, for good."""
        return hashlib.sha256(self.trajectory_id).digest()[8] & 1


@dataclass(frozen=True, slots=True)
class Dataset:
    """A snapshot file; `universe` holds the texts of all tools, in column order."""

    scope: tuple[str, str, int]
    parent: str
    versions: tuple[str, ...]
    universe: Catalogue
    tools: tuple[str, ...]  # fingerprints, hex
    names: tuple[str, ...]
    features: Featuriser
    trajectories: tuple[Trajectory, ...]

    def age(self, version: str) -> int | None:
        """How many versions `version` is away from the parent; None if it was never live."""
        if version not in self.versions or self.parent not in self.versions:
            return None
        return abs(self.versions.index(self.parent) - self.versions.index(version))


def grams_only(key: bytes, schema: int) -> Featuriser:
    """Features without an encoder."""
    return Featuriser(TextHasher(key), schema=schema)


def read_dataset(
    path: Path,
    *,
    extra: Sequence[tuple[str, str]] = (),
    featuriser: Callable[[bytes, int], Featuriser] = grams_only,
) -> Dataset:
    """The snapshot in `path`; `extra` names tools (fingerprint, name) that it may not know.

    `featuriser` makes features of tool texts from the installation's key and the feature schema.

    Raises ValueError when the file is cut off or holds fewer trajectories than it says.
    """
    messages = _messages(path)
    header = training_pb2.TrainingHeader.FromString(next(messages, b""))
    reader = _Reader(header, extra, featuriser(header.feature_key, header.scope.feature_schema))
    trajectories = tuple(
        reader.trajectory(training_pb2.TrainingTrajectory.FromString(data)) for data in messages
    )
    if len(trajectories) != header.trajectories:
        raise ValueError(
            f"{path}: expected {header.trajectories} trajectories, got {len(trajectories)}; "
            "export the snapshot again"
        )
    return Dataset(
        scope=(header.scope.agent, header.scope.agent_name, header.scope.feature_schema),
        parent=header.parent,
        versions=tuple(header.versions),
        universe=reader.universe,
        tools=reader.tools,
        names=reader.names,
        features=reader.features,
        trajectories=trajectories,
    )


def _messages(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    start = 0
    while start < len(data):
        body = start + _LENGTH.size
        end = body + _LENGTH.unpack_from(data, start)[0] if body <= len(data) else body
        if end > len(data):
            raise ValueError(f"{path}: cut off at byte {start}; export the snapshot again")
        yield data[body:end]
        start = end


def gradient_arm(record: decision_pb2.DecisionRecord, columns: Sequence[int]) -> GradientArm | None:
    """The arm of a step that a policy sampled in steer or advise mode; None for all others."""
    return _gradient(record, _arms(record), columns)


def _arms(record: decision_pb2.DecisionRecord) -> list[_Weighed]:
    return [(a.kind, tuple(a.tools), a.score, a.probability) for a in record.support]


def _gradient(
    record: decision_pb2.DecisionRecord, arms: Sequence[_Weighed], columns: Sequence[int]
) -> GradientArm | None:
    arm, n, offered = record.arm, len(arms), len(columns)
    propensity, version = record.arm_propensity, record.policy_version
    temperature, floor, defer_floor = record.temperature, record.floor, record.defer_floor
    sampled = (
        record.assignment == _POLICY
        and record.fallback == _NO_FALLBACK
        and record.mode in _ACTING_MODES
        and not record.greedy
        and version != ""
        and 0 <= arm < n
    )
    if not sampled:
        return None
    kinds, tools_of, scores, probabilities = zip(*arms, strict=True)
    sound = (
        kinds[0] == _DEFER
        and _ACTS.issuperset(kinds[1:])
        and all(tools_of[1:])
        and max([max(tools) for tools in tools_of if tools], default=-1) < offered
        and min(probabilities) > 0
        and abs(sum(probabilities) - 1) < 1e-6
        and propensity == arms[arm][3]
        and temperature > 0
        and floor >= 0
        and (n == 1 or defer_floor >= LEAST_DEFER)
    )
    if not sound:
        return None
    support = tuple(
        [_act(kind, tuple([columns[tool] for tool in tools])) for kind, tools, _, _ in arms]
    )
    return GradientArm(
        support,
        arm,
        propensity,
        temperature,
        floor,
        defer_floor,
        version,
        top_k=record.top_k,
        best=max(range(n), key=scores.__getitem__),
    )


@lru_cache(maxsize=1 << 16)
def _act(kind: int, tools: tuple[int, ...]) -> Act:
    # The same few of them stand in hundreds of thousands of places.
    return Act(_KINDS[kind], tools)


def left_alone(record: decision_pb2.DecisionRecord) -> bool:
    """Whether the agent chose by itself: nothing was decided or applied, or the arm was defer."""
    applied = (
        record.assignment in (_POLICY, _PINNED)
        and record.fallback == _NO_FALLBACK
        and record.mode in _ACTING_MODES
        and 0 <= record.arm < len(record.support)
    )
    return not applied or record.support[record.arm].kind == _DEFER


def text_vector(
    features: decision_pb2.TaskFeatures, schema: int, embedding_dim: int
) -> TextVector | None:
    """The features of a task, or None where they are not a vector of this schema."""
    index = np.fromiter(features.index, np.int64, len(features.index))
    sound = (
        features.feature_schema == schema
        and len(features.embedding) == embedding_dim
        and math.isfinite(features.embedding_scale)
        and len(index) == len(features.quantised)
        and (len(index) == 0 or int(index[-1]) < DIM)
        and bool((index[1:] > index[:-1]).all())
        and math.isfinite(features.scale)
        and features.scale >= 0
    )
    if not sound:
        return None
    quantised = np.frombuffer(features.quantised, np.uint8)
    embedding = None
    if embedding_dim:
        embedding = Embedding(np.frombuffer(features.embedding, np.int8), features.embedding_scale)
    return TextVector(index.astype(np.uint32), quantised, features.scale, embedding)


@dataclass(frozen=True, slots=True)
class _Offer:
    """Offered tools: their columns, and the columns by name (the first of equal names)."""

    columns: tuple[int, ...]
    by_name: Mapping[str, int]


_NO_OFFER = _Offer((), {})


@lru_cache(maxsize=1)
def _remembering(features: Featuriser) -> Callable[[str], TextVector]:
    """`exactly` of a featuriser; the tools of the next training are mostly the same."""
    return lru_cache(maxsize=4096)(features.exactly)


class _Reader:
    """Turns messages into steps over one universe of tools."""

    def __init__(
        self,
        header: training_pb2.TrainingHeader,
        extra: Sequence[tuple[str, str]],
        features: Featuriser,
    ) -> None:
        texts = {tool.fingerprint: Tool(tool.name, tool.description) for tool in header.tools}
        # A tool without a text can only be a past call: a step that offers it cannot be recomputed.
        past = {bytes.fromhex(f): Tool(name) for f, name in extra}
        known = {**{f: t for f, t in past.items() if f not in texts}, **texts}
        fingerprints = sorted(known)
        self.tools = tuple(f.hex() for f in fingerprints)
        self.names = tuple(known[f].name for f in fingerprints)
        self.features = features
        texts_of = _remembering(features)
        self.universe = Catalogue(tuple(known[f] for f in fingerprints), texts_of)
        self.universe.fingerprints = tuple(fingerprints)
        self.universe.index = {f: i for i, f in enumerate(fingerprints)}
        self._with_text = frozenset(texts)
        self._offers: dict[tuple[bytes, ...], _Offer] = {}
        self._masks: dict[tuple[bool, ...], tuple[bool, ...]] = {}

    def trajectory(self, message: training_pb2.TrainingTrajectory) -> Trajectory:
        features = {
            f.features_id: text_vector(f, self.features.schema, self.features.embedding_dim)
            for f in message.features
        }
        calls: dict[bytes, list[training_pb2.TrainingCall]] = {}
        for call in message.calls:
            calls.setdefault(call.decision_id, []).append(call)
        steps, unscored = [], 0
        for record in message.decisions:
            executed = calls.get(record.decision_id, [])
            if not executed and (record.called or not record.completed):
                continue  # nothing came of it: cancelled, vetoed, or the provider failed
            step = self._step(record, features.get(record.features_id), executed)
            if step is None:
                unscored += 1
            else:
                steps.append(step)
        reward = message.reward if message.HasField("reward") else None
        return Trajectory(
            message.trajectory_id,
            reward,
            tuple(steps),
            unscored,
            message.closed_unix_nano,
            control=any(record.assignment == _CONTROL for record in message.decisions),
            weight=message.weight if message.HasField("weight") else 1.0,
            outcome=message.outcome if message.HasField("outcome") else None,
            tokens=message.tokens,
            calls=len(message.calls),
        )

    def _step(
        self,
        record: decision_pb2.DecisionRecord,
        x: TextVector | None,
        executed: Sequence[training_pb2.TrainingCall],
    ) -> Step | None:
        offered = tuple(record.offered)
        offer = self._offers.get(offered)
        if offer is None:
            offer = self._offers[offered] = self._offer(offered)
        if x is None or offer is _NO_OFFER:
            return None
        columns, by_name = offer.columns, offer.by_name
        if any(call.tool not in by_name for call in executed):
            return None
        allowed = tuple(record.allowed) or (True,) * len(columns)
        if len(allowed) != len(columns):
            return None
        arms = _arms(record)
        return Step(
            x=x,
            offered=columns,
            allowed=self._masks.setdefault(allowed, allowed),
            history=tuple([PastCall(call.tool, error=call.error) for call in record.history]),
            called=tuple(sorted({by_name[call.tool] for call in executed})),
            failed=tuple(sorted({by_name[call.tool] for call in executed if call.error})),
            responded=not executed,
            alone=left_alone(record),
            down=tuple([columns[i] for i in record.down if i < len(columns)]),
            scores={
                columns[tools[0]]: score
                for kind, tools, score, _ in arms
                if kind == _FORCE and tools and tools[0] < len(columns)
            },
            gradient=_gradient(record, arms, columns),
        )

    def _offer(self, offered: tuple[bytes, ...]) -> _Offer:
        """What is known of the tools; _NO_OFFER if a step with them cannot be recomputed."""
        if not offered or len(set(offered)) != len(offered):
            return _NO_OFFER
        if not self._with_text.issuperset(offered):
            return _NO_OFFER
        columns = tuple(self.universe.index[f] for f in offered)
        return _Offer(columns, {self.names[column]: column for column in reversed(columns)})
