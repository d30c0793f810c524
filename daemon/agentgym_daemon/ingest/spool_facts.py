"""Spool files as the requests that their agents would have sent.

A trajectory that was given up whole is void over all files of its directory: `drops` reads ahead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans

from agentgym import semconv
from agentgym.proto.v1 import log_pb2, reward_pb2, spool_pb2
from agentgym_daemon.ingest import spooled
from agentgym_daemon.ingest.spooled import RefusedSpoolError, SpoolDirectory, SpoolReader

BATCH_BYTES = 4 * 2**20
_BATCH_FACTS = 500
_DROPPED = 0x1A  # the tag of SpoolFrame.dropped

Places = dict[bytes, tuple[str, int]]
"""Where in a directory, file and frame, something of a trajectory stands."""


class BadFileError(Exception):
    """A file does not begin as it must."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A request as its sender would have made it."""

    kind: str
    data: bytes
    producer_id: bytes
    sequence: int

    def record(self) -> log_pb2.LogRecord:
        """The log record that names the sender."""
        return log_pb2.LogRecord(producer_id=self.producer_id, sequence=self.sequence)


class Template:
    """What all spans of a file share: resource and scope, as its header holds them."""

    def __init__(self, header: spool_pb2.SpoolHeader) -> None:
        self._producer_id = header.producer_id
        request = ExportTraceServiceRequest.FromString(header.resource_spans)
        spans = request.resource_spans[0] if request.resource_spans else None
        scope = spans.scope_spans[0] if spans is not None and spans.scope_spans else ScopeSpans()
        self._scope = scope.SerializeToString()
        if spans is not None:
            del spans.scope_spans[:]
        self._resource = b"" if spans is None else spans.SerializeToString()

    def facts(self, record: spool_pb2.SpoolRecord) -> Iterator[Fact]:
        """A record's requests but for its rewards."""
        sequence = min(record.sequence, 2**63 - 1)
        if record.spans:
            # Joined as bytes: one span that cannot be parsed must not cost its siblings.
            spans = self._resource + _entry(2, self._scope + record.spans)
            yield Fact("spans", _entry(1, spans), self._producer_id, sequence)
        if record.decisions:
            yield Fact("decisions", record.decisions, self._producer_id, sequence)
        if record.catalogue:
            yield Fact("catalogue", record.catalogue, self._producer_id, sequence)


@dataclass(slots=True)
class Batch:
    """Some records of a file, and the droppings that they stood between."""

    facts: list[Fact] = field(default_factory=list)
    rewards: list[reward_pb2.Reward] = field(default_factory=list)
    items: Counter[str] = field(default_factory=Counter)
    dropped: list[spool_pb2.SpoolDropped] = field(default_factory=list)
    unreadable: int = 0
    size: int = 0

    def add(self, record: spool_pb2.SpoolRecord, template: Template) -> None:
        """Takes in a record's requests."""
        self.facts.extend(template.facts(record))
        self.items.update(record.items)
        try:
            self.rewards.extend(reward_pb2.ReportRequest.FromString(record.rewards).rewards)
        except DecodeError:
            self.unreadable += 1


def _entry(number: int, data: bytes) -> bytes:
    """A length-delimited field."""
    head = [number << 3 | 2]
    length = len(data)
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes((*head, length)) + data


def batches(reader: SpoolReader, name: str, producer: str, void: Places) -> Iterator[Batch]:
    """Cuts a file into batches; raises BadFileError for one that is another producer's."""
    template: Template | None = None
    batch = Batch()
    for place, payload in enumerate(reader.payloads()):
        try:
            frame = spool_pb2.SpoolFrame.FromString(payload)
        except DecodeError:
            reader.damaged_frames += 1
            reader.lost_bytes += len(payload)
            continue
        if frame.HasField("header"):
            template = _template(frame.header, producer)
            continue
        if template is None:  # the header is damaged: spans know the most important themselves
            template = Template(spool_pb2.SpoolHeader(producer_id=bytes.fromhex(producer)))
        batch.size += len(payload)
        if frame.HasField("dropped"):
            batch.dropped.append(frame.dropped)
        elif frame.HasField("record") and not _is_void(frame.record, (name, place), void):
            batch.add(frame.record, template)
        if batch.size >= BATCH_BYTES or len(batch.facts) >= _BATCH_FACTS:
            yield batch
            batch = Batch()
    if batch.size:
        yield batch


def _template(header: spool_pb2.SpoolHeader, producer: str) -> Template:
    if header.producer_id.hex() != producer:
        raise BadFileError(
            f"expected a header with producer id {producer}, got {header.producer_id.hex()!r}"
        )
    if header.contract_version != semconv.CONTRACT_VERSION:
        raise RefusedSpoolError(
            f"written for contract {header.contract_version}, this daemon speaks "
            f"{semconv.CONTRACT_VERSION}; start the daemon that belongs to it"
        )
    try:
        return Template(header)
    except DecodeError as error:
        raise BadFileError("expected a header with readable resource_spans") from error


def _is_void(record: spool_pb2.SpoolRecord, place: tuple[str, int], void: Places) -> bool:
    dropped_at = void.get(record.trajectory_id) if record.trajectory_id else None
    return dropped_at is not None and place < dropped_at


def drops(directory: SpoolDirectory) -> Places:
    """The last place at which each trajectory was given up, over all files of a directory."""
    places: Places = {}
    for name in directory.files(spooled.COMPLETE, spooled.UNFINISHED):
        with directory.open(name) as stream:
            for place, payload in enumerate(SpoolReader(stream).payloads()):
                if payload and payload[0] == _DROPPED:
                    try:
                        frame = spool_pb2.SpoolFrame.FromString(payload)
                    except DecodeError:
                        continue
                    places[frame.dropped.trajectory_id] = (name, place)
    return places


def is_shared(directory: SpoolDirectory, name: str) -> bool:
    """Whether the writer of a complete file never talks to the daemon itself."""
    with directory.open(name) as stream:
        first = next(SpoolReader(stream).payloads(), b"")
    try:
        return spool_pb2.SpoolFrame.FromString(first).header.shared
    except DecodeError:
        return False
