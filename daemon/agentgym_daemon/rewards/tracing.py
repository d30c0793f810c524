"""What became of rewards: which of a trajectory's count and why, where it was trained on, and what
each source is of the training.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from agentgym_daemon.clock import Clock
from agentgym_daemon.config import DaemonConfig, shares
from agentgym_daemon.errors import NotFoundError
from agentgym_daemon.rewards import alarms
from agentgym_daemon.store import rewards, targets, training, trajectories
from agentgym_daemon.store.aggregate import DEFAULT_SOURCE, Rules, Verdict, counting
from agentgym_daemon.store.caps import Caps
from agentgym_daemon.store.costs import Spent, penalty
from agentgym_daemon.store.database import Cursor, Store
from agentgym_daemon.store.rewards import Activity, StoredReward
from agentgym_daemon.store.state import OPEN
from agentgym_daemon.store.targets import JudgedReward, Shares, Treatment
from agentgym_daemon.store.trajectories import Summary

TRAINED, HELD_OUT, UNREWARDED = "trained", "held out", "not rewarded yet"
_SECOND_NS = 10**9
_ALARMS_S = 2.0
"""A look goes through all rewards, and some ask for the status many times a second."""


def treatment(config: DaemonConfig, rules: Rules, now_ns: int) -> Treatment:
    """How outcomes become what is learned, by the settings and the time."""
    return Treatment(
        rules=rules,
        received_before_ns=now_ns - int(config.reward_hold_s * _SECOND_NS) + 1,
        caps=Caps(config.source_cap, shares(config.source_caps)),
        costs=shares(config.cost_weights),
    )


class Standing(NamedTuple):
    """A reward, how much of the outcome it decides, and why."""

    reward: StoredReward
    share: float
    words: str


class TrainedIn(NamedTuple):
    """A training whose window held the trajectory."""

    version: str
    verdict: str
    time_ns: int
    part: str


@dataclass(frozen=True, slots=True)
class Trace:
    """Everything about the rewards of one trajectory."""

    summary: Summary
    standings: tuple[Standing, ...]
    spent: Spent
    cost: float  # the share of the outcome that it takes
    training_reward: float | None
    weight: float
    trained_in: tuple[TrainedIn, ...]


class SourceRow(NamedTuple):
    """One source of an agent's rewards."""

    activity: Activity
    shares: Shares | None
    """None if it decided no trajectory of the window."""
    weight: float
    alarms: Sequence[str]


class Tracer:
    """Reads the store; used off the event loop."""

    def __init__(self, store: Store, config: Callable[[], DaemonConfig], clock: Clock) -> None:
        self._store = store
        self._config = config
        self._clock = clock
        self._alarms: list[str] = []
        self._alarms_until = -math.inf

    @property
    def aggregation(self) -> str:
        """The rule by which several rewards become one, with the weights of sources."""
        return str(self._store.rules)

    def trace(self, trajectory_id: bytes) -> Trace:
        """The rewards of a trajectory; raises NotFoundError."""
        now_ns = self._clock.now_ns()
        how = treatment(self._config(), self._store.rules, now_ns)
        with self._store.reading() as cursor:
            cursor.execute("BEGIN")  # one moment of a database that goes on
            numbers = self._store.indexes.of_ids(cursor, [trajectory_id])
            run = trajectories.summary(cursor, trajectory_id, numbers=numbers)
            if run is None:
                raise NotFoundError(
                    f"no trajectory {trajectory_id.hex()}; it may not have been sent yet"
                )
            given = rewards.rewards_of(cursor, run.no, trajectory_id=trajectory_id)
            in_window = targets.window(cursor, run.agent, training.SNAPSHOT_TRAJECTORIES)
            learned = targets.targets(cursor, in_window, how).by_no.get(run.no)
            took_part = _trained_in(cursor, run, given)
        seconds = (run.end_ns - run.start_ns) / _SECOND_NS if run.end_ns else 0.0
        spent = Spent(run.input_tokens + run.output_tokens, seconds, run.tool_calls)
        return Trace(
            summary=run,
            standings=tuple(_standings(given, how, now_ns, self._config().reward_hold_s)),
            spent=spent,
            cost=penalty(spent, how.costs),
            training_reward=learned.reward if learned else None,
            weight=learned.weight if learned else 0.0,
            trained_in=tuple(took_part),
        )

    def owner(self, reward_id: str) -> bytes:
        """The (first) trajectory that a reward was given to; raises NotFoundError."""
        with self._store.reading() as cursor:
            numbers = self._store.indexes.of_reward_ids(cursor, [reward_id])
            found = rewards.rewards_by_id(cursor, reward_id, numbers=numbers)
        if not found:
            raise NotFoundError(f"no reward has id {reward_id!r}; trajectories show theirs")
        return found[0].trajectory_id

    def sources(self, agent: str) -> list[SourceRow]:
        """Who judges an agent (empty: all), and how much of the training that is."""
        now_ns = self._clock.now_ns()
        how = treatment(self._config(), self._store.rules, now_ns)
        with self._store.reading() as cursor:
            rows = _activity(cursor, agent, now_ns)
            parts = {name: _shares(cursor, name, how) for name in {row.agent for row in rows}}
        odd = alarms.alarms(rows, now_ns)
        return [
            SourceRow(
                row,
                parts[row.agent].get(row.source),
                how.rules.weight(row.source),
                odd.get((row.agent, row.source), ()),
            )
            for row in rows
        ]

    def alarms(self) -> list[str]:
        """What is odd about any source, in words; looked at anew after a while."""
        if self._clock.monotonic() >= self._alarms_until:
            now_ns = self._clock.now_ns()
            with self._store.reading() as cursor:
                self._alarms = alarms.lines(alarms.alarms(_activity(cursor, "", now_ns), now_ns))
            self._alarms_until = self._clock.monotonic() + _ALARMS_S
        return self._alarms


