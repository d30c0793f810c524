"""all-MiniLM-L6-v2 in plain torch, and the shards of its outputs that the student learns from.

    python teacher.py --model DIR --out shards reference.tsv requests.tsv

A shard holds texts sorted by length, back to back: their token numbers in the student's vocabulary,
their lengths, and the teacher's last hidden state of every token as int8 with a scale per token.
"""

# ruff: noqa: T201 -- a maintainer's script prints
from __future__ import annotations

import argparse
import time
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

MAX_TOKENS = 128
SHARD = 16_384
TOKENS_PER_BATCH = 3_072
HELD_OUT = 100  # one text in so many is kept for the evaluation


class Teacher:
    """The teacher's weights in bfloat16 (mean cosine to float32: above .9999) and its tokeniser."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
        weights = load_file(str(folder / "model.safetensors"))
        self.weights = {k: v.to(dtype) for k, v in weights.items() if v.is_floating_point()}
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.no_padding()

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(
            x, (384,), self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], 1e-12
        )

    @torch.no_grad()
    def states(self, ids: Tensor) -> Tensor:
        """(texts, tokens) of equal length -> float32 (texts, tokens, 384)."""
        table = self.weights
        x = table["embeddings.word_embeddings.weight"][ids]
        x = x + table["embeddings.position_embeddings.weight"][: ids.shape[1]]
        x = self._norm(
            x + table["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm"
        )
        texts, tokens, _ = x.shape
        for layer in range(6):
            name = f"encoder.layer.{layer}."
            query, key, value = (
                self._linear(x, f"{name}attention.self.{part}")
                .view(texts, tokens, 12, 32)
                .transpose(1, 2)
                for part in ("query", "key", "value")
            )
            # Written out: faster than torch's fused attention for texts this short.
            mixed = (query @ key.transpose(-1, -2) * 32**-0.5).softmax(-1) @ value
            mixed = mixed.transpose(1, 2).reshape(texts, tokens, 384)
            x = self._norm(
                x + self._linear(mixed, f"{name}attention.output.dense"),
                f"{name}attention.output.LayerNorm",
            )
            inner = functional.gelu(self._linear(x, f"{name}intermediate.dense"))
            x = self._norm(
                x + self._linear(inner, f"{name}output.dense"), f"{name}output.LayerNorm"
            )
        return x.float()


def kept_vocabulary(folder: Path) -> tuple[list[str], np.ndarray]:
    """The tokens the student keeps, and (teacher's vocabulary,) -> student's number or -1."""
    tokens = (folder / "vocab.txt").read_text("utf-8").split("\n")
    tokens = tokens[: len(tokens) - (tokens[-1] == "")]
    special = {"[UNK]", "[CLS]", "[SEP]"}
    printable = {*map(chr, range(0x21, 0x7F)), *"£€°–—‘’“”•…"}
    kept: list[str] = []
    number = np.full(len(tokens), -1, np.int32)
    for at, token in enumerate(tokens):
        plain = set(token.removeprefix("##")) <= printable and not (
            token.startswith("[") and token.endswith("]") and len(token) > 2
        )
        if token in special or plain:
            number[at] = len(kept)
            kept.append(token)
    return kept, number


def held_out(text: str) -> bool:
    """Whether the text belongs to the evaluation and is never trained on."""
    return zlib.crc32(text.encode()) % HELD_OUT == 0


def shards(path: Path) -> Iterator[list[str]]:
    """The training texts of a ``source<TAB>text`` file, ``SHARD`` at a time."""
    chunk: list[str] = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            text = line.rstrip("\n").split("\t", 1)[1]
            if not held_out(text):
                chunk.append(text)
            if len(chunk) == SHARD:
                yield chunk
                chunk = []


def encode(teacher: Teacher, texts: list[str], number: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of one shard; texts with a token that the student lacks are left out."""
    encoded = [x.ids for x in teacher.tokenizer.encode_batch(texts)]
    encoded = sorted((x for x in encoded if (number[x] >= 0).all()), key=len)
    states, scales = [], []
    at = 0
    while at < len(encoded):
        length = len(encoded[at])
        end = at
        while end < min(at + TOKENS_PER_BATCH // length, len(encoded)):
            if len(encoded[end]) != length:
                break
            end += 1
        state = teacher.states(torch.tensor(encoded[at:end])).reshape(-1, 384)
        scale = state.abs().amax(1, keepdim=True) / 127
        states.append((state / scale).round().to(torch.int8).numpy())
        scales.append(scale.half().numpy())
        at = end
    return {
        "ids": number[np.concatenate([np.array(x) for x in encoded])].astype(np.uint16),
        "lengths": np.array([len(x) for x in encoded], np.uint8),
        "states": np.concatenate(states),
        "scales": np.concatenate(scales),
    }


def main() -> None:
    """Write shards, taken from the files in turn, until the texts or the time are used up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="shards of each file to skip")
    parser.add_argument("--limit", type=int, default=1_000)
    parser.add_argument("files", type=Path, nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    teacher = Teacher(options.model)
    _, number = kept_vocabulary(options.model)
    started = time.monotonic()
    streams = [(p.stem, islice(shards(p), options.first, None)) for p in options.files]
    count = options.first
    while streams and time.monotonic() - started < options.minutes * 60 and count < options.limit:
        name, stream = streams.pop(0)
        chunk = next(stream, None)
        if chunk is None:
            continue
        streams.append((name, stream))
        for key, array in encode(teacher, chunk, number).items():
            np.save(options.out / f"{name}-{count:04d}.{key}.npy", array)
        (options.out / f"{name}-{count:04d}.done").touch()  # readers wait for it
        count += 1
        print(f"{time.monotonic() - started:.0f} s: shard {count} ({name})", flush=True)


if __name__ == "__main__":
    main()
