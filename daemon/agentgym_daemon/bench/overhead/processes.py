"""The measured processes: agents driven over pipes, and daemons in every state of health."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from agentgym.cli.client import Client
from agentgym.config import resolve
from agentgym.errors import DaemonError
from agentgym.policy.features import TextHasher
from agentgym.proto.v1 import admin_pb2, common_pb2
from agentgym.trajectory import Tool
from agentgym_daemon.bench.placing import Placed, place, untaught
from agentgym_daemon.encoders.choice import featuriser_of

AGENT = "bench"
_HERE = Path(__file__).parent
_START_S, _END_S = 60.0, 30.0
_SCHEMA = {"properties": {"query": {"type": "string"}}, "required": ["query"]}


class Agent:
    """One child process that runs an agent on command."""

    def __init__(self, arguments: Sequence[str], python: str = sys.executable) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `close`
        self._popen = subprocess.Popen(
            [python, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def run(self, runs: int) -> dict[str, Any]:
        """A block of runs; what the child measured."""
        return self._ask({"do": "run", "runs": runs})

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        try:
            self._popen.stdin.write(json.dumps(command) + "\n")
            self._popen.stdin.flush()
            reply: dict[str, Any] = json.loads(self._popen.stdout.readline())
        except (OSError, ValueError) as error:
            self.errors.seek(0)
            said = self.errors.read()[-2000:]
            raise RuntimeError(
                f"expected the agent to answer {command}; it said: {said}"
            ) from error
        return reply

    def exit_s(self) -> float:
        """Seconds from the end of the agent's own code to the end of its process."""
        exit_at: float = self._ask({"do": "end"})["exit_at"]
        self._popen.wait(_END_S)
        return time.time() - exit_at

    def close(self) -> None:
        """Ends the process without ado."""
        self._popen.kill()
        self._popen.communicate()
        self.errors.close()


def agent_arguments(variant: str, *options: str) -> list[str]:
    """The command line of an agent that is watched in one of the ways of child.py."""
    return [str(_HERE / "child.py"), variant, *options]


def step_arguments(home: Path, *options: str) -> list[str]:
    """The command line of bare steps."""
    return [str(_HERE / "stepping.py"), "--home", str(home), *options]


class Daemon:
    """`agentgym-daemon serve` on a directory with a live policy for the benchmark's agent."""

    def __init__(self, home: Path, tools: int) -> None:
        self.home = home
        place(home, [_live_policy(tools)])
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "agentgym_daemon", "serve", "--home", str(home)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        client = Client(resolve({"home": home}, {}))
        deadline = time.monotonic() + _START_S
        while True:
            try:
                client.call(client.admin.Status, admin_pb2.StatusRequest())
            except DaemonError as error:
                if self._popen.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the daemon did not start: {error}") from error
                time.sleep(0.05)
            else:
                return

    def stop_the_process(self) -> None:
        """Hangs it: its sockets stay open, nobody reads them."""
        self._popen.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """Kills it: the socket's file stays, nobody listens."""
        self._popen.kill()
        self._popen.wait()


def _live_policy(count: int) -> Placed:
    features = featuriser_of("default", TextHasher(b"any"))
    tools = [Tool(f"tool_{i}", f"Does thing number {i} for an order.", _SCHEMA)
             for i in range(count)]  # fmt: skip
    scope = common_pb2.Scope(agent=AGENT, agent_name=AGENT, feature_schema=features.schema)
    return Placed(scope, untaught(tools, features))


@contextmanager
def directory() -> Iterator[Path]:
    """A home with a path that a unix socket can have; 0700."""
    with tempfile.TemporaryDirectory(prefix="ag-bench-", ignore_cleanup_errors=True) as path:
        yield Path(path)


@contextmanager
def running_daemon(home: Path, tools: int) -> Iterator[Daemon]:
    """A daemon that is gone at the end, whatever was done to it."""
    daemon = Daemon(home, tools)
    try:
        yield daemon
    finally:
        daemon.kill()


@contextmanager
def black_hole(home: Path) -> Iterator[None]:
    """A daemon's socket that accepts every connection and never answers."""
    with ExitStack() as stack, socket.socket(socket.AF_UNIX) as server:
        server.bind(str(home / "daemon.sock"))
        server.listen(64)

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                stack.enter_context(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield
        server.shutdown(socket.SHUT_RDWR)
        thread.join(_END_S)


@contextmanager
def agent(arguments: Sequence[str], python: str = sys.executable) -> Iterator[Agent]:
    """A child process that is gone at the end."""
    child = Agent(arguments, python)
    try:
        yield child
    finally:
        child.close()
