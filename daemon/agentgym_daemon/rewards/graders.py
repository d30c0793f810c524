"""Rewards that the daemon gives by itself to runs that ended: rules, a function, an LLM judge.

Each grader has a queue of its own, so that a slow one holds up no other. Whatever goes wrong in one
is counted and said, and is never a reward of 0. A run has at most one reward of a grader and name.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from agentgym import semconv
from agentgym.proto.v1 import log_pb2, reward_pb2
from agentgym_daemon.clock import Clock
from agentgym_daemon.config import DaemonConfig
from agentgym_daemon.errors import ConfigError
from agentgym_daemon.rewards import facts, rules, worker
from agentgym_daemon.rewards.child import Child, ChildError, ChildStartError, ChildTimeoutError
from agentgym_daemon.rewards.judge import Budget, Judgements, JudgeSettings, record_of
from agentgym_daemon.rewards.resolve import Append
from agentgym_daemon.rewards.view import View, view
from agentgym_daemon.store.state import CLOSED
from agentgym_daemon.store.trajectories import StoredTrajectory

RULES, FUNCTION, JUDGE = "rules", "function", "judge"
ACTOR = "daemon"
_LOOK_BACK_S = 86_400.0
_PAUSE_S = 60.0
"""How long a function that cannot be loaded is left alone."""

_log = logging.getLogger(__name__)
Count = Callable[[str], None]


class Grade(NamedTuple):
    """A reward that a grader found."""

    value: float
    name: str = ""
    reason: str = ""
    provenance: dict[str, Any] | None = None


class GradingError(Exception):
    """A grader could not judge; `kind` is how that is counted."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Grader(Protocol):
    """Judges one run after the other."""

    @property
    def source(self) -> str:
        """Of its rewards."""

    async def grade(self, run: View) -> Sequence[Grade]:
        """What it finds; raises GradingError."""

    async def close(self) -> None:
        """Ends what it started."""


class Runs(Protocol):
    """What has to be known of the store; called off the event loop."""

    def stored(self, trajectory_id: bytes) -> StoredTrajectory | None:
        """A run with its contents."""

    def ungraded(self, source: str, since_ns: int) -> Sequence[bytes]:
        """Runs that ended by themselves since then and have no reward of a source."""


class RuleGrader:
    """Applies the rules of the settings."""

    source = RULES

    def __init__(self, parsed: Sequence[rules.Rule]) -> None:
        self._rules = parsed

    async def grade(self, run: View) -> Sequence[Grade]:
        """One grade per name of which a rule holds."""
        found = rules.apply(self._rules, run)
        return [
            Grade(value, name, f"rule: {text}", {"rule": text})
            for name, (value, text) in found.items()
        ]

    async def close(self) -> None:
        """There is nothing to end."""


class FunctionGrader:
    """Asks the user's function in a process of its own."""

    source = FUNCTION

    def __init__(self, spec: str, *, timeout_s: float, home: Path, clock: Clock) -> None:
        self._spec, self._timeout_s, self._clock = spec, timeout_s, clock
        self._child = Child((worker.FUNCTION, _place(spec)), home / "reward-function.log")
        self._not_before = -math.inf

    async def grade(self, run: View) -> Sequence[Grade]:
        """What the function returned, checked."""
        if self._clock.monotonic() < self._not_before:
            raise GradingError("failed", f"{self._spec}: could not be loaded a moment ago")
        try:
            answer = await self._child.ask(run, timeout_s=self._timeout_s)
        except ChildTimeoutError as error:
            raise GradingError("timeouts", f"{self._spec}: {error}") from error
        except ChildError as error:
            if isinstance(error, ChildStartError):
                self._not_before = self._clock.monotonic() + _PAUSE_S
            raise GradingError("failed", f"{self._spec}: {error}") from error
        return [self._grade(name, value) for name, value in answer["values"].items()]

    def _grade(self, name: str, value: Any) -> Grade:
        if not isinstance(value, float) or not 0.0 <= value <= 1.0:
            raise GradingError(
                "invalid", f"{self._spec}: expected None or numbers in [0, 1], got {value!r}"
            )
        return Grade(value, name, f"function {self._spec}"[:500], {"function": self._spec})

    async def close(self) -> None:
        """Ends the process."""
        await self._child.close()


class JudgeGrader:
    """Asks a model, within its budget, about runs whose content was captured."""

    source = JUDGE

    def __init__(self, settings: JudgeSettings, *, home: Path, clock: Clock) -> None:
        self._settings = settings
        self._child = Child((worker.JUDGE,), home / "judge.log")
        self._known = Judgements(settings)
        self._budget = Budget(home / "judge.json", clock, settings.calls_per_day)

    async def grade(self, run: View) -> Sequence[Grade]:
        """The model's score, or that of the same content before."""
        if not self._settings.draws(run["id"]):
            return ()
        if not run["content"]:
            raise GradingError(
                "no_content",
                "the judge needs the content of runs, which is not captured; set "
                "AgentGym(capture_content=True) or AGENTGYM_CAPTURE_CONTENT=1 where the agent runs",
            )
        record = record_of(run)
        key = self._known.key(record)
        answer, cached = self._known.find(key), True
        if answer is None:
            answer, cached = await self._ask(record), False
            self._known.keep(key, answer)
        return [Grade(answer["score"], "", answer["reason"], self._audit(answer, key, cached))]

    async def _ask(self, record: str) -> dict[str, Any]:
        if not self._budget.take():
            raise GradingError(
                "over_budget", f"the judge's {self._settings.calls_per_day} calls of today are used"
            )
        # The connection's own limit comes first; this one is for an answer that trickles.
        limit_s = 2 * self._settings.timeout_s
        try:
            return await self._child.ask(self._settings.request(record), timeout_s=limit_s)
        except ChildTimeoutError as error:
            raise GradingError("timeouts", f"the judge: {error}") from error
        except ChildError as error:
            raise GradingError("failed", f"the judge: {error}") from error

    def _audit(self, answer: dict[str, Any], key: str, cached: bool) -> dict[str, Any]:
        return {
            "model": self._settings.model,
            "prompt_sha256": self._settings.prompt_sha256,
            "content_sha256": key,
            "input_tokens": 0 if cached else answer["input_tokens"],
            "output_tokens": 0 if cached else answer["output_tokens"],
            "latency_ms": 0 if cached else answer["latency_ms"],
            "cached": cached,
        }

    async def close(self) -> None:
        """Ends the process."""
        await self._child.close()


