"""One authenticated gRPC channel to the daemon; used by the sender thread and the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import grpc

from agentgym import semconv
from agentgym.errors import DaemonError

Metadata = tuple[tuple[str, str | bytes], ...]

_OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.enable_http_proxy", 0),  # the daemon is local; a host's proxy settings are not for it
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", 16 * 2**20),
    # Notices a daemon that hangs or vanished without a word. Servers refuse clients that ask more
    # often than every five minutes.
    ("grpc.keepalive_time_ms", 600_000),
    ("grpc.http2.max_pings_without_data", 0),
)


def open_channel(endpoint: str) -> grpc.Channel:
    """A channel to `unix:PATH` or `HOST:PORT`; connects on first use."""
    return grpc.insecure_channel(endpoint, options=list(_OPTIONS))


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
