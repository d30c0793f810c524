"""The whole loop in one process, driven by a small referee; by the real one where it is at hand."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentgym.policy.features import Featuriser, TextHasher
from agentgym_daemon.errors import ConfigError
from agentgym_daemon.learning.arena import ENCODER_ENV, Decision, Learner, learner
from agentgym_daemon.learning.settings import LearningSettings

FAST = LearningSettings(rounds=20)


@dataclass(frozen=True)
class Offered:
    name: str
    description: str
    parameters: Any


@dataclass(frozen=True)
class Call:
    tool: str
    error: bool


@dataclass(frozen=True)
class Request:
    task: str
    history: tuple[Call, ...]
    offered: tuple[Offered, ...]


@dataclass(frozen=True)
class Episode:
    requests: tuple[Request, ...]
    decisions: tuple[Decision, ...]
    calls: tuple[Call, ...]
    reward: float


SUBJECTS = ("parcel", "refund", "password", "plan", "outage", "invoice")
TOOLS = tuple(Offered(f"do_{s}", f"Deals with a {s}.", {}) for s in SUBJECTS)
OPENINGS = ("please help with my", "a question about the", "urgent: the", "again this", "hello, my")


class Referee:
    """Single calls; the agent is right about half the subjects and never about the others."""

    def __init__(self, seed: int = 0, offered: tuple[Offered, ...] = TOOLS) -> None:
        self.rng = random.Random(seed)
        self.offered = offered
        self.broken: set[str] = set()

    def request(self) -> tuple[Request, str]:
        i = self.rng.randrange(len(SUBJECTS))
        text = f"{self.rng.choice(OPENINGS)} {SUBJECTS[i]} {self.rng.randrange(1000)}"
        return Request(text, (), self.offered), TOOLS[i].name

    def agent(self, right: str) -> str:
        i = [tool.name for tool in TOOLS].index(right)
        return right if i % 2 else TOOLS[(i + 1) % len(TOOLS)].name

    def train(self, learner: Learner, episodes: int, *, retry: bool = False) -> list[Decision]:
        decisions = []
        for _ in range(episodes):
            request, right = self.request()
            decision = learner.decide(request, explore=True)
            tool = decision.tool or self.agent(right)
            ok = tool == right and tool not in self.broken
            error = not ok and self.rng.random() < 0.6
            requests, made, calls = [request], [decision], [Call(tool, error)]
            if error and retry:
                again = Request(request.task, (calls[0],), self.offered)
                requests.append(again)
                made.append(learner.decide(again, explore=True))
                calls.append(Call(made[1].tool or right, error=False))
            learner.finish(Episode(tuple(requests), tuple(made), tuple(calls), float(ok)))
            decisions += made
        return decisions

    def reliability(self, learner: Learner, n: int = 200) -> float:
        right = 0
        for _ in range(n):
            request, wanted = self.request()
            right += (learner.decide(request, explore=False).tool or self.agent(wanted)) == wanted
        return right / n


def grams(**more: Any) -> Learner:
    return Learner(0, Featuriser(TextHasher(b"key")), settings=FAST, **more)


def test_before_the_first_version_the_agent_is_left_alone() -> None:
    request, _ = Referee().request()

    assert grams().decide(request, explore=True) == Decision()


def test_it_learns_what_the_agent_gets_wrong() -> None:
    referee, made = Referee(), grams()
    before = referee.reliability(made)

    decisions = referee.train(made, 300)

    assert before < 0.65
    assert referee.reliability(made) > before + 0.25
    assert made._versions[0] == "p-000100"
    drawn = [d for d in decisions if d.drawn is not None]
    assert len(drawn) == 200
    assert all(0 < d.propensity <= 1 for d in drawn)
    assert {d.tool for d in drawn} >= {tool.name for tool in TOOLS}
    assert None in {d.tool for d in drawn}


def test_the_same_seed_gives_the_same_decisions() -> None:
    runs = [Referee(3).train(grams(), 150) for _ in range(2)]

    assert runs[0] == runs[1]


def test_an_encoder_is_used_where_there_is_one() -> None:
    def encode(text: str) -> np.ndarray:
        vector = np.array([subject in text for subject in SUBJECTS], np.float32) + 0.01
        return vector / np.linalg.norm(vector)

    features = Featuriser(TextHasher(b"key"), encode, schema=7, dim=len(SUBJECTS))
    made, referee = Learner(0, features, settings=FAST), Referee()

    referee.train(made, 100)

    snapshot = made._policies.policies["arena"]
    assert snapshot.parameters.embedding_dim == len(SUBJECTS)
    assert referee.reliability(made) > 0.9  # it knew what means the same before any evidence


def test_a_candidate_that_the_gate_rejects_does_not_go_live() -> None:
    never = LearningSettings(rounds=1, max_changed=-1.0)
    strict = Learner(0, Featuriser(TextHasher(b"key")), settings=never)
    loose = Learner(0, Featuriser(TextHasher(b"key")), settings=never, gate=False)

    for made in (strict, loose):
        Referee().train(made, 210)

    assert strict._versions == ["p-000100"]  # nothing to differ from yet
    assert loose._versions == ["p-000100", "p-000200"]


def test_retries_and_their_history_are_recorded() -> None:
    made = grams()

    Referee().train(made, 120, retry=True)

    retried = [t for t in made._trajectories if len(t.steps) == 2]
    assert retried
    for trajectory in retried:
        first, second = trajectory.steps
        assert first.failed == first.called
        assert second.failed == ()
        assert [call.error for call in second.history] == [True]


def test_tools_that_come_later_get_the_next_columns() -> None:
    made = grams()
    Referee(0, TOOLS).train(made, 100)
    more = (Offered("do_new", "Deals with new things.", {}), *TOOLS)

    Referee(1, more).train(made, 100)

    assert made._universe.names == (*(t.name for t in TOOLS), "do_new")
    assert made._trajectories[-1].steps[0].offered == (6, 0, 1, 2, 3, 4, 5)
    assert made._policies.policies["arena"].parameters.names[-1] == "do_new"


def test_a_tool_that_breaks_is_left_out() -> None:
    referee, made = Referee(), grams()
    referee.train(made, 200)
    referee.broken = {TOOLS[1].name}

    decisions = referee.train(made, 120)

    assert {made._universe.names[i] for i in made._health.since} == {TOOLS[1].name}
    late = [d for d in decisions[-40:] if d.drawn is not None and d.drawn.down]
    assert late
    assert TOOLS[1].name not in {d.tool for d in late}


def test_the_environment_names_another_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENCODER_ENV, "none")
    assert learner(0)._features.embedding_dim == 0
    assert learner(0, "default")._features.embedding_dim == 0

    monkeypatch.delenv(ENCODER_ENV)
    assert learner(0, "none")._features.schema == 1
    assert learner(0)._features.embedding_dim > 0
    with pytest.raises(ConfigError, match="expected one of none"):
        learner(0, "bert")


# The referee that the figures are measured with lies beside a checkout, not in it.
BESIDE = Path(__file__).parents[4] / "shared"
CLINC = BESIDE / "data" / "clinc150.jsonl"
TOOLS_OF_CLINC = 30


@pytest.fixture
def referee(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    if not (BESIDE / "arena" / "arena.py").exists() or not CLINC.exists():
        pytest.skip("the arena (a referee with public data sets) is not beside this checkout")
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BESIDE / "arena"))
    import arena as found  # type: ignore[import-not-found]  # only where it is

    yield found
    for name in set(sys.modules) - before:
        if name in ("arena", "world"):
            del sys.modules[name]


@pytest.mark.slow
def test_the_real_referee_never_finds_it_worse_than_chance(referee: Any) -> None:
    data = referee.load(CLINC, tools=TOOLS_OF_CLINC)

    result = referee.Arena(data, seed=0, episodes=300, test=300).run(learner(0, "none"), every=100)

    figures = [result["online_call"], *result["test_every"].values()]
    figures += [score["call"] for score in result["test"].values()]
    assert min(figures) > 3 / TOOLS_OF_CLINC, json.dumps(result, default=str)
    assert result["deferred"] < 0.9  # it did something
