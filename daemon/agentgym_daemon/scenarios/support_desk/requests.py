"""The requests customers bring to the support desk, with the tools each one needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

from agentgym_daemon.scenarios.support_desk.tools import TOOLS

_KNOWN = frozenset(tool.name for tool in TOOLS)
_KEYS = {"id", "text", "tools"}


@dataclass(frozen=True, slots=True)
class Request:
    """One customer's request and the tools it needs, in natural order."""

    id: str
    text: str
    tools: tuple[str, ...]


@cache
def train() -> tuple[Request, ...]:
    """The requests a policy may learn from."""
    return _shipped("requests.train.jsonl")


@cache
def unseen() -> tuple[Request, ...]:
    """The requests kept for judging a policy; none of them is in `train()`."""
    return _shipped("requests.unseen.jsonl")


def parse(lines: str, *, source: str) -> tuple[Request, ...]:
    """Read requests from JSON lines; `source` names them in errors."""
    requests: list[Request] = []
    ids: set[str] = set()
    texts: set[str] = set()
    # not splitlines(): a text may hold a Unicode line separator
    for number, line in enumerate(lines.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{source}, line {number}"
        request = _request(line, place=place)
        if request.id in ids or request.text.casefold() in texts:
            raise ValueError(
                f"{place}: expected an id and a text used only once, "
                f"got {request.id!r} with {request.text!r} again; remove or rename one"
            )
        ids.add(request.id)
        texts.add(request.text.casefold())
        requests.append(request)
    if not requests:
        raise ValueError(f"{source}: expected at least one request, got none; fill the file")
    return tuple(requests)


def _shipped(name: str) -> tuple[Request, ...]:
    file = resources.files("agentgym_daemon.scenarios.support_desk").joinpath(name)
    return parse(file.read_text(encoding="utf-8"), source=name)


def _request(line: str, *, place: str) -> Request:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: expected one JSON object, got {line!r}; fix it") from error
    if not isinstance(row, dict) or set(row) != _KEYS:
        raise ValueError(f"{place}: expected an object with {sorted(_KEYS)}, got {row!r}; fix it")
    for key in ("id", "text"):
        if not isinstance(row[key], str) or not row[key].strip():
            raise ValueError(f"{place}: expected a filled string as {key}, got {row[key]!r}")
    return Request(id=row["id"], text=row["text"], tools=_tools(row["tools"], place=place))


def _tools(names: object, *, place: str) -> tuple[str, ...]:
    if not isinstance(names, list) or not names:
        raise ValueError(f"{place}: expected a list of at least one tool, got {names!r}")
    for name in names:
        if not isinstance(name, str) or name not in _KNOWN:
            raise ValueError(
                f"{place}: expected tools of the support desk, got {name!r}; "
                f"use one of {', '.join(sorted(_KNOWN))}"
            )
    return tuple(names)
