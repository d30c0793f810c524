"""What retention leaves of the log's records: those of living trajectories, and the rare facts.

A record that speaks of living and expired trajectories stays whole and names those that expired.
What expired records told about other things (tools that were offered, the senders' last numbers)
stays behind as small records, so that a rebuild gives what the database has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError

from agentgym.proto.v1 import decision_pb2, log_pb2
from agentgym_daemon.store.rows import Entry, TraceDecoder

NOBODY = bytes(16)
"""The trajectory of decisions of which only what they offered is left; always expired."""
_NO_ID = bytes(8)

Begun = Callable[[Sequence[bytes]], Mapping[bytes, int]]
"""Offset behind the first record of each trajectory that is stored."""
Given = Callable[[Sequence[str]], set[str]]
"""Which rewards are stored."""


class _Parts(NamedTuple):
    end: int
    payload: bytes
    record: log_pb2.LogRecord
    ids: tuple[bytes, ...]
    decisions: decision_pb2.RecordRequest | None = None


class Thinning:
    """Thins runs of records; `keep` is made for `SegmentLog.thin`."""

    def __init__(self, decode: TraceDecoder, *, begun: Begun, given: Given) -> None:
        self._decode = decode
        self._begun = begun
        self._given = given

    def keep(self, entries: Sequence[Entry]) -> tuple[list[Entry], bool]:
        """What is left of these records, and whether any of it may expire later."""
        parsed = list(self._parse(entries))
        begun = self._begun(list({i for parts in parsed for i in parts.ids}))
        given = self._given([r for parts in parsed if (r := _revoked(parts.record))])
        kept: list[Entry] = []
        may_expire = False
        offered: set[tuple[bytes, bytes]] = set()
        for parts in parsed:
            fact = parts.record.WhichOneof("fact")
            if fact in ("catalogue", "policy", "change", "training", "retention"):
                kept.append((parts.end, parts.payload))
                continue
            # A trajectory that began later is another one under the same id.
            living = {i for i in parts.ids if begun.get(i, parts.end + 1) <= parts.end}
            if living or _revoked(parts.record) in given:
                kept.append((parts.end, _marked(parts, living)))
                may_expire = True
            elif (rest := _rest(parts, offered)) is not None:
                kept.append((parts.end, rest))
        return kept, may_expire

    def _parse(self, entries: Sequence[Entry]) -> Iterator[_Parts]:
        for end, payload in entries:
            try:
                yield self._parts(end, payload)
            except DecodeError:
                continue  # it never gave a row

    def _parts(self, end: int, payload: bytes) -> _Parts:
        record = log_pb2.LogRecord.FromString(payload)
        fact = record.WhichOneof("fact")
        if fact == "otlp_traces":
            decoded = self._decode(record.otlp_traces, record.received_unix_nano)
            ids = [s.trace_id for s in decoded.spans] + [e.trace_id for e in decoded.evaluations]
            return _Parts(end, payload, record, tuple(dict.fromkeys(ids)))
        if fact == "decisions":
            request = decision_pb2.RecordRequest.FromString(record.decisions)
            ids = [d.trajectory_id for d in request.decisions]
            ids += [f.trajectory_id for f in request.features]
            return _Parts(end, payload, record, tuple(dict.fromkeys(ids)), request)
        if fact == "reward":
            return _Parts(end, payload, record, (record.reward.reward.trajectory_id,))
        if fact == "closure":
            return _Parts(end, payload, record, (record.closure.trajectory_id,))
        return _Parts(end, payload, record, ())


def _revoked(record: log_pb2.LogRecord) -> str:
    return record.revocation.reward_id if record.WhichOneof("fact") == "revocation" else ""


def _marked(parts: _Parts, living: set[bytes]) -> bytes:
    expired = {*parts.record.expired, *parts.ids} - living
    if not expired - set(parts.record.expired):
        return parts.payload
    fresh = sorted(expired - set(parts.record.expired))
    # Repeated fields of messages that lie behind each other are joined.
    return parts.payload + log_pb2.LogRecord(expired=fresh).SerializeToString()


def _rest(parts: _Parts, offered: set[tuple[bytes, bytes]]) -> bytes | None:
    """What a record of expired trajectories told besides; None if nothing."""
    record = parts.record
    rest = log_pb2.LogRecord(
        received_unix_nano=record.received_unix_nano,
        producer_id=record.producer_id,
        sequence=record.sequence,
    )
    left = decision_pb2.RecordRequest()
    for decision in parts.decisions.decisions if parts.decisions is not None else ():
        scope = decision.scope.SerializeToString()
        new = [tool for tool in decision.offered if (scope, tool) not in offered]
        if new:
            offered.update((scope, tool) for tool in new)
            left.decisions.add(
                scope=decision.scope, offered=new, trajectory_id=NOBODY, decision_id=_NO_ID
            )
    if left.decisions:
        rest.decisions = left.SerializeToString()
        rest.expired.append(NOBODY)
    elif not record.producer_id:
        return None
    return rest.SerializeToString()
