"""Parses requests where an error can be answered: gRPC's own answer to a bad one is UNKNOWN."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from agentgym_daemon.rpc.status import Context


def parsing(handler: Any) -> Any:
    """The same handler, but one that answers INVALID_ARGUMENT to what it cannot parse."""
    if handler is None or handler.request_deserializer is None:
        return handler  # unknown to the server, or made for raw bytes
    parse, serialize = handler.request_deserializer, handler.response_serializer

    async def one(request: bytes, context: Context) -> Any:
        return await handler.unary_unary(await _parsed(parse, request, context), context)

    async def many(request: bytes, context: Context) -> AsyncIterator[Any]:
        async for response in handler.unary_stream(await _parsed(parse, request, context), context):
            yield response

    async def upload(requests: AsyncIterator[bytes], context: Context) -> Any:
        parsed = (await _parsed(parse, request, context) async for request in requests)
        return await handler.stream_unary(parsed, context)

    if handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler(upload, response_serializer=serialize)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(many, response_serializer=serialize)
    return grpc.unary_unary_rpc_method_handler(one, response_serializer=serialize)


async def _parsed(parse: Any, request: bytes, context: Context) -> Any:
    try:
        return parse(request)
    except DecodeError as error:
        message = f"the request cannot be parsed ({error}); expected a message of agentgym.v1"
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)
        raise
