"""The stub model server, spoken to by the frameworks' own clients and over plain HTTP."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agentgym import testing
from agentgym.testing import (
    ApiError,
    ChatReply,
    ChatRequest,
    EchoToolBrain,
    LLMServer,
    ScriptedBrain,
    ToolCall,
    call_tool,
    say,
)

PLUGINS = Path(__file__).resolve().parents[3] / "plugins"
ADD_SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "note": {"type": "string"}},
    "required": ["a", "note"],
}


@pytest.fixture(autouse=True)
def quiet_frameworks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CREWAI_DISABLE_TELEMETRY", "CREWAI_DISABLE_TRACKING"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("CREWAI_TRACING_ENABLED", "false")


@pytest.fixture
def short_lived() -> Iterator[LLMServer]:
    """Ends each connection, since the frameworks do not close those of their async clients."""
    with LLMServer(EchoToolBrain(), keep_alive=False) as server:
        yield server


@pytest.fixture
def echo() -> Iterator[LLMServer]:
    with LLMServer(EchoToolBrain()) as server:
        yield server


def function_tool(name: str, description: str = "Does things.") -> dict[str, Any]:
    function = {"name": name, "description": description, "parameters": ADD_SCHEMA}
    return {"type": "function", "function": function}


def body(text: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": text}], **fields}


def connect(server: LLMServer) -> http.client.HTTPConnection:
    address = server.base_url.removeprefix("http://").removesuffix("/v1")
    return http.client.HTTPConnection(address, timeout=10)


def connect_raw(server: LLMServer) -> socket.socket:
    port = int(server.base_url.removesuffix("/v1").rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def is_closed(client: socket.socket) -> bool:
    """Whether the other end is gone; one that was still queueing is reset instead of ended."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def send(
    server: LLMServer,
    payload: object,
    *,
    path: str = "/v1/chat/completions",
    method: str = "POST",
) -> tuple[int, bytes]:
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    connection = connect(server)
    try:
        connection.request(method, path, raw)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def ask(server: LLMServer, payload: object) -> dict[str, Any]:
    status, raw = send(server, payload)
    assert status == 200, raw
    answer: dict[str, Any] = json.loads(raw)
    return answer


def called(answer: dict[str, Any]) -> list[str]:
    calls = answer["choices"][0]["message"].get("tool_calls", [])
    return [call["function"]["name"] for call in calls]


def error_of(server: LLMServer, payload: object, **how: Any) -> tuple[int, str]:
    status, raw = send(server, payload, **how)
    return status, json.loads(raw)["error"]["message"]


