"""Other instrumentation on the benchmark's agent, as each one's documentation says.

Their exporters encode for OTLP and then drop the bytes: no peer pays for a network here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.callbacks import BaseCallbackHandler

Built = tuple[Any, Any, Callable[[], dict[str, Any]]]


def build(kind: str, model: Any, tools: list[Any], arguments: argparse.Namespace) -> Built:
    """The agent, watched by a peer."""
    if kind == "middleware":
        return create_agent(model, tools, middleware=[Passing()]), {}, dict
    makers = {
        "noop": _noop,
        "openinference": _openinference,
        "openllmetry": _openllmetry,
        "langsmith": _langsmith,
    }
    config, end = makers[kind]()
    return create_agent(model, tools), config, end


class Passing(AgentMiddleware[Any, Any]):
    """Stands where AgentGym stands and hands everything on: what LangChain takes for that."""

    def wrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """The model's turn."""
        return handler(request)

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """A tool's turn."""
        return handler(request)


def _noop() -> tuple[Any, Callable[[], dict[str, Any]]]:
    class Quiet(BaseCallbackHandler):
        """Hears everything, does nothing."""

    return {"callbacks": [Quiet()]}, dict


def _provider() -> tuple[Any, Callable[[], dict[str, Any]]]:
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Encoding(SpanExporter):
        """Encodes and drops."""

        spans = 0
        bytes = 0

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            self.spans += len(spans)
            self.bytes += len(encode_spans(spans).SerializeToString())
            return SpanExportResult.SUCCESS

    exporter, provider = Encoding(), TracerProvider()
    # Room for a whole block of runs, or the processor would drop spans and look cheap.
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=65536))

    def end() -> dict[str, Any]:
        provider.force_flush()
        counted = {"spans": exporter.spans, "bytes": exporter.bytes}
        exporter.spans = exporter.bytes = 0
        return counted

    return provider, end


def _openinference() -> tuple[Any, Callable[[], dict[str, Any]]]:
    from openinference.instrumentation.langchain import LangChainInstrumentor

    provider, end = _provider()
    LangChainInstrumentor().instrument(tracer_provider=provider)
    return {}, end


def _openllmetry() -> tuple[Any, Callable[[], dict[str, Any]]]:
    from opentelemetry.instrumentation.langchain import LangchainInstrumentor

    provider, end = _provider()
    LangchainInstrumentor().instrument(tracer_provider=provider)
    return {}, end


def _langsmith() -> tuple[Any, Callable[[], dict[str, Any]]]:
    from langchain_core.tracers.langchain import LangChainTracer
    from langsmith import Client

    class Response:
        """Everything is accepted."""

        status_code = 202
        text = "{}"
        content = b"{}"
        headers: dict[str, str] = {}  # noqa: RUF012 - as a response has it

        def raise_for_status(self) -> None:
            """It went well."""

        def json(self) -> dict[str, Any]:
            """Nothing to say."""
            return {}

        def close(self) -> None:
            """Nothing is open."""

    class Session:
        """Takes requests and drops them."""

        bytes = 0

        def request(self, method: str, url: str, **kwargs: Any) -> Response:
            data = kwargs.get("data")
            self.bytes += len(data) if isinstance(data, bytes) else 0
            return Response()

        def mount(self, *args: Any) -> None:
            """No adapters."""

        def close(self) -> None:
            """Nothing is open."""

    session: Any = Session()
    client = Client(
        api_url="http://127.0.0.1:9",
        api_key="bench",
        session=session,
        info={"batch_ingest_config": {"use_multipart_endpoint": False, "size_limit": 100,
              "size_limit_bytes": 20_971_520, "scale_up_nthreads_limit": 1,
              "scale_up_qsize_trigger": 1000}},
    )  # fmt: skip
    tracer = LangChainTracer(client=client)

    def end() -> dict[str, Any]:
        client.flush()
        counted = {"bytes": session.bytes}
        session.bytes = 0
        return counted

    return {"callbacks": [tracer]}, end
