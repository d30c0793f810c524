"""Errors of the domain as gRPC status codes: the only place that knows both."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
from grpc import aio

from agentgym.errors import EncoderError, SnapshotError
from agentgym_daemon import errors

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
    (errors.StorageError, grpc.StatusCode.UNAVAILABLE),
    (errors.DirectoryError, grpc.StatusCode.UNAVAILABLE),
    (SnapshotError, grpc.StatusCode.DATA_LOSS),
    (EncoderError, grpc.StatusCode.DATA_LOSS),
)


def code_of(error: Exception) -> grpc.StatusCode:
    """The status code by which an error travels."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return grpc.StatusCode.INTERNAL


def unary(
    method: Callable[[_Servicer, _Request, Context], Awaitable[_Response]],
) -> Callable[[_Servicer, _Request, Context], Awaitable[_Response]]:
    """A servicer method whose domain errors end the call with their status code."""

    @functools.wraps(method)
    async def call(self: _Servicer, request: _Request, context: Context) -> _Response:
        try:
            return await method(self, request, context)
        except (errors.DaemonError, SnapshotError, EncoderError) as error:
            await context.abort(code_of(error), str(error))
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
            await context.abort(code_of(error), str(error))

    return call
