"""The daemon's side of the trainer's process: starts it, feeds it, and survives it (no torch).

One thread owns the process and its pipes; `train` and `warm` may be called from any thread. The
process starts when it is first needed: a daemon that only records never loads torch. A job that
fails, crashes the process or exceeds its time becomes a failed result; the next job gets a new one.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from agentgym_daemon.learning.settings import LearningSettings

MEMORY_ENV = "AGENTGYM_TRAINER_MEMORY_BYTES"
NICE_ENV = "AGENTGYM_TRAINER_NICE"
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_MODULES = {
    "torch": "agentgym_daemon.learning.worker",
    "lightning": "agentgym_daemon.learning.lightning",
}
_START_TIMEOUT_S = 120.0
_GRACE_S = 2.0
_TAIL_BYTES = 2000
_LONGEST_BACK_OFF_S = 60.0


def command_of(engine: str = "torch", python: Path | None = None) -> tuple[str, ...]:
    """How an engine's process is started, by default with the interpreter of this one."""
    return (str(python or sys.executable), "-m", _MODULES[engine])


@dataclass(frozen=True, slots=True)
class TrainJob:
    """One training: files in, candidate file out."""

    snapshot: Path
    out: Path
    version: str
    created_unix_nano: int
    seed: int
    parent: Path | None = None
    best: Path | None = None  # the best version ever promoted, where it is not the parent
    twins: Path | None = None  # directory of the versions' twins
    encoder: Path | None = None
    settings: LearningSettings = field(default_factory=LearningSettings)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a training ended; `error` is empty if a candidate was written."""

    job: TrainJob
    error: str = ""
    sha256: str = ""
    size: int = 0
    report: Mapping[str, Any] = field(default_factory=dict)
    receipt: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)  # of its phases

    @property
    def ok(self) -> bool:
        """Whether there is a candidate; its receipt says whether it may go live."""
        return not self.error


_Item = tuple[TrainJob, Future[TrainResult]] | Literal["warm"] | None
"""What the trainer's thread is given; None ends it."""


class _Process:
    """A running worker and a queue of what it says; `b""` is its end."""

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], errors: IO[bytes]
    ) -> None:
        self._popen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=dict(environ)
        )
        self._said: queue.Queue[bytes] = queue.Queue()
        self._reader = threading.Thread(
            target=self._read, name="agentgym-trainer-read", daemon=True
        )
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self._said.put(line)
        self._said.put(b"")

    @property
    def pid(self) -> int:
        return self._popen.pid

    def say(self, message: Mapping[str, Any]) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps(message).encode() + b"\n")
        self._popen.stdin.flush()

    def hear(self, timeout_s: float) -> dict[str, Any]:
        """The next answer; raises TimeoutError or EOFError."""
        try:
            line = self._said.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError from None
        if not line:
            raise EOFError
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise EOFError
        return answer

    def stop(self, *, grace_s: float) -> int:
        """Ends the process: by closing its stdin, or by force; returns its exit status."""
        try:
            if self._popen.stdin is not None:
                self._popen.stdin.close()
            status = self._popen.wait(grace_s)
        except (OSError, subprocess.TimeoutExpired):
            self._popen.kill()
            status = self._popen.wait()
        self._reader.join()
        if self._popen.stdout is not None:
            self._popen.stdout.close()
        return status


