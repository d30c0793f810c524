"""A real daemon process, real agents and a stub in place of the model; what was stored is read
back over gRPC."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from agentgym import AgentGym, semconv
from agentgym.cli.client import Client
from agentgym.config import resolve
from agentgym.errors import DaemonError
from agentgym.policy.features import TextHasher
from agentgym.proto.v1 import admin_pb2, common_pb2, policy_pb2, trajectory_pb2
from agentgym.testing import Brain, LLMServer, ScriptedBrain
from agentgym.testing.recording import certain
from agentgym.trajectory import ArmKind, Tool
from agentgym_daemon.bench.placing import Placed, place
from agentgym_daemon.encoders.choice import featuriser_of
from agentgym_daemon.store.database import DATABASE_NAME, Store
from agentgym_daemon.store.training import TrainingRun, training_runs

QUERY = {"properties": {"query": {"type": "string"}}, "required": ["query"]}
TOOLS = (
    Tool("look_up", "Looks an order up.", QUERY),
    Tool("refund", "Pays money back.", QUERY),
    Tool("escalate", "Hands an order to a person.", QUERY),
)
"""The catalogue that the agents of all three frameworks offer."""
FEATURES = featuriser_of("default", TextHasher(b"any"))
"""Of the encoder that a daemon uses unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class Forcing:
    """A policy that wants one tool first; live, unless it is only to be kept as a candidate."""

    agent: str
    wanted: str = "refund"
    agent_name: str = ""  # default: the agent's own
    live: bool = True


def _placed(policy: Forcing) -> Placed:
    scope = common_pb2.Scope(
        agent=policy.agent,
        agent_name=policy.agent_name or policy.agent,
        feature_schema=FEATURES.schema,
    )
    return Placed(scope, certain(TOOLS, policy.wanted, FEATURES.embedding_dim), policy.live)


class Stored:
    """One trajectory as the daemon stored it."""

    def __init__(
        self,
        message: trajectory_pb2.Trajectory,
        explanations: Sequence[trajectory_pb2.Explanation],
    ) -> None:
        self.message = message
        self.explanations = explanations
        self.summary = message.summary
        self.decisions = list(message.decisions)
        self.names = {tool.fingerprint: tool.name for tool in message.tools}

    def spans(self, operation: str = "") -> list[trajectory_pb2.StoredSpan]:
        """Its spans in order of their start, all or those of one operation."""
        spans = sorted(self.message.spans, key=lambda span: span.start_unix_nano)
        return [span for span in spans if operation in ("", span.operation)]

    @property
    def turns(self) -> list[trajectory_pb2.StoredSpan]:
        """The calls of the model."""
        return self.spans(semconv.CHAT)

    @property
    def calls(self) -> list[trajectory_pb2.StoredSpan]:
        """The calls of tools."""
        return self.spans(semconv.EXECUTE_TOOL)

    def outline(self, parent: bytes = b"") -> list[Any]:
        """The tree of spans as nested lists of names."""
        children = [span for span in self.spans() if span.parent_span_id == parent]
        return [[span.name, *self.outline(span.span_id)] for span in children]

    def arms(self) -> list[str]:
        """What was decided at each step: "defer", "force NAME", or "" where nothing was."""
        return [_label(self, decision) for decision in self.decisions]

    def check(self) -> Self:
        """Checks what must hold for every complete trajectory, whatever the route."""
        self._check_tree()
        self._check_calls()
        for explanation in self.explanations:
            _check_decision(explanation)
        return self

    def _check_tree(self) -> None:
        assert self.summary.state == "closed"
        ids = {span.span_id for span in self.spans()}
        assert len(ids) == len(self.spans()) == self.summary.spans
        assert [s.parent_span_id for s in self.spans() if s.parent_span_id not in ids] == [b""]
        assert all(span.end_unix_nano > span.start_unix_nano for span in self.spans())

    def _check_calls(self) -> None:
        turns = {span.span_id: span for span in self.turns}
        decisions = {decision.decision_id: decision for decision in self.decisions}
        assert set(decisions) <= set(turns)
        for call in self.calls:
            assert call.decision_id == call.parent_span_id
            assert call.tool in decisions[call.decision_id].called
        for turn in self.turns:
            assert turn.error_type or (turn.input_tokens > 0 and turn.output_tokens > 0)


