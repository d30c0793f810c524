"""Evaluates a policy at one step: which tool is right, and is the agent better left alone.

With the task's n-grams x and embedding e, offered tools t with n-grams c_t and embeddings m_t, and
the run's history h (all numbers in float64):

    z_t = gain * x . c_t + g e . M m_t                               similarity
          + x . W_t + e . V_t + bias_t                                 learned
          + transition[last call, t] + repeats(t, h)                   history
    p   = softmax over {offered tools, RESPOND} of z             P(this is the right next action)

where RESPOND's similarity is the mean of the tools', so that its other parts say how far above it
a tool must lie, and

    q   = sigmoid(x . D_stage + e . F_stage + d_stage + sum_t p_t a_t)   P(goes right if left alone)

A tool d that is down cannot be right. What the task asked of it is asked of the others, as if the
task also had d's text, and an agent left alone would go on choosing it:

    p' = softmax over the rest of z_t + sum_d p_d ((gain + 15) c_d . c_t + g m_d . M m_t)
    q' = q max(0, 1 - sum_d p_d / max p)

where RESPOND gets the mean of what the tools get, and 15 is NAMED_ALIKE. Of what an agent left
alone would choose, the policy knows only what it would choose itself: where that is a tool that is
down, q' is 0, however unsure the policy is, and the step goes elsewhere.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from agentgym.policy.background import Background
from agentgym.policy.features import DIM, Featuriser, TextVector, tool_text
from agentgym.policy.parameters import EFFECTS, MAX_OK, Parameters
from agentgym.trajectory import PastCall, Tool

K = TypeVar("K")
V = TypeVar("V")
Vector = NDArray[np.float64]
Featurise = Callable[[str], TextVector]


NAMED_ALIKE = 15.0
"""What stands in for a tool is often named alike: gain of common n-grams of two tools' texts."""
_MAX_CATALOGUES = 64
_MAX_SCORERS = 8  # a few MB each
_MAX_TASKS = 64


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Outcome estimates of one step over n offered tools."""

    right: Vector  # (n + 1,) P(right next action); the last entry is RESPOND
    alone: float  # P(step goes right | agent left alone)


class Catalogue:
    """Texts of one tuple of offered tools, quantised."""

    def __init__(self, tools: tuple[Tool, ...], featurise: Featurise) -> None:
        self.tools = tools
        self.fingerprints = tuple(tool.fingerprint for tool in tools)
        self.index = {fingerprint: i for i, fingerprint in enumerate(self.fingerprints)}
        self.texts = tuple(featurise(tool_text(t.name, t.description)) for t in tools)

    def part(self, positions: Sequence[int]) -> Catalogue:
        """The tools at some positions, with the features and fingerprints that they have here."""
        new = copy(self)
        new.tools = tuple(self.tools[i] for i in positions)
        new.texts = tuple(self.texts[i] for i in positions)
        new.fingerprints = tuple(self.fingerprints[i] for i in positions)
        new.index = {fingerprint: i for i, fingerprint in enumerate(new.fingerprints)}
        return new

    @property
    def embedding_dim(self) -> int:
        """Numbers of an embedding; 0 without an encoder."""
        return max((len(t.embedding.quantised) for t in self.texts if t.embedding), default=0)

    def grams(self) -> Vector:
        """n-grams of the tools, shape (DIM, n)."""
        out = np.zeros((DIM, len(self.tools)))
        for i, text in enumerate(self.texts):
            out[text.index, i] = text.values()
        return out

    def embeddings(self, dim: int) -> Vector:
        """Embeddings of the tools, shape (dim, n); 0 where a text has none of that size."""
        out = np.zeros((dim, len(self.tools)))
        for i, text in enumerate(self.texts):
            if text.embedding is not None and len(text.embedding.quantised) == dim:
                out[:, i] = text.embedding.values()
        return out


class CatalogueCache:
    """Catalogues by fingerprints, the most recently used ones; made off the caller's thread."""

    def __init__(self, features: Featuriser) -> None:
        self._features = features
        self._known: OrderedDict[tuple[bytes, ...], Catalogue] = OrderedDict()
        self._making: Background[Catalogue] = Background(_MAX_CATALOGUES)
        self._last: tuple[Sequence[Tool], Catalogue | None] = ((), None)

    def __call__(self, tools: Sequence[Tool], timeout_s: float | None = None) -> Catalogue | None:
        """The catalogue of these tools, or None if encoding their texts takes longer."""
        last, known = self._last
        if last is tools and known is not None:
            return known
        key = tuple(tool.fingerprint for tool in tools)
        known = _used(self._known, key)
        if known is None:
            offered, exactly = tuple(tools), self._features.exactly
            if self._features.encodes:
                known = self._making(key, lambda: Catalogue(offered, exactly), timeout_s)
            else:
                known = Catalogue(offered, exactly)
            if known is None:
                return None
            self._known[key] = known
            while len(self._known) > _MAX_CATALOGUES:
                self._known.popitem(last=False)
        if type(tools) is tuple:  # what cannot change is known by identity the next time
            self._last = tools, known
        return known


