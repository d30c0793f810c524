"""Evaluates a policy at one step: which tool is right, and is the agent better left alone.

With task features x, offered tools t and the run's history h (all numbers in float64):

    z_t = gain * sum_b x_b g_b c_tb + x . W_t + bias_t + transition[last call, t] + repeats(t, h)
    p   = softmax over {offered tools, RESPOND} of z             P(this is the right next action)
    q   = sigmoid(x . D_stage + d_stage + sum_t p_t a_t)         P(goes right if left alone)

where c_t are the features of the tool's name and description.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agentgym.policy.features import DIM, SparseVector, TextHasher, tool_text
from agentgym.policy.parameters import EFFECTS, MAX_OK, Parameters
from agentgym.trajectory import PastCall, Tool

Vector = NDArray[np.float64]

_MAX_CATALOGUES = 64


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Outcome estimates of one step over n offered tools."""

    right: Vector  # (n + 1,) P(right next action); the last entry is RESPOND
    alone: float  # P(step goes right | agent left alone)
    parts: dict[str, Vector]  # logit parts by name, each (n + 1,)


class Catalogue:
    """Texts of one tuple of offered tools, quantised: C[b, t] = scale_t q_bt / 255."""

    def __init__(self, tools: tuple[Tool, ...], hasher: TextHasher) -> None:
        self.tools = tools
        self.fingerprints = tuple(tool.fingerprint for tool in tools)
        self.index = {fingerprint: i for i, fingerprint in enumerate(self.fingerprints)}
        self._quantised = np.zeros((DIM, len(tools)), np.uint8)
        self._scale = np.zeros(len(tools))
        for i, tool in enumerate(tools):
            vector = hasher(tool_text(tool.name, tool.description))
            self._quantised[vector.index, i] = vector.quantised
            self._scale[i] = vector.scale / 255.0

    def rows(self, index: NDArray[np.uint32]) -> Vector:
        """C restricted to the given buckets, shape (len(index), n)."""
        return self._quantised[index].astype(np.float64) * self._scale


class CatalogueCache:
    """Catalogues by fingerprints, the most recently used ones; not thread-safe by itself."""

    def __init__(self, hasher: TextHasher) -> None:
        self.hasher = hasher
        self._known: OrderedDict[tuple[bytes, ...], Catalogue] = OrderedDict()

    def __call__(self, tools: Sequence[Tool]) -> Catalogue:
        key = tuple(tool.fingerprint for tool in tools)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Catalogue(tuple(tools), self.hasher)
            while len(self._known) > _MAX_CATALOGUES:
                self._known.popitem(last=False)
        return known


def evaluate(
    policy: Parameters, x: SparseVector, catalogue: Catalogue, history: Sequence[PastCall]
) -> Evaluation:
    """Outcome estimates for every offered tool, for RESPOND and for leaving the agent alone."""
    n = len(catalogue.tools)
    known, columns = _columns(policy, catalogue)
    ok_calls = sum(not call.error for call in history)
    stage = min(ok_calls, 1)
    after_error = float(bool(history) and history[-1].error)
    effect = dict(zip(EFFECTS, policy["history.effect"].astype(np.float64), strict=True))
    values = x.values()

    similar = np.zeros(n + 1)
    bucket = policy["similarity.bucket"][x.index].astype(np.float64)
    gain = float(policy["similarity.gain"][0])
    similar[:n] = gain * ((values * bucket) @ catalogue.rows(x.index))

    learned = np.zeros(n + 1)
    learned[known] = values @ policy["tool.weight"][x.index][:, columns].astype(np.float64)
    if not stage:
        learned[n] = 0.0  # before any call, whether one is needed at all is left to the bias
    learned[known] += policy["tool.bias"][columns].astype(np.float64)

    past = np.zeros(n + 1)
    last = policy.position.get(history[-1].tool) if history else None
    if last is not None:
        past[known] += policy["history.transition"][last, columns].astype(np.float64)
    for fingerprint in {call.tool for call in history if not call.error}:
        if (i := catalogue.index.get(fingerprint)) is not None:
            past[i] += effect["repeat_ok"]
    for fingerprint in {call.tool for call in history if call.error}:
        if (i := catalogue.index.get(fingerprint)) is not None:
            past[i] += effect["repeat_error"]
    past[n] += (
        effect["respond_first"] * (not history)
        + effect["respond_per_ok"] * min(ok_calls, MAX_OK)
        + effect["respond_after_error"] * after_error
    )

    right = softmax(similar + learned + past)
    alone = (
        float(values @ policy["defer.weight"][x.index, stage].astype(np.float64))
        + float(policy["defer.bias"][stage])
        + float(right[known] @ policy["defer.tool"][columns].astype(np.float64))
        + effect["defer_after_error"] * after_error
    )
    parts = {"similarity": similar, "learned": learned, "history": past}
    return Evaluation(right, float(sigmoid(alone)), parts)


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
    e = np.exp(z - z.max())
    out: Vector = e / e.sum()
    return out


def sigmoid(z: float) -> float:
    """Logistic function, without overflow."""
    return float(1.0 / (1.0 + np.exp(-z))) if z >= 0 else float(np.exp(z) / (1.0 + np.exp(z)))
