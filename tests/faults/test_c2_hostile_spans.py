"""Row C2: spans that nobody should send. Bad ones are counted, and their siblings stored."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from agentgym.proto.v1 import reward_pb2
from agentgym_daemon.rpc.ingest import MAX_TRACES_BYTES
from agentgym_daemon.rpc.server import MAX_MESSAGE_BYTES

CLAMPED = "agentgym.clamped"
YEAR_NS = 365 * 24 * 3600 * 10**9
PLACE = "PLACEHOLDER"
NOW_NS = 1_700_000_000_000_000_000


def frame(number: int, data: bytes) -> bytes:
    """A length-delimited field, by hand."""
    length, size = len(data), b""
    while length > 0x7F:
        size += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + data


def nested(depth: int) -> bytes:
    """An attribute whose value is a list in a list in a list."""
    value = AnyValue(string_value="deep").SerializeToString()
    for _ in range(depth):
        value = frame(5, frame(1, value))
    return frame(9, frame(1, b"deep") + frame(2, value))


def changed(span: Span, **fields: Any) -> bytes:
    """The span with other fields."""
    for name, value in fields.items():
        setattr(span, name, value)
    return span.SerializeToString()


def attributed(span: Span, name: str, value: str, times: int = 1) -> bytes:
    """The span with attributes."""
    for number in range(times):
        span.attributes.add(key=f"{name}{number or ''}").value.string_value = value
    return span.SerializeToString()


def spoilt(data: bytes, byte: int) -> bytes:
    """The span with bytes that are no UTF-8 where the placeholder was."""
    return data.replace(PLACE.encode(), bytes([byte]) * len(PLACE))


HOSTILE: dict[str, Callable[[Span], bytes]] = {
    "bad UTF-8 in the name": lambda s: spoilt(changed(s, name=PLACE), 0xFF),
    "bad UTF-8 in a value": lambda s: spoilt(attributed(s, "a", PLACE), 0xC3),
    "bad UTF-8 in a key": lambda s: spoilt(attributed(s, PLACE, "v"), 0x80),
    **{
        f"depth {depth}": lambda s, depth=depth: s.SerializeToString() + nested(depth)
        for depth in (10, 30, 45, 100, 200)
    },
    "1 MB value": lambda s: attributed(s, "big", "x" * 2**20),
    "1 MB name": lambda s: changed(s, name="x" * 2**20),
    "10,000 attributes": lambda s: attributed(s, "a", "v", 10_000),
    "no ids": lambda s: changed(s, trace_id=b"", span_id=b""),
    "short ids": lambda s: changed(s, trace_id=b"t", span_id=b"s"),
    "zero ids": lambda s: changed(s, trace_id=bytes(16), span_id=bytes(8)),
    "long ids": lambda s: changed(s, trace_id=b"t" * 17, span_id=b"s" * 9),
    "its own parent": lambda s: changed(s, parent_span_id=s.span_id),
    "short parent": lambda s: changed(s, parent_span_id=b"p"),
    "ends before it starts": lambda s: changed(s, end_time_unix_nano=NOW_NS - 10**9),
    "never started": lambda s: changed(s, start_time_unix_nano=0),
    "never ended": lambda s: changed(s, end_time_unix_nano=0),
    "ten years ago": lambda s: changed(s, start_time_unix_nano=NOW_NS - 10 * YEAR_NS),
    "in ten years": lambda s: changed(
        s,
        start_time_unix_nano=s.start_time_unix_nano + 10 * YEAR_NS,
        end_time_unix_nano=s.end_time_unix_nano + 10 * YEAR_NS,
    ),
    "at the end of time": lambda s: changed(s, start_time_unix_nano=2**64 - 1),
    "a second after the epoch": lambda s: changed(s, start_time_unix_nano=10**9),
    "NUL": lambda s: attributed(s, "nul\0key", "nul\0value"),
    "NUL in the name": lambda s: changed(s, name="a\0b"),
    "cut off": lambda s: s.SerializeToString()[:-3],
    "garbage": lambda s: b"\xff" * 100,
    "empty": lambda s: b"",
    "terminal codes": lambda s: attributed(s, "a", "\x1b[2J\x1b]0;owned\x07"),
}


@pytest.fixture
def daemon(shared_daemon: Any) -> Any:
    """One for all: every test sends trajectories of its own."""
    return shared_daemon


def enclosed(traces: Any, spans: list[bytes]) -> bytes:
    """A request with these spans, readable or not."""
    resource = traces([]).resource_spans[0].resource.SerializeToString()
    scope = b"".join(frame(2, one) for one in spans)
    return frame(1, frame(1, resource) + frame(2, scope))


@pytest.mark.parametrize("number", range(len(HOSTILE)), ids=list(HOSTILE))
def test_a_hostile_span_is_stored_or_counted_and_its_siblings_are_stored(
    daemon: Any, otlp: Any, traces: Any, span: Any, number: int
) -> None:
    first = 1000 * (number + 1)
    hostile = list(HOSTILE.values())[number](span(first + 1))
    good = [span(first).SerializeToString(), span(first + 2).SerializeToString()]

    answer = otlp(daemon.home).export(enclosed(traces, [good[0], hostile, good[1]]))

    rejected = answer.partial_success.rejected_spans
    stored = {one.span_id: one for one in daemon.trajectory(span(first).trace_id).spans}
    assert {span(first).span_id, span(first + 2).span_id} <= set(stored)
    assert len(stored) + rejected == 3


@pytest.mark.parametrize("name", ["1 MB value", "1 MB name", "10,000 attributes"])
def test_what_is_too_big_is_cut_and_says_so(
    daemon: Any, otlp: Any, traces: Any, span: Any, name: str
) -> None:
    first = 1_000_000 + 8 * list(HOSTILE).index(name)
    hostile = HOSTILE[name](span(first))

    answer = otlp(daemon.home).export(enclosed(traces, [hostile]))

    assert not answer.partial_success.rejected_spans
    (stored,) = daemon.trajectory(span(first).trace_id).spans
    assert json.loads(stored.attributes_json)[CLAMPED]
    assert len(stored.attributes_json) + len(stored.name) < 2**20


def test_of_two_spans_with_one_id_the_first_stays(
    daemon: Any, otlp: Any, traces: Any, span: Any
) -> None:
    sender, first = otlp(daemon.home), 2_000_000

    sender.export(traces([span(first, name="first")]))
    sender.export(traces([span(first, name="second"), span(first, name="third"), span(first + 1)]))

    stored = daemon.trajectory(span(first).trace_id)
    assert sorted(one.name for one in stored.spans) == ["first", "step"]


def test_spans_that_are_each_others_parents_can_be_read(
    daemon: Any, otlp: Any, traces: Any, span: Any
) -> None:
    one, other = span(2_100_001), span(2_100_002)
    one.parent_span_id, other.parent_span_id = other.span_id, one.span_id

    otlp(daemon.home).export(traces([one, other]))

    stored = daemon.trajectory(one.trace_id)
    assert len(stored.spans) == 2
    assert stored.summary.state == "open"


def test_a_late_span_joins_its_closed_trajectory_and_rewards_nothing_again(
    daemon: Any, otlp: Any, traces: Any, span: Any
) -> None:
    sender, first = otlp(daemon.home), 2_200_000
    sender.export(traces([span(first), span(first + 1)]))
    trajectory_id = span(first).trace_id
    reward = reward_pb2.Reward(trajectory_id=trajectory_id, value=1.0, idempotency_key="late")
    daemon.applied()
    daemon.call("rewards", "Report", reward_pb2.ReportRequest(rewards=[reward]))

    late = span(first + 2)
    late.start_time_unix_nano += 24 * 3600 * 10**9
    late.end_time_unix_nano += 24 * 3600 * 10**9
    sender.export(traces([late]))

    stored = daemon.trajectory(trajectory_id)
    assert (len(stored.spans), len(stored.rewards), stored.summary.reward) == (3, 1, 1.0)


@pytest.mark.parametrize(
    ("size", "code"),
    [
        (MAX_TRACES_BYTES - 1, None),
        (MAX_TRACES_BYTES, None),
        (MAX_TRACES_BYTES + 1, grpc.StatusCode.INVALID_ARGUMENT),
        (MAX_MESSAGE_BYTES, grpc.StatusCode.INVALID_ARGUMENT),
        (MAX_MESSAGE_BYTES + 1, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_around_the_limits_a_message_is_taken_or_refused_and_the_daemon_goes_on(
    daemon: Any, otlp: Any, traces: Any, span: Any, size: int, code: grpc.StatusCode | None
) -> None:
    first = 8 * size
    spans = [span(first).SerializeToString(), attributed(span(first + 1), "a", "x" * 2**20)]
    sender, filled = otlp(daemon.home), enclosed(traces, spans)
    filled += frame(15, bytes(size - len(filled) - 5))  # what nobody knows fills it up
    assert len(filled) == size

    if code is None:
        sender.export(filled)
        assert len(daemon.trajectory(span(first).trace_id).spans) == 2
    else:
        with pytest.raises(grpc.RpcError) as refused:
            sender.export(filled)
        assert refused.value.code() is code
    assert not sender.export(traces([span(2_310_000)])).HasField("partial_success")


def test_a_bomb_is_refused_before_it_is_unpacked(
    daemon: Any, otlp: Any, traces: Any, span: Any, report: Any
) -> None:
    """A compressed message of 100 MB is refused, and takes little memory."""
    sender, before = otlp(daemon.home), daemon.rss_bytes()

    with pytest.raises(grpc.RpcError) as refused:
        sender.export(bytes(100 * 2**20), compression=grpc.Compression.Gzip)

    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    report.figures["rss_growth_mb"] = round((daemon.rss_bytes() - before) / 2**20, 1)
    assert report.figures["rss_growth_mb"] < 64
    assert not sender.export(traces([span(2_400_000)])).HasField("partial_success")


def mutated(rng: random.Random, data: bytes) -> bytes:
    """The bytes with a few of them flipped, cut, doubled or put in."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(changed))
        match rng.randrange(4):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                del changed[at : at + rng.randint(1, 16)]
            case 2:
                changed[at:at] = rng.randbytes(rng.randint(1, 16))
            case _:
                changed[at:at] = changed[at : at + 64]
        if not changed:
            return b"\0"
    return bytes(changed)