@dataclass(frozen=True, slots=True)
class _Task:
    """What one task says to one scorer, whatever was called before."""

    x: TextVector
    scores: tuple[Vector, Vector]  # (n + 1,) before and after a successful call
    defer: Sequence[float]  # logits of leaving the agent alone, likewise


class Scorer:
    """One policy multiplied out with one catalogue, so that a step costs a few small products."""

    def __init__(self, policy: Parameters, catalogue: Catalogue) -> None:
        self.policy, self.catalogue = policy, catalogue
        n, dim = len(catalogue.tools), policy.embedding_dim
        self._known, self._columns = _columns(policy, catalogue)
        self._effect = dict(zip(EFFECTS, policy["history.effect"].astype(np.float64), strict=True))
        gain = float(policy["similarity.gain"][0])
        self._similar = np.zeros((DIM + dim, n + 1))
        self._similar[:DIM, :n] = gain * catalogue.grams()
        self._weight = np.zeros((DIM + dim, n + 3))  # tools, RESPOND, defer before and after a call
        self._weight[:DIM, self._known] = policy["tool.weight"][:, self._columns]
        self._weight[:DIM, n + 1 :] = policy["defer.weight"]
        if dim:
            meaning = float(policy["meaning.gain"][0])
            mapped = policy["meaning.map"].astype(np.float64) @ catalogue.embeddings(dim)
            self._similar[DIM:, :n] = meaning * mapped
            self._weight[DIM:, self._known] = policy["tool.embedding"][:, self._columns]
            self._weight[DIM:, n + 1 :] = policy["defer.embedding"]
        self._similar[:, n] = self._similar[:, :n].sum(axis=1) / max(n, 1)
        self._fused = np.concatenate((self._weight, self._similar[:, n:]), axis=1)
        self._fused[:, :n] += self._similar[:, :n]
        self._bias = np.zeros(n + 1)
        self._bias[self._known] = policy["tool.bias"][self._columns]
        self._preference = np.zeros(n + 1)
        self._preference[self._known] = policy["defer.tool"][self._columns]
        self._defer_bias = [float(bias) for bias in policy["defer.bias"]]
        self._transitions: dict[bytes, Vector] = {}
        self._recent: OrderedDict[int, _Task] = OrderedDict()

    def __call__(
        self, x: TextVector, history: Sequence[PastCall], down: Sequence[int] = ()
    ) -> Evaluation:
        """Outcome estimates for every offered tool, for RESPOND and for leaving the agent alone.

        `down` are positions of offered tools that do not work at present.
        """
        ok_calls = sum(not call.error for call in history)
        stage = min(ok_calls, 1)
        task = self._task(x)
        if history:
            z = task.scores[stage] + self._after(history[-1].tool)
            self._add_history(z, history, ok_calls)
        else:
            z = task.scores[0].copy()
            z[-1] += self._effect["respond_first"]
        right = softmax(z)
        logit = task.defer[stage] + float(right @ self._preference)
        if history and history[-1].error:
            logit += self._effect["defer_after_error"]
        alone = sigmoid(logit)
        if not down:
            return Evaluation(right, alone)
        n = len(right) - 1
        lost = right[list(down)]
        asked = lost @ self._substitutes[list(down)]
        z[:n] += asked
        z[n] += asked.mean()
        z[list(down)] = -np.inf
        going_on = min(1.0, float(lost.sum() / right.max()))
        return Evaluation(softmax(z), alone * (1.0 - going_on))

    @cached_property
    def _substitutes(self) -> Vector:
        """Similarity of every tool's text, taken for a task, to every tool: (n, n)."""
        n, dim = len(self.catalogue.tools), self.policy.embedding_dim
        grams = self.catalogue.grams()
        out: Vector = grams.T @ (self._similar[:DIM, :n] + NAMED_ALIKE * grams)
        if dim:
            out = out + self.catalogue.embeddings(dim).T @ self._similar[DIM:, :n]
        return out

    def _task(self, x: TextVector) -> _Task:
        known = self._recent.get(id(x))
        if known is not None and known.x is x:
            return known
        linear = self._product(self._fused, x)
        z = linear[:-3] + self._bias
        respond = z[-1] + linear[-1]
        # before any call, whether one is needed at all is left to the bias
        first, later = z, z.copy()
        first[-1], later[-1] = self._bias[-1] + linear[-1], respond
        defer = [float(linear[i - 3]) + self._defer_bias[i] for i in range(2)]
        known = self._recent[id(x)] = _Task(x, (first, later), defer)
        if len(self._recent) > _MAX_TASKS:
            self._recent.popitem(last=False)
        return known

    def _product(self, matrix: Vector, x: TextVector) -> Vector:
        out: Vector = x.values() @ matrix[x.index]
        if x.embedding is not None and len(matrix) == DIM + len(x.embedding.quantised):
            out += x.embedding.values() @ matrix[DIM:]
        return out

    def _add_history(self, z: Vector, history: Sequence[PastCall], ok_calls: int) -> None:
        """Adds to z what the calls of this run say, besides which one was the last."""
        effect, index = self._effect, self.catalogue.index
        for tool, failed in {(call.tool, call.error) for call in history}:
            if (i := index.get(tool)) is not None:
                z[i] += effect["repeat_error" if failed else "repeat_ok"]
        z[-1] += (
            effect["respond_per_ok"] * min(ok_calls, MAX_OK)
            + effect["respond_after_error"] * history[-1].error
        )

    def _after(self, tool: bytes) -> Vector:
        known = self._transitions.get(tool)
        if known is None:
            known = np.zeros(len(self.catalogue.tools) + 1)
            last = self.policy.position.get(tool)
            if last is None:
                return known
            known[self._known] = self.policy["history.transition"][last, self._columns]
            self._transitions[tool] = known
        return known

    def parts(
        self, x: TextVector, history: Sequence[PastCall], down: Sequence[int] = ()
    ) -> dict[str, Vector]:
        """The parts of z by name, each (n + 1,): why a tool scored as it did.

        `errors` is what earlier visible errors say, `stands in` what is asked of a tool because
        others are down; the latter is there only if some are.
        """
        n = len(self.catalogue.tools)
        learned = self._product(self._weight, x)[: n + 1]
        if not any(not call.error for call in history):
            learned[n] = 0.0
        past = np.zeros(n + 1)
        if history:
            past += self._after(history[-1].tool)
            self._add_history(past, history, sum(not call.error for call in history))
        else:
            past[n] = self._effect["respond_first"]
        errors = self._errors(history)
        found = {
            "similarity": self._product(self._similar, x),
            "learned": learned + self._bias,
            "history": past - errors,
            "errors": errors,
        }
        if down:
            right = softmax(np.sum(list(found.values()), axis=0))
            asked = right[list(down)] @ self._substitutes[list(down)]
            found["stands in"] = np.append(asked, asked.mean())
        return found

    def defer_parts(self, x: TextVector, history: Sequence[PastCall]) -> dict[str, float]:
        """The parts of the logit of q by name: why the agent was trusted as far as it was."""
        stage = min(sum(not call.error for call in history), 1)
        right = softmax(np.sum(list(self.parts(x, history).values()), axis=0))
        after_error = bool(history) and history[-1].error
        return {
            "learned": float(self._task(x).defer[stage]),
            "choices": float(right @ self._preference),
            "errors": self._effect["defer_after_error"] if after_error else 0.0,
        }

    def _errors(self, history: Sequence[PastCall]) -> Vector:
        out = np.zeros(len(self.catalogue.tools) + 1)
        for tool in {call.tool for call in history if call.error}:
            if (i := self.catalogue.index.get(tool)) is not None:
                out[i] = self._effect["repeat_error"]
        if history and history[-1].error:
            out[-1] = self._effect["respond_after_error"]
        return out


