"""/livez, /readyz and /metrics over HTTP, on loopback, for whoever watches the daemon.

A thread of its own answers, so that a stuck event loop can be told from a stopped process. Only
GET, only under a loopback name: a page in a browser that was led here learns nothing.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from agentgym_daemon.errors import ListenError

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_HOSTS = frozenset(("127.0.0.1", "localhost", "[::1]"))
_TEXT = "text/plain; charset=utf-8"
_REQUEST_S = 5.0
_MOST_AT_ONCE = 8

_logger = logging.getLogger(__name__)

Answer = tuple[int, str, bytes]
Page = Callable[[], Answer]
"""Makes an answer (status, content type, body); called in the server's threads."""


def verdict(reason: str) -> Answer:
    """200 without a reason, else 503 that names it."""
    return (503, _TEXT, f"{reason}\n".encode()) if reason else (200, _TEXT, b"ok\n")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], pages: dict[str, Page]) -> None:
        self.pages = pages
        self._slots = threading.BoundedSemaphore(_MOST_AT_ONCE)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        _logger.debug("a health request failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _REQUEST_S
    server_version = "agentgym"
    sys_version = ""

    def do_GET(self) -> None:
        host = self.headers.get("Host", "")
        if _without_port(host) not in _HOSTS:
            self._send((403, _TEXT, b"expected a loopback name in Host\n"))
            return
        page = self.server.pages.get(self.path)
        self._send(page() if page else (404, _TEXT, b"/livez, /readyz or /metrics\n"))

    def _send(self, answer: Answer) -> None:
        status, kind, body = answer
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        _logger.debug(format, *args)


class HealthServer:
    """Serves pages from `start` to `close`."""

    def __init__(self, listen: str, pages: dict[str, Page]) -> None:
        host, _, port = listen.rpartition(":")
        try:
            self._server = _Server((host.strip("[]"), int(port)), pages)
        except OSError as error:
            raise ListenError(listen, f"{error.strerror}; choose another: --metrics") from error
        self.address = f"{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="agentgym-health", daemon=True
        )

    def start(self) -> None:
        """Answers from now on."""
        self._thread.start()

    def close(self) -> None:
        """Answers nothing more."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()
