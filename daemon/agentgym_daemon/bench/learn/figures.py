"""Medians and ranges over seeds: the rows of a table, from the referee's raw figures.

Differences to the agent alone are taken seed by seed, then the median: each seed has its own
agent, stream and split. The share of the gap from the peer to the ceiling is given of the medians
and, paired like this, of each seed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from agentgym_daemon.bench.learn.jobs import ABLATION, CEILING, OURS, PEER, Run
from agentgym_daemon.bench.learn.sets import Arm, Setting

FIRST = 1000
"""Episodes of the start that is compared with the agent alone; gaps are taken from here on."""
WINDOW = 500
"""Episodes of one online window of the referee."""

Figures = Mapping[str, Any]
Read = Callable[[Figures], float | None]


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range over seeds."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Self | None:
        """The spread of the values that are there."""
        there = [value for value in values if value is not None]
        if not there:
            return None
        return cls(statistics.median(there), min(there), max(there), len(there))


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one set; `unit` is "share" (of calls or tasks), "difference" or "s"."""

    name: str
    unit: str
    ours: Spread | None
    base: Spread | None = None
    peer: Spread | None = None
    ceiling: Spread | None = None
    gap: float | None = None  # of the medians; 1 is the ceiling, 0 the peer
    gap_paired: Spread | None = None

    def plain(self) -> dict[str, Any]:
        """The row as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Seeds:
    """The runs of one setting by seed."""

    ours: Mapping[int, Run]
    peer: Mapping[int, Run]
    ceiling: Mapping[int, Run]

    @classmethod
    def of(cls, setting: Setting, runs: Sequence[Run]) -> Self:
        """Those of a table's runs that belong to the setting."""

        def by_seed(kind: str, name: str) -> dict[int, Run]:
            return {r.seed: r for r in runs if r.kind == kind and r.setting == name}

        return cls(
            by_seed(OURS, setting.name),
            by_seed(PEER, setting.name),
            by_seed(CEILING, setting.ceiling) if setting.ceiling else {},
        )

    @property
    def base(self) -> list[Figures]:
        """The agent alone, once per seed."""
        runs = {**self.peer, **self.ours}
        return [runs[seed].base for seed in sorted(runs)]

    def row(self, name: str, unit: str, read: Read, *, base: bool = True) -> Row:
        """A figure that every run of the referee has."""
        return Row(
            name,
            unit,
            Spread.of(read(r.run) for r in self.ours.values()),
            Spread.of(read(figures) for figures in self.base) if base else None,
            Spread.of(read(r.run) for r in self.peer.values()),
        )

    def difference(self, name: str, read: Read) -> Row:
        """A figure minus the agent's own, paired by seed."""
        return Row(
            name,
            "difference",
            Spread.of(_minus(read(r.run), read(r.base)) for r in self.ours.values()),
            peer=Spread.of(_minus(read(r.run), read(r.base)) for r in self.peer.values()),
        )


def rows(setting: Setting, runs: Sequence[Run]) -> list[Row]:
    """Everything that the table says of a setting; empty if nothing was run."""
    seeds = Seeds.of(setting, runs)
    any_run = next(iter([*seeds.ours.values(), *seeds.peer.values()]), None)
    if any_run is None:
        return []
    points = sorted(int(at) for at in any_run.run["test"])
    table = [_unseen(setting, seeds, at, "call") for at in points]
    if setting.several or setting.retry:
        table += [_unseen(setting, seeds, at, "task") for at in points]
    table += [
        seeds.row("online, all episodes", "share", _field("online_call")),
        seeds.row("worst 500-episode window", "share", _field("worst_window")),
        seeds.difference("worst window - agent's own", _field("worst_window")),
        seeds.difference("first 1,000 online - agent's own", first_online),
        seeds.row("left to the agent, unseen", "share", _last("deferred"), base=False),
        seeds.row("left to the agent, online", "share", _field("deferred"), base=False),
        seeds.row("forced calls right, unseen", "share", _last("forced_call"), base=False),
        seeds.row("CPU learning", "s", _field("finish_cpu_s"), base=False),
        seeds.row("CPU deciding", "s", _field("decide_cpu_s"), base=False),
    ]
    return table + _drift(seeds, any_run.run.get("drift", {}))


