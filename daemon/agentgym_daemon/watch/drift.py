"""Whether what agents are asked, what they call by themselves, or their rewards have changed.

Each is a vector per run; the distance of the means of two stretches of time (squared, which is the
maximum mean discrepancy with a linear kernel: Gretton et al., JMLR 13:723, 2012) is compared with
that of the same runs in random order. An alarm changes nothing: it tells where to look.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from agentgym.proto.v1 import decision_pb2
from agentgym_daemon.store.record import Content, Run

Vectors = npt.NDArray[np.float64]
T = TypeVar("T")
RECENT, EARLIER = 300, 900
RECENT_CONTROL, EARLIER_CONTROL = 100, 300
"""Runs of the two stretches; what agents do by themselves shows in the control group alone."""
_ORDERS = 200
_Z, _EFFECT = 6.0, 0.05
_BUCKETS = 256


@dataclass(frozen=True, slots=True)
class Shift:
    """How far two stretches of time are apart."""

    z: float  # standard deviations above what the order of the runs alone makes
    effect: float  # squared distance of the means, as a part of the spread of single runs

    @property
    def alarming(self) -> bool:
        """Beyond chance, and large enough to matter."""
        return self.z > _Z and self.effect > _EFFECT


def shift(earlier: Vectors, recent: Vectors, *, seed: int = 0) -> Shift:
    """Compares two stretches; rows are runs."""
    both = np.concatenate([earlier, recent])
    both = both - both.mean(axis=0)
    spread = float((both**2).sum(axis=1).mean())
    if spread <= 0.0:
        return Shift(0.0, 0.0)
    n, m = len(earlier), len(recent)
    rng = np.random.default_rng(seed)
    weights = np.concatenate([np.full(n, -1.0 / n), np.full(m, 1.0 / m)])
    orders = np.stack([weights, *(rng.permutation(weights) for _ in range(_ORDERS))])
    distances = ((orders @ both) ** 2).sum(axis=1)
    found, chance = float(distances[0]), distances[1:]
    z = (found - float(chance.mean())) / max(float(chance.std()), 1e-12)
    return Shift(z, max(0.0, found - float(chance.mean())) / spread)


def drifts(contents: Sequence[Content], runs: Sequence[Run]) -> dict[str, Shift]:
    """What can be said of inputs, tool mix and rewards; both arguments oldest first."""
    alone = [content for content in contents if content.control]
    control = [float(run.success) for run in runs if run.control]
    found = {
        "inputs": _shift(contents, _features, RECENT, EARLIER),
        "tools": _shift(alone, _calls, RECENT_CONTROL, EARLIER_CONTROL),
        "rewards": _shift(control, _column, RECENT_CONTROL, EARLIER_CONTROL),
    }
    return {name: one for name, one in found.items() if one is not None}


def _shift(
    items: Sequence[T], vectors: Callable[[Sequence[T]], Vectors], recent: int, earlier: int
) -> Shift | None:
    if len(items) < recent + earlier:
        return None
    window = items[-recent - earlier :]
    made = vectors(window)
    return shift(made[:earlier], made[earlier:])


def _column(values: Sequence[float]) -> Vectors:
    return np.array(values, np.float64)[:, None]


def _features(contents: Sequence[Content]) -> Vectors:
    """Embeddings; where there are none, the hashed n-grams in fewer buckets, of length 1."""
    if all(content.features.embedding for content in contents):
        vectors = [
            np.frombuffer(c.features.embedding, np.int8) * float(c.features.embedding_scale)
            for c in contents
        ]
        if len({len(vector) for vector in vectors}) == 1:
            return np.stack(vectors).astype(np.float64)
    return np.stack([_grams(content.features) for content in contents])


def _grams(features: decision_pb2.TaskFeatures) -> Vectors:
    vector = np.zeros(_BUCKETS)
    weights = np.frombuffer(features.quantised, np.uint8).astype(np.float64)
    np.add.at(vector, np.array(features.index, np.int64) % _BUCKETS, weights)
    length = float(np.linalg.norm(vector))
    return vector / length if length else vector


def _calls(contents: Sequence[Content]) -> Vectors:
    names = sorted({name for content in contents for name in content.called})
    column = {name: i for i, name in enumerate(names)}
    made = np.zeros((len(contents), max(1, len(names))))
    for row, content in enumerate(contents):
        for name in content.called:
            made[row, column[name]] += 1.0
    return made
