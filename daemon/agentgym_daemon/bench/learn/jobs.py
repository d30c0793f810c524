"""One process per set and seed, some at a time; what they are called with, and what they return."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import agentgym
import agentgym_daemon
from agentgym_daemon.bench.learn.embedding import ENCODER_ENV as FILE_ENV
from agentgym_daemon.bench.learn.embedding import VECTORS_ENV
from agentgym_daemon.bench.learn.overrides import SETTINGS_ENV
from agentgym_daemon.bench.learn.sets import Setting

OURS, PEER, CEILING, ABLATION = "ours", "peer", "ceiling", "ablation"
PEER_LEARNER = "vw-l5"

_ENCODER_ENV = "AGENTGYM_ENCODER"
_LEARNER = "agentgym_daemon.bench.learn.learner:learner"
_EMBED = "agentgym_daemon.bench.learn.embedding:encode"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
T = TypeVar("T")
_SAID = 2000  # characters of a failed process's last words


@dataclass(frozen=True, slots=True)
class Place:
    """Where the parts of a measurement are; `work` is a directory that only it uses."""

    arena: Path
    data: Path
    work: Path
    vectors: Path
    digests: Mapping[str, str]  # of the data sets, by name
    encoder_file: Path | None = None  # None: n-grams only
    peer_python: str = sys.executable
    test: int = 2000  # unseen queries

    def vectors_of(self, data: str) -> Path:
        """The file of vectors of a data set."""
        encoder = self.encoder_file.stem[:16] if self.encoder_file else "none"
        return self.vectors / f"{data}-{self.digests[data]}-{encoder}.npz"


@dataclass(frozen=True, slots=True)
class Job:
    """One process: what it measures, and `of`, all that its figures depend on."""

    kind: str
    setting: Setting
    seed: int
    of: Mapping[str, Any] = field(default_factory=dict)
    arm: str = ""
    encoder: str = "none"
    settings: str = ""

    @property
    def label(self) -> str:
        """How it is spoken of."""
        return f"{self.setting.name} seed {self.seed} {self.arm or self.kind}"

    @property
    def place(self) -> tuple[str, str, int, str]:
        """Where its run stands in the table."""
        return self.kind, self.setting.name, self.seed, self.arm

    @property
    def encodes(self) -> bool:
        """Whether it reads vectors of texts."""
        return self.encoder != "none"


@dataclass(frozen=True, slots=True)
class Run:
    """What a job returned: the referee's figures of the learner and of the agent alone."""

    kind: str
    setting: str
    seed: int
    arm: str
    of: Mapping[str, Any]
    run: Mapping[str, Any]
    base: Mapping[str, Any] = field(default_factory=dict)
    wall_s: float = 0.0

    @property
    def place(self) -> tuple[str, str, int, str]:
        """Where it stands in the table."""
        return self.kind, self.setting, self.seed, self.arm


class JobError(Exception):
    """A process ended badly; the message has its last words."""


def environment(place: Place, job: Job | None = None) -> dict[str, str]:
    """The environment of a job: one thread, our packages, the encoder; nothing else of ours."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AGENTGYM_", "ARENA_"))}
    kept |= dict.fromkeys(_THREADS, "1")
    paths = [str(_packages(place)), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept["PYTHONPATH"] = os.pathsep.join(paths)
    if job is None:
        return kept
    kept |= {_ENCODER_ENV: job.encoder, SETTINGS_ENV: job.settings}
    if job.encodes:
        kept[FILE_ENV] = str(place.encoder_file)
        kept[VECTORS_ENV] = str(place.vectors_of(job.setting.data))
        if job.kind == PEER:
            kept["ARENA_EMBED"] = _EMBED
    return kept


def _packages(place: Place) -> Path:
    """A directory with our packages alone: a peer's interpreter has the others of its own."""
    directory = place.work / "packages"
    directory.mkdir(parents=True, exist_ok=True)
    for package in (agentgym, agentgym_daemon):
        link = directory / package.__name__
        if not link.is_symlink():
            link.symlink_to(Path(str(package.__file__)).parent)
    return directory


def command(place: Place, job: Job, out: Path) -> list[str]:
    """The command line of a job, which writes JSON to `out`."""
    setting = job.setting
    data = str(place.data / f"{setting.data}.jsonl")
    if job.kind == CEILING:
        return [
            *(sys.executable, "-m", "agentgym_daemon.bench.learn.oracle"),
            *("--arena", str(place.arena), "--data", data, "--json", str(out)),
            *(f"--tools={setting.tools}", f"--episodes={setting.episodes}"),
            *(f"--seed={job.seed}", f"--test={place.test}"),
        ]
    python = place.peer_python if job.kind == PEER else sys.executable
    learner = PEER_LEARNER if job.kind == PEER else _LEARNER
    return [
        *(python, str(place.arena / "arena.py"), "--data", data, "--learner", learner),
        *(f"--seeds={job.seed}", "--every=0", f"--test={place.test}", "--json", str(out)),
        *setting.arguments(),
    ]


def perform(place: Place, job: Job) -> Run:
    """Runs a job to its end; raises JobError."""
    out = place.work / f"{job.label}.json".replace("/", "-").replace(" ", "_")
    start = time.monotonic()
    written = json.loads(call(command(place, job, out), place, environment(place, job), out))
    wall_s = time.monotonic() - start
    run, base = written, {}
    if job.kind != CEILING:
        run, base = written["runs"][0], written["base_runs"][0]
    return Run(job.kind, job.setting.name, job.seed, job.arm, job.of, run, base, wall_s)


def embed(place: Place, job: Job) -> None:
    """Computes the vectors of the job's set; raises JobError."""
    out = place.vectors_of(job.setting.data)
    arguments = ["--arena", place.arena, "--data", place.data / f"{job.setting.data}.jsonl"]
    module = [sys.executable, "-m", "agentgym_daemon.bench.learn.embedding"]
    surroundings = environment(place, job)
    del surroundings[VECTORS_ENV]  # it is what is made here
    call([*module, *map(str, arguments), "--out", str(out)], place, surroundings)


def call(
    arguments: Sequence[str], place: Place, surroundings: Mapping[str, str], out: Path | None = None
) -> str:
    """What the process wrote to `out`, else to stdout; raises JobError with its last words."""
    try:
        ended = subprocess.run(
            arguments, cwd=place.work, env=surroundings, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise JobError(f"{arguments[0]} cannot be run: {error.strerror}") from error
    if ended.returncode:
        said = (ended.stderr.strip() or ended.stdout.strip())[-_SAID:]
        raise JobError(f"exit code {ended.returncode}: {said}")
    return out.read_text(encoding="utf-8") if out else ended.stdout


def in_parallel(
    jobs: Sequence[Job], at_once: int, action: Callable[[Job], T]
) -> Iterator[tuple[Job, T | JobError]]:
    """Each job with its result, in the order in which they end."""
    pool = ThreadPoolExecutor(max_workers=at_once)
    try:
        futures = {pool.submit(action, job): job for job in jobs}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except JobError as error:
                yield futures[future], error
    finally:
        # After an interrupt nothing more is started; what runs got the signal too.
        pool.shutdown(cancel_futures=True)
