"""The processes of the demo: the daemon, the stub model, and one worker per framework."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

START_S = 90.0
"""Time for a process to come up on a slow machine."""

QUIET = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "LANGSMITH_TRACING": "false",
    "PYTHONWARNINGS": "ignore",
}


class DemoError(RuntimeError):
    """A process of the demo did not do its part."""


class Process:
    """A child process whose JSON lines land in one shared queue."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        environ: Mapping[str, str],
        log: Path,
        inbox: queue.Queue[tuple[str, dict[str, Any]]] | None = None,
        ends_with_stdin: bool = True,
    ) -> None:
        self.name = name
        self._ends_with_stdin = ends_with_stdin
        self._log: IO[bytes] = log.open("ab")
        self._log_path = log
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=_environment(environ, storage=log.parent / name),
            text=True,
        )
        self.inbox = inbox if inbox is not None else queue.Queue()
        self._reader = threading.Thread(target=self._read, name=f"demo-{name}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self.inbox.put((self.name, json.loads(line)))
            except ValueError:
                self._log.write(line.encode())
        self.inbox.put((self.name, {"ended": self._process.wait()}))

    def tell(self, command: dict[str, Any]) -> None:
        """Writes one command to the process."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self.failed() from error

    def failed(self) -> DemoError:
        """An error with the end of the process's log."""
        tail = self._log_path.read_text(errors="replace")[-2000:]
        return DemoError(f"the {self.name} process ended early; its log says:\n{tail}")

    @property
    def alive(self) -> bool:
        """True while the process runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL, as a crash would be."""
        self._process.kill()
        self._process.wait()

    def stop(self, timeout_s: float = 15.0) -> None:
        """Closes stdin, asks with SIGTERM, and in the end insists; idempotent."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        if not (self._ends_with_stdin and self._ended(timeout_s)):
            self._process.send_signal(signal.SIGTERM)
            if not self._ended(timeout_s):
                self._process.kill()
                self._process.wait()
        self._reader.join(timeout_s)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def _ended(self, timeout_s: float) -> bool:
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True


def _environment(extra: Mapping[str, str], *, storage: Path) -> dict[str, str]:
    """The user's environment without settings of AgentGym, which are not meant for the demo."""
    host = {k: v for k, v in os.environ.items() if not k.startswith("AGENTGYM_")}
    direct = ",".join(filter(None, (host.get("NO_PROXY", ""), "127.0.0.1", "localhost")))
    return {**host, **QUIET, "NO_PROXY": direct, "CREWAI_STORAGE_DIR": str(storage), **extra}


def wait_for(process: Process, key: str, timeout_s: float = START_S) -> dict[str, Any]:
    """The next message of a process of its own queue that has `key`."""
    deadline = time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0:
        try:
            _, message = process.inbox.get(timeout=left)
        except queue.Empty:
            break
        if key in message:
            return message
        if "ended" in message:
            raise process.failed()
    raise DemoError(f"the {process.name} process said nothing for {timeout_s:.0f} s")