def _label(stored: Stored, decision: Any) -> str:
    if decision.arm < 0:
        return ""
    arm = decision.support[decision.arm]
    tools = ", ".join(stored.names[decision.offered[tool]] for tool in arm.tools)
    return f"{ArmKind(arm.kind).name.lower()} {tools}".strip()


def _check_decision(explanation: trajectory_pb2.Explanation) -> None:
    decision = explanation.decision
    if decision.arm < 0:
        assert not decision.support
        assert decision.arm_propensity == 0
        return
    probabilities = [arm.probability for arm in decision.support]
    assert abs(sum(probabilities) - 1) < 1e-9
    assert decision.arm_propensity == probabilities[decision.arm] > 0
    assert decision.greedy or probabilities[0] >= 0.02
    assert decision.policy_version
    assert 0 <= explanation.recomputed_error <= 1e-9


class DaemonProcess:
    """`agentgym-daemon serve` on one directory, and what it says about itself."""

    def __init__(self, home: Path, flags: Sequence[str]) -> None:
        self.home = home
        self.client = Client(resolve({"home": home}, {}))
        self._flags = flags
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Starts the process and waits until it answers."""
        with (self.home / "daemon.err").open("ab") as errors:
            self._popen = subprocess.Popen(
                [
                    *(sys.executable, "-m", "agentgym_daemon", "serve"),
                    *("--home", str(self.home), *self._flags),
                ],
                stderr=errors,
            )
        while True:
            try:
                self.status()
            except DaemonError as error:
                if error.code != "UNAVAILABLE" or self._popen.poll() is not None:
                    raise AssertionError(f"the daemon did not start: {self.log}") from error
                time.sleep(0.02)
            else:
                return self

    def kill(self) -> None:
        """SIGKILL, as a crash would be."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ends the process in order; harmless if it has ended."""
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        popen, self._popen = self._popen, None
        if popen is not None:
            popen.send_signal(number)
            assert popen.wait(30) == (0 if number == signal.SIGTERM else -number), self.log

    @property
    def log(self) -> str:
        """What the process wrote."""
        return (self.home / "daemon.err").read_text()

    def status(self) -> admin_pb2.StatusResponse:
        """The daemon's status."""
        return self.client.call(self.client.admin.Status, admin_pb2.StatusRequest())

    def applied(self) -> admin_pb2.StatusResponse:
        """The status once everything that was acknowledged is in the database."""
        while (status := self.status()).log_applied < status.log_end:
            time.sleep(0.02)
        return status

    def summaries(self, agent: str = "") -> list[trajectory_pb2.TrajectorySummary]:
        """All trajectories of an agent, oldest first."""
        self.applied()
        request = trajectory_pb2.ListTrajectoriesRequest(agent=agent, limit=1000)
        found: list[trajectory_pb2.TrajectorySummary] = []
        while True:  # a page holds 1,000, and on a slow machine a run may have more
            page = self.client.call(self.client.trajectories.List, request).trajectories
            found += page
            if len(page) < request.limit:
                return found[::-1]
            request.before_unix_nano = page[-1].start_unix_nano

    def get(self, trajectory_id: bytes, *, explained: bool = True) -> Stored:
        """One trajectory, with the explanations of its decisions if they are asked for."""
        get = trajectory_pb2.GetTrajectoryRequest(trajectory_id=trajectory_id)
        explain = trajectory_pb2.ExplainRequest(id=trajectory_id)
        call, service = self.client.call, self.client.trajectories
        return Stored(
            call(service.Get, get), call(service.Explain, explain).explanations if explained else ()
        )

    def stored(self, gym: AgentGym, *, explained_in: int = 1) -> list[Stored]:
        """What is stored of a gym's agent, after all that the gym holds was delivered.

        Of many, one in so many with explanations: each is computed from all that can be learned.
        """
        assert gym.flush(30)
        assert gym.status()["errors"] == {}
        return [
            self.get(found.trajectory_id, explained=number % explained_in == 0)
            for number, found in enumerate(self.summaries(gym.config.agent))
        ]

    def policies(self, agent: str = "") -> list[policy_pb2.PolicyVersion]:
        """All versions, oldest first."""
        request = policy_pb2.ListPoliciesRequest(agent=agent)
        return list(self.client.call(self.client.policies.List, request).policies)

    def change(self, verb: str, request: Any) -> policy_pb2.ChangeResponse:
        """Promotes, rolls back or pins."""
        return self.client.call(getattr(self.client.policies, verb), request)

    def trainings(self) -> list[TrainingRun]:
        """What the trainer reported; ends the daemon, which holds the database while it runs."""
        self.stop()
        store = Store.open(self.home / DATABASE_NAME, aggregation="last")
        try:
            with store.reading() as cursor:
                return training_runs(cursor)
        finally:
            store.close()


