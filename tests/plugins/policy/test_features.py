"""Features of a text: pure in (key, text), quantised before use, with an embedding or without."""

from __future__ import annotations

import threading
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgym.policy.features import (
    DIM,
    GRAMS_ONLY,
    Featuriser,
    TextHasher,
    TextVector,
    embedding,
    tool_text,
)

texts = st.text(max_size=200)


@given(texts, st.binary(min_size=1, max_size=80))
def test_the_vector_is_pure_in_key_and_text(text: str, key: bytes) -> None:
    warm = TextHasher(key)
    warm("another text first, so that its words are cached")

    fresh, again = TextHasher(key)(text), warm(text)

    assert fresh.index.tolist() == again.index.tolist()
    assert fresh.quantised.tolist() == again.quantised.tolist()
    assert fresh.scale == again.scale


@given(texts)
def test_a_vector_is_sorted_bounded_and_about_as_long_as_one(text: str) -> None:
    vector = TextHasher(b"key")(text)

    assert np.all(np.diff(vector.index.astype(np.int64)) > 0)
    assert np.all(vector.index < DIM)
    assert np.all(vector.quantised > 0)
    if len(vector.index):
        assert abs(np.linalg.norm(vector.values()) - 1) < 0.05


@given(texts)
def test_the_scale_survives_the_float32_of_the_wire(text: str) -> None:
    scale = TextHasher(b"key")(text).scale

    assert float(np.float32(scale)) == scale


def test_another_key_gives_other_buckets() -> None:
    text = "please send the parcel to my new address"

    one, other = TextHasher(b"one")(text), TextHasher(b"other")(text)

    shared = set(one.index.tolist()) & set(other.index.tolist())
    assert len(shared) < len(one.index) / 4


def test_an_empty_text_gives_an_empty_vector() -> None:
    vector = TextHasher(b"key")("  ?! ")

    assert vector.index.size == 0
    assert vector.dense().tolist() == [0.0] * DIM


def test_dense_and_sparse_hold_the_same_numbers() -> None:
    vector = TextHasher(b"key")("cancel my order")

    assert vector.dense()[vector.index].tolist() == vector.values().tolist()
    assert np.count_nonzero(vector.dense()) == len(vector.index)


def test_an_endless_text_costs_no_more_than_a_long_one() -> None:
    hasher = TextHasher(b"key")

    assert hasher("word " * 100_000).index.tolist() == hasher("word " * 2_000).index.tolist()


def test_the_word_cache_is_bounded() -> None:
    hasher = TextHasher(b"key")
    hasher._words = {f"w{i}": () for i in range(50_000)}

    hasher("fresh")

    assert set(hasher._words) == {"fresh"}


def test_tool_names_are_read_as_words() -> None:
    text = tool_text("refundOrder_by-id", "Pays back.")

    assert text == "refund Order by id Pays back."


def test_lone_surrogates_do_no_harm() -> None:
    assert isinstance(TextHasher(b"key")("bad \ud800 text"), TextVector)


def encode(text: str) -> np.ndarray:
    """A fake encoder: pure in the text, of unit length."""
    rng = np.random.default_rng(zlib.crc32(text.encode("utf-8", "replace")))
    vector = rng.normal(size=12).astype(np.float32)
    return vector / np.linalg.norm(vector)


class Encoder:
    """The fake encoder, counted and as slow as the test wants it."""

    def __init__(self, *, held: bool = False) -> None:
        self.texts: list[str] = []
        self.go = threading.Event()
        if not held:
            self.go.set()

    def __call__(self, text: str) -> np.ndarray:
        self.texts.append(text)
        assert self.go.wait(20)
        return encode(text)


def equal(a: TextVector | None, b: TextVector | None) -> bool:
    assert a is not None
    assert b is not None
    same = np.array_equal(a.dense(), b.dense())
    if a.embedding is None or b.embedding is None:
        return same and a.embedding is b.embedding
    return same and np.array_equal(a.embedding.values(), b.embedding.values())


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=64))
def test_an_embedding_is_within_half_a_step_of_its_vector(values: list[float]) -> None:
    vector = np.array(values, np.float32)

    made = embedding(vector)

    assert made.quantised.dtype == np.int8
    assert float(np.float32(made.scale)) == made.scale
    assert np.abs(made.values() - vector).max() <= made.scale / 254 * 1.001


def test_no_direction_is_an_embedding_of_zeros() -> None:
    made = embedding(np.zeros(5, np.float32))

    assert made.scale == 0.0
    assert made.values().tolist() == [0.0] * 5


def test_without_an_encoder_the_features_are_the_n_grams() -> None:
    hasher = TextHasher(b"key")
    features = Featuriser(hasher)

    assert (features.schema, features.embedding_dim, features.encodes) == (GRAMS_ONLY, 0, False)
    assert equal(features("cancel it"), hasher("cancel it"))
    assert equal(features.within("cancel it", 0.0), hasher("cancel it"))


def test_with_an_encoder_they_are_the_n_grams_and_the_embedding() -> None:
    hasher, encoder = TextHasher(b"key"), Encoder()
    features = Featuriser(hasher, encoder, schema=7, dim=12)

    made = features("cancel it")

    assert (features.schema, features.embedding_dim, features.encodes) == (7, 12, True)
    assert np.array_equal(made.dense(), hasher("cancel it").dense())
    assert made.embedding is not None
    assert np.array_equal(made.embedding.values(), embedding(encode("cancel it")).values())
    assert equal(features.within("cancel it", 0.0), made)


@pytest.mark.parametrize(("slow", "text"), [(True, "short"), (False, "long " * 100)])
def test_what_is_slow_is_waited_for_a_set_time_and_found_later(slow: bool, text: str) -> None:
    encoder = Encoder(held=True)
    features = Featuriser(TextHasher(b"key"), encoder, schema=7, dim=12, slow=slow)

    assert features.within(text, 0.0) is None
    encoder.go.set()

    whole = features(text)
    assert equal(features.within(text, 0.0), whole)
    assert encoder.texts == [text]


def test_a_short_text_of_a_fast_encoder_is_not_waited_for_elsewhere() -> None:
    threads = []

    def encoder(text: str) -> np.ndarray:
        threads.append(threading.current_thread())
        return encode(text)

    features = Featuriser(TextHasher(b"key"), encoder, schema=7, dim=12)

    assert features.within("short", 0.0) is not None
    assert threads == [threading.current_thread()]
