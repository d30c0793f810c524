"""Reward spans of Agent Lightning become rewards of their trajectory."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from agentgym.proto.v1 import trajectory_pb2
from agentgym_daemon.ingest.otlp import decode_traces
from agentgym_daemon.store.rows import DecodedTraces

TRACE = bytes(15) + b"\x07"
START = 1_700_000_000_000_000_000
NAME, VALUE = "agentlightning.reward.0.name", "agentlightning.reward.0.value"


def annotation(attributes: dict[str, Any], name: str = "agentlightning.annotation") -> Span:
    """A span as `emit_reward` writes it."""
    kinds = {bool: "bool_value", int: "int_value", float: "double_value", str: "string_value"}
    return Span(
        trace_id=TRACE,
        span_id=b"reward!!",
        parent_span_id=b"rollout!",
        name=name,
        start_time_unix_nano=START,
        end_time_unix_nano=START + 9,
        attributes=[
            KeyValue(key=key, value=AnyValue(**{kinds[type(value)]: value}))
            for key, value in attributes.items()
        ],
    )


def request(*spans: Span) -> ExportTraceServiceRequest:
    message = ExportTraceServiceRequest()
    message.resource_spans.add().scope_spans.add().spans.extend(spans)
    return message


def decoded(span: Span) -> DecodedTraces:
    return decode_traces(request(span).SerializeToString())


def test_a_reward_is_a_reward_of_its_trace() -> None:
    found = decoded(annotation({NAME: "primary", VALUE: 0.75}))

    (reward,) = found.evaluations
    assert (reward.trace_id, reward.span_id) == (TRACE, b"reward!!")
    assert (reward.value, reward.name, reward.time_ns) == (0.75, "primary", START + 9)
    assert found.rejected == 0
    assert json.loads(found.spans[0].attributes)[VALUE] == 0.75


def test_of_several_dimensions_the_first_is_the_reward() -> None:
    found = decoded(
        annotation(
            {
                NAME: "solved",
                VALUE: 1,
                "agentlightning.reward.1.name": "cost",
                "agentlightning.reward.1.value": 17.0,
            }
        )
    )

    assert [(r.name, r.value) for r in found.evaluations] == [("solved", 1.0)]
    assert found.rejected == 0


def test_the_form_before_0_3_is_read() -> None:
    found = decoded(annotation({"reward": 0.5}, name="agentlightning.reward"))

    assert [(r.name, r.value) for r in found.evaluations] == [("primary", 0.5)]


def test_a_link_names_another_trace() -> None:
    other = "ab" * 16
    link = "agentlightning.link"
    found = decoded(
        annotation(
            {
                VALUE: 1.0,
                f"{link}.0.key_match": "gen_ai.response.id",
                f"{link}.0.value_match": "r-1",
                f"{link}.1.key_match": "trace_id",
                f"{link}.1.value_match": other,
            }
        )
    )

    assert found.evaluations[0].trace_id == bytes.fromhex(other)


@pytest.mark.parametrize("bad", ["", "xyz", "00" * 16, "ab" * 8, 7])
def test_a_link_that_names_no_trace_is_left_alone(bad: Any) -> None:
    link = {"agentlightning.link.0.key_match": "trace_id", "agentlightning.link.0.value_match": bad}

    assert decoded(annotation({VALUE: 1.0, **link})).evaluations[0].trace_id == TRACE


@pytest.mark.parametrize("bad", [1.5, -0.1, math.nan, math.inf, "good", True])
def test_a_reward_that_cannot_be_meant_is_counted_and_its_span_kept(bad: Any) -> None:
    found = decoded(annotation({VALUE: bad}))

    assert found.evaluations == []
    assert found.rejected == 1
    assert len(found.spans) == 1


def test_other_annotations_and_other_spans_are_no_rewards() -> None:
    assert decoded(annotation({"agentlightning.tag.0": "fast"})).evaluations == []
    assert decoded(annotation({VALUE: 1.0}, name="something else")).evaluations == []


async def test_the_daemon_counts_it_for_the_trajectory(desk: Any, spans_of: Any) -> None:
    client = desk.client
    trajectory = await client.send_run(7)
    await client.call(client.traces.Export, request(annotation({NAME: "primary", VALUE: 0.25})))
    await client.applied()

    found = await client.call(
        client.trajectories.Get, trajectory_pb2.GetTrajectoryRequest(trajectory_id=trajectory)
    )

    assert found.summary.reward == 0.25
