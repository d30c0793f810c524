"""What agents send: spans, decisions, tools. Each call is acknowledged when it is durable."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from agentgym import semconv
from agentgym.proto.v1 import (
    catalogue_pb2,
    catalogue_pb2_grpc,
    decision_pb2,
    decision_pb2_grpc,
    log_pb2,
)
from agentgym_daemon.errors import InvalidRequestError
from agentgym_daemon.ingest.otlp import decode_traces
from agentgym_daemon.rpc import validate
from agentgym_daemon.rpc.journal import Journal
from agentgym_daemon.rpc.status import Context, unary

_log = logging.getLogger(__name__)
_Item = TypeVar("_Item")

TRACE_SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
Count = Callable[[str, int], None]
"""Counts what happened: name, how often."""


def record_from(context: Context) -> log_pb2.LogRecord:
    """An empty log record that names its sender, as far as the call's metadata do."""
    metadata: dict[str, Any] = dict(context.invocation_metadata() or ())
    producer = metadata.get(semconv.METADATA_PRODUCER, b"")
    sequence = str(metadata.get(semconv.METADATA_SEQUENCE, ""))
    if isinstance(producer, bytes) and len(producer) == 16 and sequence.isdecimal():
        return log_pb2.LogRecord(producer_id=producer, sequence=min(int(sequence), 2**63 - 1))
    return log_pb2.LogRecord()  # a foreign sender: its spans are deduplicated by their ids


class TraceService:
    """OTLP TraceService/Export on raw bytes: one bad span does not cost its siblings."""

    def __init__(self, journal: Journal, count: Count) -> None:
        self._journal = journal
        self._count = count

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """The handler to register with a server."""

        async def export(request: bytes, context: Context) -> ExportTraceServiceResponse:
            return await self.export(request, context)

        # No deserializer: the request arrives as it was sent.
        method = grpc.unary_unary_rpc_method_handler(
            export, response_serializer=ExportTraceServiceResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(TRACE_SERVICE, {"Export": method})

    @unary
    async def export(self, request: bytes, context: Context) -> ExportTraceServiceResponse:
        """Keeps a request and says how many of its spans cannot be read."""
        decoded = await asyncio.to_thread(decode_traces, request)
        if decoded.rejected:
            _log.warning(
                "%d of %d spans cannot be read",
                decoded.rejected,
                decoded.rejected + len(decoded.spans),
            )
        if decoded.rejected and not decoded.spans:
            # Not in the log, so the store does not count them.
            self._count("spans_rejected", decoded.rejected)
            raise InvalidRequestError(
                "nothing of this request can be read: expected an OTLP ExportTraceServiceRequest "
                f"(protobuf) with spans that have ids and a start time, got {len(request)} bytes"
            )
        if not request:
            return ExportTraceServiceResponse()
        record = record_from(context)
        record.otlp_traces = request
        await self._journal.append(record)
        if not decoded.rejected:
            return ExportTraceServiceResponse()
        return ExportTraceServiceResponse(
            partial_success=ExportTracePartialSuccess(
                rejected_spans=decoded.rejected,
                error_message=f"{decoded.rejected} spans or evaluation events cannot be read and "
                "are not kept; the others are",
            )
        )


class DecisionService(decision_pb2_grpc.DecisionServiceServicer):
    """Keeps what decisions were made from."""

    def __init__(self, journal: Journal, count: Count) -> None:
        self._journal = journal
        self._count = count

    @unary
    async def Record(
        self, request: decision_pb2.RecordRequest, context: Context
    ) -> decision_pb2.RecordResponse:
        """Keeps the decisions and features that are in order; names why others are not."""
        decisions, faults = _sift("decisions", request.decisions, validate.decision_fault)
        features, more = _sift("features", request.features, validate.features_fault)
        faults += more
        if faults:
            self._count("decisions_rejected", len(faults))
            _log.warning("rejected %d decisions or features: %s", len(faults), faults[0])
            request = decision_pb2.RecordRequest(decisions=decisions, features=features)
        accepted = len(decisions) + len(features)
        if accepted:
            record = record_from(context)
            record.decisions = request.SerializeToString()
            await self._journal.append(record)
        return decision_pb2.RecordResponse(
            accepted=accepted, rejected=len(faults), message="; ".join(faults[:5])
        )


class CatalogueService(catalogue_pb2_grpc.CatalogueServiceServicer):
    """Keeps the tools that agents offer."""

    def __init__(self, journal: Journal, count: Count) -> None:
        self._journal = journal
        self._count = count

    @unary
    async def Put(
        self, request: catalogue_pb2.PutRequest, context: Context
    ) -> catalogue_pb2.PutResponse:
        """Keeps the tools that are in order; refuses a request without any."""
        tools, faults = _sift("tools", request.tools, validate.tool_fault)
        if faults:
            self._count("tools_rejected", len(faults))
            _log.warning("rejected %d tools of %r: %s", len(faults), request.agent, faults[0])
        if faults and not tools:
            raise InvalidRequestError("; ".join(faults[:5]))
        if tools:
            record = record_from(context)
            record.catalogue.agent = request.agent
            record.catalogue.tools.extend(tools)
            await self._journal.append(record)
        return catalogue_pb2.PutResponse(accepted=len(tools))


def _sift(
    name: str, items: Iterable[_Item], fault_of: Callable[[_Item], str]
) -> tuple[list[_Item], list[str]]:
    good, faults = [], []
    for i, item in enumerate(items):
        if fault := fault_of(item):
            faults.append(f"{name}[{i}].{fault}")
        else:
            good.append(item)
    return good, faults