def test_no_mutated_request_ends_the_daemon_or_costs_a_good_one(
    load: Callable[..., int], report: Any, daemon: Any, otlp: Any, traces: Any, span: Any
) -> None:
    """Fuzzed requests are answered OK or INVALID_ARGUMENT; those around them are stored."""
    requests, rng, sender = load(10_000), random.Random(2), otlp(daemon.home)
    first, codes = 3_000_000, {"OK": 0, "INVALID_ARGUMENT": 0}
    for number in range(requests):
        spans = [span(first + 8 * number + i) for i in range(4)]
        attributed(spans[1], "a", "value")
        try:
            sender.export(mutated(rng, traces(spans).SerializeToString()))
            codes["OK"] += 1
        except grpc.RpcError as error:
            codes[error.code().name] = codes.get(error.code().name, 0) + 1
        if number % 100 == 0:
            sender.export(traces([span(4_000_000 + 8 * number)]))

    report.load["requests"] = requests
    report.figures |= codes
    assert set(codes) == {"OK", "INVALID_ARGUMENT"}
    for number in range(0, requests, 100):
        assert daemon.trajectory(span(4_000_000 + 8 * number).trace_id).spans
    status = daemon.applied()
    assert status.log_applied == status.log_end


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    """Numbers of trajectories that nobody else in this file uses."""
    return iter(range(9_000_000, 10**9, 8))


