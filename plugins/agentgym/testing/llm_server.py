"""A local OpenAI-compatible server in a thread or a process of its own; a brain plays the model.

One event loop owns every connection, calls the brain and writes each answer at once. asyncio sets
TCP_NODELAY by itself. Hand-parsed HTTP/1.1, since http.server costs more than the answers do.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import logging
import os
import select
import signal
import socket
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import responses
from types import TracebackType
from typing import Any, Final

from agentgym.testing.llm_brain import Brain, JsonObject, obey
from agentgym.testing.llm_wire import (
    ApiError,
    parse_body,
    parse_chat,
    render_completion,
    render_models,
    render_stream,
)

_LOG = logging.getLogger(__name__)
_MAX_HEAD_BYTES: Final = 64 * 1024
_MAX_BODY_BYTES: Final = 32 * 1024 * 1024
_CLOSE_TIMEOUT_S: Final = 5.0
_ACCEPT_TURNS: Final = 4
_METHODS: Final = {"/v1/chat/completions": "POST", "/v1/models": "GET"}
_JSON: Final = "application/json"
_EVENTS: Final = "text/event-stream; charset=utf-8"


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request as it arrived: names of headers in lower case, `body` empty unless it parsed."""

    path: str
    headers: Mapping[str, str]
    body_bytes: bytes
    body: JsonObject


@dataclass(frozen=True, slots=True)
class _Head:
    method: str
    path: str
    headers: dict[str, str]
    body_length: int
    keep_alive: bool


@dataclass(frozen=True, slots=True)
class _Answer:
    body: bytes
    status: int = 200
    content_type: str = _JSON
    delay_s: float = 0.0
    retry: bool | None = None


class LLMServer:
    """Serves `brain` between `start` and `close`, best as a context manager.

    The port is taken by the constructor, so `base_url` holds at once and a taken port raises there.
    Without `keep_alive` each answer ends its connection: for clients that never close theirs.
    """

    def __init__(
        self,
        brain: Brain,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        record: bool = True,
        record_limit: int | None = None,
        keep_alive: bool = True,
    ) -> None:
        self._brain = brain
        self.keep_alive = keep_alive
        self._record = record
        self._recorded: deque[RecordedRequest] = deque(maxlen=record_limit)
        self._lock = threading.Lock()
        self._socket = socket.create_server((host, port), backlog=256)
        self.base_url = f"http://{host}:{self._socket.getsockname()[1]}/v1"
        self._connections: set[_Connection] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agentgym-llm-server", daemon=True)

    def __enter__(self) -> LLMServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def requests(self) -> list[RecordedRequest]:
        """Copy of what arrived so far, oldest first; empty with `record=False`."""
        with self._lock:
            return list(self._recorded)

    def clear(self) -> None:
        """Forget the recorded requests."""
        with self._lock:
            self._recorded.clear()

    def start(self) -> LLMServer:
        """Start answering; once per server."""
        self._thread.start()
        self._ready.wait()
        return self

    def close(self) -> None:
        """Stop answering and drop open connections; a second call does nothing."""
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(_CLOSE_TIMEOUT_S)
        self._socket.close()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await self._loop.create_server(lambda: _Connection(self), sock=self._socket)
        self._ready.set()
        await self._stop.wait()
        await self._finish_accepting()
        server.close()
        for connection in tuple(self._connections):
            connection.abort()
        # An aborted transport closes its socket one turn of the loop later.
        await asyncio.sleep(0)

    async def _finish_accepting(self) -> None:
        """Let connections that are being accepted arrive: asyncio's own close would leak them."""
        asyncio.get_running_loop().remove_reader(self._socket)
        for _ in range(_ACCEPT_TURNS):
            await asyncio.sleep(0)

    def answer(self, head: _Head, body: bytes) -> _Answer:
        """Answer one request; an error is an answer too."""
        parsed: JsonObject = {}
        try:
            try:
                if body:
                    parsed = parse_body(body)
            finally:
                self._remember(head, body, parsed)
            return self._route(head, body, parsed)
        except ApiError as error:
            return _error_answer(error)
        except Exception as error:  # noqa: BLE001 - the server outlives whatever a brain does
            _LOG.exception("the brain failed on a request to %s", head.path)
            message = f"{type(error).__name__}: {error}"
            return _error_answer(ApiError(500, message, kind="server_error", retry=False))

    def _remember(self, head: _Head, body: bytes, parsed: JsonObject) -> None:
        if self._record:
            with self._lock:
                self._recorded.append(RecordedRequest(head.path, head.headers, body, parsed))

    def _route(self, head: _Head, body: bytes, parsed: JsonObject) -> _Answer:
        path = head.path.partition("?")[0]
        method = _METHODS.get(path)
        if method is None:
            raise ApiError(404, f"Invalid URL ({head.method} {head.path})")
        if method != head.method:
            raise ApiError(405, f"Not allowed to {head.method} on {path}; use {method}.")
        if method == "GET":
            return _Answer(render_models())
        return self._chat(body, parsed if body else parse_body(body))

    def _chat(self, body: bytes, parsed: JsonObject) -> _Answer:
        request = parse_chat(parsed)
        reply = obey(request, self._brain.reply(request))
        if parsed.get("stream"):
            events = render_stream(request, reply, body=body)
            return _Answer(events, content_type=_EVENTS, delay_s=reply.delay_s)
        return _Answer(render_completion(request, reply, body=body), delay_s=reply.delay_s)

    def opened(self, connection: _Connection) -> None:
        """Take note of a connection, so that `close` can drop it."""
        self._connections.add(connection)

    def closed(self, connection: _Connection) -> None:
        """Forget a connection that ended."""
        self._connections.discard(connection)


