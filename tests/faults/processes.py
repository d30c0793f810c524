"""Daemons and agents as processes that can be killed, frozen and asked."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from agentgym import semconv
from agentgym.cli.client import Client
from agentgym.config import resolve
from agentgym.errors import DaemonError
from agentgym.proto.v1 import admin_pb2, trajectory_pb2
from agentgym_daemon.lock import prepare
from agentgym_daemon.store.database import DATABASE_NAME, Store

HERE = Path(__file__).parent


def patiently(ask: Callable[[], Any]) -> Any:
    """The answer of a daemon that is there; a crowded machine may need some attempts to connect."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return ask()
        except DaemonError as error:
            if "failed to connect" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


class DaemonProcess:
    """`agentgym-daemon serve` on one directory: started, killed, frozen, asked, read."""

    def __init__(self, home: Path, flags: Sequence[str]) -> None:
        self.home = home
        self.flags = tuple(flags)
        self.popen: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0

    def start(self, *, wait: bool = True, limits: Callable[[], None] | None = None) -> Self:
        """Starts the process; waits until it answers, unless told otherwise."""
        command = [sys.executable, "-m", "agentgym_daemon", "serve", "--home", str(self.home)]
        self.started_at = time.monotonic()
        with (self.home / "daemon.err").open("ab") as errors:
            self.popen = subprocess.Popen([*command, *self.flags], stderr=errors, preexec_fn=limits)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Returns when the daemon answers; fails with what it wrote if it has ended."""
        deadline = time.monotonic() + timeout_s
        while True:
            assert self.popen is not None
            assert self.popen.poll() is None, f"the daemon ended: {self.log}"
            with contextlib.suppress(DaemonError):
                self.status()
                return
            assert time.monotonic() < deadline, f"the daemon does not answer: {self.log}"
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        """Sends a signal, without waiting for anything."""
        assert self.popen is not None
        self.popen.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, as a crash would be."""
        self.signal(signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL

    def stop(self) -> None:
        """Ends the process in order; harmless if it has ended."""
        if self.popen is not None:
            self.signal(signal.SIGTERM)
            assert self.wait() == 0, self.log

    def wait(self, timeout_s: float = 60.0) -> int:
        """The exit code, once the process has ended."""
        assert self.popen is not None
        code = self.popen.wait(timeout_s)
        self.popen = None
        return code

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self.popen is not None
        return self.popen.pid

    @property
    def log(self) -> str:
        """The end of what the processes on this directory wrote."""
        path = self.home / "daemon.err"
        return path.read_text(errors="replace")[-8000:] if path.exists() else ""

    def status(self) -> admin_pb2.StatusResponse:
        """The daemon's status; raises DaemonError if there is none."""
        with Client(resolve({"home": self.home}, {})) as client:
            return client.call(client.admin.Status, admin_pb2.StatusRequest())

    def client(self) -> Client:
        """A client of all reading and changing services; close it."""
        return Client(resolve({"home": self.home}, {}))

    def applied(self) -> admin_pb2.StatusResponse:
        """The status once everything that was acknowledged is in the database."""
        while (status := patiently(self.status)).log_applied < status.log_end:
            time.sleep(0.05)
        return status

    def call(self, service: str, method: str, request: Any) -> Any:
        """One call of a reading or changing service, such as "rewards", "Report"."""

        def once() -> Any:
            with self.client() as client:
                return client.call(getattr(getattr(client, service), method), request)

        return patiently(once)

    def trajectory(self, trajectory_id: bytes) -> trajectory_pb2.Trajectory:
        """A trajectory as it is stored; raises DaemonError if there is none."""
        self.applied()
        request = trajectory_pb2.GetTrajectoryRequest(trajectory_id=trajectory_id)
        return self.call("trajectories", "Get", request)

    def adopted(self) -> admin_pb2.StatusResponse:
        """The status once nothing lies in the spool any more and everything is applied."""
        spool = self.home / "spool"
        while spool.is_dir() and set(os.listdir(spool)) - {"damaged"}:
            assert self.popen is not None
            assert self.popen.poll() is None, self.log
            time.sleep(0.05)
        return self.applied()

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of the database; of a daemon that has ended, for DuckDB takes one process."""
        assert self.popen is None, "stop the daemon first"
        store = Store.open(self.home / DATABASE_NAME, aggregation="last")
        try:
            with store.reading() as cursor:
                return cursor.execute(sql, parameters).fetchall()
        finally:
            store.close()

    def stored_spans(self) -> Counter[bytes]:
        """How often each span id is stored, after an orderly end."""
        if self.popen is not None:
            self.applied()
            self.stop()
        return Counter(bytes(row[0]) for row in self.rows("SELECT span_id FROM spans"))

    # ---- what it takes of the machine

    def rss_bytes(self) -> int:
        """Resident memory now."""
        return 1024 * self._proc_status("VmRSS")

    def peak_rss_bytes(self) -> int:
        """The most resident memory so far."""
        return 1024 * self._proc_status("VmHWM")

    def threads(self) -> int:
        """Threads now."""
        return self._proc_status("Threads")

    def descriptors(self) -> int:
        """Open files now."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_s(self) -> float:
        """Processor time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _proc_status(self, name: str) -> int:
        text = Path(f"/proc/{self.pid}/status").read_text()
        match = re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)
        assert match, name
        return int(match[1])


@pytest.fixture
def make_daemon() -> Iterator[Callable[..., DaemonProcess]]:
    """Daemons on directories of their own, or on a given one; not yet started."""
    with contextlib.ExitStack() as stack:

        def make(*flags: str, home: Path | None = None) -> DaemonProcess:
            if home is None:
                home = Path(tempfile.mkdtemp(prefix="ag-", dir="/tmp"))
                stack.callback(shutil.rmtree, home, ignore_errors=True)
            prepare(home)
            daemon = DaemonProcess(home, flags)
            stack.callback(_end, daemon)
            return daemon

        yield make


def _end(daemon: DaemonProcess) -> None:
    if daemon.popen is not None:
        with contextlib.suppress(ProcessLookupError):
            daemon.popen.send_signal(signal.SIGCONT)
            daemon.popen.kill()
        daemon.popen.wait(30)


@pytest.fixture
def daemon(make_daemon: Callable[..., DaemonProcess], home: Path) -> DaemonProcess:
    """A running daemon on `home`, with its ordinary settings."""
    return make_daemon(home=home).start()


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[DaemonProcess]:
    """One daemon for all tests of a file that only add to what it holds."""
    home = Path(tempfile.mkdtemp(prefix="ag-", dir="/tmp"))
    prepare(home)
    daemon = DaemonProcess(home, ("--listen", "127.0.0.1:0"))
    try:
        yield daemon.start()
    finally:
        _end(daemon)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Lets the test process open as many files as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class AgentProcess:
    """One of agents/*.py; speaks to its test in lines of JSON."""

    def __init__(self, name: str, arguments: Sequence[str], environ: dict[str, str]) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, str(HERE / "agents" / f"{name}.py"), *arguments],
            env={**os.environ, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._errors: list[str] = []
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()

    def _read_errors(self) -> None:
        assert self.popen.stderr is not None
        self._errors.extend(self.popen.stderr)

    def read(self) -> Any:
        """The next thing that the agent says; fails if it has ended without."""
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line, f"the agent ended with {self.popen.wait(10)}: {self.errors}"
        return json.loads(line)

    def tell(self, line: str = "") -> None:
        """Lets an agent that waits for a line go on."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()

    def wait(self, timeout_s: float = 60.0) -> int:
        """The exit code, once the agent has ended."""
        code = self.popen.wait(timeout_s)
        self._reader.join(5)
        return code

    @property
    def errors(self) -> str:
        """What the agent wrote to stderr."""
        return "".join(self._errors)[-4000:]

    def close(self) -> None:
        """Ends it, and what connects to it."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.wait()
        for stream in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


@pytest.fixture
def run_agent(home: Path) -> Iterator[Callable[..., AgentProcess]]:
    """Starts agents/NAME.py with arguments, on `home`, at an endpoint if one is given."""
    made: list[AgentProcess] = []

    def start(name: str, *arguments: str, endpoint: str = "", **environ: str) -> AgentProcess:
        environ = {"AGENTGYM_HOME": str(home), **environ}
        if endpoint:
            environ["AGENTGYM_ENDPOINT"] = endpoint
        made.append(AgentProcess(name, arguments, environ))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture(scope="session")
def producer_metadata() -> Callable[[bytes, int], tuple[tuple[str, str | bytes], ...]]:
    """What our plugin says about itself in each call that carries facts."""
    return lambda producer, sequence: (
        (semconv.METADATA_PRODUCER, producer),
        (semconv.METADATA_SEQUENCE, str(sequence)),
    )