def _activity(cursor: Cursor, agent: str, now_ns: int) -> list[Activity]:
    return rewards.activity(cursor, agent=agent, since_ns=now_ns - alarms.RECENT_NS)


def _shares(cursor: Cursor, agent: str, how: Treatment) -> Mapping[str, Shares]:
    numbers = targets.window(cursor, agent, training.SNAPSHOT_TRAJECTORIES)
    return targets.targets(cursor, numbers, how).sources


def _judged(reward: StoredReward) -> JudgedReward:
    return JudgedReward(
        reward.no,
        reward.value,
        reward.name,
        reward.source,
        reward.time_ns,
        reward.received_ns,
        reward.revoked,
    )


def _standings(
    given: Sequence[StoredReward], how: Treatment, now_ns: int, hold_s: float
) -> list[Standing]:
    looked_at = [_judged(reward) for reward in given]
    now = Treatment(rules=how.rules)
    verdict = targets.judged(looked_at, now)
    kept = {reward.no for reward in counting(looked_at, how.rules)}
    found = []
    for reward in given:
        share = verdict.shares.get(reward.no, 0.0)
        words = _words(reward, verdict, kept=reward.no in kept, rules=how.rules)
        if share and reward.received_ns >= how.received_before_ns:
            left_s = (reward.received_ns - now_ns) / _SECOND_NS + hold_s
            words += f"; not learned from for {left_s:.0f} s more"
        found.append(Standing(reward, share, words))
    return found


def _words(reward: StoredReward, verdict: Verdict, *, kept: bool, rules: Rules) -> str:
    share = verdict.shares.get(reward.no, 0.0)
    if reward.revoked:
        return "revoked"
    if rules.weight(reward.source) == 0:
        return "its source has weight 0"
    if share:
        return "decides" if share == 1.0 else f"decides {share:.2f} of it"
    if kept:
        return f"does not decide under {rules.aggregation}"
    if reward.source == DEFAULT_SOURCE:
        return "the default; somebody judged"
    return "replaced by a later one of the same source and name"


def _trained_in(cursor: Cursor, run: Summary, given: Sequence[StoredReward]) -> list[TrainedIn]:
    if run.state == OPEN:
        return []
    scopes = set(training.scopes_of_trajectory(cursor, run.no))
    found = []
    for made in training.training_runs(cursor):
        part = _part(json.loads(made.report_json or "{}").get("window"), run, given)
        if made.scope in scopes and part:
            found.append(TrainedIn(made.version, made.verdict, made.received_ns, part))
    return found


def _part(window: Mapping[str, Any] | None, run: Summary, given: Sequence[StoredReward]) -> str:
    """What a training did with the trajectory; empty if it was not in its window."""
    if not window or not window["first_no"] <= run.no <= window["last_no"]:
        return ""
    if run.closed_ns > window["last_closed_ns"]:
        return ""
    if held_out(run.trajectory_id, window["held_out_in"]):
        return HELD_OUT
    ripe = any(reward.received_ns < window["received_before_ns"] for reward in given)
    return TRAINED if ripe else UNREWARDED


def held_out(trajectory_id: bytes, one_in: int) -> bool:
    """Whether a trajectory is kept from training, as `learning.dataset` decides it."""
    digest = hashlib.sha256(trajectory_id).digest()
    return int.from_bytes(digest[:8], "little") % one_in == 0
