"""Learns from rollouts in rounds, by what the daemon's trainer runs too (`worker.run_job`).

Each round writes history and rollouts as one snapshot file, trains from the version that is served,
and serves the candidate if the gate accepts it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agentgym.policy import snapshot
from agentgym.proto.v1 import common_pb2, training_pb2
from agentgym_daemon.encoders import SCHEMAS
from agentgym_daemon.encoders.choice import encoder_file
from agentgym_daemon.learning import worker
from agentgym_daemon.learning.rollouts.history import WINDOW, History
from agentgym_daemon.learning.rollouts.served import Serving
from agentgym_daemon.learning.rollouts.session import ReadRun
from agentgym_daemon.learning.settings import LearningSettings

ENGINE = "lightning"
DEFAULT_AGENT = "lightning"
KEY_BYTES = 32


@dataclass(frozen=True)
class Outcome:
    """A rollout that ended without a fault, as the learner sees it."""

    run: ReadRun
    reward: float | None
    closed_unix_nano: int


@dataclass(frozen=True)
class Round:
    """What one round saw and did."""

    version: str  # of the candidate
    accepted: bool
    reasons: tuple[str, ...]  # why the gate rejected it
    rollouts: int
    failed: int  # ended with a fault: neither a success nor a failure of the policy
    unrewarded: int
    policy: float | None  # mean reward under the policy; None: nothing ran under it
    control: float | None  # mean reward without it
    seconds: float
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class LearnerOptions:
    """What does not change between rounds."""

    agent: str = ""  # "": the snapshot's, or DEFAULT_AGENT
    agent_name: str = ""
    settings: LearningSettings = field(default_factory=LearningSettings)
    seed: int = 0
    control_share: float = 0.1
    feature_key: bytes = b""  # b"": the snapshot's, or a new one
    encoder: str = ""  # none, default or minilm; "": the snapshot's, or default
    start: Path | None = None  # snapshot file of the version to start from


class Learner:
    """The version that is served and everything that it was, and will be, learned from."""

    def __init__(self, folder: Path, history: History, options: LearnerOptions) -> None:
        self.rounds: list[Round] = []
        self._folder, self._history, self._options = folder, history, options
        self._runs: list[training_pb2.TrainingTrajectory] = []
        self._tools: dict[bytes, common_pb2.Tool] = {}
        self._versions: list[str] = []
        self._parent = options.start
        scope = history.header.scope
        self.serving = Serving(
            agent=options.agent or scope.agent or DEFAULT_AGENT,
            agent_name=options.agent_name or scope.agent_name,
            feature_key=options.feature_key
            or history.header.feature_key
            or secrets.token_bytes(KEY_BYTES),
            encoder=options.encoder or encoder_of(scope.feature_schema),
            control_share=options.control_share,
            seed=options.seed,
            exploration=options.settings.exploration,
        )
        self._encoder: Path | None = None
        if self.serving.encoder != "none":
            self._encoder = folder / "encoder.safetensors"
            self._encoder.write_bytes(encoder_file(self.serving.encoder))
        if options.start is not None:
            data = options.start.read_bytes()
            started = snapshot.parse(data, snapshot.digest(data))
            self._serve(started.version, data)

    def learn(self, outcomes: Sequence[Outcome], *, failed: int = 0) -> Round:
        """One round; raises RuntimeError where nothing ended without a fault."""
        if not outcomes:
            raise RuntimeError(
                f"none of {failed} rollouts ended without a fault, so there is nothing to learn "
                "from; the log above says what the agent raised"
            )
        began = time.monotonic()
        for outcome in outcomes:
            self._runs.append(outcome.run.training(outcome.reward, outcome.closed_unix_nano))
            self._tools.update((t.fingerprint, t) for t in outcome.run.catalogue.tools)
        del self._runs[:-WINDOW]
        answer = worker.run_job(self._job())
        accepted = bool(answer["receipt"]["accepted"])
        number = len(self.rounds) + 1
        if accepted:
            self._parent = self._file(number)
            self._serve(_version(number), self._parent.read_bytes())
        done = Round(
            version=_version(number),
            accepted=accepted,
            reasons=tuple(answer["receipt"]["reasons"]),
            rollouts=len(outcomes) + failed,
            failed=failed,
            unrewarded=sum(o.reward is None for o in outcomes),
            policy=mean_reward(o for o in outcomes if _under_policy(o)),
            control=mean_reward(o for o in outcomes if not _under_policy(o)),
            seconds=time.monotonic() - began,
            report=answer["report"],
        )
        self.rounds.append(done)
        return done

    def _job(self) -> dict[str, Any]:
        number = len(self.rounds) + 1
        path = self._folder / "rollouts.snapshot"
        self._history.write(
            path,
            self._runs,
            scope=common_pb2.Scope(
                agent=self.serving.agent,
                agent_name=self.serving.agent_name,
                feature_schema=SCHEMAS[self.serving.encoder],
            ),
            feature_key=self.serving.feature_key,
            tools=self._tools,
            parent=self.serving.version,
            versions=self._versions,
        )
        return {
            "snapshot": str(path),
            "parent": None if self._parent is None else str(self._parent),
            "twins": str(self._folder / "twins"),
            "out": str(self._file(number)),
            "encoder": None if self._encoder is None else str(self._encoder),
            "version": _version(number),
            "created_unix_nano": time.time_ns(),
            "seed": self._options.seed,
            "settings": self._options.settings.plain(),
            "engine": ENGINE,
        }

    def _file(self, number: int) -> Path:
        return self._folder / f"{_version(number)}.safetensors"

    def _serve(self, version: str, data: bytes) -> None:
        self.serving = replace(
            self.serving, version=version, sha256=snapshot.digest(data), data=data
        )
        if version not in self._history.header.versions:
            self._versions.append(version)


def encoder_of(schema: int) -> str:
    """The encoder of a feature schema; the usual one where there is no schema yet."""
    return next((name for name, number in SCHEMAS.items() if number == schema), "default")


def mean_reward(outcomes: Any) -> float | None:
    """The mean of the rewards that there are; None if there is none."""
    rewards = [o.reward for o in outcomes if o.reward is not None]
    return sum(rewards) / len(rewards) if rewards else None


def _under_policy(outcome: Outcome) -> bool:
    decisions = outcome.run.record.decisions
    return bool(decisions) and bool(decisions[0].policy_version) and not outcome.run.controlled


def _version(number: int) -> str:
    return f"r-{number:06d}"
