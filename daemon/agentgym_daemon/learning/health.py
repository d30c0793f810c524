"""Which tools fail at present: one sequential test per tool, on outcomes that were to be expected.

A call of tool t that was expected to go right with probability p speaks for "t is broken" by

    failed:  log((1 - e) / (1 - p))        went right:  log(e / p)

where e is the share of calls of a broken tool that seem to go right. Sums above 0 are kept per tool
(CUSUM; Page, Biometrika 1954), and past THRESHOLD the tool is down. p is the policy's estimate, but
at most the share of its calls that went right before: a wrong choice says nothing about the tool,
and a policy that is sure without having seen it work neither. A call of which it is not known how
it went, but that showed no error, takes back only what visible errors said.

A tool that is down is tried now and then by the agents (`PolicySet`); one call that goes right
brings it back. One that works now and then would come and go: each time that it relapses it must
go right twice as often in a row, up to MOST_PROOFS times.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from agentgym_daemon.learning.dataset import Trajectory

THRESHOLD = 10.0
"""Four failures in a row of a tool that hardly ever failed, five of one that did at times."""
CONFIRMED_BY = 2
"""Further failures after which what was learned of a tool before is left out of training."""
MOST_PROOFS = 4
"""Calls in a row that bring a tool back which relapsed; of 5 in 100, this many are soon made."""
SILENT_IN = 4
"""One tool in so many may be down for its rewards alone; see `Health.down`."""
RELAPSE = 20
"""Calls that go right after which going down again is no relapse."""
_PROBATION = THRESHOLD / 2  # evidence with which a tool that relapsed comes back
_SEEMS_RIGHT = 0.05
_SUREST = 0.95  # what a policy may claim: rewards lie now and then
_SUCCESS = 0.5


@dataclass(frozen=True, slots=True)
class Call:
    """One executed call and how it went; `confidence` is the policy's p, 0 where it gave none.

    `right` is None where nobody has judged the call and it showed no error.
    """

    tool: Hashable
    confidence: float
    right: bool | None
    visible: bool = False  # it failed, and showed it


@dataclass(slots=True)
class Record:
    """How the calls of one tool went that the policy stood behind."""

    right: float = 0.0
    wrong: float = 0.0
    evidence: float = 0.0  # that it is broken, as a log likelihood ratio
    visible: float = 0.0  # the part of it that errors showed
    suspect: float = 0.0  # failures that count for the evidence, and not yet against the tool

    def observe(self, confidence: float, right: bool | None, visible: bool = False) -> None:
        """Takes one call."""
        worked = (self.right + 1.0) / (self.right + self.wrong + 2.0)
        expected = min(confidence, worked, _SUREST)
        relief = math.log(_SEEMS_RIGHT / max(expected, _SEEMS_RIGHT))
        if right is None:
            weight = max(relief, -self.visible)
            self.visible += weight
        elif right:
            self.right += confidence
            weight = relief
        else:
            self.suspect += confidence
            weight = max(0.0, math.log((1.0 - _SEEMS_RIGHT) / (1.0 - expected)))
            self.visible += weight if visible else 0.0
        self.evidence = max(0.0, self.evidence + weight)
        self.visible = min(self.visible, self.evidence)
        if not self.evidence:
            self.wrong, self.suspect = self.wrong + self.suspect, 0.0

    @property
    def is_visible(self) -> bool:
        """Whether errors are most of what speaks against the tool."""
        return self.visible >= self.evidence / 2.0

    def proves(self, right: bool | None) -> bool:
        """Whether a call shows that the tool works again.

        One that nobody judged does if errors were most of what spoke against the tool.
        """
        return right if right is not None else self.is_visible


@dataclass(slots=True)
class Return:
    """How a tool that was down came back, and what it must show the next time."""

    needed: int = 1  # calls in a row
    proofs: int = 0  # calls in a row that it has shown while it is down
    fine: int = RELAPSE  # calls that went right since it was last down


@dataclass(slots=True)
class Health:
    """The tools' records, by any name of a tool; calls come in the order in which runs closed."""

    records: dict[Hashable, Record] = field(default_factory=dict)
    since: dict[Hashable, int] = field(default_factory=dict)
    """Tools that are down, and the time of the trajectory that showed it."""
    failed_since: dict[Hashable, int] = field(default_factory=dict)
    returns: dict[Hashable, Return] = field(default_factory=dict)

    @property
    def confirmed(self) -> dict[Hashable, int]:
        """Those of `since` that failed again when they were tried: no false alarm."""
        return {t: at for t, at in self.since.items() if self.failed_since[t] >= CONFIRMED_BY}

    def down(self, known: int) -> list[Hashable]:
        """Tools to leave out, of so many that are known.

        Many tools do not stop working at once without an error: if it seems so, it is the rewards
        that changed, and only those tools are left out whose errors were seen.
        """
        silent = {t for t in self.since if not self.records[t].is_visible}
        if len(silent) <= max(1, known // SILENT_IN):
            silent = set()
        return [tool for tool in self.since if tool not in silent]

    def observe(self, calls: Iterable[Call], now: int) -> bool:
        """Takes the calls of a trajectory; True if a tool went down or came back."""
        before = set(self.since)
        for call in calls:
            record = self.records.setdefault(call.tool, Record())
            proves = record.proves(call.right)
            record.observe(call.confidence, call.right, call.visible)
            back = self.returns.setdefault(call.tool, Return())
            if call.tool in self.since:
                self._try(call, record, back, proves)
                continue
            back.fine += call.right is not False
            if record.evidence >= THRESHOLD:
                self.since[call.tool] = now
                self.failed_since[call.tool] = 0
                relapsed = back.fine < RELAPSE
                self.returns[call.tool] = Return(
                    needed=min(MOST_PROOFS, 2 * back.needed) if relapsed else 1
                )
        return set(self.since) != before

    def _try(self, call: Call, record: Record, back: Return, proves: bool) -> None:
        """Takes a call of a tool that is down."""
        if call.right is False:
            self.failed_since[call.tool] += 1
            back.proofs = 0
        elif proves:
            back.proofs += 1
        if back.proofs >= back.needed:
            del self.since[call.tool]
            back.proofs = back.fine = 0
            kept = _PROBATION if back.needed > 1 else 0.0
            record.visible *= kept / max(record.evidence, THRESHOLD)
            record.evidence, record.suspect = kept, 0.0


def outcomes(
    made: Sequence[tuple[Hashable, float, bool]], reward: float | None, *, more: bool = False
) -> Iterator[Call]:
    """How the calls (tool, confidence, failed visibly) of a trajectory went, as far as is known.

    A failed run blames its only call, but not one of several; `more` says that it had others.
    """
    succeeded = reward is not None and reward >= _SUCCESS
    blamed = reward is not None and not succeeded and len(made) == 1 and not more
    for tool, confidence, failed in made:
        known = failed or succeeded or blamed
        right = (succeeded and not failed) if known else None
        yield Call(tool, confidence, right, failed)


def calls(trajectory: Trajectory) -> Iterator[Call]:
    """The calls of a trajectory, and how they went as far as that is known."""
    made = [
        (tool, step.scores.get(tool, 0.0), tool in step.failed)
        for step in trajectory.steps
        for tool in step.called
    ]
    return outcomes(made, trajectory.reward, more=bool(trajectory.unscored))


def stale(trajectory: Trajectory, since: Mapping[Hashable, int]) -> bool:
    """Whether a trajectory tells of a tool what is not true at present.

    That is what a tool did before it went down, and what was seen of it while it was left out.
    """
    return any(
        tool in step.down or trajectory.closed_unix_nano < since.get(tool, 0)
        for step in trajectory.steps
        for tool in step.called
    )


def replay(trajectories: Iterable[Trajectory]) -> Health:
    """The state after a history, oldest first."""
    health = Health()
    for trajectory in trajectories:
        health.observe(calls(trajectory), trajectory.closed_unix_nano)
    return health