class TestRealClients:
    @staticmethod
    def chat_openai(server: LLMServer) -> Any:
        from langchain_openai import ChatOpenAI
        from pydantic import SecretStr

        return ChatOpenAI(
            model="gpt-4o",
            base_url=server.base_url,
            api_key=SecretStr("test"),
            stream_usage=True,
        )

    def test_langchain_gets_text_and_usage(self) -> None:
        with LLMServer(ScriptedBrain([say("good day")])) as server:
            message = self.chat_openai(server).invoke("hello")

        assert message.content == "good day"
        assert message.usage_metadata["input_tokens"] == 1
        assert message.usage_metadata["output_tokens"] == 2

    def test_langchain_gets_parallel_tool_calls(self) -> None:
        both = ChatReply(tool_calls=(ToolCall("add", '{"a": 1}'), ToolCall("mul", "{}")))
        with LLMServer(ScriptedBrain([both])) as server:
            model = self.chat_openai(server).bind_tools(
                [function_tool("add"), function_tool("mul")]
            )
            message = model.invoke("hello")

        assert [call["name"] for call in message.tool_calls] == ["add", "mul"]
        assert message.tool_calls[0]["args"] == {"a": 1}
        assert len({call["id"] for call in message.tool_calls}) == 2

    async def test_langchain_works_async(self, short_lived: LLMServer) -> None:
        message = await self.chat_openai(short_lived).ainvoke("hello")

        assert message.content == "hello"

    def test_langchain_streams_text_with_usage(self) -> None:
        text = "a rather long answer that travels in several pieces over the wire"
        with LLMServer(ScriptedBrain([say(text)])) as server:
            chunks = list(self.chat_openai(server).stream("hello"))

        assert "".join(chunk.content for chunk in chunks) == text
        assert sum(1 for chunk in chunks if chunk.content) > 2
        assert sum(c.usage_metadata["total_tokens"] for c in chunks if c.usage_metadata) == 17

    async def test_langchain_streams_tool_calls_async(self) -> None:
        arguments = {"a": 1, "note": "long enough to need more than one fragment"}
        brain = ScriptedBrain([call_tool("add", arguments)])
        with LLMServer(brain, keep_alive=False) as server:
            model = self.chat_openai(server).bind_tools([function_tool("add")])
            whole = None
            async for chunk in model.astream("hello"):
                whole = chunk if whole is None else whole + chunk

        assert whole is not None
        assert [(call["name"], call["args"]) for call in whole.tool_calls] == [("add", arguments)]

    def test_langchain_agent_runs_a_tool_and_ends(self, echo: LLMServer) -> None:
        from langchain.agents import create_agent

        def add(a: int, note: str) -> str:
            """Add one."""
            return f"{a + 1} {note}"

        agent = create_agent(self.chat_openai(echo), [add])
        state = agent.invoke({"messages": [{"role": "user", "content": "count"}]})

        assert state["messages"][-1].content == "count -> 2 count"

    @staticmethod
    def autogen_client(server: LLMServer) -> Any:
        from autogen_ext.models.openai import OpenAIChatCompletionClient

        return OpenAIChatCompletionClient(model="gpt-4o", base_url=server.base_url, api_key="test")

    @staticmethod
    def autogen_tool() -> Any:
        from autogen_core.tools import FunctionTool

        def add(a: int, note: str) -> str:
            """Add one."""
            return f"{a + 1} {note}"

        return FunctionTool(add, description="Add one.")

    async def test_autogen_creates_with_a_forced_tool(self, echo: LLMServer) -> None:
        from autogen_core.models import UserMessage

        client, tool = self.autogen_client(echo), self.autogen_tool()
        user = UserMessage(content="count", source="user")
        result = await client.create([user], tools=[tool], tool_choice=tool)
        await client.close()

        assert [call.name for call in result.content] == ["add"]
        assert json.loads(result.content[0].arguments) == {"a": 1, "note": "count"}
        assert result.finish_reason == "function_calls"
        assert echo.requests[0].body["tool_choice"]["function"]["name"] == "add"

    async def test_autogen_streams(self, echo: LLMServer) -> None:
        from autogen_core.models import UserMessage

        client = self.autogen_client(echo)
        user = UserMessage(content="a long enough text to be sent in pieces", source="user")
        options = {"stream_options": {"include_usage": True}}
        texts = [e async for e in client.create_stream([user], extra_create_args=options)]
        calls = [e async for e in client.create_stream([user], tools=[self.autogen_tool()])]
        await client.close()

        assert texts[-1].content == "a long enough text to be sent in pieces"
        assert "".join(texts[:-1]) == texts[-1].content
        assert texts[-1].usage.prompt_tokens == 9
        assert [call.name for call in calls[-1].content] == ["add"]

    def test_crewai_calls_tools_and_text(self) -> None:
        from crewai import LLM

        script = ScriptedBrain([say("good day"), call_tool("add", {"a": 4, "note": "n"})])
        with LLMServer(script) as server:
            model = LLM(model="openai/gpt-4o", base_url=server.base_url, api_key="test")
            text = model.call("hello")
            result = model.call(
                "count",
                tools=[function_tool("add")],
                available_functions={"add": lambda a, note: f"{a + 1} {note}"},
            )
            sent = [request.body for request in server.requests]

        assert text == "good day"
        assert result == "5 n"
        assert [tool["function"]["name"] for tool in sent[1]["tools"]] == ["add"]

    async def test_crewai_works_async_and_streams(self, short_lived: LLMServer) -> None:
        from crewai import LLM

        settings: dict[str, Any] = {
            "model": "openai/gpt-4o",
            "base_url": short_lived.base_url,
            "api_key": "test",
        }
        alone = await LLM(**settings).acall("hello")
        streamed = LLM(stream=True, **settings).call("a text that is sent in some pieces")

        assert alone == "hello"
        assert streamed == "a text that is sent in some pieces"
        assert short_lived.requests[1].body["stream"] is True

    def test_a_failing_brain_is_an_error_that_clients_do_not_retry(self) -> None:
        import openai

        with LLMServer(ScriptedBrain([])) as server:
            with pytest.raises(openai.InternalServerError, match="at most 0 requests"):
                self.chat_openai(server).invoke("hello")
            assert len(server.requests) == 1


