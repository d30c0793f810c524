"""The unit of delivery: encoded facts of one trajectory, as they lie in memory and in the spool.

Each part is the body of a request: entries that may be joined with those of other records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from agentgym.version import VERSION
from agentgym.wire import BYTES, VARINT, entry, fields, tag, text, varint

_HEADER, _RECORD, _DROPPED = (tag(number, BYTES) for number in (1, 2, 3))  # of SpoolFrame
_SEQUENCE = tag(1, VARINT)
_ID, _SPANS, _DECISIONS, _REWARDS, _CATALOGUE, _ITEMS = (tag(n, BYTES) for n in (2, 3, 4, 5, 6, 7))
_KEY, _VALUE = tag(1, BYTES), tag(2, VARINT)  # of a map's entry
_RECORD_FIELD, _DROPPED_FIELD = 2, 3
_DECISION_ENTRY = 1  # of RecordRequest; features are field 2
_CONTRACT, _SHARED = tag(5, VARINT), tag(7, VARINT) + b"\x01"


@dataclass(slots=True)
class Record:
    """Facts of one trajectory; without an id: tools, or rewards that name a key."""

    trajectory_id: bytes
    parts: dict[str, bytes] = field(default_factory=dict)
    """By kind: catalogue (a PutRequest), features, decisions, spans, rewards."""
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(map(len, self.parts.values()))


def record_frame(record: Record, sequence: int) -> bytes:
    """A SpoolFrame with this record."""
    parts = record.parts
    pieces = [_SEQUENCE, varint(sequence)]
    if record.trajectory_id:
        pieces.append(entry(_ID, record.trajectory_id))
    for prefix, payload in (
        (_SPANS, parts.get("spans", b"")),
        (_DECISIONS, parts.get("features", b"") + parts.get("decisions", b"")),
        (_REWARDS, parts.get("rewards", b"")),
        (_CATALOGUE, parts.get("catalogue", b"")),
    ):
        if payload:
            pieces.append(entry(prefix, payload))
    pieces.append(_items(record.counts))
    return entry(_RECORD, b"".join(pieces))


def dropped_frame(trajectory_id: bytes, reason: str, counts: Mapping[str, int]) -> bytes:
    """A SpoolFrame that voids the earlier records of a trajectory."""
    body = entry(tag(1, BYTES), trajectory_id) + entry(tag(2, BYTES), text(reason))
    return entry(_DROPPED, body + _items(counts, tag(3, BYTES)))


def header_frame(
    producer_id: bytes, agent: str, pid: int, contract: int, resource_spans: bytes, *, shared: bool
) -> bytes:
    """The SpoolFrame that opens every file."""
    pieces = [
        entry(tag(1, BYTES), producer_id),
        entry(tag(2, BYTES), text(agent)),
        entry(tag(3, BYTES), text(VERSION)),
        tag(4, VARINT) + varint(pid),
        _CONTRACT + varint(contract),
        entry(tag(6, BYTES), resource_spans),
        _SHARED if shared else b"",
    ]
    return entry(_HEADER, b"".join(pieces))


def _items(counts: Mapping[str, int], prefix: bytes = _ITEMS) -> bytes:
    return b"".join(
        entry(prefix, entry(_KEY, text(kind)) + _VALUE + varint(n)) for kind, n in counts.items()
    )


def parse(payload: bytes) -> Record | None:
    """The record in a SpoolFrame; None for headers and drops."""
    for number, value, _ in fields(payload):
        if number == _RECORD_FIELD and isinstance(value, bytes):
            return _record(value)
    return None


def _record(body: bytes) -> Record:
    record, counts = Record(b""), Counter[str]()
    for number, value, _ in fields(body):
        if isinstance(value, int):
            continue
        match number:
            case 2:
                record.trajectory_id = value
            case 3:
                record.parts["spans"] = value
            case 4:
                record.parts |= _split(value)
            case 5:
                record.parts["rewards"] = value
            case 6:
                record.parts["catalogue"] = value
            case 7:
                pair = {n: v for n, v, _ in fields(value)}
                kind, n = pair.get(1, b""), pair.get(2, 0)
                if isinstance(kind, bytes) and isinstance(n, int):
                    counts[kind.decode()] += n
    record.counts = counts
    return record


def _split(request: bytes) -> dict[str, bytes]:
    """A RecordRequest's entries, decisions apart from features."""
    decisions: list[bytes] = []
    features: list[bytes] = []
    for number, _, raw in fields(request):
        (decisions if number == _DECISION_ENTRY else features).append(raw)
    parts = {"features": b"".join(features), "decisions": b"".join(decisions)}
    return {kind: part for kind, part in parts.items() if part}
