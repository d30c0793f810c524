"""The daemon's trainer on Agent Lightning: the same update, over the same pipes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from agentgym.policy import snapshot
from agentgym.policy.snapshot import Snapshot
from agentgym_daemon.learning import lightning, worker
from agentgym_daemon.learning.settings import LearningSettings
from agentgym_daemon.learning.supervisor import Trainer, TrainJob

Job = Callable[..., dict[str, Any]]
PARITY = 1e-5
GUARDED = """
import os, socket, sys

def refuse(*arguments, **named):
    print("network at import:", arguments[1:], file=sys.stderr, flush=True)
    os._exit(9)

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from agentgym_daemon.learning import lightning, worker
from opentelemetry import trace

if type(trace.get_tracer_provider()).__name__ != "ProxyTracerProvider":
    sys.exit("a tracer provider was set")
worker.main(lightning.run_job)
"""


def parsed(path: Path) -> Snapshot:
    data = path.read_bytes()
    return snapshot.parse(data, snapshot.digest(data))


def difference(first: Path, second: Path) -> float:
    """The largest difference between the parameters of two candidates."""
    one, two = parsed(first).parameters, parsed(second).parameters
    assert (one.tools, list(one.tensors)) == (two.tools, list(two.tensors))
    return max(float(np.abs(one[name] - two[name]).max()) for name in one.tensors)


def test_the_same_data_and_seed_give_the_same_update(job: Job, tmp_path: Path) -> None:
    plain = worker.run_job(job(tmp_path / "plain"))
    engine = lightning.run_job(job(tmp_path / "engine"))

    assert difference(tmp_path / "plain", tmp_path / "engine") <= PARITY
    assert engine["receipt"] == plain["receipt"]
    assert engine["report"] == plain["report"]
    assert parsed(tmp_path / "plain").manifest["lineage"]["engine"] == "torch"
    assert parsed(tmp_path / "engine").manifest["lineage"]["engine"] == "lightning"
    assert plain["report"]["loss_last"] < plain["report"]["loss_first"]


def test_and_so_does_a_second_training_on_its_parent(job: Job, tmp_path: Path) -> None:
    worker.run_job(job(tmp_path / "parent"))
    second = {"parent": str(tmp_path / "parent"), "version": "p-000002", "seed": 4}

    worker.run_job(job(tmp_path / "plain", **second))
    lightning.run_job(job(tmp_path / "engine", **second))

    assert difference(tmp_path / "plain", tmp_path / "engine") <= PARITY
    assert difference(tmp_path / "parent", tmp_path / "engine") > PARITY


def test_another_seed_gives_another_update(job: Job, tmp_path: Path) -> None:
    lightning.run_job(job(tmp_path / "one"))
    lightning.run_job(job(tmp_path / "two", seed=4, settings={"rounds": 8, "batch": 32}))

    assert difference(tmp_path / "one", tmp_path / "two") > PARITY


def test_its_process_needs_no_network_and_sets_no_tracer_provider(
    job: Job, snapshot_file: Path, tmp_path: Path
) -> None:
    """Driven by the supervisor, as by the daemon, with its limits."""
    worker.run_job(job(tmp_path / "plain"))
    values = job(tmp_path / "engine")
    trainer = Trainer(
        tmp_path / "trainer.log",
        memory_bytes=8 * 2**30,
        nice=0,
        command=(sys.executable, "-c", GUARDED),
    )
    try:
        result = trainer.train(
            TrainJob(
                snapshot=snapshot_file,
                out=tmp_path / "engine",
                version=values["version"],
                created_unix_nano=values["created_unix_nano"],
                seed=values["seed"],
                settings=LearningSettings(**values["settings"]),
            )
        ).result(100)
        broken = trainer.train(
            TrainJob(tmp_path / "absent", tmp_path / "x", "p-2", created_unix_nano=1, seed=0)
        ).result(100)
    finally:
        trainer.close()

    assert result.ok, result.error
    assert difference(tmp_path / "plain", tmp_path / "engine") <= PARITY
    assert "FileNotFoundError" in broken.error
