"""A BERT encoder (post-layer-norm, exact GELU, mean pooling) on numpy, one text at a time.

At these sizes the calls into numpy cost as much as the arithmetic, so weights are transposed, fused
and scaled once at load, and temporaries are reused in place. Shapes: T tokens, W width, H heads,
D = W/H.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentgym.errors import EncoderError
from agentgym.policy.encoder.artefact import Artefact
from agentgym.policy.encoder.wordpiece import WordPiece

Floats = NDArray[np.floating[Any]]

_TINY = np.float32(1e-30)
_FAST = 2**18  # layers · width² of an encoder that needs about a millisecond for a short text


@dataclass(frozen=True, slots=True)
class _Linear:
    weight: Floats  # (in, out), contiguous: the transpose of the file's
    bias: Floats

    def __call__(self, x: Floats) -> Floats:
        y = product(x, self.weight)
        y += self.bias
        return y


@dataclass(frozen=True, slots=True)
class _Norm:
    weight: Floats
    bias: Floats
    eps: np.float32

    def __call__(self, x: Floats) -> Floats:
        """Layer norm over the last axis, in place."""
        width = np.float32(x.shape[1])
        x -= np.add.reduce(x, axis=1, keepdims=True) / width
        variance = np.einsum("tw,tw->t", x, x)
        variance /= width
        variance += self.eps
        np.sqrt(variance, out=variance)
        x /= variance[:, None]
        x *= self.weight
        x += self.bias
        return x


@dataclass(frozen=True, slots=True)
class _Layer:
    heads: int
    qkv: _Linear  # the queries' part already divided by √D
    out: _Linear
    norm1: _Norm
    up: _Linear
    down: _Linear
    norm2: _Norm

    def __call__(self, x: Floats) -> Floats:
        y = self.out(self._attend(x))
        y += x
        x = self.norm1(y)
        y = self.down(gelu(self.up(x)))
        y += x
        return self.norm2(y)

    def _attend(self, x: Floats) -> Floats:
        tokens, width = x.shape
        depth = width // self.heads
        qkv = self.qkv(x).reshape(tokens, 3, self.heads, depth)
        query, key, value = qkv.transpose(1, 2, 0, 3)  # each (H, T, D)
        mixed = np.empty((tokens, self.heads, depth), x.dtype)
        into = mixed.transpose(1, 0, 2)
        height = max(1, (_ALONE - 1) // (tokens * depth))  # see `product`
        for top in range(0, tokens, height):
            scores = query[:, top : top + height] @ key.transpose(0, 2, 1)  # (H, ≤ T, T)
            scores -= np.maximum.reduce(scores, axis=2, keepdims=True)
            np.exp(scores, out=scores)
            scores /= np.add.reduce(scores, axis=2, keepdims=True)
            np.matmul(scores, value, out=into[:, top : top + height])
        return mixed.reshape(tokens, width)


class Encoder:
    """A text as a vector of unit length; safe to share between threads.

    Pure in the text on one machine; another machine's linear algebra may differ in the last bits,
    which `exactly` moves out of sight.
    """

    def __init__(self, artefact: Artefact) -> None:
        config = artefact.config
        self.name = config.name
        self.sha256 = artefact.sha256
        self.dim = config.output
        # Whether a short text takes more than about a millisecond.
        self.slow: bool = config.layers * config.width**2 > _FAST
        self._tokens = WordPiece(artefact.vocab, config.max_tokens)
        # Copies, so that the file's bytes need not stay in memory.
        self._table = artefact.tensors["embed.token"].copy()
        scale = artefact.tensors.get("embed.token.scale")
        self._scale = None if scale is None else scale.astype(np.float32)
        self._up = _optional_linear(artefact, "embed.up")
        self._position = artefact.dense("embed.position")
        self._norm = _norm(artefact, "embed.norm")
        self._layers = [_layer(artefact, f"layer.{i}") for i in range(config.layers)]
        self._head = _optional_linear(artefact, "head")
        with np.errstate(all="ignore"):
            if not np.isfinite(self("a text to see whether the numbers hold")).all():
                raise EncoderError(f"encoder {self.name!r} gives numbers that are not finite")

    def __call__(self, text: str) -> NDArray[np.float32]:
        """The vector of a text, shape (dim,)."""
        return self._encode(text, np.float32)

    def exactly(self, text: str) -> NDArray[np.float64]:
        """The vector computed in float64, so that it quantises alike on every machine; slower."""
        return self._encode(text, np.float64)

    def _encode(self, text: str, dtype: type[np.floating[Any]]) -> NDArray[Any]:
        # The weights stay float32: products with a float64 vector are float64.
        x = self._embed(np.array(self._tokens(text), np.intp), dtype)
        for layer in self._layers:
            x = layer(x)
        pooled = np.add.reduce(x, axis=0, keepdims=True)
        pooled /= len(x)
        y: Floats = (pooled if self._head is None else self._head(pooled))[0]
        y /= max(np.sqrt(y.dot(y)), _TINY)
        return y

    def encode_many(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """The vectors of many texts, shape (texts, dim), bit by bit what each gets alone."""
        rows = [self(text) for text in texts]
        return np.stack(rows) if rows else np.zeros((0, self.dim), np.float32)

    def _embed(self, ids: NDArray[np.intp], dtype: type[np.floating[Any]]) -> Floats:
        x: Floats = self._table[ids].astype(dtype, copy=False)
        if self._scale is not None:
            x *= self._scale[ids]
        if self._up is not None:
            x = self._up(x)
        x += self._position[: len(ids)]
        return self._norm(x)


_ALONE = 2**19  # multiplications; OpenBLAS starts a second thread at this many
_ROWS, _COLUMNS = 16, 16


def product(x: Floats, weight: Floats) -> Floats:
    """x·weight in tiles so small that the linear algebra works on them in the calling thread.

    On a busy machine a product of microseconds otherwise waits milliseconds for its second thread;
    the host's own setting for threads is not ours to change.
    """
    rows, inner = x.shape
    columns = weight.shape[1]
    if rows * inner * columns < _ALONE:
        y: Floats = x @ weight
        return y
    y = np.empty((rows, columns), x.dtype)
    height = rows if rows * inner * _COLUMNS < _ALONE else _ROWS
    breadth = max(_COLUMNS, (_ALONE - 1) // (height * inner) // _COLUMNS * _COLUMNS)
    for top in range(0, rows, height):
        part, into = x[top : top + height], y[top : top + height]
        for left in range(0, columns, breadth):
            right = left + breadth
            np.matmul(part, weight[:, left:right], out=into[:, left:right])
    return y


# erfc(z) = (Σ aᵢ zⁱ)^-16 within 3e-7 for z ≥ 0 (Abramowitz and Stegun, 1964, 7.1.28), here with
# z = |x|/√2, and with the ½ of ½·|x|·erfc(z) inside the power.
_ERFC = (1.0, 0.0705230784, 0.0422820123, 0.0092705272, 0.0001520143, 0.0002765672, 0.0000430638)
_GELU = tuple(np.float32(a * 2 ** (1 / 16 - i / 2)) for i, a in enumerate(_ERFC))
_ZERO, _FAR = np.float32(0), np.float32(6)


def gelu(x: Floats) -> Floats:
    """x·Φ(x) = max(x, 0) − ½·|x|·erfc(|x|/√2) in place, within 1e-6."""
    tail = np.abs(x)
    np.minimum(tail, _FAR, out=tail)  # beyond it the tail is 0 and the power would overflow
    power = tail * _GELU[6]
    for a in _GELU[5:0:-1]:
        power += a
        power *= tail
    power += _GELU[0]
    for _ in range(4):
        power *= power
    tail /= power
    np.maximum(x, _ZERO, out=x)
    x -= tail
    return x


def _layer(artefact: Artefact, name: str) -> _Layer:
    config = artefact.config
    qkv = _linear(artefact, f"{name}.qkv")
    shrink = np.float32((config.width / config.heads) ** -0.5)
    qkv.weight[:, : config.width] *= shrink
    qkv.bias[: config.width] *= shrink
    return _Layer(
        heads=config.heads,
        qkv=qkv,
        out=_linear(artefact, f"{name}.out"),
        norm1=_norm(artefact, f"{name}.norm1"),
        up=_linear(artefact, f"{name}.up"),
        down=_linear(artefact, f"{name}.down"),
        norm2=_norm(artefact, f"{name}.norm2"),
    )


def _linear(artefact: Artefact, name: str) -> _Linear:
    weight = np.ascontiguousarray(artefact.dense(f"{name}.weight").T)
    return _Linear(weight, artefact.dense(f"{name}.bias"))


def _optional_linear(artefact: Artefact, name: str) -> _Linear | None:
    return _linear(artefact, name) if f"{name}.weight" in artefact.tensors else None


def _norm(artefact: Artefact, name: str) -> _Norm:
    eps = np.float32(artefact.config.layer_norm_eps)
    return _Norm(artefact.dense(f"{name}.weight"), artefact.dense(f"{name}.bias"), eps)
