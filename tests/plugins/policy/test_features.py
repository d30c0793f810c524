"""Feature schema 1: pure in (key, text), quantised before use."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agentgym.policy.features import DIM, SparseVector, TextHasher, tool_text

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
    assert isinstance(TextHasher(b"key")("bad \ud800 text"), SparseVector)
