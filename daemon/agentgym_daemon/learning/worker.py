"""The trainer's process: one JSON job per line on stdin, one JSON answer per line on stdout.

    {"id", "snapshot", "parent", "best", "twins", "encoder", "out", "version", "seed",
     "created_unix_nano", "settings"}
    -> {"id", "ok": true, "report", "receipt", "sha256", "size", "seconds"}
     | {"id", "ok": false, "error"}

It stays for many jobs, so that torch is loaded once, gives way to everything else (one thread,
nice AGENTGYM_TRAINER_NICE = 19), keeps to AGENTGYM_TRAINER_MEMORY_BYTES of memory, and ends when
stdin closes.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import resource
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from agentgym.policy import snapshot
from agentgym.policy.features import Featuriser, TextHasher
from agentgym.policy.snapshot import Snapshot
from agentgym_daemon.encoders.choice import featuriser_from
from agentgym_daemon.learning import twin_files
from agentgym_daemon.learning.dataset import Dataset, grams_only, read_dataset
from agentgym_daemon.learning.improve import improve
from agentgym_daemon.learning.phases import Phases
from agentgym_daemon.learning.proof import Anchors
from agentgym_daemon.learning.settings import LearningSettings

MEMORY_ENV = "AGENTGYM_TRAINER_MEMORY_BYTES"
NICE_ENV = "AGENTGYM_TRAINER_NICE"
_NICE = "19"
ENGINE = "torch"
"""Name of this engine in a version's lineage; `learning.lightning` says its own in the job."""
Run = Callable[[Mapping[str, Any]], dict[str, Any]]


def run_job(job: Mapping[str, Any]) -> dict[str, Any]:
    """Trains, passes the candidate to the gate, and writes its file atomically."""
    settings = LearningSettings.of(job.get("settings", {}))
    phases = Phases()
    with phases("load"):
        parent = _load(job.get("parent"))
        best = _load(job.get("best")) or parent
        known = parent.parameters if parent else None
        twins = Path(job["twins"]) if job.get("twins") else None
        dataset = read_dataset(
            Path(job["snapshot"]),
            extra=tuple(zip(known.tools, known.names, strict=True)) if known else (),
            featuriser=_featuriser(job.get("encoder")),
        )
        manifest = _manifest(job, dataset, parent, settings)
    anchors = Anchors(
        incumbent=twin_files.load(twins, parent) if parent else None,
        best=twin_files.load(twins, best) if best else None,
        best_version=best.version if best else "",
    )
    outcome = improve(
        dataset, anchors, manifest, settings=settings, seed=job["seed"], phases=phases
    )
    with phases("write"):
        _write(Path(job["out"]), outcome.data)
        if twins is not None:
            twin_files.save(twins, job["version"], outcome.candidate.twins, manifest)
    return {
        "seconds": phases.seconds,
        "report": outcome.report.plain(),
        "receipt": outcome.receipt.plain(),
        "sha256": outcome.sha256,
        "size": len(outcome.data),
    }


def _featuriser(encoder: str | None) -> Callable[[bytes, int], Featuriser]:
    """Features with the encoder in a file; the file stays loaded for the next job."""
    if encoder is None:
        return grams_only
    return lambda key, schema: _loaded(encoder, key, schema)


@lru_cache(maxsize=1)
def _loaded(encoder: str, key: bytes, schema: int) -> Featuriser:
    return featuriser_from(Path(encoder).read_bytes(), TextHasher(key), schema)


def _load(path: str | None) -> Snapshot | None:
    if path is None:
        return None
    data = Path(path).read_bytes()
    return snapshot.parse(data, snapshot.digest(data))


def _manifest(
    job: Mapping[str, Any], dataset: Dataset, parent: Snapshot | None, settings: LearningSettings
) -> dict[str, Any]:
    agent, agent_name, feature_schema = dataset.scope
    return {
        "version": job["version"],
        "parent": parent.version if parent else "",
        "created_unix_nano": job["created_unix_nano"],
        "scope": {
            "agent": agent,
            "agent_name": agent_name,
            "feature_schema": feature_schema,
        },
        "lineage": {
            "data_sha256": hashlib.sha256(Path(job["snapshot"]).read_bytes()).hexdigest(),
            "trajectories": len(dataset.trajectories),
            "first_closed_unix_nano": min(
                (t.closed_unix_nano for t in dataset.trajectories), default=0
            ),
            "last_closed_unix_nano": max(
                (t.closed_unix_nano for t in dataset.trajectories), default=0
            ),
            "parent_sha256": parent.sha256 if parent else "",
            "code_version": _code_version(),
            "engine": job.get("engine", ENGINE),
            "seed": job["seed"],
            "settings": settings.plain(),
        },
    }


def _code_version() -> str:
    try:
        return version("agentgym")
    except PackageNotFoundError:
        return "unknown"


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def serve(lines: TextIO, out: TextIO, *, run: Run = run_job) -> None:
    """Answers jobs until `lines` end; a failed job is an answer, not an end."""
    for line in lines:
        answer: dict[str, Any] = {"id": None}
        try:
            job = json.loads(line)
            answer["id"] = job["id"]
            said = json.dumps(answer | {"ok": True, **run(job)}, allow_nan=False)
        except Exception as error:  # noqa: BLE001 - the boundary of the process: reported, not hidden
            said = json.dumps(answer | {"ok": False, "error": f"{type(error).__name__}: {error}"})
        out.write(said + "\n")
        out.flush()
        gc.collect()


def limit(environ: Mapping[str, str]) -> None:
    """Makes this process give way and keeps it within its memory."""
    os.nice(int(environ.get(NICE_ENV, _NICE)))
    if memory := int(environ.get(MEMORY_ENV, "0")):
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def _warm_up() -> None:
    """One step of an optimiser: torch loads half of itself at the first."""
    import torch

    value = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.Adam([value], fused=True)
    value.sum().backward()  # type: ignore[no-untyped-call]  # torch's own annotation lacks one
    optimiser.step()


def main(run: Run = run_job) -> None:
    """Runs the worker on this process's pipes."""
    # What a library prints must not land between the answers.
    out, sys.stdout = sys.stdout, sys.stderr
    limit(os.environ)
    import torch

    torch.set_num_threads(1)
    _warm_up()
    # A dataset is millions of objects without a cycle: to look for one, time and again while
    # they are made, takes a third of the time of reading them.
    gc.freeze()
    gc.disable()
    out.write(json.dumps({"ready": True, "torch": torch.__version__}) + "\n")
    out.flush()
    serve(sys.stdin, out, run=run)


if __name__ == "__main__":
    main()
