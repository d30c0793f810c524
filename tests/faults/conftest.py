"""The harness of the fault tests: loads, reports, and the parts that are broken on purpose.

One file per row and subject, `test_<row>_<words>.py`. `make test` runs a twentieth of every stated
load; `make torture` runs it whole and writes build/reports/<ROW>.json, which also lets it resume.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from agentgym import semconv
from agentgym.cli.client import Client
from agentgym.config import resolve
from agentgym.connection import credentials, read_token
from agentgym.errors import DaemonError
from agentgym.proto.v1 import admin_pb2, trajectory_pb2
from agentgym_daemon.lock import prepare
from agentgym_daemon.store.database import DATABASE_NAME, Store

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
REPORTS = ROOT / "build" / "reports"
SHARE = 20
"""An ordinary run carries this part of the stated load."""
FULL = os.environ.get("AGENTGYM_TEST_LOAD") == "full"
FRESH = os.environ.get("AGENTGYM_TEST_FRESH") == "1"
ROWS = frozenset(os.environ.get("AGENTGYM_TEST_ROWS", "").upper().split())
FUZZ_S = float(os.environ.get("AGENTGYM_TEST_FUZZ_S") or (1800.0 if FULL else 10.0))
_TORTURE_TIMEOUT_S = 6 * 3600
_ROW = re.compile(r"test_([a-g]\d+)_\w+\.py")
_PHASES = pytest.StashKey[dict[str, pytest.TestReport]]()
NOW_NS = 1_700_000_000_000_000_000


# ---- loads and reports


@pytest.fixture(scope="session")
def load() -> Callable[..., int]:
    """How much of a stated load this run carries: all of it, or a twentieth, but `least`."""

    def share(full: int, least: int = 3) -> int:
        return full if FULL else min(full, max(least, full // SHARE))

    return share


@pytest.fixture(scope="session")
def full() -> bool:
    """Whether this run carries the whole load, on a machine of its own: figures may be asserted."""
    return FULL


@pytest.fixture(scope="session")
def fuzz_s() -> float:
    """Seconds of fuzzing for one target."""
    return FUZZ_S


@dataclass
class Report:
    """What one test of a row promises, under which load, and what it measured."""

    row: str
    test: str
    promise: str = ""
    load: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    passed: bool = False
    seconds: float = 0.0

    def entry(self) -> dict[str, Any]:
        """The test's part of the row's file."""
        return {
            "promise": self.promise,
            "load": self.load,
            "figures": self.figures,
            "passed": self.passed,
            "seconds": round(self.seconds, 2),
            "key": config_key(),
        }


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Iterator[Report]:
    """Takes a test's promise, load and figures; kept in the row's file when the load is whole."""
    made = Report(row_of(request.node.path), request.node.name)
    made.promise = (request.node.obj.__doc__ or "").strip()
    began = time.monotonic()
    yield made
    made.seconds = time.monotonic() - began
    phase = request.node.stash.get(_PHASES, {}).get("call")
    made.passed = phase is not None and phase.passed
    if FULL:
        _keep(made)


def _keep(made: Report) -> None:
    REPORTS.mkdir(parents=True, exist_ok=True)
    path = REPORTS / f"{made.row}.json"
    tests = {name: one for name, one in _tests_of(made.row).items() if one["key"] == config_key()}
    tests[made.test] = made.entry()
    whole = {
        "row": made.row,
        "pass": all(one["passed"] for one in tests.values()),
        "seconds": round(sum(one["seconds"] for one in tests.values()), 2),
        "command": f"make torture ROWS={made.row}",
        "commit": _commit(),
        "machine": _machine(),
        "tests": tests,
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")
    temporary.replace(path)


def _tests_of(row: str) -> dict[str, Any]:
    try:
        return dict(json.loads((REPORTS / f"{row}.json").read_text())["tests"])
    except (OSError, ValueError, KeyError):
        return {}


def row_of(path: Path) -> str:
    """The row of the table that a test file stands for."""
    match = _ROW.fullmatch(path.name)
    assert match, f"expected test_<row>_<words>.py, such as test_b1_sigkill.py, got {path.name}"
    return match[1].upper()


@cache
def config_key() -> str:
    """Hash of what a report speaks of: both packages, these tests, and how long is fuzzed."""
    digest = hashlib.sha256(f"{FUZZ_S}".encode())
    for room in ("plugins/agentgym", "daemon/agentgym_daemon", "tests/faults"):
        for path in sorted((ROOT / room).rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


@cache
def _machine() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Lets the fixture `report` know how its test ended; shows what daemons wrote if it failed."""
    outcome: pytest.TestReport = yield  # type: ignore[misc,assignment]
    item.stash.setdefault(_PHASES, {})[outcome.when or ""] = outcome
    if outcome.when == "call" and outcome.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, Path) and (value / "daemon.err").is_file():
                text = (value / "daemon.err").read_text(errors="replace")[-8000:]
                outcome.sections.append((f"daemon on {name}", text))
            elif isinstance(value, DaemonProcess):
                outcome.sections.append((f"fixture {name}", value.log))
    return outcome  # type: ignore[return-value]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Chooses rows, gives a whole load its time, and leaves out what has passed with this code."""
    dropped = []
    for item in [item for item in items if HERE in item.path.parents]:
        row = row_of(item.path)
        if ROWS and row not in ROWS:
            dropped.append(item)
        elif FULL:
            item.add_marker(pytest.mark.timeout(_TORTURE_TIMEOUT_S), append=False)
            before = _tests_of(row).get(item.name, {})
            if not FRESH and before.get("passed") and before.get("key") == config_key():
                dropped.append(item)
    items[:] = [item for item in items if item not in dropped]
    config.hook.pytest_deselected(items=dropped)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what the reports say, after a run of the whole load."""
    if not FULL or not REPORTS.is_dir():
        return
    write = terminalreporter.write_line
    terminalreporter.section("fault tests at full load")
    for path in sorted(REPORTS.glob("*.json")):
        whole = json.loads(path.read_text())
        write(f"{whole['row']:4}{'pass' if whole['pass'] else 'FAIL':6}{whole['seconds']:9.1f} s")
        for name, one in sorted(whole["tests"].items()):
            shown = ", ".join(f"{k}={v}" for k, v in {**one["load"], **one["figures"]}.items())
            write(f"    {'ok  ' if one['passed'] else 'FAIL'}  {name}: {shown}")


@pytest.fixture(scope="session")
def percentile() -> Callable[[Sequence[float], float], float]:
    """The value below which a share of the values lies; the nearest one, for few of them."""

    def of(values: Sequence[float], share: float) -> float:
        ordered = sorted(values)
        return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]

    return of


@pytest.fixture(scope="session")
def slope() -> Callable[[Sequence[tuple[float, float]]], float]:
    """Least squares: how much the second number grows with the first."""

    def of(points: Sequence[tuple[float, float]]) -> float:
        x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
        spread = sum((point[0] - x) ** 2 for point in points)
        return sum((a - x) * (b - y) for a, b in points) / spread if spread else 0.0

    return of


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    """Waits for a condition; fails with its words after a generous time."""

    def wait(condition: Callable[[], Any], what: str = "", timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what or condition}"
            time.sleep(0.01)

    return wait


# ---- plain OTLP


class Otlp:
    """A sender of spans that knows nothing but OTLP and the token."""

    def __init__(self, home: Path, endpoint: str = "", options: Sequence[Any] = ()) -> None:
        self.home = home
        self.channel = grpc.insecure_channel(
            endpoint or f"unix:{home / 'daemon.sock'}",
            options=[
                ("grpc.initial_reconnect_backoff_ms", 20),
                ("grpc.min_reconnect_backoff_ms", 5000),  # what one attempt may take
                ("grpc.max_reconnect_backoff_ms", 100),
                ("grpc.max_send_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),
                *options,
            ],
        )
        path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
        self._export = self.channel.unary_unary(
            path, response_deserializer=ExportTraceServiceResponse.FromString
        )

    def export(self, request: Any, timeout_s: float = 20.0, **options: Any) -> Any:
        """One call with a message or with raw bytes; raises grpc.RpcError."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        return self._export(data, metadata=self.metadata, timeout=timeout_s, **options)

    @property
    def metadata(self) -> Any:
        """The token, read anew."""
        return credentials(read_token(self.home / "token"))

    def close(self) -> None:
        """Ends the channel."""
        self.channel.close()


