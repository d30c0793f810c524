"""The frozen model of the demo: it holds fixed, partly wrong opinions about which tool is right.

It sees only messages and tools. State lives in neither, so equal requests get equal answers.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from agentgym.testing.llm_brain import (
    ChatReply,
    ChatRequest,
    JsonObject,
    ToolCall,
    ToolSpec,
    content_text,
    fill_arguments,
    is_tool_result,
)
from agentgym.testing.llm_preferences import words

Slots = tuple[tuple[str, ...], ...]

_PREFIX_CHARACTERS = 40
_CALLS_PER_SLOT = 2


@dataclass(slots=True)
class _Progress:
    """How far a conversation came: finished slots, and what was tried on the open one."""

    done: int = 0
    tried: list[str] = field(default_factory=list)
    called: list[str] = field(default_factory=list)
    failed: bool = False


class DeskBrain:
    """Calls, for each slot of a known request, the tool that its fixed ranking puts first.

    `preferences` maps the text of a request to one ranking of tool names per slot. A visible error
    makes it try the next of the ranking, once; a call without one closes the slot, right or wrong.
    """

    def __init__(self, preferences: Mapping[str, Slots]) -> None:
        self._slots = {_flat(text): slots for text, slots in preferences.items()}
        if not self._slots or "" in self._slots:
            raise ValueError("Expected at least one request and no empty request text.")
        self._prefix = min(_PREFIX_CHARACTERS, *(len(text) for text in self._slots))
        by_prefix = defaultdict(list)
        for text in sorted(self._slots, key=len, reverse=True):
            by_prefix[text[: self._prefix]].append(text)
        self._by_prefix = dict(by_prefix)
        self._find_cached = lru_cache(maxsize=4096)(self._find)

    def reply(self, request: ChatRequest) -> ChatReply:
        position, text = self._known_request(request.messages)
        if text is None:
            return ChatReply(text="I do not know what to do about that.")
        progress = _progress(request.messages[position + 1 :])
        slots = self._slots[text]
        if request.forced_tool is not None:
            return _call(request.tools, request.forced_tool, text)
        if progress.done >= len(slots) or not request.tools or request.tool_choice == "none":
            return ChatReply(text=_summary(progress))
        ranking = _open_slot(slots, progress)
        name = _choose(ranking, request.tools, tried=progress.tried, text=text)
        return _call(request.tools, name, text)

    def _known_request(self, messages: Sequence[JsonObject]) -> tuple[int, str | None]:
        for position in range(len(messages) - 1, -1, -1):
            message = messages[position]
            if message.get("role") == "user":
                text = self._find_cached(content_text(message))
                if text is not None:
                    return position, text
        return -1, None

    def _find(self, content: str) -> str | None:
        """Return the first known request in a text, the longest of those that start there."""
        flat = _flat(content)
        start = 0
        while start + self._prefix <= len(flat):
            for text in self._by_prefix.get(flat[start : start + self._prefix], ()):
                if flat.startswith(text, start):
                    return text
            space = flat.find(" ", start)
            if space < 0:
                break
            start = space + 1
        return None


def load_desk_brain(path: str) -> DeskBrain:
    """Return the brain whose preferences a JSON file holds, for a server in its own process."""
    loaded = json.loads(Path(path).read_text(encoding="utf-8"))
    return DeskBrain(
        {text: tuple(tuple(ranking) for ranking in slots) for text, slots in loaded.items()}
    )


def is_visible_error(content: str) -> bool:
    """Tell whether a tool's result reads as a failure."""
    return "Error" in content or "error:" in content


def _flat(text: str) -> str:
    return " ".join(text.split())


def _progress(messages: Iterable[JsonObject]) -> _Progress:
    progress = _Progress()
    names: dict[str, str] = {}
    for message in messages:
        for call in message.get("tool_calls") or ():
            names[call["id"]] = call["function"]["name"]
        if is_tool_result(message):
            name = names.get(message.get("tool_call_id", "")) or message.get("name") or "?"
            _count(progress, name, content_text(message))
    return progress


def _count(progress: _Progress, name: str, content: str) -> None:
    progress.called.append(name)
    progress.tried.append(name)
    failed = is_visible_error(content)
    if failed and len(progress.tried) < _CALLS_PER_SLOT:
        return
    progress.failed = progress.failed or failed
    progress.done += 1
    progress.tried.clear()


def _open_slot(slots: Slots, progress: _Progress) -> Sequence[str]:
    """Return the ranking to go on with: of the first slot whose own tool was not called yet.

    A forced tool may have served a later slot first; like any model, it sees that in the messages.
    """
    before = progress.called[: len(progress.called) - len(progress.tried)]
    for ranking in slots:
        if ranking[0] not in before:
            return ranking
    return slots[progress.done]


def _choose(
    ranking: Sequence[str], tools: Sequence[ToolSpec], *, tried: Sequence[str], text: str
) -> str:
    shown = {tool.name: tool for tool in tools}
    for name in ranking:
        if name in shown and name not in tried:
            return name
    # Nothing it believes in is shown: the tool whose words come closest to what it looked for.
    wanted = _bag(" ".join((text, *ranking[:1])))
    open_tools = [tool for tool in tools if tool.name not in tried] or list(tools)
    return max(
        open_tools, key=lambda tool: len(wanted & _bag(f"{tool.name} {tool.description}"))
    ).name


@lru_cache(maxsize=4096)
def _bag(text: str) -> frozenset[str]:
    return frozenset(words(text))


def _call(tools: Sequence[ToolSpec], name: str, text: str) -> ChatReply:
    spec = next(tool for tool in tools if tool.name == name)
    return ChatReply(tool_calls=(ToolCall(name, fill_arguments(spec.parameters, text)),))


def _summary(progress: _Progress) -> str:
    if not progress.called:
        return "Nothing had to be done."
    verdict = "I could not finish everything" if progress.failed else "Done"
    return f"{verdict}. I used {', '.join(progress.called)}."
