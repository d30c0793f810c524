"""Errors of the domain as gRPC status codes: the only place that knows both."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
from grpc import aio

from agentgym.errors import EncoderError, SnapshotError
from agentgym_daemon import errors
from agentgym_daemon.rpc.retry import RETRY_AFTER_S, retry_metadata

_Servicer = TypeVar("_Servicer")
_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
Context = aio.ServicerContext[Any, Any]

_CODES: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (errors.NotFoundError, grpc.StatusCode.NOT_FOUND),
    (errors.AmbiguousKeyError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.PolicyStateError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.ContractError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.InvalidRewardError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.InvalidRequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.BundleError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.StorageError, grpc.StatusCode.UNAVAILABLE),
    (errors.NotReadyError, grpc.StatusCode.UNAVAILABLE),
    (errors.QuotaError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.DirectoryError, grpc.StatusCode.UNAVAILABLE),
    (SnapshotError, grpc.StatusCode.DATA_LOSS),
    (EncoderError, grpc.StatusCode.DATA_LOSS),
)
_FOR_NOW = frozenset((grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED))


def code_of(error: Exception) -> grpc.StatusCode:
    """The status code by which an error travels."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return grpc.StatusCode.INTERNAL


async def refuse(context: Context, error: Exception) -> None:
    """Ends a call with an error, and says when it is worth another try."""
    code = code_of(error)
    delay_s = getattr(error, "retry_after_s", RETRY_AFTER_S)
    if code in _FOR_NOW:
        await context.abort(code, str(error), retry_metadata(code, str(error), delay_s))
    await context.abort(code, str(error))


def unary(
    method: Callable[[_Servicer, _Request, Context], Awaitable[_Response]],
) -> Callable[[_Servicer, _Request, Context], Awaitable[_Response]]:
    """A servicer method whose domain errors end the call with their status code."""

    @functools.wraps(method)
    async def call(self: _Servicer, request: _Request, context: Context) -> _Response:
        try:
            return await method(self, request, context)
        except (errors.DaemonError, SnapshotError, EncoderError) as error:
            await refuse(context, error)
            raise

    return call


def stream(
    method: Callable[[_Servicer, _Request, Context], AsyncIterator[_Response]],
) -> Callable[[_Servicer, _Request, Context], AsyncIterator[_Response]]:
    """The same for a method that answers with a stream."""

    @functools.wraps(method)
    async def call(
        self: _Servicer, request: _Request, context: Context
    ) -> AsyncIterator[_Response]:
        try:
            async for response in method(self, request, context):
                yield response
        except (errors.DaemonError, SnapshotError, EncoderError) as error:
            await refuse(context, error)

    return call