def request_of(spans: Sequence[Span], service: str = "faults") -> ExportTraceServiceRequest:
    """A request with these spans, of one resource."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = service
    resource.scope_spans.add().spans.extend(spans)
    return request


def numbered(number: int, *, run: int = 8, name: str = "step") -> Span:
    """The span with this number; every `run` of them are a trajectory whose root is its first."""
    first = number - number % run
    return Span(
        trace_id=b"trace   " + first.to_bytes(8, "big"),
        span_id=(number + 1).to_bytes(8, "big"),
        parent_span_id=b"" if number == first else (first + 1).to_bytes(8, "big"),
        name=name,
        start_time_unix_nano=NOW_NS + number,
        end_time_unix_nano=NOW_NS + number + 1000,
    )


class Pump(threading.Thread):
    """Sends numbered spans at a rate; a batch that was not acknowledged is sent again."""

    def __init__(self, home: Path, *, first: int, rate: float, batch: int = 64) -> None:
        super().__init__(daemon=True)
        self._home, self._batch, self._pause_s = home, batch, batch / rate
        self._next = first
        self._first = first
        self._ended = threading.Event()
        self.acks: list[float] = []
        """When each batch was acknowledged, by time.monotonic."""
        self.repeated = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        """Sends until it is told to end."""
        otlp = Otlp(self._home)
        try:
            while not self._ended.is_set():
                began = time.monotonic()
                self._send(otlp)
                self._ended.wait(max(0.0, self._pause_s - (time.monotonic() - began)))
        except BaseException as error:  # noqa: BLE001 - shown by `end`, in the test's thread
            self.error = error
        finally:
            otlp.close()

    def _send(self, otlp: Otlp) -> None:
        spans = [numbered(number) for number in range(self._next, self._next + self._batch)]
        data = request_of(spans).SerializeToString()
        while not self._ended.is_set():
            try:
                answer = otlp.export(data, timeout_s=5.0)
            except (grpc.RpcError, DaemonError):
                self.repeated += 1
                self._ended.wait(0.02)
                continue
            assert not answer.partial_success.rejected_spans, answer
            self.acks.append(time.monotonic())
            self._next += self._batch
            return

    @property
    def acked(self) -> int:
        """Spans that were acknowledged."""
        return self._next - self._first

    @property
    def ids(self) -> set[bytes]:
        """Span ids of what was acknowledged."""
        return {(number + 1).to_bytes(8, "big") for number in range(self._first, self._next)}

    def end(self) -> None:
        """Stops after the call that is under way."""
        self._ended.set()
        self.join(30)
        if self.error is not None:
            raise self.error


@pytest.fixture
def pump(home: Path) -> Iterator[Callable[..., Pump]]:
    """Senders of numbered spans; each of them has numbers of its own."""
    made: list[Pump] = []

    def start(*, rate: float = 5000.0, batch: int = 64, to: Path | None = None) -> Pump:
        made.append(Pump(to or home, first=len(made) * 10**9, rate=rate, batch=batch))
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        one.end()


@pytest.fixture(scope="session")
def span() -> Callable[..., Span]:
    """The span with a number; eight of them are a trajectory."""
    return numbered


@pytest.fixture(scope="session")
def traces() -> Callable[..., ExportTraceServiceRequest]:
    """A request with spans, of one resource."""
    return request_of


@pytest.fixture
def otlp() -> Iterator[Callable[..., Otlp]]:
    """Plain OTLP clients of a daemon's directory."""
    made: list[Otlp] = []

    def connect(home: Path, endpoint: str = "", options: Sequence[Any] = ()) -> Otlp:
        made.append(Otlp(home, endpoint, options))
        return made[-1]

    yield connect
    for one in made:
        one.close()


