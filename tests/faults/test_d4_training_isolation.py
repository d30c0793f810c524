"""D4: a trainer that is busy, leaks, hangs, crashes or is killed is alone with it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentgym.policy.arms import Exploration
from agentgym.policy.evaluate import CatalogueCache
from agentgym.policy.features import Featuriser, TextHasher
from agentgym.policy.policy_set import PolicySet
from agentgym.policy.snapshot import Snapshot
from agentgym.proto.v1 import log_pb2
from agentgym.trajectory import ArmKind
from agentgym_daemon.bench.episodes import PARENT, Episodes
from agentgym_daemon.clock import SystemClock
from agentgym_daemon.config import resolve
from agentgym_daemon.encoders.choice import choose
from agentgym_daemon.ingest.otlp import decode_traces
from agentgym_daemon.learning.supervisor import Trainer, TrainJob, TrainResult
from agentgym_daemon.lock import write_private
from agentgym_daemon.policies.history import history
from agentgym_daemon.policies.registry import Registry
from agentgym_daemon.retraining import FAILED, Retraining
from agentgym_daemon.store.batch import BatchWriter
from agentgym_daemon.store.database import Store

WORKER = (
    "import os, sys\n"
    "from agentgym_daemon.learning import worker\n"
    "{body}\n"
    "worker.limit(os.environ)\n"
    "print('{{}}', flush=True)\n"
    "worker.serve(sys.stdin, sys.stdout, run=run)\n"
)
"""The worker without torch, whose import says nothing here and takes long."""
WHOLE = "from agentgym_daemon.learning import worker\n{body}\nworker.main(run)\n"
BUSY = "def run(job):\n    while True: pass"
HANG = "import time\ndef run(job): time.sleep(600)"
LEAK = "def run(job):\n    held = []\n    while True: held.append(bytearray(1 << 24))"
DIES = "import os, signal\ndef run(job): os.kill(os.getpid(), signal.SIGKILL)"
WRITES_AND_DIES = (
    "import os, signal, pathlib\n"
    "def run(job):\n"
    "    pathlib.Path(job['out']).write_bytes(b'a candidate')\n"
    "    os.kill(os.getpid(), signal.SIGKILL)"
)
THREE_GB = 3 * 2**30


@pytest.fixture
def make_trainer(tmp_path: Path) -> Iterator[Callable[..., Trainer]]:
    """Trainers with the real limits, whose work is `body`."""
    made: list[Trainer] = []

    def start(body: str, *, worker: str = WORKER, **settings: Any) -> Trainer:
        values = {"timeout_s": 60.0, "memory_bytes": THREE_GB, "back_off_s": 0.01, **settings}
        command = (sys.executable, "-c", worker.format(body=body))
        made.append(Trainer(tmp_path / f"{len(made)}.log", command=command, **values))
        return made[-1]

    yield start
    for trainer in made:
        trainer.close()


def job(tmp_path: Path) -> TrainJob:
    return TrainJob(tmp_path / "snapshot", tmp_path / "out", "p-000002", 1, seed=0)


def status_of(pid: int, name: str) -> int:
    """A number of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name + ":")).split()[1])


def test_the_trainer_gives_way_and_has_one_thread(
    make_trainer: Callable[..., Trainer],
    tmp_path: Path,
    until: Callable[..., None],
    report: Any,
) -> None:
    """nice 19, one computing thread, and the memory limit, read from /proc."""
    trainer = make_trainer(BUSY, worker=WHOLE)
    future = trainer.train(job(tmp_path))
    until(lambda: trainer.status == "training", "the training")
    pid = trainer.pid
    assert pid is not None

    before = busy_threads(pid)
    until(lambda: len(running(before, busy_threads(pid))) > 0, "the trainer to compute")

    report.figures.update(nice=os.getpriority(os.PRIO_PROCESS, pid))
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    assert len(running(before, busy_threads(pid))) == 1
    assert status_of(pid, "VmPeak") * 1024 <= THREE_GB
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert f"Max address space         {THREE_GB}" in limits
    os.kill(pid, signal.SIGKILL)
    assert not future.result(30).ok


def busy_threads(pid: int) -> dict[str, int]:
    """Processor time of every thread."""
    found = {}
    for thread in Path(f"/proc/{pid}/task").iterdir():
        fields = (thread / "stat").read_text().rpartition(")")[2].split()
        found[thread.name] = int(fields[11]) + int(fields[12])
    return found


