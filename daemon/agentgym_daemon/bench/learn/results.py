"""The file of a table: command, versions, digests, figures and every run as the referee gave it.

It is written after each run, so that a later call can continue an interrupted one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from agentgym_daemon.bench.learn.jobs import Job, Run
from agentgym_daemon.errors import ConfigError

NAME = "learn"


@dataclass(frozen=True, slots=True)
class Resumed:
    """Runs of an earlier file: those that serve the jobs, and all others, which are kept."""

    done: tuple[Run, ...] = ()
    others: tuple[Run, ...] = ()


def read(path: Path) -> tuple[Run, ...]:
    """The runs of a file; raises ConfigError if it is none of ours."""
    names = {field.name for field in fields(Run)}
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        if written["name"] != NAME:
            raise KeyError(NAME)
        return tuple(Run(**{k: v for k, v in r.items() if k in names}) for r in written["runs"])
    except OSError as error:
        raise ConfigError(f"--resume: cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"--resume: expected a file written by `bench learn --json`, got {path} ({error!r})"
        ) from error


def resume(runs: Iterable[Run], jobs: Sequence[Job]) -> Resumed:
    """Runs serve a job if all that its figures depend on is the same."""
    wanted = {job.place: dict(job.of) for job in jobs}
    done: dict[tuple[str, str, int, str], Run] = {}
    others = []
    for run in runs:
        if wanted.get(run.place) == dict(run.of):
            done[run.place] = run
        else:
            others.append(run)
    return Resumed(tuple(done.values()), tuple(others))


def superseded(others: Iterable[Run], runs: Iterable[Run]) -> list[Run]:
    """The other runs without those that a newer run of the same encoder replaces."""
    replaced = {(run.place, run.of.get("encoder")) for run in runs}
    return [run for run in others if (run.place, run.of.get("encoder")) not in replaced]


def write(path: Path, about: Mapping[str, Any], runs: Sequence[Run], others: Sequence[Run]) -> None:
    """Writes the file in one piece; `others` are runs that are not in the table."""
    kept = [*runs, *superseded(others, runs)]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    content = {"name": NAME, **about, "runs": [asdict(run) for run in kept]}
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