class ScorerCache:
    """Scorers by policy and catalogue, the most recently used ones."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, int], Scorer] = OrderedDict()

    def __call__(self, policy: Parameters, catalogue: Catalogue) -> Scorer:
        key = (id(policy), id(catalogue))
        known = _used(self._known, key)
        if known is None:
            known = self._known[key] = Scorer(policy, catalogue)
            while len(self._known) > _MAX_SCORERS:
                self._known.popitem(last=False)
        return known


def _used(known: OrderedDict[K, V], key: K) -> V | None:
    """What is known under a key, which counts as a use; no lock, for a fork could keep it."""
    value = known.get(key)
    if value is not None:
        with suppress(KeyError):  # another thread made room in between
            known.move_to_end(key)
    return value


def evaluate(
    policy: Parameters, x: TextVector, catalogue: Catalogue, history: Sequence[PastCall]
) -> Evaluation:
    """Outcome estimates of one step; `Scorer` does the same for many."""
    return Scorer(policy, catalogue)(x, history)


def _columns(policy: Parameters, catalogue: Catalogue) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions of the known tools and of RESPOND: among the offered, and in the policy."""
    pairs = [
        (i, policy.position[fingerprint])
        for i, fingerprint in enumerate(catalogue.fingerprints)
        if fingerprint in policy.position
    ]
    pairs.append((len(catalogue.tools), len(policy.tools)))
    offered, column = zip(*pairs, strict=True)
    return np.array(offered, np.intp), np.array(column, np.intp)


def softmax(z: Vector) -> Vector:
    """Softmax over a vector, stable for large entries."""
    out: Vector = z - np.maximum.reduce(z)
    np.exp(out, out=out)
    out /= np.add.reduce(out)
    return out


def sigmoid(z: float) -> float:
    """Logistic function, without overflow."""
    return 1.0 / (1.0 + math.exp(-z)) if z >= 0 else math.exp(z) / (1.0 + math.exp(z))
