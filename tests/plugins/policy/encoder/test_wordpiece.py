"""Word pieces are those of BERT's uncased tokeniser, whatever the text holds."""

from __future__ import annotations

import functools
import sys
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgym.policy.encoder import wordpiece
from agentgym.policy.encoder.wordpiece import WordPiece

SPECIAL = ("[UNK]", "[CLS]", "[SEP]")
ODD = (
    "",
    "   \t\n ",
    "Hello, World! It's 20°C — naïve café, Ünïcödé ÀÉÎÕÜ",
    "ΣΑΣ Σ ΟΔΥΣΣΕΥΣ İstanbul ẞtraße ŉ ǅ ﬁne ½ ²",
    "中文字符 mixed 漢字かな交じり文 한국어 텍스트 丽",
    "emoji 😀👍🏽 👩‍👩‍👧 flags 🇩🇪 a\u200bb\u00adc\ufeffd",
    "a\x00b\x01c\x0bd\x0ce\x1cf\x7fg\x85h\ufffdi\ue000j",
    "a\u00a0b\u2003c\u3000d\u2028e\u1680f\rg\r\nh",
    "e\u0301 o\u0308\u0323 a\u20ddb \u0301 x\u0345",
    "≠ ≮ ; ` «quoted» “so” ¿que? ¡sí! ‽ ٪ । 。、，！",
    "x" * 100 + " " + "x" * 101 + " " + "é" * 100,
    "unaffable_snake-case camelCase http://a.b/c?d=e&f=#g $1,234.56 50% <tag>",
    "word " * 600,
    "क्षत्रिय ภาษาไทย עִבְרִית العَرَبِيَّة Tiếng Việt",
)


@functools.cache
def settled() -> list[str]:
    """Characters that Unicode 3.2 knew as today: newer ones differ between Unicode's versions."""
    old = unicodedata.ucd_3_2_0
    every = (chr(code) for code in range(sys.maxunicode + 1))
    return [
        char
        for char in every
        if unicodedata.category(char) == old.category(char) not in ("Cn", "Co", "Cs")
        and unicodedata.decomposition(char) == old.decomposition(char)
        and not 0x3500 < ord(char) < 0x9F00  # some Chinese is enough
        and not 0xAD00 < ord(char) < 0xD700  # and some Korean
        and not 0x20100 < ord(char) < 0x2F800
    ]


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """A token for each character that can be left over, so that no difference hides in [UNK]."""
    decomposed = {c for char in settled() for c in unicodedata.normalize("NFD", char).lower()}
    lowered = {c.lower() for c in decomposed}
    single = sorted(c for c in decomposed | lowered if len(c) == 1 and not c.isspace())
    pieces = ("un", "##aff", "##able", "hello", "the", "##ing", "word")
    return (*SPECIAL, *pieces, *single, *(f"##{c}" for c in single))


@functools.cache
def theirs() -> Any:
    tokenizers = pytest.importorskip("tokenizers")
    ids = {token: i for i, token in enumerate(vocabulary())}
    model = tokenizers.models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return tokenizer


@functools.cache
def ours() -> WordPiece:
    return WordPiece(vocabulary(), 512)


def assert_same(text: str) -> None:
    expected = theirs().encode(text).tokens[:510]
    assert [vocabulary()[i] for i in ours()(text)] == ["[CLS]", *expected, "[SEP]"]


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_odd_texts_read_as_in_the_tokenizers_library(text: str) -> None:
    assert_same(text)


def test_every_settled_character_reads_as_in_the_tokenizers_library() -> None:
    texts = [f"a{char}b" for char in settled()]
    expected = theirs().encode_batch(texts)

    wrong = [
        text
        for text, encoding in zip(texts, expected, strict=True)
        if [vocabulary()[i] for i in ours()(text)][1:-1] != encoding.tokens
    ]

    assert len(texts) > 10_000
    assert wrong == []


@given(st.data())
def test_any_text_reads_as_in_the_tokenizers_library(data: st.DataObject) -> None:
    characters = st.one_of(st.characters(max_codepoint=127), st.sampled_from(settled()))
    assert_same(data.draw(st.text(characters, max_size=300)))


@pytest.mark.parametrize("text", [text for text in ODD if "丽" not in text])
def test_odd_texts_read_as_minilms_own_tokeniser_reads_them(
    text: str, minilm_directory: Path
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    library = tokenizers.Tokenizer.from_file(str(minilm_directory / "tokenizer.json"))
    library.no_padding()
    library.enable_truncation(256)
    tokens = (minilm_directory / "vocab.txt").read_text("utf-8").rstrip("\n").split("\n")

    assert WordPiece(tokens, 256)(text) == library.encode(text).ids


@given(st.text(st.characters(), max_size=400), st.integers(2, 40))
def test_any_text_gives_a_bounded_list_of_known_ids(text: str, max_tokens: int) -> None:
    """Lone surrogates and unassigned characters too."""
    vocab = vocabulary()

    ids = WordPiece(vocab, max_tokens)(text)

    assert 2 <= len(ids) <= max_tokens
    assert (vocab[ids[0]], vocab[ids[-1]]) == ("[CLS]", "[SEP]")
    assert all(0 <= i < len(vocab) for i in ids)


def test_a_long_text_keeps_its_first_pieces(vocab: tuple[str, ...]) -> None:
    short = WordPiece(vocab, 6)("playing the orders now")

    assert [vocab[i] for i in short] == ["[CLS]", "play", "##ing", "the", "order", "[SEP]"]


def test_a_text_cannot_spell_a_special_token(vocab: tuple[str, ...]) -> None:
    tokens = [vocab[i] for i in WordPiece(vocab, 20)("[SEP] [CLS]")]

    assert tokens == ["[CLS]", *"[", "s", "##e", "##p", *"][", "c", "##l", "##s", "]", "[SEP]"]


def test_results_do_not_depend_on_what_was_read_before(
    vocab: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wordpiece, "_MAX_CACHED_WORDS", 3)
    monkeypatch.setattr(wordpiece, "_MAX_CACHED_CHARS", 3)
    warm = WordPiece(vocab, 12)
    texts = ["refund the order", "playing refunds", "the café's", "refund the order"] * 3

    assert [warm(text) for text in texts] == [WordPiece(vocab, 12)(text) for text in texts]
    assert len(warm._words) <= 3
    assert len(warm._fold) <= 3


def test_a_hostile_text_takes_no_longer_than_its_length_allows(vocab: tuple[str, ...]) -> None:
    """Millions of combining marks, which a normalisation of the whole text would sort."""
    text = "a" + "\u0323\u0301" * 2_000_000
    tokens = WordPiece(vocab, 64)

    start = time.perf_counter()
    tokens(text)

    assert time.perf_counter() - start < 0.5