def _error_answer(error: ApiError) -> _Answer:
    return _Answer(error.to_json(), status=error.status, retry=error.retry)


class _Connection(asyncio.Protocol):
    """Reads one client's requests in turn, the next not before the last is answered."""

    def __init__(self, server: LLMServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._head: _Head | None = None
        self._delayed: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._server.closed(self)
        if self._delayed is not None:
            self._delayed.cancel()

    def abort(self) -> None:
        """Drop the connection without answering."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._advance()

    def _advance(self) -> None:
        while self._delayed is None and self._transport is not None:
            try:
                request = self._next_request()
            except ApiError as error:
                self._write(_error_answer(error), keep_alive=False)
                return
            if request is None:
                return
            head, body = request
            keep_alive = head.keep_alive and self._server.keep_alive
            answer = self._server.answer(head, body)
            if answer.delay_s > 0:
                loop = asyncio.get_running_loop()
                self._delayed = loop.call_later(
                    answer.delay_s, self._write_delayed, answer, keep_alive
                )
            else:
                self._write(answer, keep_alive=keep_alive)

    def _next_request(self) -> tuple[_Head, bytes] | None:
        if self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > _MAX_HEAD_BYTES:
                    raise ApiError(431, f"Expected at most {_MAX_HEAD_BYTES} bytes of headers.")
                return None
            self._head = _parse_head(bytes(self._buffer[:end]))
            del self._buffer[: end + 4]
        head = self._head
        if len(self._buffer) < head.body_length:
            return None
        body = bytes(self._buffer[: head.body_length])
        del self._buffer[: head.body_length]
        self._head = None
        return head, body

    def _write_delayed(self, answer: _Answer, keep_alive: bool) -> None:
        self._delayed = None
        self._write(answer, keep_alive=keep_alive)
        self._advance()

    def _write(self, answer: _Answer, *, keep_alive: bool) -> None:
        if self._transport is None:
            return
        self._transport.write(_render_head(answer, keep_alive=keep_alive) + answer.body)
        if not keep_alive:
            self._transport.close()
            self._transport = None


def _parse_head(raw: bytes) -> _Head:
    first, *lines = raw.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise ApiError(400, f"Expected 'METHOD PATH HTTP/1.1', got {first[:100]!r}.")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    connection = headers.get("connection", "").lower()
    keep_alive = connection != "close" if parts[2] == "HTTP/1.1" else connection == "keep-alive"
    return _Head(parts[0], parts[1], headers, _body_length(headers), keep_alive)


def _body_length(headers: Mapping[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise ApiError(411, "Expected a Content-Length, got a Transfer-Encoding; send the length.")
    declared = headers.get("content-length", "0")
    if not (declared.isascii() and declared.isdigit()):
        raise ApiError(400, f"Expected a number as Content-Length, got {declared[:100]!r}.")
    length = int(declared)
    if length > _MAX_BODY_BYTES:
        raise ApiError(413, f"Expected at most {_MAX_BODY_BYTES} bytes of body, got {length}.")
    return length


def _render_head(answer: _Answer, *, keep_alive: bool) -> bytes:
    retry = "" if answer.retry is None else f"x-should-retry: {str(answer.retry).lower()}\r\n"
    return (
        f"HTTP/1.1 {answer.status} {responses.get(answer.status, 'Unknown')}\r\n"
        f"content-type: {answer.content_type}\r\n"
        f"content-length: {len(answer.body)}\r\n"
        f"{retry}"
        f"connection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
    ).encode()


def _load_brain(path: str, arguments: Mapping[str, Any]) -> Brain:
    module, _, name = path.partition(":")
    if not name:
        raise SystemExit(f"Expected --brain MODULE:FACTORY, got {path!r}.")
    factory: Callable[..., Brain] = getattr(importlib.import_module(module), name)
    return factory(**arguments)


@contextmanager
def _end_signals() -> Iterator[socket.socket]:
    """Yield a socket that becomes readable at SIGTERM or SIGINT."""
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: None)
        signal.set_wakeup_fd(writer.fileno())
        yield reader
        signal.set_wakeup_fd(-1)


def _wait_for_end(ended: socket.socket) -> None:
    """Return at a signal, or when a parent's pipe closes, so that no orphan outlives it."""
    watched: list[socket.socket | int] = [ended]
    # Only a pipe speaks of a parent: a shell's `&` gives its terminal or /dev/null.
    if sys.stdin is not None and stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        watched.append(sys.stdin.fileno())
    while True:
        readable, _, _ = select.select(watched, [], [])
        if ended in readable or not os.read(sys.stdin.fileno(), 4096):
            return


def main(argv: Sequence[str] | None = None) -> int:
    """Serve a brain until SIGTERM; says where in one JSON line on stdout."""
    parser = argparse.ArgumentParser(prog="python -m agentgym.testing.llm_server")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--brain", required=True, metavar="MODULE:FACTORY")
    parser.add_argument("--brain-args", default="{}", metavar="JSON", help="keyword arguments")
    options = parser.parse_args(argv)
    brain = _load_brain(options.brain, json.loads(options.brain_args))
    server = LLMServer(brain, host=options.host, port=options.port, record=False)
    # The signals are caught before the line that tells a parent that it may send one.
    with _end_signals() as ended, server:
        sys.stdout.write(json.dumps({"base_url": server.base_url}) + "\n")
        sys.stdout.flush()
        _wait_for_end(ended)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
