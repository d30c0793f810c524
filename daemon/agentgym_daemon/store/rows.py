"""What the rooms above hand to the store, and what it keeps per row (plain immutable data)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import NamedTuple, Protocol

MAX_BIGINT = 2**63 - 1
Entry = tuple[int, bytes]
"""A durable record: the log offset behind it, and its payload."""


class SpanRow(NamedTuple):
    """One decoded span; names as in the table `spans`."""

    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes | None
    name: str
    operation: str | None
    start_ns: int
    end_ns: int
    error_type: str | None
    status: int
    agent: str
    agent_name: str | None
    agent_path: str | None
    tool: str | None
    call_id: str | None
    model: str | None
    input_tokens: int | None
    output_tokens: int | None
    decision_id: bytes | None
    incomplete: str | None
    is_root: bool
    framework: str | None
    attributes: str
    # Only the trajectory's summary holds these:
    key: str | None
    mode: int
    assignment: int
    policy_version: str | None
    experiment: str | None = None
    experiment_arm: str | None = None
    experiment_treatment: str | None = None
    experiment_share: float | None = None
    unit: str | None = None


class Evaluation(NamedTuple):
    """An evaluation event on a span: a reward that travelled with the trace."""

    trace_id: bytes
    span_id: bytes
    number: int  # of the event within its span
    value: float
    name: str
    time_ns: int
    reason: str = ""


class DecodedTraces(NamedTuple):
    """What could be read of one OTLP request, and how many spans and events could not."""

    spans: list[SpanRow]
    evaluations: list[Evaluation]
    rejected: int


TraceDecoder = Callable[[bytes, int], DecodedTraces]
"""Decodes an ExportTraceServiceRequest received at this time; never raises."""


class Log(Protocol):
    """What the store needs of the segment log."""

    @property
    def end(self) -> int:
        """Offset behind the last durable record."""

    def replay(self, from_offset: int = 0) -> Iterator[Entry]:
        """Yields (end offset, payload) of the durable records behind `from_offset`."""

    def skip_to(self, offset: int) -> Future[None]:
        """Goes on at an offset behind the end."""


class Scope(NamedTuple):
    """What one learned policy serves."""

    agent: str
    agent_name: str
    feature_schema: int


def batches(entries: Iterable[Entry], size_bytes: int) -> Iterator[list[Entry]]:
    """Cuts entries into lists of about this many bytes."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        batch.append(entry)
        size += len(entry[1])
        if size >= size_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
