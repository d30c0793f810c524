"""`bench retrain`: from stored episodes to a published candidate, with the shipped settings.

A store is filled through real log records; then, round by round, the daemon's own retraining runs
with its own trainer process: export, load, featurise, train, gate, register and promote.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from agentgym.policy.features import TextHasher
from agentgym.proto.v1 import log_pb2
from agentgym_daemon.bench.episodes import DECISIONS, PARENT, Episodes
from agentgym_daemon.bench.frame import Report
from agentgym_daemon.clock import SystemClock
from agentgym_daemon.config import DaemonConfig, resolve
from agentgym_daemon.encoders.choice import Choice, choose
from agentgym_daemon.ingest.otlp import decode_traces
from agentgym_daemon.learning.supervisor import Trainer, TrainJob, TrainResult
from agentgym_daemon.lock import prepare, read_feature_key, write_private
from agentgym_daemon.policies.history import history
from agentgym_daemon.policies.registry import Registry
from agentgym_daemon.retraining import FAILED, Retraining
from agentgym_daemon.store.batch import BatchWriter
from agentgym_daemon.store.database import Store

PHASES = ("export", "load", "featurise", "train", "twins", "gate", "write", "register")
_BATCH = 3_000  # records
_GOAL_S = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How much there is to train on."""
    parser.add_argument("--episodes", type=int, default=10_000, help="rewarded ones in the store")
    parser.add_argument("--tools", type=int, default=50, help="that each decision chooses from")
    parser.add_argument("--encoder", default="default", help="as the daemon's setting")


def run(arguments: argparse.Namespace) -> Report:
    """Wall and CPU seconds of a training and of its phases."""
    with tempfile.TemporaryDirectory(prefix="agentgym-bench-") as folder:
        runs = list(_rounds(arguments, Path(folder)))
    units = {"wall_s": "s", "cpu_s": "s", "trainer_cpu_s": "s", "trainer_peak_mb": "MB"}
    return Report(
        name="retrain",
        units=units | {f"{phase}_s": "s" for phase in PHASES} | {"judged": "share"},
        runs=runs,
        goals={"wall_s": f"<= {_GOAL_S:g} (aim 8)", "judged": "= 1"},
        not_measured=[
            f"filling the store with {arguments.episodes} episodes of {DECISIONS} decisions",
            "starting the trainer's process, which stays for all trainings of a daemon",
            "fsync of the log: the facts of the registry go nowhere",
        ],
    )


def _rounds(arguments: argparse.Namespace, folder: Path) -> Iterator[dict[str, float]]:
    config = resolve({"home": folder, "encoder": arguments.encoder}, {})
    prepare(config.home)
    encoder, key = choose(config.encoder, config.home), read_feature_key(config.home)
    episodes = Episodes(encoder.featuriser(TextHasher(key)), tools=arguments.tools)
    store = Store.open(config.home / "bench.duckdb")
    trainer = Trainer(
        config.home / "trainer.log",
        timeout_s=config.trainer_timeout_s,
        memory_bytes=config.trainer_memory_bytes,
        nice=config.trainer_nice,
    )
    try:
        _fill(store, episodes.records(arguments.episodes))
        _wait_until_started(trainer)
        for number in range(arguments.rounds):
            directory = config.home / f"round-{number}"
            directory.mkdir(mode=0o700)
            write_private(directory / f"{PARENT}.safetensors", episodes.file)
            yield asyncio.run(_round(config, store, trainer, encoder, directory))
    finally:
        trainer.close()
        store.close()


def _fill(store: Store, records: Iterator[bytes]) -> None:
    writer, end = BatchWriter(store, decode_traces), 0
    while batch := [(end + i, record) for i, record in enumerate(islice(records, _BATCH), 1)]:
        writer.apply(batch)
        end = batch[-1][0]


def _wait_until_started(trainer: Trainer) -> None:
    trainer.warm()
    while trainer.pid is None and trainer.status == "idle":
        time.sleep(0.05)
    if trainer.status != "idle":
        raise RuntimeError(trainer.status)


async def _round(
    config: DaemonConfig, store: Store, trainer: Trainer, encoder: Choice, directory: Path
) -> dict[str, float]:
    clock = SystemClock()
    registry = Registry(directory, append=_nowhere, clock=clock, changed=lambda agent: None)
    with store.reading() as cursor:
        registry.load(*history(cursor))

    async def train(job: TrainJob) -> TrainResult:
        return await asyncio.wrap_future(trainer.train(job))

    retraining = Retraining(
        config,
        store,
        registry,
        train=train,
        append=_nowhere,
        feature_key=read_feature_key(config.home),
        encoder=encoder,
        clock=clock,
    )
    began, own, theirs = clock.monotonic(), time.process_time(), _cpu_s(trainer)
    (done,) = await retraining.run_due()
    wall, own, theirs = (
        clock.monotonic() - began,
        time.process_time() - own,
        _cpu_s(trainer) - theirs,
    )
    return {
        "wall_s": wall,
        "cpu_s": own + theirs,
        "trainer_cpu_s": theirs,
        "trainer_peak_mb": _peak_mb(trainer),
        "judged": float(done.verdict != FAILED),
        **_phases(done),
    }


def _phases(done: log_pb2.TrainingRun) -> dict[str, float]:
    report = json.loads(done.report_json)
    if "seconds" not in report:
        raise RuntimeError(f"the training failed: {report.get('error')}")
    return {f"{phase}_s": report["seconds"].get(phase, 0.0) for phase in PHASES}


async def _nowhere(record: log_pb2.LogRecord) -> int:
    return 0


def _cpu_s(trainer: Trainer) -> float:
    fields = Path(f"/proc/{trainer.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_mb(trainer: Trainer) -> float:
    for line in Path(f"/proc/{trainer.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0
