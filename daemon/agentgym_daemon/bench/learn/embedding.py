"""Vectors of all texts of a set, computed once by `main` and read by every run of it.

Encoding is the same work for each learner and each seed, and none of it is learning; what it costs
an agent, `bench decision` measures. A text that the file lacks is encoded when it comes. The peer
may import this in an interpreter of its own: it needs numpy and the plugin's encoder, no more.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agentgym.policy.encoder import artefact
from agentgym.policy.encoder.transformer import Encoder
from agentgym.policy.features import tool_text

ENCODER_ENV = "AGENTGYM_BENCH_ENCODER_FILE"
VECTORS_ENV = "AGENTGYM_BENCH_VECTORS"

Floats = NDArray[np.float32]


class Vectors:
    """Embeddings by text, from the file of a set where it has them."""

    def __init__(self, encode: Callable[[str], Floats], path: Path | None = None) -> None:
        self._encode = encode
        self._known: dict[bytes, Floats] = {}
        if path is not None:
            with np.load(path) as file:
                keys, values = file["keys"], file["values"]
            self._known = {key.tobytes(): value for key, value in zip(keys, values, strict=True)}

    def __call__(self, text: str) -> Floats:
        """The embedding of a text, shape (E,)."""
        key = _key(text)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = np.asarray(self._encode(text), np.float32)
        return known

    def save(self, path: Path) -> None:
        """Writes all that is known, in one piece."""
        keys = np.array([np.frombuffer(key, np.uint8) for key in self._known])
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        with part.open("wb") as file:
            np.savez(file, keys=keys, values=np.array(list(self._known.values())))
        part.replace(path)


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()


@cache
def vectors() -> Vectors:
    """What the environment names: the encoder's file, and the file of vectors."""
    data = Path(os.environ[ENCODER_ENV]).read_bytes()
    path = os.environ.get(VECTORS_ENV)
    encoder = Encoder(artefact.parse(data, artefact.digest(data)))
    return Vectors(encoder, Path(path) if path else None)


def encode(texts: Sequence[str]) -> Floats:
    """Embeddings, shape (N, E): the function for the referee's ARENA_EMBED."""
    return np.array([vectors()(text) for text in texts], np.float32)


def main(argv: Sequence[str] | None = None) -> int:
    """Encodes a set: its tasks, and its tools as our learner says them and as the peer does."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--arena", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    sys.path.insert(0, str(options.arena))
    data = importlib.import_module("world").load(options.data)
    known = vectors()
    for text in data.texts:
        known(text)
    for tool in data.tools:
        known(tool_text(tool.name, tool.description))
        known(f"{tool.name}: {tool.description}")
    known.save(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