def test_the_conservation_law_holds_for_any_values(
    load: Callable[..., int], daemon: Any, otlp: Any, traces: Any, span: Any, numbers: Any
) -> None:
    """Whatever the fields hold: sent = stored + rejected."""
    sender = otlp(daemon.home)
    u64, text = st.integers(0, 2**64 - 1), st.text(max_size=20)
    ids = st.binary(max_size=20)

    @settings(max_examples=load(1000), deadline=None, database=None, derandomize=True)
    @given(
        st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "span_id": ids,
                    "parent_span_id": ids,
                    "name": text,
                    "start_time_unix_nano": u64,
                    "end_time_unix_nano": u64,
                    "trace_state": text,
                    "flags": st.integers(0, 2**32 - 1),
                },
            ),
            min_size=1,
            max_size=5,
        )
    )
    def law(fields: list[dict[str, Any]]) -> None:
        first = next(numbers)
        spans = [span(first), *(span(first + 1 + i) for i in range(len(fields)))]
        for one, values in zip(spans[1:], fields, strict=True):
            changed(one, **values)

        answer = sender.export(traces(spans))

        kept = {one.span_id for one in spans if len(one.span_id) == 8 and any(one.span_id)}
        stored = daemon.trajectory(spans[0].trace_id).spans
        doubled = len(spans) - len({one.span_id for one in spans})
        rejected = answer.partial_success.rejected_spans
        assert {one.span_id for one in stored} <= kept
        assert len(spans) - rejected - doubled <= len(stored) <= len(spans) - rejected

    law()
