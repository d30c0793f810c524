"""The neutral form between the formats of other tools and our records (plain immutable data)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from agentgym.trajectory import Tool
from agentgym_daemon.errors import DaemonError
from agentgym_daemon.ingest.foreign import Kind


class ImportFileError(DaemonError, ValueError):
    """A file cannot be read as past traces; nothing of it was imported."""


class Asked(NamedTuple):
    """A tool call that a model asked for; the id is empty if it was not recorded."""

    tool: str
    call_id: str


@dataclass(frozen=True, slots=True)
class SourceSpan:
    """One span of a past run, whatever tool recorded it.

    `run` is the source's own id of the run. Times are unix nanoseconds; `end_ns` 0 means that it
    never ended. None in `offered` and `called` means that the source does not say.
    """

    run: str
    id: str
    parent: str
    kind: Kind
    name: str
    start_ns: int
    end_ns: int
    error: str = ""
    agent_name: str = ""
    service: str = ""
    conversation: str = ""
    tool: str = ""
    call_id: str = ""
    model: str = ""
    provider: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    offered: tuple[Tool, ...] | None = None
    called: tuple[Asked, ...] | None = None
    answered: tuple[str, ...] = ()  # ids (else names) of calls whose results the model was shown
    stopped: bool = False  # the model is said to have ended by itself, without asking for a tool
    task: str = ""
    definition: Tool | None = None  # of the tool, on its own span
    origin: str = ""  # provenance: format and hash of the file
    ours: bool = False  # recorded by AgentGym itself


@dataclass(frozen=True, slots=True)
class Score:
    """A judgement as the source gave it; `span` is empty where it is about the whole run."""

    run: str
    span: str
    name: str
    value: float | None
    label: str
    source: str
    time_ns: int
    id: str
    final: bool = False  # by the source's own definition the reward of the run, in [0, 1] or not


class Problems:
    """What was left out and why: each reason with how often and one example."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def add(self, reason: str, example: str = "", times: int = 1) -> None:
        """Counts something that was left out."""
        if times:
            self.counts[reason] += times
            self.examples.setdefault(reason, example)

    def plain(self) -> list[dict[str, str | int]]:
        """As JSON values, in order of appearance."""
        return [
            {"reason": reason, "times": times, "example": self.examples[reason]}
            for reason, times in self.counts.items()
        ]


@dataclass(slots=True)
class Loaded:
    """What was read of one file, or of all of them."""

    spans: list[SourceSpan] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    problems: Problems = field(default_factory=Problems)

    @classmethod
    def of(cls, parts: Iterable[Loaded]) -> Loaded:
        """Several as one."""
        whole = cls()
        for part in parts:
            whole.spans += part.spans
            whole.scores += part.scores
            for reason, times in part.problems.counts.items():
                whole.problems.add(reason, part.problems.examples[reason], times)
        return whole
