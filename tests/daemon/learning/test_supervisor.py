"""The trainer's process, driven as the daemon drives it."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentgym.policy import snapshot
from agentgym.policy.encoder.artefact import digest, parse
from agentgym.policy.encoder.transformer import Encoder
from agentgym.trajectory import Tool
from agentgym_daemon.learning import worker
from agentgym_daemon.learning.dataset import read_dataset
from agentgym_daemon.learning.settings import LearningSettings
from agentgym_daemon.learning.supervisor import Trainer, TrainJob, command_of

SETTINGS = LearningSettings(rounds=3)
SAYS_READY = "import sys; print('{}', flush=True)\n"
ANSWERS = SAYS_READY + (
    "import json\n"
    "for line in sys.stdin:\n"
    "    job = json.loads(line)\n"
    "    print(json.dumps({'id': job['id'], 'ok': True, 'sha256': job['version'], 'size': 1,"
    " 'report': {}, 'receipt': {}}), flush=True)\n"
)


@pytest.fixture(scope="module")
def files(world_class: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a snapshot of 40 runs."""
    folder = tmp_path_factory.mktemp("jobs")
    requests = [world_class.request_class(f"{w} please", (t,)) for w, t in [("a", "x"), ("b", "y")]]
    world = world_class(requests, [Tool("x", "a a"), Tool("y", "b b"), Tool("z")], seed=0)
    rng = random.Random(0)
    for _ in range(40):
        world.episode(rng.choice(requests), None)
    world.write(folder / "snapshot")
    return folder


def job(folder: Path, name: str = "p-000001", **changes: Any) -> TrainJob:
    values: dict[str, Any] = {
        "snapshot": folder / "snapshot",
        "out": folder / f"{name}.safetensors",
        "version": name,
        "created_unix_nano": 7,
        "seed": 0,
        "settings": SETTINGS,
    }
    return TrainJob(**{**values, **changes})


def python(tmp_path: Path, code: str, **settings: Any) -> Trainer:
    """A trainer whose process runs `code`."""
    values = {"timeout_s": 20.0, "back_off_s": 0.01, **settings}
    return Trainer(tmp_path / "trainer.log", command=(sys.executable, "-c", code), **values)


@pytest.fixture
def closing() -> Iterator[list[Trainer]]:
    trainers: list[Trainer] = []
    yield trainers
    for trainer in trainers:
        trainer.close()


def test_the_process_trains_several_jobs_and_ends_when_closed(files: Path, tmp_path: Path) -> None:
    trainer = Trainer(tmp_path / "trainer.log", timeout_s=100.0, memory_bytes=8 * 2**30, nice=0)

    first = trainer.train(job(files)).result(100)
    second = trainer.train(
        job(files, "p-000002", parent=files / "p-000001.safetensors", seed=1)
    ).result(100)
    broken = trainer.train(job(files, "p-000003", snapshot=files / "absent")).result(100)
    status = trainer.status
    trainer.close()
    trainer.close()

    assert first.ok, first.error
    assert second.ok, second.error
    assert "FileNotFoundError" in broken.error
    assert status.startswith("failed: FileNotFoundError")
    assert trainer.status == "closed"
    parsed = snapshot.parse((files / "p-000002.safetensors").read_bytes(), second.sha256)
    assert parsed.manifest["parent"] == "p-000001"
    assert parsed.manifest["created_unix_nano"] == 7
    assert parsed.manifest["lineage"]["trajectories"] == 40
    assert second.report["churn"] is not None
    assert first.receipt["tier"] == 0
    assert not list(files.glob("*.part"))
    assert trainer.train(job(files)).result(1).error == "the trainer is closed"


