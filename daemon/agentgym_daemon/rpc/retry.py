"""RetryInfo in trailing metadata: when a refused call is worth another try."""

from __future__ import annotations

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

RETRY_INFO = "google.rpc.retryinfo-bin"
DETAILS = "grpc-status-details-bin"
RETRY_AFTER_S = 1.0
"""Where nothing better is known."""

Metadata = tuple[tuple[str, bytes], ...]


def retry_metadata(code: grpc.StatusCode, message: str, delay_s: float) -> Metadata:
    """The delay by itself, and as a detail of the status, which is where OTLP clients look."""
    delay = Duration()
    delay.FromMilliseconds(max(1, int(delay_s * 1000)))
    info = RetryInfo(retry_delay=delay)
    detail = AnyMessage()
    detail.Pack(info)
    number: int = code.value[0]
    status = Status(code=number, message=message, details=[detail])
    return (
        (RETRY_INFO, info.SerializeToString()),
        (DETAILS, status.SerializeToString()),
    )
