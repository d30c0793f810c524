"""BERT's uncased tokeniser: a text as the ids of word pieces (Devlin et al., 2019).

Each code point is cleaned, decomposed, stripped of accents, lowercased and set apart where it is
punctuation or Chinese by one table, so the time is linear in the text whatever the text holds.
Special tokens have no spelling in a text: "[SEP]" reads as a bracket, a word and a bracket.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Sequence

CLS, SEP, UNKNOWN = "[CLS]", "[SEP]", "[UNK]"

_MAX_CHARS = 8192  # no vector looks further than its first few hundred tokens
_MAX_WORD_CHARS = 100
_MAX_CACHED_WORDS = 20_000
_MAX_CACHED_CHARS = 20_000
_CHINESE = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class WordPiece:
    """Greedy longest-match tokeniser of one vocabulary; its results are pure in the text.

    The vocabulary has to hold [CLS], [SEP] and [UNK]; KeyError otherwise.
    """

    def __init__(self, vocab: Sequence[str], max_tokens: int) -> None:
        self._ids = {token: i for i, token in enumerate(vocab)}
        self._cls, self._sep, self._unknown = (self._ids[token] for token in (CLS, SEP, UNKNOWN))
        self._longest = max(map(len, vocab))
        self._room = max_tokens - 2  # [CLS] and [SEP]
        self._fold = _Fold()
        self._words: dict[str, tuple[int, ...]] = {}

    def __call__(self, text: str) -> list[int]:
        """Between 2 and `max_tokens` ids: [CLS], the text's first pieces, [SEP]."""
        end = self._room + 1
        ids = [self._cls]
        for word in text[:_MAX_CHARS].translate(self._fold).split():
            ids += self._words.get(word) or self._word(word)
            if len(ids) >= end:
                del ids[end:]
                break
        ids.append(self._sep)
        return ids

    def _word(self, word: str) -> tuple[int, ...]:
        if len(word) > _MAX_WORD_CHARS:
            return (self._unknown,)
        if len(self._words) >= _MAX_CACHED_WORDS:
            self._words.clear()
        pieces = self._words[word] = self._pieces(word)
        return pieces

    def _pieces(self, word: str) -> tuple[int, ...]:
        pieces: list[int] = []
        start, prefix = 0, ""
        while start < len(word):
            for end in range(min(len(word), start + self._longest), start, -1):
                piece = self._ids.get(prefix + word[start:end])
                if piece is not None:
                    break
            else:
                return (self._unknown,)
            pieces.append(piece)
            start, prefix = end, "##"
        return tuple(pieces)


class _Fold(dict[int, str]):
    """What each code point reads as, for str.translate; filled on first use, up to a bound."""

    def __missing__(self, code: int) -> str:
        folded = _fold(chr(code))
        if len(self) < _MAX_CACHED_CHARS:
            self[code] = folded
        return folded


def _fold(char: str) -> str:
    category = unicodedata.category(char)
    if char in "\t\n\r" or category[0] == "Z":
        return " "
    if category in ("Cc", "Cf", "Co", "Cs") or char == "\ufffd":
        return ""
    parts = unicodedata.normalize("NFD", char)
    folded = "".join(
        # one at a time: in a whole word, lower() writes a final sigma differently
        f" {part} " if _is_punctuation(part) else part.lower()
        for part in parts
        if unicodedata.category(part) != "Mn"
    )
    return f" {folded} " if _is_chinese(ord(char)) else folded


def _is_punctuation(char: str) -> bool:
    return char in string.punctuation or unicodedata.category(char)[0] == "P"


def _is_chinese(code: int) -> bool:
    return code >= 0x3400 and any(first <= code <= last for first, last in _CHINESE)
