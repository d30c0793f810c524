"""Runs the demo: starts the processes, hands out requests, waits for the last policy."""

from __future__ import annotations

import json
import os
import queue
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentgym.cli.client import Client
from agentgym.config import resolve
from agentgym.errors import DaemonError
from agentgym.proto.v1 import admin_pb2, policy_pb2
from agentgym.testing import make_preferences
from agentgym_daemon.demo.phases import Phase
from agentgym_daemon.demo.processes import START_S, DemoError, Process, wait_for
from agentgym_daemon.demo.tally import Tally
from agentgym_daemon.scenarios.support_desk import requests
from agentgym_daemon.scenarios.support_desk.agents.base import FRAMEWORKS
from agentgym_daemon.scenarios.support_desk.tools import TOOLS

CONTROL_SHARE = 0.15
STUB_RELIABILITY = 2 / 3
"""Share of tool calls that the stub model gets right by itself."""
CHUNK = 8
"""Requests handed to a worker at a time; fast frameworks come back sooner and serve more."""
STALL_S = 120.0


@dataclass(frozen=True, slots=True)
class Options:
    """What to run."""

    home: Path
    seed: int
    episodes: int
    retrain: int
    frameworks: tuple[str, ...] = FRAMEWORKS
    separate: bool = False
    model: str = ""
    base_url: str | None = None
    kill_daemon: bool = False
    limit: int | None = None


@dataclass(slots=True)
class Demo:
    """State that the display reads."""

    options: Options
    tally: Tally = field(default_factory=Tally)
    phase: str = "starting"
    planned: int = 0
    statuses: dict[str, dict[str, Any]] = field(default_factory=dict)
    started_s: float = field(default_factory=time.monotonic)
    daemon_spans: int = 0
    versions: int = 0
    workers: dict[str, Process] = field(default_factory=dict)
    inbox: queue.Queue[tuple[str, dict[str, Any]]] = field(default_factory=queue.Queue)
    daemon: Process | None = None
    changed: Callable[[], None] = lambda: None

    @property
    def environ(self) -> dict[str, str]:
        """Environment of the daemon and the workers."""
        return {"AGENTGYM_HOME": str(self.options.home)}

    def agent(self, framework: str) -> str:
        """The name under which a framework's agent learns."""
        return f"support-desk-{framework}" if self.options.separate else "support-desk"


def run(demo: Demo) -> None:
    """The whole demo, from the first process to the last answer."""
    options = demo.options
    options.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    train, unseen = requests.train()[: options.limit], requests.unseen()[: options.limit]
    with _model(demo) as base_url, _processes(demo, base_url):
        rng = random.Random(options.seed)
        _serve(demo, Phase.BEFORE, {"": deque(_shuffled([r.id for r in train], rng))})
        stream = _stream([r.id for r in train], options.episodes, rng)
        _serve(demo, Phase.TRAIN, {"": deque(stream)})
        _settle(demo)
        _serve(demo, Phase.UNSEEN, {f: deque(r.id for r in unseen) for f in options.frameworks})
        _collect(demo)


def _shuffled(ids: list[str], rng: random.Random) -> list[str]:
    return rng.sample(ids, len(ids))


def _stream(ids: list[str], episodes: int, rng: random.Random) -> list[str]:
    stream: list[str] = []
    while len(stream) < episodes:
        stream += _shuffled(ids, rng)
    return stream[:episodes]


# ---------------------------------------------------------------- processes


@contextmanager
def _model(demo: Demo) -> Iterator[str | None]:
    """The stub model's address, or the real provider's."""
    options = demo.options
    if options.model:
        yield options.base_url
        return
    texts = (*requests.train(), *requests.unseen())
    knowledge: dict[str, tuple[tuple[str, ...], ...]] = {}
    for part in (requests.train(), requests.unseen()):
        knowledge |= make_preferences(part, TOOLS, seed=options.seed, reliability=STUB_RELIABILITY)
    assert len(knowledge) == len(texts)
    path = options.home / "model.json"
    path.write_text(json.dumps(knowledge))
    brain = [
        "--brain",
        "agentgym.testing:load_desk_brain",
        "--brain-args",
        json.dumps({"path": str(path)}),
    ]
    process = Process(
        "model",
        ["-m", "agentgym.testing.llm_server", *brain],
        environ={},
        log=options.home / "model.log",
    )
    try:
        yield str(wait_for(process, "base_url")["base_url"])
    finally:
        process.stop()


@contextmanager
def _processes(demo: Demo, base_url: str | None) -> Iterator[None]:
    options = demo.options
    demo.daemon = _start_daemon(demo)
    try:
        for framework in options.frameworks:
            demo.workers[framework] = Process(
                framework,
                [
                    "-m",
                    "agentgym_daemon.demo.worker",
                    *_worker_arguments(demo, framework, base_url),
                ],
                environ=demo.environ,
                log=options.home / f"{framework}.log",
                inbox=demo.inbox,
            )
        waiting = set(options.frameworks)
        while waiting:
            name, message = _next(demo, START_S)
            if "ready" in message:
                waiting.discard(name)
        yield
    finally:
        for worker in demo.workers.values():
            worker.stop()
        if demo.daemon is not None:
            demo.daemon.stop()


def _worker_arguments(demo: Demo, framework: str, base_url: str | None) -> list[str]:
    arguments = ["--framework", framework, "--agent", demo.agent(framework)]
    arguments += ["--model", demo.options.model or "gpt-4o", "--seed", str(demo.options.seed)]
    return [*arguments, "--base-url", base_url] if base_url else arguments


