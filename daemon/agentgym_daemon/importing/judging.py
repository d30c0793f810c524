"""Judgements of other tools as rewards in [0, 1]: only where it is certain which end is good.

What a score means, its range and its direction, depend on its name and on who gave it
(OpenInference, spec/annotations.md, says so). Hence: a reward of Agent Lightning, and a score whose
name says outcome, count as they are if all values of that name lie in [0, 1]; everything else needs
`--reward NAME=WORST:BEST` or `--reward NAME=LABEL:VALUE,...`. What cannot be mapped is reported and
left out: it never becomes a 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agentgym_daemon.importing.model import Problems, Score

OUTCOMES = frozenset(
    """reward final_reward outcome success succeeded task_success task_completion task_completed
    goal_accuracy resolved solved correct correctness user_feedback feedback thumbs thumbs_up
    accepted""".split()  # noqa: SIM905 - a list reads worse
)
"""Names (lower case, words joined by '_') whose high end is good beyond doubt."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """How the scores of a name become rewards: a line from worst to best, or a table of labels."""

    name: str
    worst: float = 0.0
    best: float = 1.0
    labels: Mapping[str, float] | None = None

    def reward(self, score: Score) -> float | None:
        """The reward; None where the score lies outside of what was mapped."""
        if self.labels is not None:
            return self.labels.get(score.label.lower()) if score.label else None
        if score.value is None or not math.isfinite(score.value):
            return None
        share = (score.value - self.worst) / (self.best - self.worst)
        return share if 0.0 <= share <= 1.0 else None


@dataclass(frozen=True, slots=True)
class Judged:
    """A reward for a run."""

    score: Score
    value: float


def parse(text: str) -> Mapped:
    """A mapping from NAME, NAME=WORST:BEST or NAME=LABEL:VALUE,LABEL:VALUE; raises ValueError."""
    name, given, rest = text.partition("=")
    name = name.strip()
    expected = f"expected NAME, NAME=WORST:BEST or NAME=LABEL:VALUE,LABEL:VALUE, got {text!r}"
    if not name or (given and not rest.strip()):
        raise ValueError(expected)
    if not given:
        return Mapped(name)
    pairs = [pair.rpartition(":") for pair in rest.split(",")]
    if any(not separator or not left.strip() for left, separator, _ in pairs):
        raise ValueError(expected)
    if len(pairs) == 1 and _is_number(pairs[0][0]):
        worst, best = _number(pairs[0][0], expected), _number(pairs[0][2], expected)
        if worst == best:
            raise ValueError(f"{expected}: worst and best are the same")
        return Mapped(name, worst, best)
    labels = {left.strip().lower(): _number(right, expected) for left, _, right in pairs}
    if any(not 0.0 <= value <= 1.0 for value in labels.values()):
        raise ValueError(f"{expected}: the reward of a label lies between 0 and 1")
    return Mapped(name, labels=labels)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\s*[-+]?[\d.]+(e[-+]?\d+)?\s*", text) is not None


def _number(text: str, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(expected) from None
    if not math.isfinite(value):
        raise ValueError(expected)
    return value


def judge(
    scores: Iterable[Score],
    mappings: Sequence[Mapped],
    roots: Mapping[str, str],
    problems: Problems,
) -> dict[str, list[Judged]]:
    """Rewards per run; `roots` is the id of the span that stands for each run, where there is one.

    A score on another span is about a step and says nothing of the outcome, unless it was asked
    for by name.
    """
    given = {mapping.name: mapping for mapping in mappings}
    known = _latest(scores, problems)
    by_itself = {} if given else _certain(known, problems)
    judged: dict[str, list[Judged]] = {}
    for score in known:
        mapping = given.get(score.name) or by_itself.get(score.name)
        if mapping is None:
            if given:
                problems.add("scores that no --reward names", f"{score.name!r}")
            continue
        if score.name not in given and score.span and score.span != roots.get(score.run):
            problems.add(
                "scores of a step, not of a run: --reward NAME takes them", f"{score.name!r}"
            )
            continue
        value = mapping.reward(score)
        if value is None:
            problems.add("scores outside of their mapping: left out, not 0", _shown(score))
        else:
            judged.setdefault(score.run, []).append(Judged(score, value))
    return judged


def _latest(scores: Iterable[Score], problems: Problems) -> list[Score]:
    """Each once; of the rewards that are final by definition only the last of a run."""
    once = {score.id: score for score in scores}
    last: dict[tuple[str, str], Score] = {}
    kept = []
    for score in sorted(once.values(), key=lambda s: s.time_ns):
        if not score.final:
            kept.append(score)
            continue
        if (score.run, score.name) in last:
            problems.add("rewards before the last one of their run", _shown(score))
        last[score.run, score.name] = score
    return [*kept, *last.values()]


def _certain(scores: Sequence[Score], problems: Problems) -> dict[str, Mapped]:
    """Names whose scores count as they are; the others are reported with what would map them."""
    found: dict[str, Mapped] = {}
    by_name: dict[str, list[Score]] = {}
    for score in scores:
        by_name.setdefault(score.name, []).append(score)
    for name, group in by_name.items():
        numbers = [s.value for s in group if s.value is not None]
        outcome = all(s.final for s in group) or _words(name) in OUTCOMES
        if not numbers:
            labels = ",".join(f"{label}:?" for label in sorted({s.label for s in group})[:4])
            reason = f"{name!r} has labels: say --reward '{name}={labels}'"
        elif not outcome:
            reason = f"which end of {name!r} is good? say --reward {name}=WORST:BEST"
        elif not all(0.0 <= number <= 1.0 for number in numbers):
            reason = (
                f"{name!r} goes from {min(numbers):g} to {max(numbers):g}: "
                f"say --reward {name}=WORST:BEST"
            )
        else:
            found[name] = Mapped(name)
            continue
        problems.add("scores that are not mapped: left out, not 0", reason, len(group))
    return found


def _words(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.lower()).strip("_")


def _shown(score: Score) -> str:
    return f"{score.name!r} = {score.label or score.value!r}"
