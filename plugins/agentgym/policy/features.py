"""What a text is to the policy: keyed hashed n-grams, and an embedding where there is an encoder.

n-grams (words, word pairs, character 4-grams) tell tools apart that the agent confuses; the
embedding says what means the same. Both are quantised first, and everything is decided from the
dequantised numbers, so that the daemon recomputes exactly what the agent computed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from agentgym.policy.background import Background

if TYPE_CHECKING:
    from agentgym.policy.encoder.transformer import Encoder

GRAMS_ONLY = 1
"""Feature schema without an embedding; each encoder has a schema number of its own."""
DIM = 2048
"""Number of hash buckets."""

_MAX_CHARS = 8192  # a longer task adds nothing to the choice of a tool, only time
_MAX_CACHED_WORDS = 50_000
_MAX_CACHED_TEXTS = 1_000
_SHORT = 400  # characters; a longer text takes even a fast encoder milliseconds
_WORD = re.compile(r"[a-z0-9']+")
_DIGIT = re.compile(r"\d")
_WORD_WEIGHT, _PAIR_WEIGHT, _CHAR_WEIGHT, _STOP_WEIGHT = 1.0, 0.7, 0.4, 0.25
_STOP_WORDS = frozenset(
    """a an are as at be been but by can could do does did for from had has have he her hi him
    his hello hey how i if in into is it its just me my of on or our please she so some that the
    their them there these they this to up us was we were what when which will with would you
    your i'm it's i'd i've don't thanks thank""".split()  # noqa: SIM905 - a list reads worse
)


@dataclass(frozen=True, slots=True)
class Embedding:
    """e = scale * quantised / 127, of length about 1."""

    quantised: NDArray[np.int8]
    scale: float

    def values(self) -> NDArray[np.float64]:
        """The dequantised vector, shape (E,)."""
        return self.quantised.astype(np.float64) * (self.scale / 127.0)


@dataclass(frozen=True, slots=True)
class TextVector:
    """n-grams x[index] = scale * quantised / 255, all other entries 0; and the embedding.

    `index` ascends.
    """

    index: NDArray[np.uint32]
    quantised: NDArray[np.uint8]
    scale: float
    embedding: Embedding | None = None

    def values(self) -> NDArray[np.float64]:
        """The dequantised n-grams, aligned with `index`."""
        return self.quantised.astype(np.float64) * (self.scale / 255.0)

    def dense(self) -> NDArray[np.float64]:
        """All n-grams, shape (DIM,)."""
        x = np.zeros(DIM)
        x[self.index] = self.values()
        return x


class TextHasher:
    """Hashes texts into buckets under one installation's key; results are pure in (key, text)."""

    def __init__(self, key: bytes) -> None:
        self._key = key[:64]
        self._words: dict[str, tuple[tuple[int, float], ...]] = {}

    def __call__(self, text: str) -> TextVector:
        """The unit-length feature vector of a text; an empty text gives an empty vector."""
        weights: dict[int, float] = defaultdict(float)
        # An order number says that there is one, not which tool to take: every digit reads as 0.
        words = _WORD.findall(_DIGIT.sub("0", text[:_MAX_CHARS].lower()))
        for word in words:
            for bucket, weight in self._word(word):
                weights[bucket] += weight
        for first, second in pairwise(words):
            if first not in _STOP_WORDS or second not in _STOP_WORDS:
                weights[self._bucket(f"{first} {second}")] += _PAIR_WEIGHT
        return _quantise(weights)

    def pseudonym(self, name: str) -> str:
        """A name as 16 hex digits that nobody without the installation's key can tie to it."""
        name_bytes = name.encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, name_bytes, "sha256")[:8].hex()

    def _word(self, word: str) -> tuple[tuple[int, float], ...]:
        known = self._words.get(word)
        if known is None:
            if len(self._words) >= _MAX_CACHED_WORDS:
                self._words.clear()
            known = self._words[word] = self._hash_word(word)
        return known

    def _hash_word(self, word: str) -> tuple[tuple[int, float], ...]:
        if word in _STOP_WORDS:
            return ((self._bucket(word), _STOP_WEIGHT),)
        padded = f"<{word}>"
        grams = [padded[i : i + 4] for i in range(len(padded) - 3)]
        share = _CHAR_WEIGHT if len(grams) < 4 else 2 * _CHAR_WEIGHT / len(grams) ** 0.5
        return (
            (self._bucket(word), _WORD_WEIGHT),
            *((self._bucket("#" + gram), share) for gram in grams),
        )

    def _bucket(self, gram: str) -> int:
        digest = hashlib.blake2b(gram.encode("utf-8", "replace"), digest_size=4, key=self._key)
        return int.from_bytes(digest.digest(), "little") % DIM