def _unseen(setting: Setting, seeds: Seeds, at: int, what: str) -> Row:
    said = {"call": "unseen", "task": "unseen, either call" if setting.retry else "unseen, task"}
    read = _test(at, what)
    row = seeds.row(f"{said[what]}, {at:,}", "share", read)
    bounded = what == "call" or setting.several  # with a second chance, one call's bound is none
    top = {seed: r.run[what] for seed, r in seeds.ceiling.items()} if bounded else {}
    ceiling = Spread.of(top.values())
    gap, paired = None, None
    if setting.comparable and at >= FIRST:
        gap = closed(_median(row.ours), _median(row.peer), _median(ceiling))
        paired = Spread.of(
            closed(read(seeds.ours[seed].run), read(seeds.peer[seed].run), top[seed])
            for seed in seeds.ours.keys() & seeds.peer.keys() & top.keys()
        )
    return Row(row.name, "share", row.ours, row.base, row.peer, ceiling, gap, paired)


def closed(ours: float | None, peer: float | None, ceiling: float | None) -> float | None:
    """Share of the way from the peer to the ceiling; None where there is no way to go."""
    if ours is None or peer is None or ceiling is None or ceiling <= peer:
        return None
    return (ours - peer) / (ceiling - peer)


def _median(spread: Spread | None) -> float | None:
    return None if spread is None else spread.median


def first_online(figures: Figures) -> float | None:
    """Mean online reliability over the first 1,000 episodes, from their windows of 500."""
    windows = figures["windows"][: FIRST // WINDOW]
    return statistics.fmean(windows) if windows else None


def _drift(seeds: Seeds, report: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    def read(kind: str, span: str) -> Read:
        return lambda figures: figures["drift"][kind][span]

    return [
        seeds.row(f"online, {kind} tools' queries, {span}", "share", read(kind, span))
        for kind, spans in report.items()
        for span in spans
    ]


def _field(name: str) -> Read:
    return lambda figures: figures[name]


def _test(at: int, what: str) -> Read:
    return lambda figures: figures["test"].get(str(at), {}).get(what)


def _last(what: str) -> Read:
    return lambda figures: figures["test"][max(figures["test"], key=int)].get(what)


def _minus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right


@dataclass(frozen=True, slots=True)
class Ablated:
    """One arm on one set, and its differences to the default, paired by seed."""

    arm: str
    figures: Mapping[str, Spread | None]
    differences: Mapping[str, Spread | None]

    def plain(self) -> dict[str, Any]:
        """The row as JSON values."""
        return asdict(self)


ABLATION_FIGURES: Mapping[str, Read] = {
    "unseen": _last("call"),
    "unseen, task": _last("task"),
    "online": _field("online_call"),
    "worst window": _field("worst_window"),
    "CPU learning, s": _field("finish_cpu_s"),
}


def ablated(setting: Setting, arms: Sequence[Arm], runs: Sequence[Run]) -> list[Ablated]:
    """The rows of a set's ablations; the first arm is the default."""
    by_arm = {
        arm.name: {
            r.seed: r.run
            for r in runs
            if r.kind == ABLATION and r.setting == setting.name and r.arm == arm.name
        }
        for arm in arms
    }
    default = by_arm[arms[0].name]
    return [
        Ablated(
            name,
            {what: Spread.of(map(read, of.values())) for what, read in ABLATION_FIGURES.items()},
            {
                what: Spread.of(_minus(read(of[s]), read(default[s])) for s in of if s in default)
                for what, read in ABLATION_FIGURES.items()
            },
        )
        for name, of in by_arm.items()
        if of
    ]
