"""The encoder on numpy computes what torch computes with the same numbers."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from agentgym.errors import EncoderError
from agentgym.policy.encoder import transformer
from agentgym.policy.encoder.artefact import (
    Artefact,
    EncoderConfig,
    digest,
    dump,
    parse,
    quantise_rows,
)
from agentgym.policy.encoder.transformer import Encoder, gelu, product
from agentgym.policy.encoder.wordpiece import WordPiece

MakeFile = Callable[..., bytes]
TEXTS = ("", "refund the order", "Playing orders — now!", "zzz " * 30)


def load(data: bytes) -> Artefact:
    return parse(data, digest(data))


def in_torch(artefact: Artefact, text: str) -> NDArray[np.float32]:
    """The same encoder out of torch's own layers."""
    torch = pytest.importorskip("torch")
    config = artefact.config

    def tensor(name: str) -> Any:
        return torch.from_numpy(artefact.dense(name))

    def linear(x: Any, name: str) -> Any:
        if f"{name}.weight" not in artefact.tensors:
            return x
        return torch.nn.functional.linear(x, tensor(f"{name}.weight"), tensor(f"{name}.bias"))

    ids = WordPiece(artefact.vocab, config.max_tokens)(text)
    x = linear(tensor("embed.token")[ids], "embed.up") + tensor("embed.position")[: len(ids)]
    x = torch.nn.functional.layer_norm(
        x,
        (config.width,),
        tensor("embed.norm.weight"),
        tensor("embed.norm.bias"),
        config.layer_norm_eps,
    )
    theirs = {
        "self_attn.in_proj_": "qkv.",
        "self_attn.out_proj.": "out.",
        "linear1.": "up.",
        "linear2.": "down.",
        "norm1.": "norm1.",
        "norm2.": "norm2.",
    }
    for i in range(config.layers):
        layer = torch.nn.TransformerEncoderLayer(
            config.width,
            config.heads,
            config.intermediate,
            activation="gelu",
            layer_norm_eps=config.layer_norm_eps,
            batch_first=True,
        ).eval()
        layer.load_state_dict(
            {
                their + kind: tensor(f"layer.{i}.{our}{kind}")
                for their, our in theirs.items()
                for kind in ("weight", "bias")
            }
        )
        with torch.no_grad():
            x = layer(x[None])[0]
    y = linear(x.mean(0), "head")
    result: NDArray[np.float32] = torch.nn.functional.normalize(y, dim=0).numpy()
    return result


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layers": 0},
        {"heads": 1, "embedding": 24},
        {"output": 24},
        {"width": 128, "heads": 4, "intermediate": 512, "max_tokens": 64},
        {"width": 192, "heads": 6, "intermediate": 768, "max_tokens": 64},
    ],
    ids=str,
)
def test_vectors_are_those_of_torch(
    make_file: MakeFile, changes: dict[str, Any], text: str
) -> None:
    artefact = load(make_file(**changes))

    vector = Encoder(artefact)(text)

    assert (vector.dtype, vector.shape) == (np.float32, (artefact.config.output,))
    np.testing.assert_allclose(vector, in_torch(artefact, text), rtol=0, atol=1e-5)


