"""A server under load as a process tree: its CPU, its memory, its end."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agentgym_daemon.bench.ingest.load import LoadError

_TICKS = os.sysconf("SC_CLK_TCK")
_LOOK_S = 0.1
START_S = 180.0


class ServerProcess:
    """A child process; its figures come from /proc, so this needs Linux."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        directory: Path,
        environ: Mapping[str, str],
        with_children: bool,
    ) -> None:
        self.output = directory / "server.out"
        self._with_children = with_children
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=dict(environ),
                start_new_session=True,
            )
        self._peak_bytes = 0
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def peak_bytes(self) -> int:
        """Largest resident size so far, of the whole tree where children count."""
        return self._peak_bytes

    def cpu_s(self) -> float:
        """User and system time so far."""
        return sum(map(_cpu_s, self._pids()))

    def modules(self, word: str) -> bool:
        """Whether a mapped file of the process has this word in its path."""
        return word in Path(f"/proc/{self.pid}/maps").read_text()

    def wait_until(self, ready: Callable[[], bool], what: str, timeout_s: float = START_S) -> None:
        """Polls until `ready`; raises LoadError with the end of the output if it takes too long."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = self.output.read_text(errors="replace")[-1500:]
                raise LoadError(f"{what} did not happen; the server's output ends:\n{tail}")
            time.sleep(_LOOK_S)

    def stop(self) -> float:
        """Asks it to end; CPU seconds of its whole life."""
        before = self.cpu_s()
        with_end = before
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 60.0
            while self._process.poll() is None and time.monotonic() < deadline:
                with_end = max(with_end, self.cpu_s())
                time.sleep(0.01)
        self._over.set()
        self._watcher.join()
        _kill_group(self.pid)
        self._process.wait()
        return with_end

    def _pids(self) -> list[int]:
        return _tree(self.pid) if self._with_children else [self.pid]

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_S):
            now = sum(_resident(pid, "VmRSS:") for pid in self._pids())
            own = _resident(self.pid, "VmHWM:")
            self._peak_bytes = max(self._peak_bytes, now, own)


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _resident(pid: int, field: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _tree(pid: int) -> list[int]:
    found = [pid]
    for process in found:
        for thread in Path(f"/proc/{process}/task").glob("*/children"):
            try:
                found.extend(map(int, thread.read_text().split()))
            except OSError:
                continue  # it ended meanwhile
    return found


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