# ---- the daemon as a process


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


# ---- endpoints that do not do what they should


class BlackHole(threading.Thread):
    """Accepts connections on a unix socket and never says or reads anything."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(64)
        self._taken: list[socket.socket] = []

    def run(self) -> None:
        """Takes whoever comes."""
        with contextlib.suppress(OSError):
            while True:
                self._taken.append(self._socket.accept()[0])

    def close(self) -> None:
        """Ends all of it; a second call does nothing."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.join(5)
        for one in self._taken:
            one.close()


@pytest.fixture
def faulty(home: Path) -> Iterator[Callable[[str], Callable[[], None]]]:
    """Puts something in the daemon's place on `home`; gives what clears the place again.

    "absent", "refused" (a socket that nobody listens on), "blackholed", "hung" (every fact waits
    for ever), "slow" (each takes 5 s), "full" (every fact is put off with UNAVAILABLE).
    """
    from agentgym.testing import FakeDaemon

    with contextlib.ExitStack() as stack:
        path = home / "daemon.sock"

        def fake(change: Callable[[FakeDaemon], object]) -> None:
            daemon = stack.enter_context(FakeDaemon(home))
            change(daemon)

        def clear() -> None:
            stack.close()
            path.unlink(missing_ok=True)
            (home / "token").unlink(missing_ok=True)

        def make(kind: str) -> Callable[[], None]:
            (home / "token").write_text("f" * 64)
            match kind:
                case "absent":
                    pass
                case "refused":
                    with socket.socket(socket.AF_UNIX) as closed:
                        closed.bind(str(path))
                case "blackholed":
                    hole = BlackHole(path)
                    hole.start()
                    stack.callback(hole.close)
                case "hung":
                    fake(FakeDaemon.hang)
                case "slow":
                    fake(lambda daemon: daemon.reply("Export", _slowly))
                case "full":
                    fake(_always_full)
                case _:
                    raise ValueError(f"nothing is faulty in this way: {kind!r}")
            return clear

        yield make


def _always_full(daemon: Any) -> None:
    for method in ("Export", "Record", "Put", "Report"):
        daemon.refuse(method, grpc.StatusCode.UNAVAILABLE, times=100_000)


def _slowly(_request: Any) -> ExportTraceServiceResponse:
    time.sleep(5.0)
    return ExportTraceServiceResponse()


# ---- agents


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
