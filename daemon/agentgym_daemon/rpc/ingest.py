"""What agents send: spans, decisions, tools. Each call is acknowledged when it is durable."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

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
from agentgym_daemon.ingest.otlp import count_spans
from agentgym_daemon.rpc import validate
from agentgym_daemon.rpc.auth import caller
from agentgym_daemon.rpc.journal import Journal
from agentgym_daemon.rpc.status import Context, unary
from agentgym_daemon.rpc.tokens import Scope

_log = logging.getLogger(__name__)
_Item = TypeVar("_Item")

TRACE_SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
MAX_TRACES_BYTES = 4 * 2**20
"""As much as other OTLP receivers take. A bigger request is INVALID_ARGUMENT, which no exporter
sends again; gRPC's own RESOURCE_EXHAUSTED, beyond `MAX_MESSAGE_BYTES`, some do for ever."""
_INLINE_BYTES = 256 * 2**10
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


class Verdict(NamedTuple):
    """What would become of a trace request."""

    accepted: int
    rejected: int
    message: str
    """Why something is rejected; empty if nothing is."""


def accept_traces(request: bytes) -> Verdict:
    """Which spans of a request can be kept; raises InvalidRequestError if that is none of them.

    Pure, the same for every way in. The rows are made later, by whoever applies the log.
    """
    if len(request) > MAX_TRACES_BYTES:
        raise InvalidRequestError(
            f"the request has {len(request)} bytes, expected at most {MAX_TRACES_BYTES}; "
            "send fewer spans at once, or shorter attributes"
        )
    accepted, rejected = count_spans(request)
    if not rejected:
        return Verdict(accepted, 0, "")
    if not accepted:
        raise UnreadableTracesError(
            "nothing of this request can be read: expected an OTLP ExportTraceServiceRequest "
            f"(protobuf) with spans that have ids and a start time, got {len(request)} bytes",
            rejected=rejected,
        )
    return Verdict(
        accepted,
        rejected,
        f"{rejected} of {accepted + rejected} spans cannot be read (no ids, no start time, or "
        "broken protobuf) and are not kept; the others are",
    )


class UnreadableTracesError(InvalidRequestError):
    """Not one span of a request can be read."""

    def __init__(self, message: str, *, rejected: int) -> None:
        super().__init__(message)
        self.rejected = rejected


class TraceService:
    """OTLP TraceService/Export on raw bytes: one bad span does not cost its siblings."""

    def __init__(self, journal: Journal, count: Count) -> None:
        self._journal = journal
        self._count = count

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """The handler to register with a server."""

        async def export(request: bytes, context: Context) -> bytes:
            return await self.export(request, context)

        # No (de)serializer: the request arrives as it was sent, and most answers are empty.
        method = grpc.unary_unary_rpc_method_handler(export)
        return grpc.method_handlers_generic_handler(TRACE_SERVICE, {"Export": method})

    @unary
    async def export(self, request: bytes, context: Context) -> bytes:
        """Keeps a request and says how many of its spans cannot be read."""
        record = record_from(context)
        token = caller()
        record.no_rewards = token is not None and Scope.REWARD not in token.scopes
        verdict = await self.keep(request, record)
        if not verdict.rejected:
            return b""
        return ExportTraceServiceResponse(
            partial_success=ExportTracePartialSuccess(
                rejected_spans=verdict.rejected, error_message=verdict.message
            )
        ).SerializeToString()

    async def keep(self, request: bytes, record: log_pb2.LogRecord) -> Verdict:
        """Writes a request as the record's fact; returns when it is durable."""
        try:
            if len(request) <= _INLINE_BYTES:  # a thread would cost more than it saves
                verdict = accept_traces(request)
            else:
                verdict = await asyncio.to_thread(accept_traces, request)
        except UnreadableTracesError as error:
            # Not in the log, so the store does not count them.
            self._count("spans_rejected", error.rejected)
            raise
        if verdict.rejected:
            _log.warning("%s", verdict.message)
        if verdict.accepted:
            await self._journal.append(record, otlp_traces=request)
        return verdict


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
        return await self.keep(request, record_from(context))

    async def keep(
        self, request: decision_pb2.RecordRequest, record: log_pb2.LogRecord
    ) -> decision_pb2.RecordResponse:
        """Writes what is in order as the record's fact; returns when it is durable."""
        good, faults = accept_decisions(request)
        if faults:
            self._count("decisions_rejected", len(faults))
            _log.warning("rejected %d decisions or features: %s", len(faults), faults[0])
        accepted = len(good.decisions) + len(good.features)
        if accepted:
            record.decisions = good.SerializeToString()
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
        return await self.keep(request, record_from(context))

    async def keep(
        self, request: catalogue_pb2.PutRequest, record: log_pb2.LogRecord
    ) -> catalogue_pb2.PutResponse:
        """Writes what is in order as the record's fact; returns when it is durable."""
        good, faults = accept_catalogue(request)
        if faults:
            self._count("tools_rejected", len(faults))
            _log.warning("rejected %d tools of %r: %s", len(faults), request.agent, faults[0])
        if faults and not good.tools:
            raise InvalidRequestError("; ".join(faults[:5]))
        if good.tools:
            record.catalogue.CopyFrom(good)
            await self._journal.append(record)
        return catalogue_pb2.PutResponse(accepted=len(good.tools))


def accept_decisions(
    request: decision_pb2.RecordRequest,
) -> tuple[decision_pb2.RecordRequest, list[str]]:
    """What of a request is in order, and what is wrong with the rest."""
    decisions, faults = _sift("decisions", request.decisions, validate.decision_fault)
    features, more = _sift("features", request.features, validate.features_fault)
    if not faults and not more:
        return request, []
    good = decision_pb2.RecordRequest(decisions=decisions, features=features)
    return good, faults + more


def accept_catalogue(
    request: catalogue_pb2.PutRequest,
) -> tuple[catalogue_pb2.PutRequest, list[str]]:
    """Which tools of a request are in order, and what is wrong with the others."""
    tools, faults = _sift("tools", request.tools, validate.tool_fault)
    return catalogue_pb2.PutRequest(agent=request.agent, tools=tools), faults


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
