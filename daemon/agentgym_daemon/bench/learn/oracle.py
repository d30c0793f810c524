"""The ceiling of one set and seed, in a process of its own: labels of the referee's own stream.

    python -m agentgym_daemon.bench.learn.oracle --arena DIR --data FILE --episodes N --json FILE

What a learner finds out by trying, the classifier is told: the right tools of the stream's tasks,
each task once. It is judged on the referee's unseen queries.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agentgym.policy.features import TextHasher, tool_text
from agentgym_daemon.bench.learn import embedding
from agentgym_daemon.bench.learn.ceiling import GRAMS, Floats, Oracle, Texts, reliability

LABELS = 10_000
KEY = b"arena"


def measure(arena: Any, *, seed: int, encodes: bool) -> dict[str, float]:
    """Reliability per call and per task with the best tools forced, number of labels, CPU."""
    start = time.process_time()
    data, hasher = arena.data, TextHasher(KEY)
    gold = arena._gold[0]  # the world before any drift
    rows = list(dict.fromkeys(arena._stream))[:LABELS]

    def texts(of: Sequence[str]) -> Texts:
        vectors = embedding.encode(of) if encodes else np.zeros((len(of), 0), np.float32)
        return Texts(vectors, _grams(of, hasher))

    right = np.zeros((len(rows), len(data.tools)), np.float32)
    for i, row in enumerate(rows):
        right[i, list(gold[row])] = 1.0
    oracle = Oracle(
        texts([tool_text(tool.name, tool.description) for tool in data.tools]), several=data.multi
    )
    oracle.fit(texts([data.texts[row] for row in rows]), right, seed=seed)
    scores = oracle.scores(texts([data.texts[row] for row in arena._test]))
    figures = reliability(scores, [gold[row] for row in arena._test])
    return figures | {"labels": len(rows), "cpu_s": time.process_time() - start}


def _grams(texts: Sequence[str], hasher: TextHasher) -> Floats:
    """Hashed n-grams folded onto GRAMS buckets, rows of length 1."""
    folded = np.zeros((len(texts), GRAMS), np.float32)
    for row, text in zip(folded, texts, strict=True):
        vector = hasher(text)
        np.add.at(row, vector.index % GRAMS, vector.values())
    folded /= np.maximum(np.linalg.norm(folded, axis=1, keepdims=True), 1e-9)
    return folded


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("arena", "data", "json"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--episodes", type=int, required=True)
    parser.add_argument("--tools", type=int, default=0)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    sys.path.insert(0, str(options.arena))
    referee, world = (importlib.import_module(name) for name in ("arena", "world"))
    data = world.load(options.data, None, options.tools)
    arena = referee.Arena(data, options.seed, options.episodes, options.test)
    encodes = embedding.ENCODER_ENV in os.environ
    figures = measure(arena, seed=options.seed, encodes=encodes)
    options.json.write_text(json.dumps(figures), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
