"""What a call of `bench learn` has to run: checked arguments, where things are, and the jobs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from agentgym_daemon.bench.learn import identity, jobs, sets, table
from agentgym_daemon.bench.learn.jobs import (
    ABLATION,
    CEILING,
    OURS,
    PEER,
    Job,
    JobError,
    Place,
    Run,
)
from agentgym_daemon.bench.learn.overrides import overrides
from agentgym_daemon.bench.learn.sets import ABLATED, ABLATIONS, Setting
from agentgym_daemon.encoders import choice
from agentgym_daemon.errors import ConfigError

_REFEREE = ("arena.py", "world.py")
_PEER_OF_REFEREE = "vw_learner.py"
_ASK_PEER = (
    "from importlib.metadata import version; import vowpalwabbit; print(version('vowpalwabbit'))"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is to be run; `no_peer` is why there is no peer, "" where it runs."""

    place: Place
    settings: tuple[Setting, ...]
    ablated: tuple[Setting, ...]
    jobs: tuple[Job, ...]
    no_peer: str
    learner: str  # digest of the learner's code
    files: tuple[Path, ...]  # which that code is in
    about: Mapping[str, Any]

    def unencoded(self, wanted: Sequence[Job]) -> list[Job]:
        """One job of each set whose vectors are still to be made."""
        first = {job.setting.data: job for job in reversed(wanted) if job.encodes}
        return [job for name, job in first.items() if not self.place.vectors_of(name).exists()]

    def perform(self, wanted: Sequence[Job], at_once: int) -> Iterator[tuple[Job, Run | JobError]]:
        """Runs jobs, after the vectors that they need; a set without vectors fails as a whole."""
        broken: dict[str, JobError] = {}
        embed = partial(jobs.embed, self.place)
        for job, made in jobs.in_parallel(self.unencoded(wanted), at_once, embed):
            if isinstance(made, JobError):
                broken[job.setting.data] = made
        ready = []
        for job in wanted:
            if job.encodes and job.setting.data in broken:
                yield job, broken[job.setting.data]
            else:
                ready.append(job)
        yield from jobs.in_parallel(ready, at_once, self._perform)

    def _perform(self, job: Job) -> Run:
        ours = job.kind in (OURS, ABLATION)
        if ours:
            self._check_unchanged()
        run = jobs.perform(self.place, job)
        if ours:
            self._check_unchanged()
        return run

    def _check_unchanged(self) -> None:
        """Raises JobError if the learner is not the one that the digest was made of."""
        try:
            now = identity.of_source(path.read_text("utf-8") for path in self.files)
        except (OSError, SyntaxError):
            now = ""
        if now != self.learner:
            raise JobError("the learner was changed while it was measured; go on with --resume")


def make(options: argparse.Namespace, work: Path) -> Plan:
    """The plan of a call; raises ConfigError, or EncoderError, for what cannot be run."""
    seeds = _seeds(options.seeds)
    for name in ("jobs", "test", "episodes"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name}: expected at least 1, got {value}")
    try:
        overrides(options.settings)
    except ValueError as error:
        raise ConfigError(f"--settings: {error}") from error
    short = partial(sets.shortened, episodes=options.episodes)
    settings = tuple(map(short, sets.chosen(options.sets)))
    ablated = tuple(map(short, ABLATED)) if options.ablations else ()
    referee = _REFEREE + ((_PEER_OF_REFEREE,) if options.peer else ())
    _expect(options.arena, "--arena", "the referee's", referee)
    names = sorted({setting.data for setting in (*settings, *ablated)})
    files = [f"{name}{suffix}" for name in names for suffix in (".jsonl", ".catalogue.jsonl")]
    _expect(options.data, "--data", "the sets'", files)
    chosen = choice.choose(options.encoder, work, options.encoder_dir)
    vectors = options.cache.resolve() if options.cache else work / "vectors"
    vectors.mkdir(parents=True, exist_ok=True)
    data = options.data.resolve()
    place = Place(
        arena=options.arena.resolve(),
        data=data,
        work=work,
        vectors=vectors,
        digests={
            n: identity.of_files([data / f"{n}.jsonl", data / f"{n}.catalogue.jsonl"])
            for n in names
        },
        encoder_file=chosen.path,
        peer_python=options.peer_python,
        test=options.test,
    )
    peer = _peer(place) if options.peer else ""
    found = _probe(place)
    make_jobs = _Jobs(place, options, chosen.sha256, found, peer)
    return Plan(
        place,
        settings,
        ablated,
        (*make_jobs.of_settings(settings, seeds), *make_jobs.of_ablations(ablated, seeds)),
        table.NOT_INSTALLED if options.peer and not peer else "",
        found["learner"],
        tuple(map(Path, found["files"])),
        {
            "seeds": list(seeds),
            "encoder": {"name": options.encoder, "sha256": chosen.sha256, "bytes": chosen.size},
            "versions": {**found["versions"], **({"vowpalwabbit": peer} if peer else {})},
            "learner": found["learner"],
            "settings": options.settings,
        },
    )


