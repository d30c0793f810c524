"""The gRPC server: a unix socket in the daemon's directory, and TCP on loopback if asked."""

from __future__ import annotations

import contextlib
import stat
from pathlib import Path
from typing import Any

from grpc import aio

from agentgym_daemon.errors import ListenError

SOCKET_NAME = "daemon.sock"
MAX_SOCKET_PATH = 107
"""Bytes of a path that a unix socket's address holds."""
MAX_MESSAGE_BYTES = 16 * 2**20
"""What gRPC lets in, also after decompression: no bomb unfolds further. Services may take less."""

_OPTIONS = (
    ("grpc.so_reuseport", 0),  # or a second daemon would share the port silently
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", 4 * MAX_MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", 1000),
    ("grpc.server_handshake_timeout_ms", 10_000),  # who does not end it is cut off
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


class RpcServer:
    """Listens from `bind`, answers from `start`, ends with `stop`."""

    def __init__(
        self, home: Path, listen: str | None, interceptor: aio.ServerInterceptor[Any, Any]
    ) -> None:
        self._socket = home / SOCKET_NAME
        self._listen = listen
        self.server = aio.server(interceptors=(interceptor,), options=_OPTIONS)
        self.listeners: tuple[str, ...] = ()

    def bind(self) -> None:
        """Takes the addresses; raises ListenError naming the one that cannot be had."""
        check_socket_path(self._socket)
        _remove_stale(self._socket)
        for address in (f"unix:{self._socket}", self._listen):
            if address:
                self.listeners = (*self.listeners, self._bind(address))

    async def start(self) -> None:
        """Answers calls from now on."""
        await self.server.start()
        self._socket.chmod(0o600)

    async def stop(self, grace_s: float) -> None:
        """Accepts nothing more, lets calls end within the grace, and removes the socket."""
        await self.server.stop(grace_s)
        if self.listeners:
            with contextlib.suppress(OSError):
                self._socket.unlink(missing_ok=True)
        self.listeners = ()

    def _bind(self, address: str) -> str:
        try:
            port = self.server.add_insecure_port(address)
        except RuntimeError as error:
            raise ListenError(
                address, "it is taken, or not an address of this machine; choose another: --listen"
            ) from error
        if address.startswith("unix:"):
            return address
        return f"{address.rpartition(':')[0]}:{port}"


def check_socket_path(path: Path) -> None:
    """Raises ListenError if a path is too long for a unix socket."""
    size = len(str(path).encode())
    if size > MAX_SOCKET_PATH:
        raise ListenError(
            f"unix:{path}",
            f"the path has {size} bytes, a unix socket takes {MAX_SOCKET_PATH}; "
            "set AGENTGYM_HOME to a shorter directory",
        )


def _remove_stale(path: Path) -> None:
    # The directory is locked, so a socket that is there belongs to nobody.
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ListenError(
                f"unix:{path}", "something that is no socket is in its place; remove it"
            )
        path.unlink()
    except FileNotFoundError:
        return
