"""Systematic opinions for the demo's model: which tools it confuses with which, and when.

Everything is drawn by hash, so the same catalogue, requests and seed give the same opinions.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

_MISUNDERSTOOD_SHARE = 1 / 3
# Without such exceptions a lookup table of the misunderstood tools would be all there is to learn.
_EXCEPTION_SHARE = 0.1
_NEIGHBOURS = 3
_NAME_WEIGHT = 2.0
_WORD = re.compile(r"[a-z0-9]+")


class RequestLike(Protocol):
    """A user's request and the tools that it needs, in order."""

    @property
    def text(self) -> str: ...
    @property
    def tools(self) -> tuple[str, ...]: ...


class ToolLike(Protocol):
    """A tool of the catalogue."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...


@dataclass(frozen=True, slots=True)
class _Slot:
    request: str
    position: int
    tool: str
    taken: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{self.request}\x1f{self.position}"


def words(text: str) -> list[str]:
    """Split text or a tool's name into lower-case words."""
    return _WORD.findall(text.lower())


def make_preferences(
    requests: Sequence[RequestLike],
    tools: Sequence[ToolLike],
    *,
    seed: int,
    reliability: float = 0.65,
) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Return rankings for `DeskBrain` whose first choices are right on `reliability` of the slots.

    A third of the tools are misunderstood: taken for a fixed neighbour, but for a few requests.
    The others are understood, but for a few requests. Which tools those are depends on the seed and
    the tools alone, so two sets of requests share them. The second choice after a wrong one is
    right half the time.
    """
    neighbours = _neighbours(tools)
    slots = [
        _Slot(request.text, position, name, request.tools)
        for request in requests
        for position, name in enumerate(request.tools)
    ]
    _check(requests, slots, neighbours)
    misunderstood = set(
        _drawn(neighbours, round(len(neighbours) * _MISUNDERSTOOD_SHARE), salt=f"{seed}/tool")
    )
    wrong = _wrong_slots(slots, misunderstood, seed=seed, reliability=reliability)
    rankings = {
        slot.key: _ranking(
            slot,
            neighbours[slot.tool],
            wrong=slot.key in wrong,
            fixed=slot.tool in misunderstood,
            seed=seed,
        )
        for slot in slots
    }
    return {
        request.text: tuple(
            rankings[f"{request.text}\x1f{position}"] for position in range(len(request.tools))
        )
        for request in requests
    }


def _check(
    requests: Sequence[RequestLike], slots: Sequence[_Slot], neighbours: Mapping[str, object]
) -> None:
    twice = [text for text, count in Counter(r.text for r in requests).items() if count > 1]
    if twice:
        raise ValueError(f"Expected distinct requests, got {twice[0]!r} twice; reword one of them.")
    unknown = sorted({slot.tool for slot in slots} - set(neighbours))
    if unknown:
        raise ValueError(f"Expected tools of the catalogue, got {unknown}; add them to it.")
    short = [slot for slot in slots if not set(neighbours) - set(slot.taken)]
    if short:
        raise ValueError(
            f"Expected a tool that {short[0].request!r} does not need, got a catalogue without; "
            "add tools to be confused with."
        )


def _draw(salt: str, key: str) -> float:
    """Return a number in [0, 1) that only the salt and the key decide."""
    digest = hashlib.sha256(f"{salt}\x1f{key}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def _drawn(keys: Iterable[str], count: int, *, salt: str) -> list[str]:
    return sorted(keys, key=lambda key: _draw(salt, key))[:count]


def _wrong_slots(
    slots: Sequence[_Slot], misunderstood: set[str], *, seed: int, reliability: float
) -> set[str]:
    """Pick the slots that go wrong so that the share of right ones is as asked."""
    hard = [slot.key for slot in slots if slot.tool in misunderstood]
    easy = [slot.key for slot in slots if slot.tool not in misunderstood]
    target = round((1 - reliability) * len(slots))
    usual = min(target, round(len(hard) * (1 - _EXCEPTION_SHARE)))
    from_easy = max(round(len(easy) * _EXCEPTION_SHARE / 2), target - usual)
    from_easy = min(from_easy, target, len(easy))
    from_hard = min(target - from_easy, len(hard))
    return {
        *_drawn(easy, from_easy, salt=f"{seed}/easy"),
        *_drawn(hard, from_hard, salt=f"{seed}/hard"),
    }


def _ranking(
    slot: _Slot, neighbours: Sequence[str], *, wrong: bool, fixed: bool, seed: int
) -> tuple[str, ...]:
    # A tool that another slot of the request needs would make a wrong choice half right.
    others = [name for name in neighbours if name not in slot.taken][:_NEIGHBOURS]
    if not wrong:
        return (slot.tool, *others[:2])
    turn = 0 if fixed else int(_draw(f"{seed}/turn", slot.key) * len(others))
    first, *rest = others[turn:] + others[:turn]
    if _draw(f"{seed}/second", slot.key) < 0.5 or not rest:
        return (first, slot.tool, *rest[:1])
    return (first, rest[0], slot.tool)


def _neighbours(tools: Sequence[ToolLike]) -> dict[str, list[str]]:
    """Rank, for each tool, the others by how much of their wording they share with it."""
    vectors = _vectors(tools)
    return {name: _nearest(name, vectors) for name in vectors}


def _nearest(name: str, vectors: Mapping[str, Mapping[str, float]]) -> list[str]:
    others = sorted(vectors.keys() - {name})
    return sorted(others, key=lambda other: -_similarity(vectors[name], vectors[other]))


def _vectors(tools: Sequence[ToolLike]) -> dict[str, dict[str, float]]:
    """Weigh each word of a tool by how rare it is among the tools, words of its name double."""
    bags = {tool.name: set(words(f"{tool.name} {tool.description}")) for tool in tools}
    spread = Counter(word for bag in bags.values() for word in bag)
    return {
        name: {
            word: math.log(1 + len(bags) / spread[word])
            * (_NAME_WEIGHT if word in words(name) else 1.0)
            for word in bag
        }
        for name, bag in bags.items()
    }


def _similarity(left: Mapping[str, float], right: Mapping[str, float]) -> float:
    shared = sum(left[word] * right[word] for word in left.keys() & right.keys())
    norm = math.hypot(*left.values()) * math.hypot(*right.values())
    return shared / norm if norm else 0.0
