"""Trace requests as an agent's plugin sends them, made once and given fresh ids for every send.

Ten spans a trajectory, twelve attributes and about 2.1 KB a span. The texts are words of English in
random order with the frequencies of real text: they compress worse than real text does, so the
disk figures err on the large side.
"""

from __future__ import annotations

import math
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache

import numpy as np
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from agentgym import semconv

SPANS_PER_TRAJECTORY = 10
ATTRIBUTES_PER_SPAN = 12
TEMPLATE_SPANS = 6400
"""Distinct texts: 13 MB, more than the window in which the log and the database look back."""
_INPUT_BYTES, _OUTPUT_BYTES = 1050, 580
_TRACE, _SPAN, _TIME = 16, 8, 8
_MILLISECOND = 1_000_000
_TOOLS = ("find_order", "refund_payment", "send_mail", "search_docs", "open_ticket", "book_slot")


class Requests:
    """An endless run of requests of one size, every trajectory with ids of its own."""

    def __init__(
        self, spans_per_request: int, *, seed: int, templates: int = TEMPLATE_SPANS
    ) -> None:
        self._random = np.random.default_rng(seed)
        self._last = (-1, np.zeros(_TRACE, np.uint8))
        size = spans_per_request
        # Whole requests and whole trajectories, so that the next turn begins with a root again.
        turn = math.lcm(size, SPANS_PER_TRAJECTORY)
        rng = random.Random(seed)
        spans = [_span(number, rng) for number in range(turn * max(1, templates // turn))]
        self._templates = [
            _Template(spans[start : start + size]) for start in range(0, len(spans), size)
        ]
        self.bytes_per_span = sum(len(t.data) for t in self._templates) / (
            size * len(self._templates)
        )
        self._size = size

    def __iter__(self) -> Iterator[bytes]:
        number = 0
        while True:
            yield self._fresh(self._templates[number % len(self._templates)], number)
            number += 1

    def _fresh(self, template: _Template, number: int) -> bytes:
        """The template as the next request: trajectories run on from one request to the next."""
        first = number * self._size
        trajectories = np.arange(first, first + self._size) // SPANS_PER_TRAJECTORY
        positions = np.arange(first, first + self._size) % SPANS_PER_TRAJECTORY
        traces = self._trace_ids(trajectories)
        ids = self._random.integers(1, 256, (self._size, _SPAN), dtype=np.uint8)
        data = template.data.copy()
        data[template.traces] = traces
        data[template.spans] = ids
        # A root's id derives from its trajectory, so that children in another request know it.
        roots = traces[:, :_SPAN]
        data[template.spans[positions == 0]] = roots[positions == 0]
        data[template.parents] = roots
        starts = time.time_ns() - self._random.integers(1, 5000, self._size) * _MILLISECOND
        data[template.starts] = starts.astype("<u8").view(np.uint8).reshape(-1, _TIME)
        ends = starts + self._random.integers(_MILLISECOND, 900 * _MILLISECOND, self._size)
        data[template.ends] = ends.astype("<u8").view(np.uint8).reshape(-1, _TIME)
        return data.tobytes()

    def _trace_ids(self, trajectories: np.ndarray) -> np.ndarray:
        numbers, where = np.unique(trajectories, return_inverse=True)
        fresh = self._random.integers(1, 256, (len(numbers), _TRACE), dtype=np.uint8)
        number, trace_id = self._last
        if numbers[0] == number:
            fresh[0] = trace_id
        self._last = (int(numbers[-1]), fresh[-1])
        return fresh[where]


class _Template:
    """An encoded request and where in it the ids and times of each span lie."""

    def __init__(self, spans: list[Span]) -> None:
        request = ExportTraceServiceRequest()
        resource_spans = request.resource_spans.add()
        service = resource_spans.resource.attributes.add(key="service.name")
        service.value.string_value = "bench"
        resource_spans.scope_spans.add().spans.extend(spans)
        encoded = request.SerializeToString()
        self.data = np.frombuffer(encoded, np.uint8).copy()
        marks: tuple[list[int], ...] = ([], [], [], [], [])
        at = 0
        for span in spans:
            at = encoded.index(b"\x0a\x10" + span.trace_id, at) + 2
            marks[0].append(at)
            marks[1].append(encoded.index(b"\x12\x08" + span.span_id, at) + 2)
            # Without a parent the place is that of the span's own id, which is the same by rule.
            parent = b"\x22\x08" + span.parent_span_id
            marks[2].append(encoded.index(parent, at) + 2 if span.parent_span_id else marks[1][-1])
            times = encoded.index(b"\x39" + _fixed(span.start_time_unix_nano) + b"\x41", at)
            marks[3].append(times + 1)
            marks[4].append(times + 2 + _TIME)
        self.traces = _places(marks[0], _TRACE)
        self.spans, self.parents = _places(marks[1], _SPAN), _places(marks[2], _SPAN)
        self.starts, self.ends = _places(marks[3], _TIME), _places(marks[4], _TIME)


def _places(starts: list[int], width: int) -> np.ndarray:
    return np.asarray(starts)[:, None] + np.arange(width)


def _fixed(number: int) -> bytes:
    return number.to_bytes(8, "little")


def _span(number: int, rng: random.Random) -> Span:
    position = number % SPANS_PER_TRAJECTORY
    root, tool = position == 0, position % 2 == 1
    operation = semconv.INVOKE_AGENT if root else semconv.EXECUTE_TOOL if tool else semconv.CHAT
    now = time.time_ns()
    span = Span(
        trace_id=rng.randbytes(_TRACE),
        span_id=rng.randbytes(_SPAN),
        parent_span_id=b"" if root else rng.randbytes(_SPAN),
        name=operation,
        kind=Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=now - rng.randrange(10**9),
        end_time_unix_nano=now,
    )
    attributes: dict[str, str | int | bool] = {
        semconv.OPERATION_NAME: operation,
        semconv.AGENT: "bench",
        semconv.FRAMEWORK: "langchain",
        semconv.AGENT_NAME: "clerk",
        semconv.AGENT_PATH: "clerk",
        semconv.MODE: "observe",
        semconv.REQUEST_MODEL: "gpt-4o-mini",
        semconv.INPUT_TOKENS: rng.randrange(100, 4000),
        semconv.OUTPUT_TOKENS: rng.randrange(10, 900),
        semconv.INPUT_MESSAGES: _text(rng, _INPUT_BYTES),
        semconv.OUTPUT_MESSAGES: _text(rng, _OUTPUT_BYTES),
    }
    attributes |= (
        {semconv.TRAJECTORY_ROOT: True}
        if root
        else {semconv.TOOL_NAME: rng.choice(_TOOLS)}
        if tool
        else {semconv.PROVIDER_NAME: "openai"}
    )
    assert len(attributes) == ATTRIBUTES_PER_SPAN
    for key, value in attributes.items():
        pair = span.attributes.add(key=key)
        kind = {bool: "bool_value", int: "int_value", str: "string_value"}[type(value)]
        setattr(pair.value, kind, value)
    return span


def _text(rng: random.Random, size: int) -> str:
    words, weights = _vocabulary()
    spread = int(size * rng.uniform(0.8, 1.2))
    return " ".join(rng.choices(words, cum_weights=weights, k=spread // 4))[:spread]


@cache
def _vocabulary() -> tuple[list[str], list[int]]:
    """Words with running sums of their frequencies, from the text that every Python carries."""
    from pydoc_data.topics import topics

    counts = Counter(re.findall(r"[A-Za-z']{1,20}", " ".join(topics.values())))
    words = [word for word, _ in counts.most_common(8000)]
    return words, np.cumsum([counts[word] for word in words]).tolist()