def graders(config: DaemonConfig, clock: Clock) -> list[Grader]:
    """Those that the settings ask for; raises ConfigError."""
    found: list[Grader] = []
    if parsed := rules.parse(config.reward_rules):
        found.append(RuleGrader(parsed))
    if config.reward_function:
        found.append(
            FunctionGrader(
                config.reward_function,
                timeout_s=config.reward_function_timeout_s,
                home=config.home,
                clock=clock,
            )
        )
    if judge := JudgeSettings.of(config):
        found.append(JudgeGrader(judge, home=config.home, clock=clock))
    return found


def _place(spec: str) -> str:
    """The function's name with an absolute path, if it has one."""
    place, colon, name = spec.rpartition(":")
    if colon and not (place and name.isidentifier()):
        raise ConfigError(
            f"reward_function: expected MODULE:NAME, PATH.py:NAME or an entry point's name, "
            f"got {spec!r}"
        )
    if not place.endswith(".py"):
        return spec
    path = Path(place).expanduser().absolute()
    if not path.is_file():
        raise ConfigError(f"reward_function: there is no file {path}")
    return f"{path}:{name}"


class Grading:
    """Brings runs to the graders and their grades into the log; used on the event loop."""

    def __init__(
        self,
        found: Sequence[Grader],
        runs: Runs,
        *,
        append: Append,
        clock: Clock,
        count: Count,
    ) -> None:
        self.queues: list[tuple[Grader, asyncio.Queue[bytes]]] = [
            (grader, asyncio.Queue()) for grader in found
        ]
        self.problems: dict[str, str] = {}
        """By source, why its last run got no reward; empty where it could judge."""
        self._runs = runs
        self._append = append
        self._clock = clock
        self._count = count

    async def catch_up(self) -> None:
        """Queues what ended while the daemon was down, or was not graded for another reason."""
        since_ns = self._clock.now_ns() - int(_LOOK_BACK_S * 1e9)
        for grader, queue in self.queues:
            for trajectory_id in await asyncio.to_thread(
                self._runs.ungraded, grader.source, since_ns
            ):
                queue.put_nowait(trajectory_id)

    def ended(self, trajectory_ids: Sequence[bytes]) -> None:
        """These runs have just ended."""
        for _, queue in self.queues:
            for trajectory_id in trajectory_ids:
                queue.put_nowait(trajectory_id)

    async def grade(self, grader: Grader, trajectory_id: bytes) -> None:
        """Has one run judged, and writes what was found."""
        stored = await asyncio.to_thread(self._runs.stored, trajectory_id)
        if stored is None or not _judgeable(stored, grader.source):
            return
        try:
            grades = await grader.grade(view(stored))
        except GradingError as error:
            self._count(f"reward_{grader.source}_{error.kind}")
            if self.problems.get(grader.source) != str(error):
                _log.warning("no reward by %s: %s", grader.source, error)
            self.problems[grader.source] = str(error)
            return
        self.problems.pop(grader.source, None)
        now_ns = self._clock.now_ns()
        for grade in grades:
            fact = _fact(grade, grader.source, trajectory_id, now_ns)
            await self._append(log_pb2.LogRecord(reward=fact))
            self._count(f"reward_{grader.source}_given")

    async def close(self) -> None:
        """Ends the graders' processes."""
        for grader, _ in self.queues:
            await grader.close()


def _judgeable(stored: StoredTrajectory, source: str) -> bool:
    """An incomplete run says nothing about its quality, an imported one was judged elsewhere."""
    run = stored.summary
    return (
        run.state == CLOSED
        and not run.framework.startswith(semconv.IMPORT_PREFIX)
        and all(reward.source != source for reward in stored.rewards)
    )


def _fact(grade: Grade, source: str, trajectory_id: bytes, now_ns: int) -> log_pb2.RewardFact:
    name = grade.name or facts.DEFAULT_NAME
    # One per grader and name: whoever grades again after a restart gives it once.
    key = f"{source}:{name}"
    reward = reward_pb2.Reward(
        value=grade.value,
        name=name,
        source=source,
        reason=grade.reason,
        actor=ACTOR,
        provenance_json=json.dumps(grade.provenance or {}, sort_keys=True),
    )
    identifier = facts.reward_id(trajectory_id, key)
    return facts.fact(reward, trajectory_id, reward_id=identifier, key=identifier, now_ns=now_ns)
