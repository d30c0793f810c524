"""Counts the demo's episodes: reliability, success and tokens, by phase, group and framework."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from agentgym_daemon.demo.phases import Phase
from agentgym_daemon.demo.saving import Saving, Sums, saving
from agentgym_daemon.demo.worker import Episode


@dataclass(slots=True)
class Group:
    """Sums over some episodes."""

    episodes: int = 0
    calls: int = 0
    right: int = 0
    successes: int = 0
    tokens: int = 0
    by_request: dict[str, Sums] = field(default_factory=dict)

    def add(self, episode: Episode) -> None:
        """Counts one episode."""
        self.episodes += 1
        self.calls += len(episode.first_attempts)
        self.right += sum(episode.first_attempts)
        self.successes += episode.success
        self.tokens += episode.tokens
        tokens, successes = self.by_request.get(episode.request, (0, 0))
        self.by_request[episode.request] = tokens + episode.tokens, successes + episode.success

    @property
    def reliability(self) -> float | None:
        """Right first calls / calls."""
        return self.right / self.calls if self.calls else None

    @property
    def task_success(self) -> float | None:
        """Share of episodes in which every call was right."""
        return self.successes / self.episodes if self.episodes else None

    @property
    def tokens_per_success(self) -> float | None:
        """All tokens, those of failures too, per success."""
        return self.tokens / self.successes if self.successes else None

    def saved(self, before: Group) -> Saving | None:
        """What a success costs less here than in another group; None if that cannot be told."""
        return saving(list(self.by_request.values()), list(before.by_request.values()))


@dataclass(slots=True)
class Tally:
    """All episodes in the order in which they ended."""

    episodes: list[Episode] = field(default_factory=list)

    def add(self, message: dict[str, Any]) -> Episode:
        """Counts one episode as a worker reported it."""
        episode = Episode(**message)
        self.episodes.append(episode)
        return episode

    def group(self, keep: Callable[[Episode], bool]) -> Group:
        """Sums over the episodes that `keep` accepts."""
        group = Group()
        for episode in self.episodes:
            if keep(episode):
                group.add(episode)
        return group

    def phase(self, phase: Phase, framework: str = "") -> Group:
        """Sums over a phase, or over one framework in it."""
        return self.group(lambda e: e.phase == phase and framework in ("", e.framework))

    def control(self, framework: str = "") -> Group:
        """The control group: trajectories of the training phase without the policy."""
        return self.group(
            lambda e: (
                e.phase == Phase.TRAIN
                and e.assignment == "control"
                and framework in ("", e.framework)
            )
        )

    def steered(self) -> list[Episode]:
        """Training episodes that had a policy."""
        return [
            e
            for e in self.episodes
            if e.phase == Phase.TRAIN and e.assignment == "policy" and e.version
        ]

    def versions(self, framework: str = "") -> list[str]:
        """Policy versions that ran, in order."""
        seen = {e.version for e in self.episodes if e.version and framework in ("", e.framework)}
        return sorted(seen)


def window(episodes: Iterable[Episode], size: int) -> list[float]:
    """Call reliability over the last `size` episodes, after each episode."""
    recent: list[Episode] = []
    values = []
    for episode in episodes:
        recent = [*recent[-size + 1 :], episode]
        calls = [right for e in recent for right in e.first_attempts]
        values.append(sum(calls) / len(calls) if calls else 0.0)
    return values