def _start_daemon(demo: Demo) -> Process:
    options = demo.options
    arguments = ["-m", "agentgym_daemon", "serve", "--seed", str(options.seed)]
    arguments += ["--control-share", str(CONTROL_SHARE)]
    arguments += ["--retrain-trajectories", str(options.retrain)]
    # The demo's agents never wait for a network: they would starve a polite trainer.
    environ = demo.environ | {"AGENTGYM_DAEMON_TRAINER_NICE": "0"}
    log = options.home / "daemon.log"
    process = Process("daemon", arguments, environ=environ, log=log, ends_with_stdin=False)
    deadline = time.monotonic() + START_S
    while _status(demo) is None:
        if not process.alive:
            raise process.failed()
        if time.monotonic() > deadline:
            raise DemoError(f"the daemon does not answer after {START_S:.0f} s")
        time.sleep(0.1)
    return process


def _status(demo: Demo) -> admin_pb2.StatusResponse | None:
    config = resolve({"home": str(demo.options.home)}, environ={})
    try:
        with Client(config) as client:
            reply: admin_pb2.StatusResponse = client.call(
                client.admin.Status, admin_pb2.StatusRequest()
            )
            return reply
    except DaemonError:
        return None


def _versions(demo: Demo) -> int:
    """How many versions the daemon made."""
    config = resolve({"home": str(demo.options.home)}, environ={})
    with Client(config) as client:
        reply = client.call(client.policies.List, policy_pb2.ListPoliciesRequest())
        return len(reply.policies)


def _next(demo: Demo, timeout_s: float) -> tuple[str, dict[str, Any]]:
    try:
        name, message = demo.inbox.get(timeout=timeout_s)
    except queue.Empty:
        raise DemoError(f"no agent answered for {timeout_s:.0f} s") from None
    if "ended" in message:
        raise demo.workers[name].failed()
    return name, message


# ---------------------------------------------------------------- phases


def _serve(demo: Demo, phase: Phase, work: dict[str, deque[str]]) -> None:
    """Hands out requests until all were served; the queue '' is for whoever is free."""
    demo.phase, demo.planned = phase.value, sum(map(len, work.values()))
    busy = {name for name in demo.workers if _hand(demo, phase, name, work)}
    served, kill_at = 0, demo.planned // 2
    while busy:
        name, message = _next(demo, STALL_S)
        if "served" in message:
            if not _hand(demo, phase, name, work):
                busy.discard(name)
        elif "request" in message:
            demo.tally.add(message)
            served += 1
        demo.changed()
        if demo.options.kill_daemon and phase is Phase.TRAIN and served == kill_at:
            _crash(demo)
            kill_at = -1


def _hand(demo: Demo, phase: Phase, name: str, work: dict[str, deque[str]]) -> bool:
    mine = work.get(name, work.get("", deque()))
    chunk = [mine.popleft() for _ in range(min(CHUNK, len(mine)))]
    if chunk:
        demo.workers[name].tell({"do": "serve", "phase": phase.value, "requests": chunk})
    return bool(chunk)


def _crash(demo: Demo) -> None:
    """Kills the daemon in mid-work and starts it again; the agents go on meanwhile."""
    assert demo.daemon is not None
    demo.daemon.kill()
    demo.daemon.stop()
    demo.daemon = _start_daemon(demo)


def _settle(demo: Demo) -> None:
    """Waits until the rewards are in, training rests and every agent applied the last policy."""
    demo.phase = "settling"
    deadline = time.monotonic() + STALL_S
    while time.monotonic() < deadline:
        _ask_workers(demo)
        status = _status(demo)
        if status is not None and status.trainer.startswith("failed"):
            raise DemoError(f"the trainer {status.trainer}; see daemon.log and trainer.log")
        if status is not None and status.trainer == "idle" and _all_applied(demo, status):
            return
        demo.changed()
        time.sleep(0.2)
    raise DemoError("the last policy did not reach every agent in time")


def _all_applied(demo: Demo, status: admin_pb2.StatusResponse) -> bool:
    if status.log_applied < status.log_end or any(s.until_training == 0 for s in status.scopes):
        return False
    live = {s.scope.agent: s.live for s in status.scopes}
    return all(
        demo.statuses[f]["policies"].get("support-desk", "") == live.get(demo.agent(f), "")
        for f in demo.options.frameworks
    )


def _ask_workers(demo: Demo) -> None:
    """Lets every worker deliver what it holds and say how it stands."""
    waiting = set(demo.workers)
    for worker in demo.workers.values():
        worker.tell({"do": "status"})
    while waiting:
        name, message = _next(demo, STALL_S)
        if "status" in message:
            demo.statuses[name] = message["status"]
            waiting.discard(name)


def _collect(demo: Demo) -> None:
    """Final counters of the agents and of the daemon."""
    demo.phase = "done"
    _ask_workers(demo)
    deadline = time.monotonic() + STALL_S
    while time.monotonic() < deadline:
        status = _status(demo)
        if status is not None and status.log_applied == status.log_end:
            demo.versions = _versions(demo)
            demo.daemon_spans = int(status.counters.get("spans", 0))
            return
        time.sleep(0.1)
    raise DemoError(f"the daemon (pid of this demo: {os.getpid()}) did not store all spans in time")