@dataclass(frozen=True, slots=True)
class _Jobs:
    """Makes jobs with all that their figures depend on."""

    place: Place
    options: argparse.Namespace
    sha256: str
    found: Mapping[str, Any]
    peer: str

    def of_settings(self, settings: Sequence[Setting], seeds: Sequence[int]) -> list[Job]:
        """Ours, and if asked for the peer and the ceilings, seed by seed."""
        made = []
        for setting in settings:
            for seed in seeds:
                made.append(self._job(OURS, setting, seed, settings=self.options.settings))
                if self.peer:
                    made.append(self._job(PEER, setting, seed))
        if self.options.ceiling:
            # Two settings with the same stream and the same queries have one ceiling.
            of = {s.ceiling: s for s in settings if s.ceiling}
            plain = [replace(s, name=name, title="", retry=0) for name, s in of.items()]
            made += [self._job(CEILING, setting, seed) for setting in plain for seed in seeds]
        return made

    def of_ablations(self, settings: Sequence[Setting], seeds: Sequence[int]) -> list[Job]:
        """Every arm on every set."""
        return [
            self._job(
                ABLATION,
                setting,
                seed,
                arm=arm.name,
                encoder=arm.encoder,
                settings=",".join(filter(None, (self.options.settings, arm.settings))),
            )
            for setting in settings
            for arm in ABLATIONS
            for seed in seeds
        ]

    def _job(
        self,
        kind: str,
        setting: Setting,
        seed: int,
        *,
        arm: str = "",
        encoder: str = "",
        settings: str = "",
    ) -> Job:
        encoder = encoder or self.options.encoder
        parts = _REFEREE + ((_PEER_OF_REFEREE,) if kind == PEER else ())
        code = {PEER: self.peer, CEILING: self.found["oracle"]}.get(kind, self.found["learner"])
        of = {
            "arguments": [*setting.arguments(), f"--test={self.options.test}"],
            "data": self.place.digests[setting.data],
            "referee": identity.of_source((self.place.arena / p).read_text("utf-8") for p in parts),
            "encoder": self.sha256 if encoder != "none" else "none",
            "code": code,
            "settings": settings,
        }
        return Job(kind, setting, seed, of, arm, encoder, settings)


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        seeds = ()
    if not seeds or min(seeds) < 0:
        raise ConfigError(f"--seeds: expected numbers from 0, comma-separated; got {text!r}")
    return seeds


def _expect(directory: Path, option: str, whose: str, files: Sequence[str]) -> None:
    missing = [name for name in files if not (directory / name).is_file()]
    if missing:
        state = "lacks " + ", ".join(missing) if directory.is_dir() else "is no directory"
        raise ConfigError(
            f"{option}: expected a directory with {whose} {', '.join(files)}; {directory} {state}. "
            f"Name the right directory, or fewer --sets"
        )


def _probe(place: Place) -> dict[str, Any]:
    """Digests and versions, as a run will have them."""
    module = [sys.executable, "-m", "agentgym_daemon.bench.learn.identity"]
    try:
        found: dict[str, Any] = json.loads(jobs.call(module, place, jobs.environment(place)))
    except JobError as error:
        raise ConfigError(f"the learner cannot be loaded: {error}") from error
    return found


def _peer(place: Place) -> str:
    """The version of Vowpal Wabbit that the peer will run on, "" where it is not installed."""
    if not Path(place.peer_python).is_file():
        raise ConfigError(f"--peer-python: expected an interpreter, got {place.peer_python!r}")
    try:
        asked = [place.peer_python, "-c", _ASK_PEER]
        return jobs.call(asked, place, jobs.environment(place)).strip()
    except JobError:
        return ""