class TestToolChoice:
    TOOLS = (function_tool("add"), function_tool("mul"))

    def choose(self, reply: ChatReply, **fields: Any) -> dict[str, Any]:
        with LLMServer(ScriptedBrain([reply])) as server:
            return ask(server, body("count", tools=self.TOOLS, **fields))

    def test_none_turns_a_call_into_text(self) -> None:
        answer = self.choose(call_tool("add"), tool_choice="none")

        assert called(answer) == []
        assert answer["choices"][0]["message"]["content"]
        assert answer["choices"][0]["finish_reason"] == "stop"

    def test_required_turns_text_into_a_call(self) -> None:
        assert called(self.choose(say("no"), tool_choice="required")) == ["add"]

    def test_a_forced_tool_is_called_with_filled_arguments(self) -> None:
        forced = {"type": "function", "function": {"name": "mul"}}
        answer = self.choose(call_tool("add"), tool_choice=forced)

        call = answer["choices"][0]["message"]["tool_calls"][0]["function"]
        assert call["name"] == "mul"
        assert json.loads(call["arguments"]) == {"a": 1, "note": "count"}

    def test_a_forced_tool_keeps_the_arguments_of_the_script(self) -> None:
        forced = {"type": "function", "function": {"name": "mul"}}
        both = ChatReply(tool_calls=(ToolCall("add"), ToolCall("mul", '{"a": 7}')))
        answer = self.choose(both, tool_choice=forced)

        calls = answer["choices"][0]["message"]["tool_calls"]
        assert [call["function"]["arguments"] for call in calls] == ['{"a": 7}']

    def test_parallel_calls_are_cut_to_one_when_switched_off(self) -> None:
        both = ChatReply(tool_calls=(ToolCall("add"), ToolCall("mul")))

        assert called(self.choose(both)) == ["add", "mul"]
        assert called(self.choose(both, parallel_tool_calls=False)) == ["add"]

    def test_auto_lets_the_model_name_a_tool_that_is_hidden(self) -> None:
        assert called(self.choose(call_tool("secret"), tool_choice="auto")) == ["secret"]

    def test_without_tools_nothing_is_called(self) -> None:
        with LLMServer(ScriptedBrain([call_tool("add")])) as server:
            assert called(ask(server, body())) == []


