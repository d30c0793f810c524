"""Reads spools as the daemon does: by the contract of spool.proto alone, and adopts them."""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans

from agentgym.proto.v1 import catalogue_pb2, decision_pb2, reward_pb2, spool_pb2

_NAME = 32  # hex digits of a producer id
_HEADER = struct.Struct("<II")


@dataclass
class Spooled:
    """What lay in spool files, without what was given up."""

    headers: list[spool_pb2.SpoolHeader] = field(default_factory=list)
    records: list[spool_pb2.SpoolRecord] = field(default_factory=list)
    dropped: list[spool_pb2.SpoolDropped] = field(default_factory=list)

    def add(self, frame: spool_pb2.SpoolFrame) -> None:
        """Takes one frame, in order."""
        match frame.WhichOneof("frame"):
            case "header":
                self.headers.append(frame.header)
            case "record":
                self.records.append(frame.record)
            case "dropped":
                self.dropped.append(frame.dropped)
                void = frame.dropped.trajectory_id
                self.records = [r for r in self.records if r.trajectory_id != void]

    @property
    def spans(self) -> list[Any]:
        """All spans."""
        return [s for r in self.records for s in ScopeSpans.FromString(r.spans).spans]

    @property
    def decisions(self) -> list[decision_pb2.DecisionRecord]:
        """All decisions."""
        return [d for r in self._requests() for d in r.decisions]

    @property
    def features(self) -> list[decision_pb2.TaskFeatures]:
        """All features."""
        return [f for r in self._requests() for f in r.features]

    @property
    def rewards(self) -> list[reward_pb2.Reward]:
        """All rewards."""
        requests = (reward_pb2.ReportRequest.FromString(r.rewards) for r in self.records)
        return [reward for request in requests for reward in request.rewards]

    @property
    def tools(self) -> list[Any]:
        """All catalogue entries."""
        requests = (catalogue_pb2.PutRequest.FromString(r.catalogue) for r in self.records)
        return [tool for request in requests for tool in request.tools]

    @property
    def items(self) -> Counter[str]:
        """What the records say that they hold."""
        total: Counter[str] = Counter()
        for record in self.records:
            total.update(record.items)
        return total

    def resource(self, at: int = 0) -> ExportTraceServiceRequest:
        """What a header says of the process."""
        return ExportTraceServiceRequest.FromString(self.headers[at].resource_spans)

    def _requests(self) -> Iterator[decision_pb2.RecordRequest]:
        return (decision_pb2.RecordRequest.FromString(r.decisions) for r in self.records)


def read_frames(data: bytes) -> Iterator[bytes]:
    """The payloads of whole frames; a torn tail is cut."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, crc = _HEADER.unpack_from(data, at)
        payload = data[at + _HEADER.size : at + _HEADER.size + length]
        if len(payload) < length or crc != zlib.crc32(payload, zlib.crc32(data[at : at + 4])):
            return
        at += _HEADER.size + length
        yield payload


def directories(home: Path) -> list[Path]:
    """The producers' directories."""
    root = home / "spool"
    return sorted(p for p in root.iterdir() if len(p.name) == _NAME) if root.exists() else []


def is_owned(directory: Path) -> bool:
    """Whether the process that writes there lives."""
    descriptor = os.open(directory / "lock", os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def read(directory: Path, *, parts: bool = True, into: Spooled | None = None) -> Spooled:
    """Everything in a directory's files, in order; without `parts` only complete files."""
    found = Spooled() if into is None else into
    for path in sorted(p for p in directory.iterdir() if p.suffix in (".part", ".spool")):
        if parts or path.suffix == ".spool":
            for payload in read_frames(path.read_bytes()):
                found.add(spool_pb2.SpoolFrame.FromString(payload))
    return found


def read_all(home: Path) -> Spooled:
    """Everything in all directories."""
    found = Spooled()
    for directory in directories(home):
        read(directory, into=found)
    return found


def adopt(home: Path, into: Spooled) -> None:
    """Takes over what may be: directories of the dead, complete files of shared ones."""
    for directory in directories(home):
        dead = not is_owned(directory)
        for path in sorted(directory.iterdir()):
            if path.suffix == ".spool" or (dead and path.suffix == ".part"):
                _adopt(path, into, dead=dead)
        if dead:
            (directory / "lock").unlink()
            directory.rmdir()


def _adopt(path: Path, into: Spooled, *, dead: bool) -> None:
    frames = [spool_pb2.SpoolFrame.FromString(p) for p in read_frames(path.read_bytes())]
    if dead or (frames and frames[0].header.shared):
        for frame in frames:
            into.add(frame)
        path.unlink()
