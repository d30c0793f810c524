"""An encoder's file is loaded whole and unchanged, or not at all."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agentgym.errors import EncoderError
from agentgym.policy.encoder import artefact, container
from agentgym.policy.encoder.artefact import EncoderConfig, digest, dump, parse, quantise_rows
from agentgym.policy.encoder.transformer import Encoder

Tensors = dict[str, NDArray[Any]]
MakeTensors = Callable[[EncoderConfig], Tensors]
MakeFile = Callable[..., bytes]


def refused(metadata: Mapping[str, str], tensors: Tensors, match: str) -> None:
    """Even with a hash that fits: what the file says must hold by itself."""
    data = container.write(metadata, tensors)
    with pytest.raises(EncoderError, match=match):
        parse(data, digest(data))


def test_what_was_dumped_is_parsed(
    config: EncoderConfig, vocab: tuple[str, ...], make_tensors: MakeTensors
) -> None:
    tensors = make_tensors(config)

    data = dump(config, vocab, tensors)
    loaded = parse(data, digest(data))

    assert (loaded.config, loaded.vocab, loaded.sha256) == (config, vocab, digest(data))
    assert loaded.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert np.array_equal(loaded.dense(name), tensor)


def test_the_same_encoder_has_one_spelling(make_file: MakeFile) -> None:
    assert make_file() == make_file()
    assert make_file() != make_file(name="other")


def test_maps_that_change_no_size_may_be_absent_or_there(
    config: EncoderConfig, vocab: tuple[str, ...], make_file: MakeFile, make_tensors: MakeTensors
) -> None:
    data = make_file(embedding=config.width, output=config.width)
    loaded = parse(data, digest(data))
    assert not {"embed.up.weight", "head.weight"} & loaded.tensors.keys()

    tensors = dict(loaded.tensors)
    tensors["head.weight"] = np.eye(config.width, dtype=np.float32)
    tensors["head.bias"] = np.zeros(config.width, np.float32)
    with_head = dump(loaded.config, vocab, tensors)
    assert "head.bias" in parse(with_head, digest(with_head)).tensors
    np.testing.assert_allclose(
        Encoder(parse(with_head, digest(with_head)))("the order"),
        Encoder(loaded)("the order"),
        atol=1e-6,
    )


def test_quantised_rows_are_within_half_a_step() -> None:
    tensor = np.random.default_rng(3).normal(0, [[1e-3], [1], [50], [0]], (4, 200))

    quantised, scale = quantise_rows(tensor)

    assert (quantised.dtype, scale.dtype, scale.shape) == (np.int8, np.float16, (4, 1))
    step = scale.astype(np.float64)
    # the scale's own rounding costs the largest number of a row a little more
    assert np.all(np.abs(quantised * step - tensor) <= 0.57 * step)
    assert not quantised[3].any()


def test_int8_tensors_come_back_with_their_scale(
    config: EncoderConfig, vocab: tuple[str, ...], make_tensors: MakeTensors
) -> None:
    tensors = make_tensors(config)
    plain = tensors["embed.token"]
    tensors["embed.token"], tensors["embed.token.scale"] = quantise_rows(plain)

    data = dump(config, vocab, tensors)
    loaded = parse(data, digest(data))

    assert loaded.tensors["embed.token"].dtype == np.int8
    assert 0 < np.abs(loaded.dense("embed.token") - plain).max() < 0.01


def test_no_changed_byte_is_loaded(make_file: MakeFile) -> None:
    data, rng = make_file(), random.Random(5)
    sha256 = digest(data)
    for i in rng.sample(range(len(data)), 300):
        changed = bytearray(data)
        changed[i] ^= 1 << rng.randrange(8)
        with pytest.raises(EncoderError, match="it was changed"):
            parse(bytes(changed), sha256)


def test_a_changed_file_with_a_fitting_hash_is_an_encoder_or_an_encoder_error(
    make_file: MakeFile,
) -> None:
    """Whatever a header or a number turns into, nothing else is raised."""
    data, rng = make_file(), random.Random(6)
    end = 8 + int.from_bytes(data[:8], "little")
    refusals = 0
    for _ in range(1500):
        changed = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            changed[rng.randrange(end + 200)] = rng.randrange(256)
        try:
            Encoder(parse(bytes(changed), digest(bytes(changed))))
        except EncoderError:
            refusals += 1
    assert refusals > 500


def test_a_truncated_or_longer_file_is_refused(make_file: MakeFile) -> None:
    data = make_file()
    for changed in (data[:0], data[:100], data[: len(data) // 2], data[:-1], data + b"\0"):
        with pytest.raises(EncoderError, match=r"cut off|too many"):
            parse(changed, digest(changed))


def test_a_file_above_the_cap_is_not_even_hashed(
    make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_file()
    monkeypatch.setattr(container, "MAX_BYTES", 10)

    with pytest.raises(EncoderError, match="at most 10"):
        parse(data, "")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"name": ""}, "has name ''"),
        ({"name": "two\nlines"}, "not a name"),
        ({"name": 3}, "not a name"),
        ({"made_from": None}, "made_from"),
        ({"layers": -1}, "layers -1, expected 0 to 64"),
        ({"layers": 65}, "layers 65"),
        ({"layers": True}, "layers True"),
        ({"layers": 2.0}, "layers 2.0"),
        ({"width": 10**9}, "width 1000000000"),
        ({"heads": 5}, "no multiple of 5 heads"),
        ({"heads": 0}, "heads 0"),
        ({"max_tokens": 1}, "max_tokens 1"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps 0.0"),
        ({"layer_norm_eps": 1}, "layer_norm_eps 1"),
        ({"lowercase": False}, "lowercase off"),
        ({"lowercase": 1}, "lowercase off"),
        ({"extra": 1}, "nothing else"),
        ({"width": 48}, r"embed\.norm\.\w+ has shape \(24,\), expected \(48,\)"),
        ({"layers": 1}, "too many"),
        ({"layers": 3}, r"lacks the tensors \['layer.2"),
        ({"output": 19}, r"head\.\w+ has shape"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    make_file: MakeFile, changes: dict[str, Any], match: str
) -> None:
    metadata, tensors = container.read(make_file())
    config = json.loads(metadata["config"]) | changes

    refused(metadata | {"config": artefact._canonical(config)}, tensors, match)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format": "agentgym-encoder-2"}, "format 'agentgym-encoder-2'"),
        ({"more": ""}, "metadata"),
        ({"config": "{"}, "unreadable config"),
        ({"config": "[" * 100_000}, "unreadable config"),
        ({"config": '{"layer_norm_eps":NaN}'}, "unreadable config"),
        ({"config": "[]"}, "nothing else"),
        ({"vocab": ""}, "empty token"),
        ({"vocab": "[CLS]\n[SEP]\n[UNK]\na\na"}, "one token twice"),
        ({"vocab": "[CLS]\n[SEP]\na"}, r"lacks \['\[UNK\]'\]"),
        ({"vocab": "[CLS]\n[SEP]\n[UNK]"}, r"embed.token has shape"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(
    make_file: MakeFile, changes: dict[str, str], match: str
) -> None:
    metadata, tensors = container.read(make_file())

    refused(metadata | changes, tensors, match)


def test_a_config_of_another_spelling_is_refused(make_file: MakeFile) -> None:
    metadata, tensors = container.read(make_file())
    spaced = json.dumps(json.loads(metadata["config"]), sort_keys=True)

    refused(metadata | {"config": spaced}, tensors, "canonically")


def without(name: str) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.pop(name)


def replaced(name: str, change: Callable[[Any], Any]) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.update({name: change(tensors.get(name))})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (without("embed.token"), r"lacks the tensors \['embed.token'\]"),
        (without("embed.up.bias"), r"lacks the tensors \['embed.up.bias'\]"),
        (replaced("other", lambda _: np.zeros(1, np.float32)), r"\['other'\] too many"),
        (replaced("head.bias", lambda t: t[:-1]), "head.bias has shape"),
        (replaced("head.bias", lambda t: t.astype(np.int64)), "type int64"),
        (replaced("head.bias", lambda t: t.astype(np.int8)), "head.bias.scale"),
        (replaced("head.weight", lambda t: t.astype(np.int8)), "head.weight.scale"),
        (replaced("head.bias", lambda t: t * np.float32("nan")), "head.bias .* not finite"),
        (
            replaced("layer.1.up.bias", lambda t: np.full(t.shape, np.inf, np.float16)),
            "layer.1.up.bias .* not finite",
        ),
        (replaced("head.weight.scale", lambda _: np.ones((20, 1), np.float16)), "too many"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    make_file: MakeFile, change: Callable[[Tensors], Any], match: str
) -> None:
    metadata, tensors = container.read(make_file())
    change(tensors)

    refused(metadata, tensors, match)


@pytest.mark.parametrize(
    ("scale", "match"),
    [
        (np.ones((20, 1), np.float32), "type float32"),
        (np.ones((20,), np.float16), "has shape"),
        (np.full((20, 1), np.nan, np.float16), "not finite"),
    ],
)
def test_scales_that_do_not_fit_are_refused(
    make_file: MakeFile, scale: NDArray[Any], match: str
) -> None:
    metadata, tensors = container.read(make_file())
    tensors["head.weight"] = tensors["head.weight"].astype(np.int8)
    tensors["head.weight.scale"] = scale

    refused(metadata, tensors, rf"head.weight.scale .*{match}")


def test_half_of_an_optional_map_is_refused(config: EncoderConfig, make_file: MakeFile) -> None:
    metadata, tensors = container.read(make_file(output=config.width))
    tensors["head.bias"] = np.zeros(config.width, np.float32)

    refused(metadata, tensors, "not both")


def test_nothing_is_dumped_that_could_not_be_parsed(
    config: EncoderConfig, vocab: tuple[str, ...], make_tensors: MakeTensors
) -> None:
    with pytest.raises(EncoderError, match="lacks"):
        dump(config, vocab[4:], make_tensors(config))
