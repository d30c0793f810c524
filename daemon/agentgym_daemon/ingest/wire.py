"""Splits an OTLP trace request by hand, so that one bad span does not lose its siblings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from google.protobuf.message import DecodeError
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}


class Salvaged(NamedTuple):
    """Spans of one resource that could be read."""

    resource: Resource
    spans: list[Span]
    lost: int


def salvage(request: bytes) -> Iterator[Salvaged]:
    """Yields what can be read of an ExportTraceServiceRequest that does not parse as a whole."""
    # resource_spans = 1 > (resource = 1 | scope_spans = 2 > spans = 2)
    for resource_spans in _fields(request, 1):
        resource = Resource()
        for raw in _fields(resource_spans, 1):
            _parse(resource, raw)
        spans: list[Span] = []
        lost = 0
        for scope_spans in _fields(resource_spans, 2):
            for raw in _fields(scope_spans, 2):
                span = Span()
                if _parse(span, raw):
                    spans.append(span)
                else:
                    lost += 1
        yield Salvaged(resource, spans, lost)


def _parse(message: Span | Resource, raw: bytes) -> bool:
    try:
        message.ParseFromString(raw)
    except DecodeError:
        message.Clear()
        return False
    return True


def _fields(data: bytes, wanted: int) -> Iterator[bytes]:
    """The length-delimited fields with this number; ends where the data stops making sense."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        if kind == _BYTES:
            length, position = _varint(data, position)
            if number == wanted and position + length <= len(data):
                yield data[position : position + length]
            position += length
        elif kind == _VARINT:
            _, position = _varint(data, position)
        elif kind in _WIDTHS:
            position += _WIDTHS[kind]
        else:
            return


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    # Truncated or too long: nothing behind it can be trusted.
    return 0, len(data)
