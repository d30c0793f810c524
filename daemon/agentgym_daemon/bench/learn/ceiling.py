"""What the same features can do at most: a classifier that is told the right tools (numpy).

    z = e M E' + g · G H' + [e; G] V + b

e, E embed tasks and tools, G, H are their hashed n-grams: a bilinear form and a linear one per
tool, as a policy has them, fitted to labels by Adam: softmax over the tools where one is right,
sigmoid of each where several may be. Labels are used here and in `oracle`, nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

GRAMS = 1024
"""Buckets of the n-grams here; a policy's are folded onto them."""

_FIRST_GAIN = {"meaning": 20.0, "grams": 3.0}
_RATE = {"meaning": 0.02, "gain": 0.1, "linear": 0.03, "bias": 0.03}
_FIRST_BIAS_OF_SEVERAL = -5.0  # a task needs few of many tools
_STEPS = 300  # more was no better; chosen on one seed, like the rates
_BATCH = 512
_L2 = 0.02  # prior precision: loss = mean + l2 / 2n |theta - first|^2
_BETAS, _TINY = (0.9, 0.98), 1e-8


@dataclass(frozen=True, slots=True)
class Texts:
    """Features of N texts; without an encoder E is 0."""

    embedding: Floats  # (N, E), rows of length 1
    grams: Floats  # (N, GRAMS), rows of length 1

    @property
    def joined(self) -> Floats:
        """[embedding; n-grams], shape (N, E + GRAMS)."""
        return np.hstack((self.embedding, self.grams))

    def take(self, rows: NDArray[np.int64]) -> Texts:
        """Some of the texts."""
        return Texts(self.embedding[rows], self.grams[rows])


class Oracle:
    """The classifier over a fixed set of tools; `several` may be right for one task."""

    def __init__(self, tools: Texts, *, several: bool = False) -> None:
        self._tools, self._several = tools, several
        count, width = tools.embedding.shape
        self._first: dict[str, Floats] = {
            "meaning": np.eye(width, dtype=np.float32) * _FIRST_GAIN["meaning"],
            "gain": np.full(1, _FIRST_GAIN["grams"], np.float32),
            "linear": np.zeros((width + GRAMS, count), np.float32),
            "bias": np.full(count, _FIRST_BIAS_OF_SEVERAL if several else 0.0, np.float32),
        }
        self._now = {name: value.copy() for name, value in self._first.items()}

    def scores(self, texts: Texts) -> Floats:
        """z of N texts, shape (N, T)."""
        now, tools = self._now, self._tools
        scores: Floats = (
            texts.embedding @ (now["meaning"] @ tools.embedding.T)
            + now["gain"] * (texts.grams @ tools.grams.T)
            + texts.joined @ now["linear"]
            + now["bias"]
        )
        return scores

    def fit(self, texts: Texts, right: Floats, *, seed: int) -> None:
        """Fits to labels: `right` (N, T) is 1 where a tool is right, else 0."""
        rng, n = np.random.default_rng(seed), len(right)
        size = min(_BATCH, n)
        adam = _Adam(self._now)
        epochs = -(-_STEPS * size // n)
        order = np.concatenate([rng.permutation(n) for _ in range(epochs)])
        for step in range(_STEPS):
            rows = order[step * size : (step + 1) * size]
            gradient = self._gradient(texts.take(rows), right[rows])
            for name, first in self._first.items():
                gradient[name] += np.float32(_L2 / n) * (self._now[name] - first)
            adam.step(gradient, 1.0 - 0.9 * step / _STEPS)

    def _gradient(self, texts: Texts, right: Floats) -> dict[str, Floats]:
        p = self._likely(self.scores(texts)) - right
        p /= np.float32(len(right))
        similar = texts.grams @ self._tools.grams.T
        return {
            "meaning": texts.embedding.T @ (p @ self._tools.embedding),
            "gain": np.array([(p * similar).sum()], np.float32),
            "linear": texts.joined.T @ p,
            "bias": p.sum(axis=0),
        }

    def _likely(self, z: Floats) -> Floats:
        """Probability of each tool to be right, (N, T)."""
        if self._several:
            return np.asarray(1.0 / (1.0 + np.exp(-z)), np.float32)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        return np.asarray(p / p.sum(axis=1, keepdims=True), np.float32)


class _Adam:
    """Adam on a dictionary of arrays, in place."""

    def __init__(self, values: Mapping[str, Floats]) -> None:
        self._values, self._steps = values, 0
        self._mean = {name: np.zeros_like(v) for name, v in values.items()}
        self._square = {name: np.zeros_like(v) for name, v in values.items()}

    def step(self, gradient: Mapping[str, Floats], share: float) -> None:
        """One step at `share` of each rate."""
        self._steps += 1
        first, second = _BETAS
        for name, g in gradient.items():
            mean, square = self._mean[name], self._square[name]
            mean += np.float32(1.0 - first) * (g - mean)
            square += np.float32(1.0 - second) * (g * g - square)
            rate = _RATE[name] * share / (1.0 - first**self._steps)
            root = np.sqrt(square / np.float32(1.0 - second**self._steps)) + np.float32(_TINY)
            self._values[name] -= np.float32(rate) * mean / root


def reliability(scores: Floats, gold: Sequence[frozenset[int]]) -> dict[str, float]:
    """Right calls / calls, and tasks of which every call is right, with the best tools forced.

    A task gets as many different tools as it needs, which is the number of its right ones.
    """
    right, calls, whole = 0, 0, 0
    for row, tools in zip(scores, gold, strict=True):
        hits = len(tools & set(np.argsort(-row, kind="stable")[: len(tools)].tolist()))
        right, calls, whole = right + hits, calls + len(tools), whole + (hits == len(tools))
    return {"call": right / calls, "task": whole / len(gold)}