@pytest.fixture(scope="session")
def tools() -> tuple[Tool, ...]:
    """The catalogue, as policies know it."""
    return TOOLS


@pytest.fixture(scope="session")
def forcing() -> type[Forcing]:
    """Makes a policy to be placed in a daemon's registry."""
    return Forcing


@pytest.fixture(scope="module")
def make_daemon() -> Iterator[Callable[..., DaemonProcess]]:
    """Daemons on directories of their own, with policies in their registries; not yet started."""
    with ExitStack() as stack:

        def make(
            *policies: Forcing, flags: Sequence[str] = ("--control-share", "0")
        ) -> DaemonProcess:
            home = Path(tempfile.mkdtemp(prefix="ag-", dir="/tmp"))  # short, for the socket's path
            stack.callback(shutil.rmtree, home, ignore_errors=True)
            place(home, map(_placed, policies))
            daemon = DaemonProcess(home, flags)
            stack.enter_context(daemon.client)
            stack.callback(daemon.stop)
            return daemon

        yield make


# A busy machine may need longer for the texts of a catalogue than a step usually waits.
ALWAYS_DECIDED = {"seed": 1, "encoder_wait_s": 30.0}


@pytest.fixture
def make_gym() -> Iterator[Callable[..., AgentGym]]:
    """Gyms that have heard of their daemon; their draws are the same in every run."""
    made: list[AgentGym] = []

    def make(daemon: DaemonProcess, agent: str, **settings: Any) -> AgentGym:
        gym = AgentGym(agent, home=daemon.home, **{**ALWAYS_DECIDED, **settings})
        made.append(gym)
        assert gym.ready(30)
        return gym

    yield make
    for gym in made:
        gym.close(5.0)


@pytest.fixture(params=["no daemon", "disabled"])
def idle_gym(
    request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[AgentGym]:
    """A gym that can do nothing; afterwards it knows what became of all that it recorded."""
    if request.param == "disabled":
        monkeypatch.setenv("AGENTGYM_DISABLED", "1")
    gym = AgentGym("alone", home=home)
    yield gym
    gym.close(1.0)
    counters = gym.status()["counters"]
    produced = counters.get("produced.spans", 0)
    assert (produced == 0) == (request.param == "disabled")
    assert counters.get("spooled.spans", 0) == produced
    assert gym.status()["errors"] == {}


@pytest.fixture
def serve() -> Iterator[Callable[..., LLMServer]]:
    """Stubs that play a script, or a brain."""
    servers: list[LLMServer] = []

    def start(*replies: Any, brain: Brain | None = None) -> LLMServer:
        servers.append(LLMServer(brain or ScriptedBrain(replies), keep_alive=False).start())
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def shown() -> Callable[[LLMServer], list[list[str]]]:
    """The names of the tools in each request that a stub received, in order."""
    return lambda server: [
        [tool["function"]["name"] for tool in request.body.get("tools", ())]
        for request in server.requests
    ]