class TestBadInput:
    @pytest.mark.parametrize(
        ("payload", "message"),
        [
            (b"{", "could not parse the JSON body"),
            (b"\xff\xfe", "could not parse the JSON body"),
            (b"", "could not parse the JSON body"),
            ([], "JSON object"),
            ({"messages": [{"role": "user"}]}, "model"),
            ({"model": "gpt-4o"}, "messages"),
            ({"model": "gpt-4o", "messages": ["hello"]}, "objects with a role"),
            (body(tools={}), "array of tools"),
            (body(tools=[]), "at least one tool"),
            (body(tools=[{"type": "web"}]), r"tools\[0\]"),
            (body(tool_choice="auto"), "only allowed when 'tools' are specified"),
            (body(tools=[function_tool("a")], tool_choice="any"), "tool_choice"),
            (body(tools=[function_tool("a")], tool_choice={"type": "function"}), "tool_choice"),
            (
                body(
                    tools=[function_tool("a")],
                    tool_choice={"type": "function", "function": {"name": "b"}},
                ),
                "Tool choice 'b' not found in 'tools' parameter",
            ),
        ],
    )
    def test_a_bad_body_is_a_400_that_says_why(
        self, echo: LLMServer, payload: object, message: str
    ) -> None:
        status, text = error_of(echo, payload)

        assert status == 400
        with pytest.raises(ValueError, match=message):
            raise ValueError(text)

    def test_an_unknown_path_is_a_404(self, echo: LLMServer) -> None:
        assert error_of(echo, body(), path="/v1/embeddings") == (
            404,
            "Invalid URL (POST /v1/embeddings)",
        )

    def test_a_wrong_method_is_a_405(self, echo: LLMServer) -> None:
        assert error_of(echo, b"", method="GET")[0] == 405

    def test_a_brain_can_play_a_failing_provider(self) -> None:
        def limited(request: ChatRequest) -> ChatReply:
            raise ApiError(429, "Rate limit reached", kind="requests", code="rate_limit_exceeded")

        with LLMServer(ScriptedBrain([limited])) as server:
            assert error_of(server, body()) == (429, "Rate limit reached")

    @pytest.mark.parametrize(
        ("raw", "status"),
        [
            (b"nonsense\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
            (b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
            (b"X: " + b"y" * 70_000, 431),
        ],
    )
    def test_broken_http_is_answered_and_the_connection_closed(
        self, echo: LLMServer, raw: bytes, status: int
    ) -> None:
        assert self.exchange(echo, raw).startswith(b"HTTP/1.1 %d " % status)

    def test_an_old_client_gets_its_connection_closed(self, echo: LLMServer) -> None:
        answer = self.exchange(echo, b"GET /v1/models HTTP/1.0\r\n\r\n")

        assert b"connection: close" in answer
        assert b"gpt-4o" in answer

    @staticmethod
    def exchange(server: LLMServer, raw: bytes) -> bytes:
        with connect_raw(server) as sock:
            sock.sendall(raw)
            answer = b""
            while received := sock.recv(65536):
                answer += received
        return answer


class TestServer:
    def test_models_are_listed(self, echo: LLMServer) -> None:
        status, raw = send(echo, b"", path="/v1/models", method="GET")

        assert status == 200
        assert json.loads(raw)["data"][0]["id"] == "gpt-4o"

    @pytest.mark.parametrize("stream", [False, True])
    def test_the_same_request_gets_the_same_bytes(self, echo: LLMServer, stream: bool) -> None:
        payload = body(tools=[function_tool("add")], stream=stream)

        assert send(echo, payload) == send(echo, payload)
        assert send(echo, payload) != send(echo, payload | {"seed": 1})

    def test_usage_counts_messages_calls_and_tools(self, echo: LLMServer) -> None:
        plain = ask(echo, body("x" * 400))["usage"]
        history = body("x" * 400, tools=[function_tool("add", "d" * 400)])
        history["messages"] += [
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "x": "y" * 400}]},
            {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "z"}]},
        ]
        longer = ask(echo, history)["usage"]

        assert plain == {"prompt_tokens": 100, "completion_tokens": 100, "total_tokens": 200}
        assert 300 < longer["prompt_tokens"] < 360

    def test_requests_are_recorded_as_they_came(self, echo: LLMServer) -> None:
        raw = b'{"model": "gpt-4o",  "messages": [{"role": "user", "content": "h\xc3\xa9"}]}'
        send(echo, raw)
        send(echo, b"{")

        first, second = echo.requests
        assert first.path == "/v1/chat/completions"
        assert first.body_bytes == raw
        assert first.body["messages"][0]["content"] == "hé"
        assert first.headers["content-length"] == str(len(raw))
        assert second.body == {}

    def test_recording_is_bounded_cleared_and_switched_off(self) -> None:
        with LLMServer(EchoToolBrain(), record_limit=2) as server:
            for text in "abc":
                ask(server, body(text))
            assert [r.body["messages"][0]["content"] for r in server.requests] == ["b", "c"]
            server.clear()
            assert server.requests == []
        with LLMServer(EchoToolBrain(), record=False) as server:
            ask(server, body())
            assert server.requests == []

    def test_a_connection_carries_several_requests_and_pipelined_ones(self) -> None:
        replies = [ChatReply("one", delay_s=0.01), say("two")]
        raw = json.dumps(body()).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n" % len(raw)
        with LLMServer(ScriptedBrain(replies)) as server:
            received = TestBadInput.exchange(
                server, head + b"\r\n" + raw + head + b"Connection: close\r\n\r\n" + raw
            )

        assert received.count(b"HTTP/1.1 200 OK") == 2
        assert received.index(b'"one"') < received.index(b'"two"')

    def test_a_client_that_leaves_early_disturbs_nobody(self) -> None:
        waiting = threading.Event()

        def slow(request: ChatRequest) -> ChatReply:
            waiting.set()
            return ChatReply("late", delay_s=30.0)

        with LLMServer(ScriptedBrain([slow, say("next")])) as server:
            connection = connect(server)
            connection.request("POST", "/v1/chat/completions", json.dumps(body()))
            assert waiting.wait(10)
            connection.close()
            assert ask(server, body())["choices"][0]["message"]["content"] == "next"

    def test_sixteen_threads_each_get_their_own_answer(self, echo: LLMServer) -> None:
        def talk(worker: int) -> list[str]:
            connection = connect(echo)
            texts = []
            for turn in range(20):
                connection.request(
                    "POST", "/v1/chat/completions", json.dumps(body(f"{worker}/{turn}"))
                )
                answer = json.loads(connection.getresponse().read())
                texts.append(answer["choices"][0]["message"]["content"])
            connection.close()
            return texts

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(talk, range(16)))

        assert answers == [[f"{worker}/{turn}" for turn in range(20)] for worker in range(16)]
        assert len(echo.requests) == 320

    def test_a_taken_port_is_an_error_at_once(self, echo: LLMServer) -> None:
        port = int(echo.base_url.removesuffix("/v1").rpartition(":")[2])

        with pytest.raises(OSError, match="Address already in use"):
            LLMServer(EchoToolBrain(), port=port)

    def test_close_ends_open_connections_and_may_be_repeated(self) -> None:
        server = LLMServer(EchoToolBrain()).start()
        with connect_raw(server) as served, connect_raw(server) as just_opened:
            served.sendall(b"GET /v1/models HTTP/1.1\r\n\r\n")
            assert served.recv(65536).startswith(b"HTTP/1.1 200 OK")

            server.close()
            server.close()

            assert served.recv(1) == b""
            assert is_closed(just_opened)
        with pytest.raises(ConnectionRefusedError):
            send(server, body())

    def test_close_leaks_no_connection_that_is_just_being_accepted(self) -> None:
        for _ in range(30):
            server = LLMServer(EchoToolBrain()).start()
            with connect_raw(server) as just_opened:
                server.close()
                assert is_closed(just_opened)

    def test_close_before_start_frees_the_port(self) -> None:
        server = LLMServer(EchoToolBrain())
        server.close()

        with pytest.raises(ConnectionRefusedError):
            send(server, body())


