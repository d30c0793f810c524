"""One agent process of the demo: serves requests with one framework, judges and rewards them.

Reads one JSON command per line on stdin, writes one JSON object per served request on stdout. The
process lives through the whole demo: nothing is restarted when a policy changes.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from agentgym import AgentGym
from agentgym.tree import Run
from agentgym_daemon.demo.phases import Phase
from agentgym_daemon.scenarios.support_desk import requests
from agentgym_daemon.scenarios.support_desk.agents.base import ModelEndpoint, build
from agentgym_daemon.scenarios.support_desk.desk import Desk
from agentgym_daemon.scenarios.support_desk.requests import Request

FALSE_SUCCESS, FALSE_FAILURE = 0.02, 0.03
"""How often the checker's reward says the opposite of what happened."""
AGENT_NAME = "support-desk"


@dataclass(frozen=True, slots=True)
class Episode:
    """One served request, as the orchestrator counts it."""

    framework: str
    phase: str
    request: str
    first_attempts: list[bool]
    success: bool
    tokens: int
    assignment: str
    version: str


class Worker:
    """Serves requests: without the gym in the phase `before`, with it from then on."""

    def __init__(self, framework: str, endpoint: ModelEndpoint, gym: AgentGym, seed: int) -> None:
        self.framework = framework
        self.gym = gym
        self.desk = Desk(seed=seed)
        self._plain = build(framework, endpoint, self.desk, None)
        self._attached = build(framework, endpoint, self.desk, gym)
        self._rng = random.Random(f"{seed}/{framework}")

    def serve(self, request: Request, phase: Phase) -> Episode:
        """Serves one request and, while training, rewards its trajectory."""
        checker = self.desk.open(request)
        instrumented = phase is not Phase.BEFORE
        agent = self._attached if instrumented else self._plain
        trajectory = (
            self.gym.trajectory(key=request.id, explore=phase is Phase.TRAIN)
            if instrumented
            else nullcontext()
        )
        with trajectory as run:
            tokens = agent.run(request.text)
        checker.finish()
        if phase is Phase.TRAIN:
            self.gym.reward(self._noisy(checker.success), trajectory=run, source="checker")
        return Episode(
            framework=self.framework,
            phase=phase.value,
            request=request.id,
            first_attempts=checker.first_attempts,
            success=checker.success,
            tokens=tokens,
            assignment=run.trajectory.assignment.name.lower() if run else "",
            version=_version(run, self.gym) if run else "",
        )

    def _noisy(self, success: bool) -> float:
        flipped = self._rng.random() < (FALSE_FAILURE if success else FALSE_SUCCESS)
        return float(success != flipped)

    def close(self) -> None:
        """Sends what is left."""
        self._plain.close()
        self._attached.close()
        self.gym.close(timeout_s=10.0)


def _version(run: Run, gym: AgentGym) -> str:
    policies = run.trajectory.policies.get(id(gym.recorder))
    return policies.version(AGENT_NAME) if policies else ""


def main(argv: Sequence[str] | None = None) -> int:
    """The worker process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--framework", required=True)
    parser.add_argument("--agent", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--base-url", default=None)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args(argv)
    logging.getLogger("crewai").setLevel(logging.ERROR)  # it warns about token counts at each call
    answers = _private_stdout()
    gym = AgentGym(agent=arguments.agent, seed=_seed(arguments.seed, arguments.framework))
    endpoint = ModelEndpoint(
        arguments.model, arguments.base_url, os.environ.get("OPENAI_API_KEY", "unused")
    )
    worker = Worker(arguments.framework, endpoint, gym, arguments.seed)
    known = {r.id: r for r in (*requests.train(), *requests.unseen())}
    _say(answers, {"ready": arguments.framework})
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "serve":
            for identity in command["requests"]:
                _say(answers, asdict(worker.serve(known[identity], Phase(command["phase"]))))
            _say(answers, {"served": len(command["requests"])})
        else:
            delivered = gym.flush(timeout_s=30.0)
            _say(answers, {"status": gym.status() | {"delivered": delivered}})
    worker.close()
    return 0


def _seed(seed: int, framework: str) -> int:
    return random.Random(f"{seed}/{framework}/gym").getrandbits(32)


def _private_stdout() -> Any:
    # Frameworks print; the orchestrator must only ever read JSON.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def _say(answers: Any, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")


if __name__ == "__main__":
    sys.exit(main())
