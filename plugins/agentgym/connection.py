"""One authenticated gRPC channel to the daemon; used by the sender thread and the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from agentgym import semconv
from agentgym.errors import DaemonError
from agentgym.wire import fields

Metadata = tuple[tuple[str, str | bytes], ...]

_RETRY_INFO = "google.rpc.retryinfo-bin"
_LONGEST_RETRY_S = 60.0
_OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.enable_http_proxy", 0),  # the daemon is local; a host's proxy settings are not for it
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),  # the longest that one attempt may take
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", 16 * 2**20),
    # Notices a daemon that hangs or vanished without a word. Servers refuse clients that ask more
    # often than every five minutes.
    ("grpc.keepalive_time_ms", 600_000),
    ("grpc.http2.max_pings_without_data", 0),
)


def open_channel(endpoint: str) -> grpc.Channel:
    """A channel to `unix:PATH` or `HOST:PORT`; connects on first use."""
    channel = grpc.insecure_channel(endpoint, options=list(_OPTIONS))
    _hide_from_forks(channel)
    return channel


def _hide_from_forks(channel: grpc.Channel) -> None:
    # With GRPC_ENABLE_FORK_SUPPORT=1 grpc closes every channel that it knows in a forked child, and
    # that waits for ever for a lock if a call was in flight. Our children never touch the channel.
    with contextlib.suppress(ImportError, AttributeError, KeyError):
        from grpc._cython import cygrpc  # type: ignore[attr-defined]  # compiled, unstubbed

        cygrpc.fork_unregister_channel(channel)


def read_token(path: Path) -> str:
    """The bearer token; raises DaemonError saying how to get one."""
    try:
        token = path.read_text().strip()
    except FileNotFoundError:
        raise DaemonError(
            f"no token at {path}; start the daemon once (agentgym-daemon serve) or set "
            "AGENTGYM_TOKEN_FILE",
            code="UNAVAILABLE",  # a daemon that ever ran here has written one
        ) from None
    except (OSError, ValueError) as error:
        raise DaemonError(
            f"cannot read the token at {path}: {error}", code="UNAUTHENTICATED"
        ) from error
    if not token or not (token.isascii() and token.isprintable()):
        raise DaemonError(
            f"expected a token of printable ASCII in {path}, found something else; copy the file "
            "`token` of the daemon's home there",
            code="UNAUTHENTICATED",
        )
    return token


def credentials(token: str) -> Metadata:
    """Metadata of every call: the token and the contract that this side speaks."""
    return (
        (semconv.METADATA_TOKEN, f"Bearer {token}"),
        (semconv.METADATA_CONTRACT, str(semconv.CONTRACT_VERSION)),
    )


def status_name(error: grpc.RpcError) -> str:
    """The gRPC status name of a failed call."""
    code = error.code() if hasattr(error, "code") else None
    return code.name if code is not None else "UNKNOWN"


def retry_delay_s(error: grpc.RpcError) -> float | None:
    """When the daemon asks to be tried again (google.rpc.RetryInfo), if it says so."""
    trailing: Any = error.trailing_metadata() if hasattr(error, "trailing_metadata") else None
    for key, value in trailing or ():
        if key == _RETRY_INFO and isinstance(value, bytes):
            return _delay_s(value)
    return None


def _delay_s(retry_info: bytes) -> float | None:
    try:
        durations = [value for number, value, _ in fields(retry_info) if number == 1]
        parts = {n: value for n, value, _ in fields(bytes(durations[-1]))}
        delay_s = int(parts.get(1, 0)) + int(parts.get(2, 0)) / 1e9
    except (IndexError, ValueError, TypeError):
        return None
    return min(delay_s, _LONGEST_RETRY_S)
