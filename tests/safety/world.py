"""A world whose probabilities are known: the real plugin decides and records, the value is exact.

Every request has slots; in each, one call is made, by the policy's arm or by the agent alone. A
run succeeds if all its calls did. What a policy is worth is computed from the probabilities, never
from what happened.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agentgym import AgentGym
from agentgym.config import Mode
from agentgym.items import StepItem, TaskItem
from agentgym.messages import step_message
from agentgym.policy.arms import Exploration, distribution, force_arms
from agentgym.policy.evaluate import Catalogue, CatalogueCache, Scorer
from agentgym.policy.features import DIM, GRAMS_ONLY, Featuriser, TextHasher
from agentgym.policy.messages import features_message
from agentgym.policy.parameters import Parameters, initial
from agentgym.policy.policy_set import PolicySet
from agentgym.policy.snapshot import Snapshot
from agentgym.proto.v1 import common_pb2, training_pb2
from agentgym.testing.recording import RecordingGym
from agentgym.trajectory import Tool
from agentgym_daemon.learning.dataset import Dataset, read_dataset

KEY = b"a key of this install"
VERSION = "p-000001"
NAME = "clerk"
_LENGTH = 4
_NEVER = -12.0
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Slot:
    """One thing to do: how likely each tool does it, and what the agent alone would call."""

    text: str
    right: tuple[float, ...]  # (tools,) probability that a call of the tool goes right
    alone: tuple[float, ...]  # (tools,) distribution of the agent's own choice


Request = tuple[Slot, ...]


class World:
    """Requests, tools, and everything that is true of them.

    The slots of a request are tasks of their own, so its value is the product of theirs.
    """

    def __init__(
        self,
        *,
        seed: int,
        requests: int = 40,
        tools: int = 10,
        slots: int = 1,
        misled: float = 0.4,
        key: bytes = KEY,
    ) -> None:
        rng = random.Random(seed)
        self.tools = tuple(Tool(f"tool_{_word(rng)}_{i}", _words(rng, 6)) for i in range(tools))
        self.requests: tuple[Request, ...] = tuple(
            tuple(_slot(rng, tools, misled) for _ in range(slots)) for _ in range(requests)
        )
        self.slots = tuple(slot for request in self.requests for slot in request)
        self.features = Featuriser(TextHasher(key))
        self.catalogue = Catalogue(self.tools, self.features.exactly)
        self.vectors = {slot.text: self.features.exactly(slot.text) for slot in self.slots}
        self.tokens: tuple[int, ...] = ()
        """What a run with a call of each tool costs, if that is to be known."""
        self.broken: dict[int, float] = {}
        """Tools that are broken at present, and how often a call of one fails visibly.

        What is true (`value`) is what holds while nothing is broken.
        """

    @cached_property
    def _inverse(self) -> Floats:
        """(DIM, slots): weights that give one slot a logit of 1 and the others none."""
        x = np.zeros((len(self.slots), DIM))
        for row, slot in zip(x, self.slots, strict=True):
            vector = self.vectors[slot.text]
            row[vector.index] = vector.values()
        return np.linalg.pinv(x)

    def policy(self, right: Floats, alone: Floats) -> Parameters:
        """A policy with these estimates: right (slots, tools + 1) and alone (slots,)."""
        start = initial(
            tuple(t.fingerprint.hex() for t in self.tools), tuple(t.name for t in self.tools)
        )
        start.tensors["similarity.gain"][:] = 0.0
        start.tensors["history.effect"][:] = 0.0
        start.tensors["defer.bias"][:] = 0.0
        scores = np.log(np.maximum(right, 1e-4))
        # RESPOND's part that looks at the text counts only after a call: its share is the bias.
        start.tensors["tool.bias"][-1] = _NEVER
        scores[:, -1] = 0.0
        start.tensors["tool.weight"][:] = self._inverse @ scores
        start.tensors["defer.weight"][:] = (self._inverse @ np.log(alone / (1.0 - alone)))[:, None]
        return start

    def knowing(
        self, share: float, *, seed: int = 0, surest: float = 0.9, lured: bool = False
    ) -> Parameters:
        """A policy that knows the right tool of a share of the slots, and guesses elsewhere.

        A lured one takes the second best for it.
        """
        rng, n = np.random.default_rng(seed), len(self.tools)
        right = np.empty((len(self.slots), n + 1))
        alone = np.full(len(self.slots), 0.65)
        order = rng.permutation(len(self.slots))
        known = set(order[: round(share * len(order))].tolist())
        for i, slot in enumerate(self.slots):
            right[i, :n] = rng.dirichlet(np.full(n, 0.5)) * 0.6
            if i in known:
                right[i, :n] = (1.0 - surest) / n
                right[i, int(np.argsort(slot.right)[-2 if lured else -1])] = surest
                alone[i] = np.clip(np.dot(slot.right, slot.alone), 0.05, 0.95)
        return self.policy(right, alone)

    # ---- what is true

    def value(self, policy: Parameters | None, exploration: Exploration | None = None) -> float:
        """Expected success under the world's own probabilities; None: the agent alone."""
        scorer = Scorer(policy, self.catalogue) if policy else None
        worth = {
            slot.text: float(
                np.dot(slot.right, self._choice(slot, scorer, exploration or Exploration()))
            )
            for slot in self.slots
        }
        return float(np.mean([math.prod(worth[s.text] for s in r) for r in self.requests]))

    def cost(self, policy: Parameters, exploration: Exploration | None = None) -> float:
        """Expected tokens of a run."""
        scorer = Scorer(policy, self.catalogue)
        chosen = [
            [self._choice(slot, scorer, exploration or Exploration()) for slot in request]
            for request in self.requests
        ]
        return float(np.mean([sum(np.dot(self.tokens, c) for c in one) for one in chosen]))

    def _choice(self, slot: Slot, scorer: Scorer | None, exploration: Exploration) -> Floats:
        """(tools,) how likely each tool is called."""
        if scorer is None:
            return np.array(slot.alone)
        evaluation = scorer(self.vectors[slot.text], ())
        arms = force_arms(evaluation, [True] * len(self.tools), exploration.top_k)
        chances = distribution(np.array([arm.score for arm in arms]), exploration)
        out: Floats = chances[0] * np.array(slot.alone)
        for arm, chance in zip(arms[1:], chances[1:], strict=True):
            out[arm.tools[0]] += chance
        return out

    # ---- what happens

    def log(
        self,
        policy: Parameters | None,
        runs: int,
        *,
        seed: int,
        control_share: float = 0.1,
        exploration: Exploration | None = None,
        explore: bool = True,
        version: str = VERSION,
    ) -> Iterator[training_pb2.TrainingTrajectory]:
        """Runs of the real plugin under a policy, with their true rewards, as stored."""
        rng = random.Random(seed)
        gym = RecordingGym("desk", mode=Mode.STEER, seed=seed, explore=explore)
        policies = {NAME: Snapshot(version, "0" * 64, policy, {})} if policy else {}
        gym.live.swap(self.policy_set(policies, control_share, exploration or Exploration()))
        for number in range(runs):
            yield self.run(gym, rng.choice(self.requests), rng, number + 1)

    def run(
        self, gym: RecordingGym, request: Request, rng: random.Random, now: int
    ) -> training_pb2.TrainingTrajectory:
        """One run, with its true reward, as stored."""
        message = training_pb2.TrainingTrajectory(closed_unix_nano=now)
        success, calls, _ = self.play(gym, request, rng)
        message.reward = float(success)
        message.calls.extend(calls)
        if self.tokens:
            position = {tool.name: i for i, tool in enumerate(self.tools)}
            message.tokens = sum(self.tokens[position[call.tool]] for call in calls)
        message.trajectory_id = self._collect(gym, message)
        return message

    def policy_set(
        self,
        policies: Mapping[str, Snapshot],
        control_share: float,
        exploration: Exploration,
        *,
        down: Iterable[bytes] = (),
    ) -> PolicySet:
        """What the daemon would have an agent act by."""
        return PolicySet(
            features=self.features,
            catalogues=CatalogueCache(self.features),
            exploration=exploration,
            control_share=control_share,
            stale_after_s=3600.0,
            policies=policies,
            down=frozenset(down),
        )

    def play(
        self, gym: AgentGym, request: Request, rng: random.Random
    ) -> tuple[bool, list[training_pb2.TrainingCall], str]:
        """One run: whether it succeeded, its calls, and its trajectory's id."""
        run = gym.recorder.start_run(NAME, framework="world", task=request[0].text)
        success, calls = True, []
        for slot in request:
            turn = run.turn(self.tools, task=slot.text)
            tool = turn.forced or rng.choices(self.tools, slot.alone)[0]
            turn.finish([(tool.name, "")])
            call = run.call(tool.name)
            position = self.tools.index(tool)
            right = rng.random() < slot.right[position]
            visible = not right and rng.random() < 0.6
            if position in self.broken and rng.random() < self.broken[position]:
                right, visible = False, True
            call.finish(error="ToolError" if visible else "")
            calls.append(
                training_pb2.TrainingCall(decision_id=turn.span_id, tool=tool.name, error=visible)
            )
            success = success and right
        run.finish()
        return success, calls, run.trajectory_id

    def _collect(self, gym: RecordingGym, message: training_pb2.TrainingTrajectory) -> bytes:
        items = gym.sink.items
        for item in items:
            if isinstance(item, StepItem):
                message.decisions.append(step_message(item, GRAMS_ONLY))
            elif isinstance(item, TaskItem):
                vector = item.vector or self.vectors[item.text]
                message.features.append(
                    features_message(item.trajectory_id, item.features_id, vector, GRAMS_ONLY)
                )
        identifier: bytes = items[0].trajectory_id
        items.clear()
        gym.sink.ended.clear()
        return identifier

    def dataset(
        self,
        messages: Sequence[training_pb2.TrainingTrajectory],
        path: Path,
        *,
        versions: Sequence[str] = (VERSION,),
    ) -> Dataset:
        """The trainer's view of stored runs, through its file; the last version is the parent."""
        header = training_pb2.TrainingHeader(
            scope=common_pb2.Scope(agent="desk", agent_name=NAME, feature_schema=GRAMS_ONLY),
            parent=versions[-1] if versions else "",
            versions=versions,
            feature_key=KEY,
            trajectories=len(messages),
            tools=[
                common_pb2.Tool(
                    fingerprint=tool.fingerprint, name=tool.name, description=tool.description
                )
                for tool in self.tools
            ],
        )
        data = [header.SerializeToString(), *(m.SerializeToString() for m in messages)]
        path.write_bytes(b"".join(len(d).to_bytes(_LENGTH, "little") + d for d in data))
        return read_dataset(path)


def _slot(rng: random.Random, tools: int, misled: float) -> Slot:
    best, lure = rng.sample(range(tools), 2)
    right = [0.03] * tools
    right[best], right[lure] = 0.97, 0.25
    chosen = lure if rng.random() < misled else best
    alone = [0.08 / tools] * tools
    alone[chosen] += 0.92
    return Slot(_words(rng, 8), tuple(right), tuple(alone))


def _word(rng: random.Random) -> str:
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(4, 9)))


def _words(rng: random.Random, count: int) -> str:
    return " ".join(_word(rng) for _ in range(count))