def test_a_job_with_an_encoder_trains_from_embeddings(
    world_class: Any, tmp_path: Path, make_encoder: Callable[..., bytes]
) -> None:
    data = make_encoder(output=6)
    encoder = tmp_path / "encoder.safetensors"
    encoder.write_bytes(data)
    encode = Encoder(parse(data, digest(data)))
    requests = [world_class.request_class(f"{w} please", (t,)) for w, t in [("a", "x"), ("b", "y")]]
    tools = [Tool("x", "a a"), Tool("y", "b b")]
    world = world_class(requests, tools, seed=0, encode=encode, schema=2, dim=6)
    for i in range(30):
        world.episode(requests[i % 2], None)
    world.write(tmp_path / "snapshot")
    worker._loaded.cache_clear()

    for version, parent in (("p-000001", None), ("p-000002", "p-000001.safetensors")):
        answer = worker.run_job(
            {
                "id": 1,
                "snapshot": str(tmp_path / "snapshot"),
                "out": str(tmp_path / f"{version}.safetensors"),
                "version": version,
                "created_unix_nano": 7,
                "seed": 0,
                "parent": parent and str(tmp_path / parent),
                "encoder": str(encoder),
                "settings": SETTINGS.plain(),
            }
        )

        made = snapshot.parse((tmp_path / f"{version}.safetensors").read_bytes(), answer["sha256"])
        assert made.parameters.embedding_dim == 6
        assert made.manifest["scope"]["feature_schema"] == 2
        assert answer["report"]["steps"] > 0
        assert answer["report"]["stale"] == 0
    assert worker._loaded.cache_info().misses == 1  # it stays loaded for the next job


def test_a_job_without_its_encoder_scores_nothing(world_class: Any, tmp_path: Path) -> None:
    encode = lambda text: np.array([1.0, len(text)], np.float32)  # noqa: E731
    requests = [world_class.request_class("a please", ("x",))]
    tools = [Tool("x", "a a"), Tool("y", "b b")]
    world = world_class(requests, tools, seed=0, encode=encode, schema=2, dim=2)
    world.episode(requests[0], None)

    dataset = read_dataset(world.write(tmp_path / "snapshot"))

    assert [t.steps for t in dataset.trajectories] == [()]
    assert dataset.trajectories[0].unscored > 0


def test_a_crash_fails_its_job_and_the_next_job_gets_a_new_process(
    tmp_path: Path, closing: list[Trainer]
) -> None:
    once = tmp_path / "crashed"
    code = (
        "import pathlib, sys\n"
        f"marker = pathlib.Path({str(once)!r})\n"
        "if not marker.exists():\n"
        "    print('{}', flush=True); sys.stdin.readline(); marker.touch()\n"
        "    sys.exit('out of luck')\n"
    ) + ANSWERS
    closing.append(trainer := python(tmp_path, code))

    crashed = trainer.train(job(tmp_path)).result(30)
    fine = trainer.train(job(tmp_path)).result(30)

    assert not crashed.ok
    assert "exit status 1" in crashed.error
    assert "out of luck" in crashed.error
    assert fine.ok
    assert trainer.status == "idle"


def test_a_training_beyond_its_time_is_ended(tmp_path: Path, closing: list[Trainer]) -> None:
    code = SAYS_READY + "import time\nsys.stdin.readline()\ntime.sleep(600)\n"
    closing.append(trainer := python(tmp_path, code, timeout_s=0.2))

    result = trainer.train(job(tmp_path)).result(30)

    assert "more than 0.2 s" in result.error
    assert trainer.status.startswith("failed:")


def test_the_process_starts_when_it_is_warmed_and_only_once(
    tmp_path: Path, closing: list[Trainer]
) -> None:
    started = tmp_path / "started"
    code = f"open({str(started)!r}, 'a').write('x')\n" + ANSWERS
    closing.append(trainer := python(tmp_path, code))
    assert (trainer.pid, trainer.status) == (None, "idle")

    trainer.warm()
    trainer.warm()

    assert trainer.train(job(tmp_path)).result(30).ok
    assert trainer.pid is not None
    assert started.read_text() == "x"