class Trainer:
    """A persistent trainer process behind a queue of jobs; close it when done."""

    def __init__(
        self,
        log_path: Path,
        *,
        timeout_s: float = 600.0,
        memory_bytes: int = 0,
        nice: int = 19,
        command: Sequence[str] = (),
        back_off_s: float = 1.0,
    ) -> None:
        self._log_path, self._timeout_s = log_path, timeout_s
        self._command = tuple(command) or command_of()
        self._environ = {
            **os.environ,
            **_THREADS,
            MEMORY_ENV: str(memory_bytes),
            NICE_ENV: str(nice),
        }
        self._first_back_off_s = self._back_off_s = back_off_s
        self._jobs: queue.Queue[_Item] = queue.Queue()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._status = "idle"
        self._process: _Process | None = None
        self._warmed = False
        self._lost = False
        self._count = 0
        self._thread = threading.Thread(target=self._run, name="agentgym-trainer", daemon=True)
        self._thread.start()

    @property
    def status(self) -> str:
        """idle, training, restarting, closed, or "failed: REASON" of the last job."""
        return self._status

    @property
    def pid(self) -> int | None:
        """The trainer's process, while there is one."""
        process = self._process
        return process.pid if process is not None else None

    def warm(self) -> None:
        """Starts the process, once, ahead of the first job; returns at once."""
        with self._lock:
            if self._warmed or self._closing.is_set():
                return
            self._warmed = True
            self._jobs.put("warm")

    def train(self, job: TrainJob) -> Future[TrainResult]:
        """Queues a job; the future never holds an exception, a failure is a result."""
        future: Future[TrainResult] = Future()
        with self._lock:
            if not self._closing.is_set():
                self._jobs.put((job, future))
                return future
        future.set_result(TrainResult(job, "the trainer is closed"))
        return future

    def close(self) -> None:
        """Ends the process, a running training too; waiting jobs fail. May be called again."""
        with self._lock:
            first = not self._closing.is_set()
            self._closing.set()
        if first:
            self._jobs.put(None)
            process = self._process
            if process is not None:
                process.stop(grace_s=_GRACE_S)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._jobs.get()) is not None:
            if item == "warm":
                self._start()
                continue
            job, future = item
            if not future.set_running_or_notify_cancel():
                continue
            if self._closing.is_set():
                future.set_result(TrainResult(job, "the trainer is closed"))
                continue
            result = self._attempt(job)
            self._status = "idle" if result.ok else f"failed: {result.error}"
            future.set_result(result)
        self._drop()
        self._status = "closed"

    def _start(self) -> str:
        """Starts the process if there is none; returns why that failed, or ""."""
        if self._process is not None:
            return ""
        try:
            with self._log_path.open("wb") as errors:
                self._process = _Process(self._command, self._environ, errors)
            if self._closing.is_set():  # `close` may have come before there was one to end
                self._process.stop(grace_s=0.0)
            self._process.hear(_START_TIMEOUT_S)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            reason = f"the trainer did not start ({type(error).__name__}): {error}{self._drop()}"
            self._status = f"failed: {reason}"
            return reason
        self._status = "idle"
        return ""

    def _drop(self) -> str:
        """Ends the process; returns its status and the end of what it wrote to stderr."""
        process, self._process = self._process, None
        if process is None:
            return ""
        self._lost = True
        status = process.stop(grace_s=_GRACE_S if self._closing.is_set() else 0.0)
        try:
            tail = self._log_path.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace").strip()
        except OSError:
            tail = ""
        return f" (exit status {status}){': ' + tail if tail else ''}"

    def _attempt(self, job: TrainJob) -> TrainResult:
        if self._process is None:
            if self._lost:
                self._back_off()
            if self._closing.is_set():
                return TrainResult(job, "the trainer is closed")
            if reason := self._start():
                return TrainResult(job, reason)
        self._status = "training"
        result = self._ask(job)
        if self._process is not None:
            self._back_off_s = self._first_back_off_s
        return result

    def _back_off(self) -> None:
        self._status = "restarting"
        self._closing.wait(self._back_off_s)
        self._back_off_s = min(2 * self._back_off_s, _LONGEST_BACK_OFF_S)

    def _ask(self, job: TrainJob) -> TrainResult:
        process = self._process
        assert process is not None
        self._count += 1
        try:
            process.say(_message(job, self._count))
            answer = process.hear(self._timeout_s)
        except TimeoutError:
            self._drop()
            return TrainResult(
                job, f"the training took more than {self._timeout_s:g} s; it was ended"
            )
        except (OSError, EOFError, ValueError):
            return TrainResult(job, f"the trainer ended during the training{self._drop()}")
        if answer.get("id") != self._count or not answer.get("ok"):
            return TrainResult(job, str(answer.get("error") or f"unexpected answer {answer!r}"))
        return TrainResult(
            job,
            sha256=answer["sha256"],
            size=answer["size"],
            report=answer["report"],
            receipt=answer["receipt"],
            seconds=answer.get("seconds", {}),
        )


def _message(job: TrainJob, number: int) -> dict[str, Any]:
    return {
        "id": number,
        "snapshot": str(job.snapshot),
        "parent": None if job.parent is None else str(job.parent),
        "best": None if job.best is None else str(job.best),
        "twins": None if job.twins is None else str(job.twins),
        "encoder": None if job.encoder is None else str(job.encoder),
        "out": str(job.out),
        "version": job.version,
        "created_unix_nano": job.created_unix_nano,
        "seed": job.seed,
        "settings": job.settings.plain(),
    }
