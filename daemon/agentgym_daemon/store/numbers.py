"""SQL conditions on row numbers that let DuckDB skip what they cannot be in.

Numbers rise with the log and so, nearly, do rows: a range of numbers is a range of the table. A few
old numbers among many new ones must not make a range of everything between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

NUMBER_BITS = 20
"""A row number is the log offset behind the record in which the row's subject first appeared,
shifted by these, and the subject's position in that record."""
_MOST_RANGES = 8
_FAR = (64 * 2**20) << NUMBER_BITS
"""A gap of this many bytes of the log is worth a range of its own."""


def among(column: str, numbers: Sequence[int], *, far: int = _FAR) -> str:
    """A condition that holds for the rows with one of these numbers, which are few."""
    if not numbers:
        return "false"
    ordered = sorted(set(numbers))
    if len(ordered) == 1:
        return f"{column} = {ordered[0]}"
    within = " OR ".join(f"{column} BETWEEN {a} AND {b}" for a, b in ranges(ordered, far=far))
    listed = ", ".join(map(str, ordered))
    return f"({within}) AND {column} IN (SELECT unnest([{listed}]::BIGINT[]))"


def possible(column: str, numbers: Sequence[int] | None) -> str:
    """The same for what an index found; None: it was not asked, every row is possible."""
    return "true" if numbers is None else among(column, numbers)


def ranges(ordered: Sequence[int], *, far: int) -> list[tuple[int, int]]:
    """At most a few ranges that hold the ascending numbers, cut at the widest gaps."""
    gaps = [(later - number, at) for at, (number, later) in enumerate(pairwise(ordered), start=1)]
    wide = sorted((gap for gap in gaps if gap[0] > far), reverse=True)[: _MOST_RANGES - 1]
    cuts = [0, *sorted(at for _, at in wide), len(ordered)]
    return [(ordered[first], ordered[behind - 1]) for first, behind in pairwise(cuts)]