def _quantise(weights: dict[int, float]) -> TextVector:
    if not weights:
        return TextVector(np.zeros(0, np.uint32), np.zeros(0, np.uint8), 0.0)
    index = np.array(sorted(weights), dtype=np.uint32)
    value = np.sqrt([weights[int(i)] for i in index])  # sublinear: a repeated word says little more
    value /= np.linalg.norm(value)
    top = float(value.max())
    quantised = np.rint(value / top * 255.0).astype(np.uint8)
    kept = quantised > 0
    # float32 on the wire: round before use, so that both sides see the same number
    return TextVector(index[kept], quantised[kept], float(np.float32(top)))


class Featuriser:
    """Texts as feature vectors of one schema; `encode` gives the embedding, if there is one.

    `slow` says that encoding a text takes more than about a millisecond.
    """

    def __init__(
        self,
        hasher: TextHasher,
        encode: Callable[[str], NDArray[np.floating[Any]]] | None = None,
        *,
        schema: int = GRAMS_ONLY,
        dim: int = 0,
        slow: bool = False,
        encode_exactly: Callable[[str], NDArray[np.floating[Any]]] | None = None,
    ) -> None:
        self.hasher = hasher
        self.schema = schema
        self.embedding_dim = dim
        self._encode = encode
        self._slow = slow
        self._encode_exactly = encode_exactly or encode
        self._recent: Background[TextVector] = Background(_MAX_CACHED_TEXTS)
        self._known: dict[str, TextVector] = {}

    @classmethod
    def of(cls, hasher: TextHasher, encoder: Encoder, schema: int) -> Self:
        """Features with an encoder."""
        return cls(
            hasher,
            encoder,
            schema=schema,
            dim=encoder.dim,
            slow=encoder.slow,
            encode_exactly=encoder.exactly,
        )

    @property
    def encodes(self) -> bool:
        """Whether texts get an embedding, which takes longer than hashing them."""
        return self._encode is not None

    def __call__(self, text: str) -> TextVector:
        """The features of a text."""
        if self._takes_long(text):
            return self._recent(text, lambda: self._compute(text)) or self._compute(text)
        return self._at_once(text)

    def within(self, text: str, timeout_s: float) -> TextVector | None:
        """The features of a text, or None if they take longer; then they are there later."""
        if self._takes_long(text):
            return self._recent(text, lambda: self._compute(text), timeout_s)
        return self._at_once(text)

    def _takes_long(self, text: str) -> bool:
        return self._slow or (self._encode is not None and len(text) > _SHORT)

    def _at_once(self, text: str) -> TextVector:
        # No lock: two threads may compute the same, and a fork cannot catch one locked.
        known = self._known.get(text)
        if known is None:
            if len(self._known) >= _MAX_CACHED_TEXTS:
                self._known = {}
            known = self._known[text] = self._compute(text)
        return known

    def exactly(self, text: str) -> TextVector:
        """The features of a tool's text, the same wherever they are computed.

        Those of a task travel with its decisions; a tool's are computed by agents and daemon alike,
        and a last bit of the linear algebra must not make two numbers of one.
        """
        vector = self.hasher(text)
        if self._encode_exactly is None:
            return vector
        return replace(vector, embedding=embedding(self._encode_exactly(text)))

    def _compute(self, text: str) -> TextVector:
        vector = self.hasher(text)
        if self._encode is None:
            return vector
        return replace(vector, embedding=embedding(self._encode(text)))


def embedding(vector: NDArray[np.floating[Any]]) -> Embedding:
    """The quantised form of an embedding; a vector of zeros stays one."""
    top = float(np.abs(vector).max(initial=0.0))
    if not top:
        return Embedding(np.zeros(len(vector), np.int8), 0.0)
    # float32 on the wire: round before use, so that both sides see the same number
    return Embedding(
        np.rint(vector.astype(np.float64) / top * 127.0).astype(np.int8), float(np.float32(top))
    )


def tool_text(name: str, description: str) -> str:
    """The text by which a tool enters the features."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").replace("-", " ")
    return f"{words} {description}"
