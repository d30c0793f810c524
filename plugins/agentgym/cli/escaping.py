"""Text that others wrote, made harmless for a terminal: names of tools above all."""

from __future__ import annotations

import unicodedata

MAX_CELL, MAX_PROSE = 500, 4000
"""Characters of a table's cell, and of what stands alone."""
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))


def clean(text: str, *, limit: int = 0, lines: bool = False) -> str:
    r"""The text with everything unseen or commanding written out: `\x1b`, `\u202e`.

    `limit` cuts it there and says how long it was; `lines` lets line ends be.
    """
    if limit and len(text) > limit:
        text = f"{text[:limit]}… ({len(text)} characters)"
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(c) if _commands(c, lines) else c for c in text)


def _commands(character: str, lines: bool) -> bool:
    if character == "\n":
        return not lines
    return unicodedata.category(character) in _UNSEEN


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