class TestProcess:
    @staticmethod
    def command(*extra: str) -> list[str]:
        module = "agentgym.testing.llm_server"
        return [sys.executable, "-W", "error", "-m", module, "--port", "0", *extra]

    @pytest.fixture
    def process(self) -> Iterator[subprocess.Popen[bytes]]:
        brain = ["--brain", "agentgym.testing:ScriptedBrain", "--brain-args", '{"replies": []}']
        with subprocess.Popen(
            self.command(*brain),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(PLUGINS)},
        ) as running:
            yield running
            running.kill()

    @staticmethod
    def first_line(process: subprocess.Popen[bytes]) -> dict[str, Any]:
        assert process.stdout is not None
        line: dict[str, Any] = json.loads(process.stdout.readline())
        return line

    def test_it_says_where_it_serves_and_ends_on_sigterm(
        self, process: subprocess.Popen[bytes]
    ) -> None:
        address = self.first_line(process)["base_url"].removeprefix("http://").removesuffix("/v1")
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request("GET", "/v1/models")
        assert connection.getresponse().status == 200
        connection.close()

        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)

        assert (process.returncode, out, err) == (0, b"", b"")

    def test_it_ends_when_stdin_closes(self, process: subprocess.Popen[bytes]) -> None:
        self.first_line(process)

        assert process.stdin is not None
        process.stdin.write(b"anything\n")
        _, err = process.communicate(timeout=10)

        assert (process.returncode, err) == (0, b"")

    def test_it_serves_on_without_a_pipe_as_behind_a_shells_ampersand(self) -> None:
        brain = ["--brain", "agentgym.testing:EchoToolBrain"]
        with subprocess.Popen(
            self.command(*brain),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(PLUGINS)},
        ) as running:
            try:
                address = self.first_line(running)["base_url"].split("/")[2]
                connection = http.client.HTTPConnection(address, timeout=10)
                connection.request("GET", "/v1/models")
                assert connection.getresponse().status == 200
                connection.close()
            finally:
                running.terminate()

        assert running.returncode == 0

    def test_a_brain_without_a_factory_is_refused(self) -> None:
        from agentgym.testing.llm_server import main

        with pytest.raises(SystemExit, match="MODULE:FACTORY"):
            main(["--brain", "json"])


class TestPackage:
    def test_every_public_name_can_be_imported(self) -> None:
        assert testing.__all__ == sorted(testing.__all__)
        assert all(getattr(testing, name) for name in testing.__all__)

    def test_an_unknown_name_is_an_attribute_error(self) -> None:
        with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
            _ = testing.Nothing