@pytest.mark.parametrize("text", TEXTS)
def test_int8_and_half_precision_tensors_are_read_as_what_they_stand_for(
    config: EncoderConfig,
    vocab: tuple[str, ...],
    make_tensors: Callable[[EncoderConfig], dict[str, NDArray[Any]]],
    text: str,
) -> None:
    tensors = make_tensors(config)
    for name, tensor in list(tensors.items()):
        if tensor.ndim == 2 and name != "embed.position":
            tensors[name], tensors[f"{name}.scale"] = quantise_rows(tensor)
        else:
            tensors[name] = tensor.astype(np.float16)
    artefact = load(dump(config, vocab, tensors))

    encoder = Encoder(artefact)

    assert encoder._table.dtype == np.int8, "the table stays small in memory"
    np.testing.assert_allclose(encoder(text), in_torch(artefact, text), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def encoder(make_file: MakeFile) -> Encoder:
    return Encoder(load(make_file()))


@given(text=st.text(max_size=100))
def test_every_text_has_a_vector_of_length_one(encoder: Encoder, text: str) -> None:
    vector = encoder(text)

    assert (vector.dtype, vector.shape) == (np.float32, (encoder.dim,))
    assert abs(float(np.linalg.norm(vector)) - 1) < 1e-5


def test_an_encoder_says_what_it_is(make_file: MakeFile, encoder: Encoder) -> None:
    assert (encoder.name, encoder.dim) == ("tiny", 20)
    assert encoder.sha256 == digest(make_file())
    assert not encoder.slow


def test_many_texts_get_what_each_gets_alone(encoder: Encoder) -> None:
    rows = encoder.encode_many(iter(TEXTS))

    assert rows.shape == (len(TEXTS), encoder.dim)
    for text, row in zip(TEXTS, rows, strict=True):
        assert np.array_equal(row, encoder(text))
    assert encoder.encode_many([]).shape == (0, encoder.dim)


def test_threads_share_an_encoder(make_file: MakeFile, encoder: Encoder) -> None:
    texts = [f"order {i} the {i * 7}" for i in range(200)]
    alone = Encoder(load(make_file())).encode_many(texts)
    rows: list[Any] = [None] * 8

    def work(i: int) -> None:
        rows[i] = encoder.encode_many(texts)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(rows))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(np.array_equal(row, alone) for row in rows)


def test_words_and_their_order_matter(encoder: Encoder) -> None:
    one, other, swapped = encoder.encode_many(["refund the order", "play", "the order refund"])

    assert one @ other < 0.99
    assert one @ swapped < 0.9999


def test_what_lies_behind_the_last_token_does_not_matter(
    encoder: Encoder, config: EncoderConfig
) -> None:
    full = "the " * (config.max_tokens - 2)

    assert np.array_equal(encoder(full), encoder(full + "refund"))
    assert not np.array_equal(encoder(full), encoder(full[4:]))


def test_numbers_that_overflow_are_found_at_load(
    make_file: MakeFile, config: EncoderConfig, vocab: tuple[str, ...]
) -> None:
    tensors = dict(load(make_file()).tensors)
    tensors["head.weight"] = np.full_like(tensors["head.weight"], 3e38)
    artefact = load(dump(config, vocab, tensors))

    with pytest.raises(EncoderError, match="not finite"):
        Encoder(artefact)


def test_gelu_is_the_exact_one() -> None:
    x = np.concatenate([np.linspace(-12, 12, 20_001), [-1e30, -100, 0, 100, 1e30]])
    expected = [0.5 * v * math.erfc(-v / math.sqrt(2)) for v in x]

    got = gelu(x.astype(np.float32))

    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rows", [2, 14, 40, 300])
@pytest.mark.parametrize(("inner", "columns"), [(24, 72), (192, 768), (1536, 384), (384, 1100)])
def test_a_product_in_tiles_is_the_product(rows: int, inner: int, columns: int) -> None:
    rng = np.random.default_rng(rows)
    x = rng.normal(0, 1, (rows, inner)).astype(np.float32)
    weight = rng.normal(0, inner**-0.5, (inner, columns)).astype(np.float32)

    expected = x.astype(np.float64) @ weight.astype(np.float64)

    np.testing.assert_allclose(product(x, weight), expected, rtol=0, atol=1e-5)


def test_attention_in_tiles_is_attention(
    make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    artefact = load(make_file(max_tokens=64))
    text = "refund the order now please " * 9
    whole = Encoder(artefact)(text)

    monkeypatch.setattr(transformer, "_ALONE", 64 * 8 * 5 + 1)  # five queries at a time
    np.testing.assert_allclose(Encoder(artefact)(text), whole, rtol=0, atol=1e-6)