def test_a_process_that_does_not_start_is_a_failed_result(
    tmp_path: Path, closing: list[Trainer]
) -> None:
    closing.append(trainer := python(tmp_path, "import sys; sys.exit('no torch here')"))
    closing.append(
        absent := Trainer(tmp_path / "b.log", command=(str(tmp_path / "absent"),), back_off_s=0.01)
    )

    assert "no torch here" in trainer.train(job(tmp_path)).result(30).error
    assert "FileNotFoundError" in absent.train(job(tmp_path)).result(30).error


@pytest.mark.parametrize("answer", ["[]", "nonsense", '{"id": 99, "ok": true}'])
def test_an_answer_that_is_none_fails_the_job(
    answer: str, tmp_path: Path, closing: list[Trainer]
) -> None:
    code = SAYS_READY + f"sys.stdin.readline(); print({answer!r}, flush=True); sys.stdin.read()"
    closing.append(trainer := python(tmp_path, code))

    assert not trainer.train(job(tmp_path)).result(30).ok


def test_closing_ends_a_running_training_and_fails_waiting_ones(tmp_path: Path) -> None:
    started = tmp_path / "started"
    code = SAYS_READY + (
        "import pathlib, time\nsys.stdin.readline()\n"
        f"pathlib.Path({str(started)!r}).touch()\ntime.sleep(600)\n"
    )
    trainer = python(tmp_path, code, timeout_s=100.0)
    futures = [trainer.train(job(tmp_path)) for _ in range(3)]
    while not started.exists():
        pass
    assert futures.pop().cancel()  # nobody waits for the last one any more

    trainer.close()

    assert [future.result(1).ok for future in futures] == [False, False]
    assert trainer.status == "closed"


def test_an_engine_is_a_module_and_an_interpreter() -> None:
    python = Path("/other/bin/python")

    assert command_of() == (sys.executable, "-m", "agentgym_daemon.learning.worker")
    assert command_of("lightning", python) == (
        "/other/bin/python",
        "-m",
        "agentgym_daemon.learning.lightning",
    )


def test_the_supervisor_imports_no_torch() -> None:
    code = (
        "import sys, agentgym_daemon.learning.supervisor, agentgym_daemon.learning.gate,"
        " agentgym_daemon.learning.schedule; sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_worker_answers_bad_jobs_and_goes_on(files: Path) -> None:
    good = {
        "id": 3,
        "snapshot": str(files / "snapshot"),
        "out": str(files / "in-process"),
        "version": "p-9",
        "created_unix_nano": 1,
        "seed": 0,
        "settings": {"rounds": 1},
    }
    lines = ["not json\n", '{"id": 2}\n', json.dumps(good) + "\n"]
    out = io.StringIO()

    worker.serve(io.StringIO("".join(lines)), out)

    answers = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [a["ok"] for a in answers] == [False, False, True]
    assert answers[1]["error"].startswith("KeyError")
    assert answers[2]["sha256"] == snapshot.digest((files / "in-process").read_bytes())


def test_an_unreadable_parent_fails_the_job(files: Path) -> None:
    (files / "bad").write_bytes(b"junk")
    out = io.StringIO()
    line = json.dumps({"id": 1, "parent": str(files / "bad"), "snapshot": "", "out": ""})

    worker.serve(io.StringIO(line + "\n"), out)

    assert "SnapshotError" in json.loads(out.getvalue())["error"]


def test_figures_that_are_no_numbers_fail_the_job_and_the_worker_goes_on() -> None:
    results: Iterator[dict[str, Any]] = iter([{"loss": float("nan")}, {"loss": 1.0}])
    out = io.StringIO()

    worker.serve(io.StringIO('{"id": 1}\n{"id": 2}\n'), out, run=lambda job: next(results))

    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert (first["id"], first["ok"]) == (1, False)
    assert "not JSON compliant" in first["error"]
    assert second == {"id": 2, "ok": True, "loss": 1.0}
