"""The chain of changes: each carries a hash over itself and the one before.

    hash = sha256(previous || number || received || change)

Numbers are 8 bytes, little-endian; the change is serialised deterministically. Whoever alters,
removes or inserts a change in the log has to alter all later ones too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from agentgym.proto.v1 import log_pb2

_TAG = log_pb2.LogRecord.CHANGE_FIELD_NUMBER << 3 | 2
_CHANGE = bytes((_TAG & 0x7F | 0x80, _TAG >> 7))
"""Tag of the field as it stands in an encoded record: most records have no such bytes."""


class Chain:
    """Where the chain ends; the journal alone makes it longer."""

    def __init__(self, head: log_pb2.Audit | None = None) -> None:
        self.head = head or log_pb2.Audit()
        """The last link; number 0 if there is none."""

    def link(self, record: log_pb2.LogRecord) -> log_pb2.Audit:
        """The place of a change that comes next; its time is set already."""
        number, previous = self.head.number + 1, self.head.hash
        return log_pb2.Audit(
            number=number, previous=previous, hash=link_hash(previous, number, record)
        )


def link_hash(previous: bytes, number: int, record: log_pb2.LogRecord) -> bytes:
    """The hash of a change at a place."""
    return hashlib.sha256(
        b"".join(
            (
                previous,
                number.to_bytes(8, "little"),
                record.received_unix_nano.to_bytes(8, "little"),
                record.change.SerializeToString(deterministic=True),
            )
        )
    ).digest()


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look at the whole chain gave; `broken` is empty if every link holds."""

    head: log_pb2.Audit
    changes: int
    before_chain: int
    broken: str = ""
    broken_number: int = 0


def verify(payloads: Iterable[bytes], *, known: log_pb2.Audit | None = None) -> Finding:
    """Recomputes the chain from the log's records; stops at the first link that does not hold.

    `known` is the head that the database has seen: the end of a log can only be missed from there.
    """
    head, before_chain = log_pb2.Audit(), 0
    at_known = b""
    for record in _changes(payloads):
        if not record.HasField("audit"):
            if not head.number:
                before_chain += 1
                continue
            fault = "a change stands behind it that is not in the chain"
            return Finding(head, head.number, before_chain, fault, head.number)
        fault = _fault(head, record)
        if fault:
            return Finding(head, head.number, before_chain, fault, head.number + 1)
        head = record.audit
        if known is not None and head.number == known.number:
            at_known = head.hash
    if known is not None and known.number and at_known != known.hash:
        fault = (
            f"the database has seen change {known.number}, the log ends with {head.number}"
            if head.number < known.number
            else "the database has seen another change at this place"
        )
        return Finding(head, head.number, before_chain, fault, min(head.number + 1, known.number))
    return Finding(head, head.number, before_chain)


def _fault(head: log_pb2.Audit, record: log_pb2.LogRecord) -> str:
    audit = record.audit
    if audit.number != head.number + 1:
        return f"expected change {head.number + 1}, found {audit.number}: changes are missing"
    if audit.previous != head.hash:
        return "it follows another change than the one before it"
    if audit.hash != link_hash(head.hash, audit.number, record):
        return "its content was changed"
    return ""


def _changes(payloads: Iterable[bytes]) -> Iterator[log_pb2.LogRecord]:
    for payload in payloads:
        if _CHANGE not in payload:
            continue
        try:
            record = log_pb2.LogRecord.FromString(payload)
        except DecodeError:
            continue  # if it was a change, its number is missing
        if record.WhichOneof("fact") == "change":
            yield record
