"""What a setting may be: from text to a value, or ValueError that says what is expected."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

_LOOPBACK = frozenset(("127.0.0.1", "localhost", "[::1]"))


def one_of(choices: Iterable[str]) -> Callable[[str], str]:
    """One of a few words."""
    known = tuple(choices)

    def parse(text: str) -> str:
        if text not in known:
            raise ValueError(f"expected one of {', '.join(known)}")
        return text

    return parse


def number(low: float, high: float, *, above: bool = False) -> Callable[[str], float]:
    """A number between two, including them (`above`: not the lower one)."""
    expected = f"expected a number {'above' if above else 'from'} {low:g}" + (
        f" to {high:g}" if high < float("inf") else ""
    )

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(expected) from None
        if (
            not (low < value if above else low <= value)
            or not value <= high
            or value == float("inf")
        ):
            raise ValueError(expected)
        return value

    return parse


def integer(low: int) -> Callable[[str], int]:
    """A whole number from `low`."""
    expected = f"expected a whole number of at least {low}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(expected) from None
        if value < low:
            raise ValueError(expected)
        return value

    return parse


def inner_share(text: str) -> float:
    """A share between 0 and 1, without them."""
    value = number(0, 1, above=True)(text)
    if value >= 1.0:
        raise ValueError("expected a number between 0 and 1, without them")
    return value


def optional_reward(text: str) -> float | None:
    """A reward, or none."""
    return None if text.lower() in ("none", "off") else number(0.0, 1.0)(text)


def weights(high: float, *names: str) -> Callable[[str], str]:
    """NAME=NUMBER,... with numbers from 0; one form for all ways of writing the same."""
    weight = number(0.0, high)

    def parse(text: str) -> str:
        found: dict[str, float] = {}
        for part in filter(str.strip, text.split(",")):
            name, equals, value = (piece.strip() for piece in part.rpartition("="))
            if not (name and equals):
                raise ValueError(f"expected NAME=NUMBER,..., got {part.strip()!r}")
            if names and name not in names:
                raise ValueError(f"expected one of {', '.join(names)}, got {name!r}")
            if name in found:
                raise ValueError(f"{name!r} is there twice")
            found[name] = weight(value)
        return ",".join(f"{name}={value:g}" for name, value in sorted(found.items()))

    return parse


def shares(text: str) -> dict[str, float]:
    """The numbers in NAME=NUMBER,..., as a checked setting holds them."""
    parts = [part.rpartition("=") for part in text.split(",") if part.strip()]
    return {name.strip(): float(value) for name, _, value in parts}


def url(what: str) -> Callable[[str], str]:
    """An http or https URL, or nothing; `what` says what for."""

    def parse(text: str) -> str:
        if text and not re.match(r"https?://[^/\s]+", text):
            raise ValueError(f"expected {what}")
        return text

    return parse


def listen(text: str) -> str:
    """HOST:PORT on loopback."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("expected HOST:PORT, such as 127.0.0.1:4319")
    if host not in _LOOPBACK:
        raise ValueError(
            f"expected a loopback host ({', '.join(sorted(_LOOPBACK))}): TCP is not encrypted, "
            "so it never leaves this machine; use an SSH tunnel or an OTel Collector"
        )
    return text


def program(text: str) -> Path:
    """An executable file's path."""
    path = Path(text).expanduser().absolute()
    if not (path.is_file() and os.access(path, os.X_OK)):
        raise ValueError("expected the path of a program, such as .venv-lightning/bin/python")
    return path