def running(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """The threads that took time in between."""
    return [thread for thread, ticks in after.items() if ticks > before.get(thread, 0)]


@pytest.mark.parametrize(
    ("body", "settings", "said"),
    [
        (BUSY, {"timeout_s": 1.0}, "more than 1 s"),
        (HANG, {"timeout_s": 1.0}, "more than 1 s"),
        (LEAK, {}, "MemoryError"),
        (DIES, {}, "exit status -9"),
    ],
    ids=["busy", "hung", "leaking", "killed"],
)
def test_a_failed_training_says_why_and_the_next_one_gets_a_process(
    body: str,
    settings: dict[str, Any],
    said: str,
    make_trainer: Callable[..., Trainer],
    tmp_path: Path,
) -> None:
    """Killed at the deadline, refused memory, killed from outside: each a failed result."""
    trainer = make_trainer(body, **settings)

    first = trainer.train(job(tmp_path)).result(60)
    status = trainer.status
    second = trainer.train(job(tmp_path)).result(60)

    assert said in first.error
    assert status == f"failed: {first.error}"
    assert said in second.error
    assert not (tmp_path / "out").exists()


def test_what_a_killed_trainer_wrote_is_never_registered(
    make_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    """The daemon's own retraining, and a trainer that dies with its candidate on the disk."""
    config = resolve({"home": tmp_path / "home", "encoder": "none", "retrain_trajectories": 10}, {})
    config.home.mkdir(mode=0o700)
    episodes = Episodes(Featuriser(TextHasher(b"key")), tools=10)
    store = Store.open(tmp_path / "store.duckdb")
    BatchWriter(store, decode_traces).apply(list(enumerate(episodes.records(20), 1)))
    facts: list[log_pb2.LogRecord] = []

    async def append(record: log_pb2.LogRecord) -> int:
        facts.append(record)
        return len(facts)

    registry = Registry(
        config.home / "policies", append=append, clock=SystemClock(), changed=lambda agent: None
    )
    registry.load((), ())
    write_private(registry.path(PARENT), episodes.file)
    with store.reading() as cursor:
        registry.load(*history(cursor))
    trainer = make_trainer(WRITES_AND_DIES)

    async def train(job: TrainJob) -> TrainResult:
        result = await asyncio.wrap_future(trainer.train(job))
        assert job.out.exists()
        return result

    retraining = Retraining(
        config,
        store,
        registry,
        train=train,
        append=append,
        feature_key=b"key",
        encoder=choose("none", config.home),
        clock=SystemClock(),
    )
    (run,) = asyncio.run(retraining.run_due())
    retraining.clean()
    store.close()

    assert run.verdict == FAILED
    assert "exit status -9" in run.report_json
    assert [version.version for version in registry.book.versions()] == [PARENT]
    assert [fact.WhichOneof("fact") for fact in facts] == ["training"]
    assert not list(config.home.glob("training/*"))


def test_an_agent_beside_a_trainer_decides_as_fast(
    make_trainer: Callable[..., Trainer],
    tmp_path: Path,
    load: Callable[..., int],
    percentile: Callable[..., float],
    until: Callable[..., None],
    report: Any,
) -> None:
    """The p99 of decisions with the trainer busy against without, turn by turn; a figure."""
    decide, rounds = decisions(), load(11, 3)
    trainer = make_trainer(BUSY, timeout_s=600.0)
    future = trainer.train(job(tmp_path))
    until(lambda: trainer.status == "training", "the training")
    pid = trainer.pid
    assert pid is not None
    ratios = []

    for _ in range(rounds):
        os.kill(pid, signal.SIGSTOP)
        idle = percentile(times(decide, load(5000, 500)), 0.99)
        os.kill(pid, signal.SIGCONT)
        ratios.append(percentile(times(decide, load(5000, 500)), 0.99) / idle)

    report.load.update(rounds=rounds, decisions=load(5000, 500))
    report.figures.update(
        p99_ratio=round(statistics.median(ratios), 3),
        least=round(min(ratios), 3),
        most=round(max(ratios), 3),
    )
    assert trainer.status == "training"
    os.kill(pid, signal.SIGKILL)
    assert not future.result(30).ok


def decisions() -> Callable[[], Any]:
    """One decision over 50 tools."""
    episodes = Episodes(features := Featuriser(TextHasher(b"key")), tools=50)
    policies = PolicySet(
        features=features,
        catalogues=CatalogueCache(features),
        exploration=Exploration(),
        control_share=0.0,
        stale_after_s=1.0,
        policies={"agent": Snapshot("p-000001", "", episodes.policy, {})},
    )
    catalogue = policies.catalogue(episodes.tools, None)
    assert catalogue is not None
    task, rng = features("where is the parcel of my order"), random.Random(0)
    return lambda: policies.decide(
        "agent", task, catalogue, (), allowed=[True] * 50, kind=ArmKind.FORCE, rng=rng
    )


def times(action: Callable[[], Any], count: int) -> list[float]:
    """Seconds of each call, with pauses as an agent has them."""
    took = []
    for _ in range(count):
        time.sleep(0.0002)
        began = time.perf_counter()
        action()
        took.append(time.perf_counter() - began)
    return took
